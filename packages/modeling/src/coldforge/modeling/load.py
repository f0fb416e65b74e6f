"""`load`: a model from whatever lies at a path.

    a directory with config.json and safetensors     Hugging Face's format (`hf`)
    a .gguf file, or a directory with one            `gguf_file`
    a directory written by `save_checkpoint`         `checkpoint`

The kind is told by what is there, never by trying one reader after the other. orbax and gguf (1.0 and 0.15 s) are
imported when they are needed.
"""

from os import PathLike
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike

from coldforge.modeling.attention import Kernel
from coldforge.modeling.checkpoint import MARKER, load_checkpoint
from coldforge.modeling.config import from_gguf, from_hf
from coldforge.modeling.hf import INDEX, HFSource, listing
from coldforge.modeling.model import Gemma3
from coldforge.modeling.weights import WeightsError, build

WANTED = "a directory with config.json and safetensors files, a .gguf file, or a checkpoint written by save_checkpoint"
ADAPTER = "adapter_model.safetensors"


def load(
    path: str | PathLike, *, dtype: DTypeLike | None = None, mesh: Mesh | None = None, kernel: Kernel = "auto"
) -> Gemma3:
    """The model that lies at `path`, its weights placed on `mesh`.

    Names, shapes and sizes are checked before any weight is read. With a mesh, each process reads only what its devices
    hold; memory peaks at that plus a few megabytes (plus one parameter's share on accelerators).

    Args:
      path: see the module.
      dtype: float32 or bfloat16 for all parameters; each is cast as it is read. None keeps bfloat16 and float32 as
        they are stored; all other types (float16, quantised GGUF types) become float32.
      mesh: from `make_mesh`; None puts everything on the default device.
      kernel: the implementation of attention, see `attention.attend`.

    Raises:
      FileNotFoundError: if nothing is at `path`.
      ConfigError: if it is another architecture or asks for what is not implemented.
      WeightsError: if weights are absent, damaged, or do not fit the config; it lists all that is wrong with them.
      ValueError: for another dtype.
    """
    if dtype is not None and jnp.dtype(dtype) not in (jnp.float32, jnp.bfloat16):
        raise ValueError(
            f"dtype must be float32, bfloat16 or None, got {jnp.dtype(dtype).name} (hidden states reach 1e5, which "
            "float16 cannot hold)"
        )
    path = Path(path)
    kind, place = find_weights(path)
    if kind == "checkpoint":
        return load_checkpoint(place, dtype=dtype, mesh=mesh, kernel=kernel)
    if kind == "gguf":
        from coldforge.modeling.gguf_file import GGUFSource

        gguf = GGUFSource(place)
        return build(gguf, from_gguf(gguf.metadata), dtype=dtype, mesh=mesh, kernel=kernel)
    config = from_hf(place)
    return build(HFSource(place), config, dtype=dtype, mesh=mesh, kernel=kernel)


def find_weights(path: Path) -> tuple[Literal["checkpoint", "gguf", "hf"], Path]:
    """What kind of weights lie at a path, and exactly where.

    Raises:
      FileNotFoundError: if nothing is there.
      WeightsError: if there are no weights, or more than one model.
    """
    if path.is_file():
        if path.suffix == ".safetensors":
            raise WeightsError(
                f"{path} is one file of a model; give its directory, where config.json is: {path.parent}"
            )
        return "gguf", path
    if not path.is_dir():
        like_a_hub_name = not path.is_absolute() and len(path.parts) == 2
        hint = ". A model of the Hugging Face hub must be downloaded first" if like_a_hub_name else ""
        raise FileNotFoundError(f"there is nothing at {path}; wanted {WANTED}{hint}")
    if (path / MARKER).is_file():
        return "checkpoint", path
    files = sorted(file.name for file in path.iterdir())
    ggufs = [name for name in files if name.endswith(".gguf")]
    tensors = [name for name in files if name.endswith((".safetensors", INDEX)) and name != ADAPTER]
    if len(ggufs) > 1 or (ggufs and tensors):
        found = ", ".join(ggufs + tensors)
        raise WeightsError(
            f"{path} holds more than one model ({found}); give the path of one file, or a directory for each"
        )
    if ggufs:
        return "gguf", path / ggufs[0]
    if tensors:
        return "hf", path
    raise WeightsError(f"{path} has no weights; wanted {WANTED}, and it holds {listing(path)}{_hint(files)}")


def _hint(files: list[str]) -> str:
    if ADAPTER in files:
        return ". That is an adapter: load its base model, add_lora, then load_peft"
    if any(name.endswith((".bin", ".pth", ".pt")) for name in files):
        return ". Pickled weights are not read: load them with transformers and save them as safetensors"
    return ""
