"""Coldforge's own checkpoints: the model as it is (sharded, quantised, with its adapter), stored by Orbax.

    PATH/coldforge.json    config of the model and of its adapter, and the version of this format
    PATH/weights/          an Orbax PyTree checkpoint: parameter path (`layers.0.attn.q_einsum.w`) → array

Every process writes and reads its own shards. The directory appears when it is complete. Reading checks names and
shapes from Orbax's metadata first, then restores the largest parameters first and few at a time, since Orbax holds
what it restores twice on a CPU: for the 270M model, whose embedding is 63 % of the weights, memory peaks at 1.27 times
the weights so, and at 1.75 times if everything is restored in one call. Optimizer state and steps belong to the
training package.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from coldforge.modeling.atomic import new_directory
from coldforge.modeling.attention import Kernel
from coldforge.modeling.config import Gemma3Config
from coldforge.modeling.init import abstract_model, variable_sharding
from coldforge.modeling.lora import LoraConfig, add_lora
from coldforge.modeling.model import Gemma3
from coldforge.modeling.weights import Faults, WeightsError

MARKER = "coldforge.json"
VERSION = 1
WEIGHTS = "weights"
RESTORED_AT_ONCE = 1 / 16  # of all weights, in bytes; a parameter that is larger is restored alone


def save_checkpoint(model: Gemma3, path: str | PathLike) -> None:
    """Writes the model with its adapter; `load` reads it. With several processes all must call this.

    nf4 weights take a byte each on their way to the disk (where compression brings them back to about half).

    Raises:
      FileExistsError: if there is something at `path` other than an empty directory.
    """
    import orbax.checkpoint as ocp

    description = {
        "version": VERSION,
        "config": dataclasses.asdict(model.config),
        "lora": None if model.lora is None else dataclasses.asdict(model.lora),
    }
    arrays = {_name(path): _storable(variable.get_value()) for path, variable in _variables(model).items()}
    with new_directory(Path(path).absolute()) as partial:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            checkpointer.save(partial / WEIGHTS, args=ocp.args.PyTreeSave(arrays))
        if jax.process_index() == 0:
            (partial / MARKER).write_text(json.dumps(description, indent=2) + "\n", "utf-8")


def load_checkpoint(path: Path, *, dtype, mesh: Mesh | None, kernel: Kernel) -> Gemma3:
    """The model that `save_checkpoint` wrote to `path`; see `load.load`.

    `dtype` applies to the base: adapters stay float32, int8 and nf4 stay what they are.
    """
    import orbax.checkpoint as ocp

    path = path.absolute()
    config, lora = read_description(path / MARKER)
    model = _abstract(config, lora, kernel)
    variables = {_name(p): (p, variable) for p, variable in _variables(model).items()}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        found = checkpointer.metadata(path / WEIGHTS).item_metadata if (path / WEIGHTS).is_dir() else None
        if found is None:
            raise WeightsError(f"{path / WEIGHTS} is not a complete Orbax checkpoint")
        stored = dict(found.tree)
        _check(path, {name: variable.shape for name, (_, variable) in variables.items()}, stored)
        for names in _groups({name: _bytes(meta) for name, meta in stored.items()}):
            wanted = {name: variables[name][1] for name in names}
            arrays = _restore(checkpointer, path / WEIGHTS, wanted, stored, dtype, mesh)
            for name, array in arrays.items():
                place, variable = variables[name]
                variables[name] = place, variable.replace(array)
    nnx.update(model, nnx.from_flat_state(dict(variables.values())))
    return model


def _abstract(config: Gemma3Config, lora: LoraConfig | None, kernel: Kernel) -> Gemma3:
    """The model with its adapter, shapes in place of values."""
    if lora is None:
        return abstract_model(config, kernel=kernel)
    return nnx.eval_shape(lambda: add_lora(Gemma3(config, rngs=nnx.Rngs(0), kernel=kernel), lora, rngs=nnx.Rngs(0)))


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


def _restore(
    checkpointer, path: Path, wanted: Mapping[str, nnx.Variable], stored, dtype, mesh: Mesh | None
) -> dict[str, Any]:
    """Some parameters by name, each where it belongs."""
    import orbax.checkpoint as ocp

    args = {}
    for name, variable in wanted.items():
        cast = _dtype(variable, stored[name], dtype)
        if mesh is None:
            args[name] = ocp.RestoreArgs(restore_type=np.ndarray, dtype=cast)
        else:
            args[name] = ocp.ArrayRestoreArgs(sharding=variable_sharding(variable, mesh), dtype=cast)
    what = ocp.args.PyTreeRestore(item=dict.fromkeys(wanted, 0), restore_args=args, partial_restore=True)
    arrays = checkpointer.restore(path, args=what)
    placed = {}
    for name, variable in wanted.items():
        array = arrays.pop(name)
        array = jax.device_put(array) if mesh is None else array
        placed[name] = array.astype(jnp.uint4) if variable.dtype == jnp.uint4 else array
        jax.block_until_ready(placed[name])  # so that the host's copy is gone before the next one's
    return placed


def _dtype(variable: nnx.Variable, stored, dtype) -> np.dtype:
    """In what type a parameter is restored: `dtype` for the base's floating-point numbers, else what is stored."""
    base = not isinstance(variable, nnx.LoRAParam) and jnp.issubdtype(stored.dtype, jnp.floating)
    return np.dtype(stored.dtype if dtype is None or not base else dtype)


def _check(path: Path, wanted: Mapping[str, tuple[int, ...]], stored: Mapping[str, Any]) -> None:
    faults = Faults(str(path))
    faults.add("missing", [name for name in wanted if name not in stored])
    faults.add("unexpected", [name for name in stored if name not in wanted])
    faults.add(
        "of another shape",
        [
            f"{name} {list(stored[name].shape)}, wanted {list(shape)}"
            for name, shape in wanted.items()
            if name in stored and tuple(stored[name].shape) != shape
        ],
    )
    faults.report()


def _groups(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Names from the largest to the smallest, as many at a time as `RESTORED_AT_ONCE` allows."""
    limit = RESTORED_AT_ONCE * sum(sizes.values())
    group: list[str] = []
    for name in sorted(sizes, key=sizes.__getitem__, reverse=True):
        if group and sum(sizes[n] for n in group) + sizes[name] > limit:
            yield group
            group = []
        group.append(name)
    yield group


def _variables(model: Gemma3) -> dict[tuple, nnx.Variable]:
    return dict(nnx.to_flat_state(nnx.state(model)))


def _storable(array: jax.Array) -> jax.Array:
    """Orbax has no type for 4 bits (tensorstore: 'Unsupported data type: "uint4"')."""
    return array.astype(jnp.uint8) if array.dtype == jnp.uint4 else array


def _bytes(meta) -> int:
    return int(np.prod(meta.shape)) * np.dtype(meta.dtype).itemsize


def _name(path) -> str:
    return ".".join(map(str, path))
