"""Coldforge's own checkpoints: the model as it is (sharded, quantised, with its adapter), stored by Orbax.

    PATH/coldforge.json    config of the model and of its adapter, and the version of this format
    PATH/weights/          an Orbax PyTree checkpoint: parameter path (`layers.0.attn.q_einsum.w`) → array

Every process writes its own shards, in chunks of 4 MB. The directory appears when it is complete. Orbax writes;
reading goes through tensorstore, on which Orbax stands, chunk by chunk into the arrays' final buffers like every other
source of weights: Orbax's own restore holds what it restores twice on a CPU, which is 1.75 times the 270M model's
weights, and 2.2 times if they are cast. Optimizer state and steps belong to the training package.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from coldforge.modeling import layout
from coldforge.modeling.atomic import new_directory
from coldforge.modeling.attention import Kernel
from coldforge.modeling.config import Gemma3Config
from coldforge.modeling.init import abstract_model
from coldforge.modeling.lora import LoraConfig, add_lora
from coldforge.modeling.model import Gemma3
from coldforge.modeling.weights import Tensor, WeightsError, check, read_model

MARKER = "coldforge.json"
VERSION = 1
WEIGHTS = "weights"
CHUNK_BYTES = 4_000_000  # a chunk is read and decompressed as a whole


def save_checkpoint(model: Gemma3, path: str | PathLike) -> None:
    """Writes the model with its adapter; `load` reads it. With several processes all must call this.

    nf4 weights take a byte each on their way to the disk, where compression brings them back to about half.

    Raises:
      FileExistsError: if there is something at `path` other than an empty directory.
    """
    import orbax.checkpoint as ocp

    description = {
        "version": VERSION,
        "config": dataclasses.asdict(model.config),
        "lora": None if model.lora is None else dataclasses.asdict(model.lora),
    }
    arrays = {_name(path): _storable(variable.get_value()) for path, variable in nnx.to_flat_state(nnx.state(model))}
    how = {name: ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES) for name in arrays}
    with new_directory(Path(path).absolute()) as partial:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=False)) as checkpointer:
            checkpointer.save(partial / WEIGHTS, args=ocp.args.PyTreeSave(arrays, save_args=how))
        if jax.process_index() == 0:
            (partial / MARKER).write_text(json.dumps(description, indent=2) + "\n", "utf-8")


def load_checkpoint(path: Path, *, dtype, mesh: Mesh | None, kernel: Kernel) -> Gemma3:
    """The model that `save_checkpoint` wrote to `path`; see `load.load`.

    `dtype` applies to the base: adapters stay float32, int8 and nf4 stay what they are.
    """
    config, lora = read_description(path / MARKER)
    model = _abstract(config, lora, kernel)
    source = CheckpointSource(path)
    shapes: dict[layout.Path, tuple[int, ...]] = {
        tuple(part if isinstance(part, int) else str(part) for part in place): variable.shape
        for place, variable in nnx.to_flat_state(nnx.state(model))
    }
    check(source, {_name(place): shape for place, shape in shapes.items()})

    def restored(name: str, variable: nnx.Variable) -> np.dtype:
        if variable.dtype == jnp.uint4:
            return np.dtype(jnp.uint4)
        stored = source.arrays[name].dtype.numpy_dtype
        keep = dtype is None or isinstance(variable, nnx.LoRAParam) or not jnp.issubdtype(stored, jnp.floating)
        return np.dtype(stored if keep else dtype)

    parts = {place: (_whole(place, len(shape)),) for place, shape in shapes.items()}
    read_model(model, source, parts, restored, mesh)
    return model


def read_description(file: Path) -> tuple[Gemma3Config, LoraConfig | None]:
    """The configs in a checkpoint's `coldforge.json`.

    Raises:
      WeightsError: if the file is damaged or of another version.
    """
    try:
        description = json.loads(file.read_text("utf-8"))
        if description["version"] != VERSION:
            raise WeightsError(f"{file} is of version {description['version']}; this release reads version {VERSION}")
        config, lora = description["config"], description["lora"]
        config = Gemma3Config(**config | {"layer_types": tuple(config["layer_types"])})
        return config, lora and LoraConfig(**lora | {"targets": tuple(lora["targets"])})
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise WeightsError(f"{file} is not what save_checkpoint writes: {error!r}") from error


class CheckpointSource:
    """The arrays of a checkpoint (a `weights.WeightSource`); their columns are all dimensions but the first.

    Raises:
      WeightsError: if the weights are absent or damaged.
    """

    def __init__(self, path: Path):
        import tensorstore as ts

        self.place = str(path)
        store = {"driver": "ocdbt", "base": f"file://{path.absolute() / WEIGHTS}/"}
        try:
            keys = [key.decode() for key in ts.KvStore.open(store).result().list().result()]
            names = [key.removesuffix("/.zarray") for key in keys if key.endswith("/.zarray")]
            specs = {name: {"driver": "zarr", "kvstore": store | {"path": f"{name}/"}} for name in names}
            opening = {name: ts.open(spec, open=True, read=True) for name, spec in specs.items()}
            self.arrays = {name: future.result() for name, future in opening.items()}
        except ValueError as error:
            raise WeightsError(f"{path / WEIGHTS} is not a complete checkpoint of Orbax: {error}") from error
        if not self.arrays:
            raise WeightsError(f"{path / WEIGHTS} is not a complete checkpoint of Orbax: it holds no arrays")
        self.tensors: Mapping[str, Tensor] = {
            name: Tensor(name, tuple(array.shape), array.dtype.numpy_dtype, array.dtype.name)
            for name, array in self.arrays.items()
        }

    def label(self, name: str) -> str:
        """The same: parameter paths are the names."""
        return name

    def blocks(self, name: str, rows: slice, columns: slice, unit: int) -> Iterator[tuple[int, np.ndarray]]:
        """See `weights.WeightSource.blocks`; a block is a row of chunks."""
        assert unit == 1  # a row here is all of one index of the first dimension
        array = self.arrays[name]
        inner = math.prod(array.shape[2:])
        part = array[:, columns.start // inner : columns.stop // inner] if array.ndim > 1 else array
        step = array.spec().to_json()["metadata"]["chunks"][0]
        for row in range(rows.start - rows.start % step, rows.stop, step):
            first, stop = max(row, rows.start), min(row + step, rows.stop)
            try:
                yield first, part[first:stop].read().result()
            except ValueError as error:
                raise WeightsError(f"{self.place}: {name} is damaged: {error}") from error


def _abstract(config: Gemma3Config, lora: LoraConfig | None, kernel: Kernel) -> Gemma3:
    """The model with its adapter, shapes in place of values."""
    if lora is None:
        return abstract_model(config, kernel=kernel)
    return nnx.eval_shape(lambda: add_lora(Gemma3(config, rngs=nnx.Rngs(0), kernel=kernel), lora, rngs=nnx.Rngs(0)))


def _whole(path: layout.Path, ndim: int) -> layout.Part:
    """A tensor that is all of a parameter, dimensions in order."""
    return layout.Part(_name(path), rows=(0,), cols=tuple(range(1, ndim)))


def _storable(array: jax.Array) -> jax.Array:
    """Tensorstore has no type for 4 bits ('Unsupported data type: "uint4"')."""
    return array.astype(jnp.uint8) if array.dtype == jnp.uint4 else array


def _name(path: tuple) -> str:
    return ".".join(map(str, path))
