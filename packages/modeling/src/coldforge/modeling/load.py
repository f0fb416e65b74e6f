"""`load`: a model from whatever lies at a path.

    a directory with config.json and safetensors     Hugging Face's format (`hf`)
    a .gguf file, or a directory with one            `gguf_file`
    a directory written by `save_checkpoint`         `checkpoint`

The kind is told by what is there, never by trying one reader after the other. The readers are imported when needed, so
that `import coldforge.modeling` does not pay for orbax and gguf.
"""

from os import PathLike
from pathlib import Path

import jax.numpy as jnp
from jax.sharding import Mesh

from coldforge.modeling.attention import Kernel
from coldforge.modeling.config import from_gguf, from_hf
from coldforge.modeling.model import Gemma3
from coldforge.modeling.weights import WeightsError, build


def load(path: str | PathLike, *, dtype=None, mesh: Mesh | None = None, kernel: Kernel = "auto") -> Gemma3:
    """The model that lies at `path`, its weights placed on `mesh`.

    Names, shapes and sizes are checked before any weight is read. With a mesh, each process reads only what its devices
    hold; memory peaks at that plus a few megabytes (plus one parameter's share on accelerators).

    Args:
      path: see the module.
      dtype: float32 or bfloat16 for all parameters; each is cast as it is read. None keeps bfloat16 and float32 as they are
        stored; all other types (float16, quantised GGUF types) become float32.
      mesh: from `make_mesh`; None puts everything on the default device.
      kernel: the implementation of attention, see `attention.attend`.

    Raises:
      FileNotFoundError: if nothing is at `path`.
      ConfigError: if it is another architecture or asks for what is not implemented.
      WeightsError: if weights are absent, damaged, or do not fit the config: all that is wrong with them in one message.
      ValueError: for another dtype.
    """
    if dtype is not None and jnp.dtype(dtype) not in (jnp.float32, jnp.bfloat16):
        raise ValueError(
            f"dtype must be float32, bfloat16 or None, got {jnp.dtype(dtype).name}. Gemma3's hidden states exceed the range of float16"
        )
    path = Path(path)
    kind = find_kind(path)
    if kind == "gguf":
        from coldforge.modeling.gguf_file import GGUFSource

        source = GGUFSource(path if path.is_file() else next(path.glob("*.gguf")))
        return build(source, from_gguf(source.metadata), dtype=dtype, mesh=mesh, kernel=kernel)
    from coldforge.modeling.hf import HFSource

    config = from_hf(path)
    return build(HFSource(path), config, dtype=dtype, mesh=mesh, kernel=kernel)


def find_kind(path: Path) -> str:
    """What lies at a path: "hf" or "gguf"."""
    if path.is_file():
        return "gguf"
    return "hf"
