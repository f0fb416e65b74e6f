"""`save_hf`: a model as a Hugging Face directory that transformers, vLLM and `load` read.

One parameter after the other: dequantise it if it is int8 or nf4, add its adapter in float32, fetch it, cut it into the
tensors of `layout`, write them. The host holds one parameter at a time. Tokenizer files are not written; copy them in.
"""

import json
import math
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

from coldforge.modeling import layout, safetensors_file
from coldforge.modeling.atomic import new_directory
from coldforge.modeling.config import to_hf
from coldforge.modeling.hf import INDEX
from coldforge.modeling.model import Gemma3
from coldforge.modeling.projections import Einsum, Linear

PREFIX = "model."  # of every tensor's name, as in text-only checkpoints

Specs = dict[str, tuple[tuple[int, ...], np.dtype]]


def save_hf(model: Gemma3, directory: str | PathLike, *, dtype=None, max_shard_bytes: int = 5_000_000_000) -> None:
    """Writes the model, adapters merged into the weights, as `config.json` and safetensors files.

    The directory appears when everything is written. With several processes all must call this; the first one writes.

    Args:
      model: with or without adapters; the base may be quantised.
      directory: must not exist, or be empty.
      dtype: float32 or bfloat16; None takes the embedding's. bfloat16 keeps 8 bits: adding a small adapter to bfloat16
        weights rounds away what is below 1/256 of a weight, so compare with float32 when it matters.
      max_shard_bytes: more than this is split over several files with an index.

    Raises:
      FileExistsError: if the directory is not empty.
      ValueError: for another dtype.
    """
    dtype = np.dtype(model.embedder.input_embedding.get_value().dtype if dtype is None else dtype)
    if dtype not in (np.float32, jnp.bfloat16):
        raise ValueError(f"dtype must be float32 or bfloat16, got {dtype.name}")
    specs = tensor_specs(model, dtype)
    files = _split(specs, max_shard_bytes)
    values = _tensors(model, dtype)
    with new_directory(Path(directory)) as partial:
        for file, names in files.items():
            write(partial / file, {name: specs[name] for name in names}, values)
        if len(files) > 1:
            total = sum(math.prod(shape) * dtype.itemsize for shape, _ in specs.values())
            where = {name: file for file, names in files.items() for name in names}
            _write_json(partial / INDEX, {"metadata": {"total_size": total}, "weight_map": where})
        _write_json(partial / "config.json", to_hf(model.config, dtype=dtype.name))


def tensor_specs(model: Gemma3, dtype: np.dtype) -> Specs:
    """Name, shape and dtype of every tensor of the merged model, in the order of the network."""
    modules = dict(nnx.iter_modules(model))
    return {
        PREFIX + part.name: (part.shape(getattr(modules[path[:-1]], str(path[-1])).shape), dtype)
        for path, parts in layout.parameters(model.config).items()
        for part in parts
    }


def merged(module: nnx.Module, name: str, scale: float) -> jax.Array:
    """The parameter `name` of a module with its adapter added: `W + scale A B`, in float32 where there is one."""
    weight = getattr(module, name)
    if isinstance(weight, nnx.Variable):
        weight = weight.get_value()
    else:
        import qwix  # 0.3 s: not for those who only load a model

        weight = qwix.dequantize(weight.array)
    if not isinstance(module, Einsum | Linear) or not hasattr(module, name + "_lora_a"):
        return weight
    a, b = (getattr(module, name + suffix).get_value() for suffix in ("_lora_a", "_lora_b"))
    return _add_adapter(weight, a, b, scale)


@jax.jit
def _add_adapter(weight: jax.Array, a: jax.Array, b: jax.Array, scale: jax.Array | float) -> jax.Array:
    return weight.astype(jnp.float32) + scale * jnp.tensordot(a, b, 1, precision="highest")


def fetch(array: jax.Array) -> np.ndarray:
    """The whole array on this host (on every host, if several processes hold parts of it)."""
    return np.asarray(array if array.is_fully_addressable else multihost_utils.process_allgather(array, tiled=True))


def write(path: Path, specs: Specs, values: Iterator[np.ndarray]) -> None:
    """Writes the next `len(specs)` values in the first process; in the others takes them, since fetching needs all."""
    taken: Iterable[np.ndarray] = (next(values) for _ in specs)
    if jax.process_index() == 0:
        safetensors_file.write(path, specs, taken)
    else:
        for _ in taken:
            pass


def _tensors(model: Gemma3, dtype: np.dtype) -> Iterator[np.ndarray]:
    """The tensors of `tensor_specs`, one at a time."""
    modules = dict(nnx.iter_modules(model))
    scale = 0.0 if model.lora is None else model.lora.alpha / model.lora.rank
    for path, parts in layout.parameters(model.config).items():
        array = fetch(merged(modules[path[:-1]], str(path[-1]), scale))
        for part in parts:
            yield part.take(array).astype(dtype, copy=False)


def _split(specs: Specs, max_bytes: int) -> dict[str, list[str]]:
    """Names of the tensors per file; a tensor larger than `max_bytes` gets a file of its own."""
    groups: list[list[str]] = [[]]
    size = 0
    for name, (shape, dtype) in specs.items():
        bytes_ = math.prod(shape) * dtype.itemsize
        if groups[-1] and size + bytes_ > max_bytes:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += bytes_
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors": group for i, group in enumerate(groups)}


def _write_json(path: Path, value: dict) -> None:
    if jax.process_index() == 0:
        path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", "utf-8")
