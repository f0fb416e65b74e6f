"""From tensors that lie somewhere to a model on its devices: check all names and shapes, then read block by block.

A `WeightSource` (a Hugging Face directory, a GGUF file, a checkpoint) says which tensors it holds and reads rows of
them. `build` makes the model: it compares the source with what the config needs and refuses with one list of
everything that is wrong; then, parameter by parameter, it makes the buffers that this process's devices need, fills
them from blocks of a few megabytes (transposing and casting on the way) and hands them over. On CPU JAX takes over
such a buffer without a copy, since it is aligned; so loading peaks at the weights themselves plus one block. On an
accelerator the host holds one parameter's share at a time. A slice that several devices of a process hold is read
once.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, Sharding
from jax.typing import DTypeLike

from coldforge.modeling.attention import Kernel
from coldforge.modeling.config import Gemma3Config
from coldforge.modeling.init import abstract_model, variable_sharding
from coldforge.modeling.layout import Part, Path, parameters
from coldforge.modeling.model import Gemma3

BLOCK_ELEMENTS = 1 << 20  # read at a time: 4 MB in float32
ALIGNMENT = 64  # bytes; XLA's CPU client copies a buffer that is aligned to less
LISTED = 20  # tensors that an error names per kind of fault

Bounds = tuple[tuple[int, int], ...]  # what a buffer holds of an array: from and to, per dimension

_EMBEDDING, _HEAD = "embed_tokens.weight", "lm_head.weight"


class WeightsError(ValueError):
    """Weights that are damaged, incomplete, or not those of the model; the message lists every tensor that is wrong."""


class Faults:
    """Collects what is wrong with the tensors at a place, to be told in one message."""

    def __init__(self, place: str):
        self._place = place
        self._lines: list[str] = []

    def add(self, kind: str, names: list[str]) -> None:
        """Notes tensors of one kind of fault, if there are any; at most `LISTED` are named."""
        if names:
            more = f", and {len(names) - LISTED} more" if len(names) > LISTED else ""
            self._lines.append(f"  {len(names)} {kind}: {', '.join(names[:LISTED])}{more}")

    def report(self) -> None:
        """Raises a WeightsError if anything was added."""
        if self._lines:
            what = f"the tensors in {self._place} are not those of the model that its config describes"
            raise WeightsError("\n".join([what + ":", *self._lines]))


@dataclasses.dataclass(frozen=True)
class Tensor:
    """What a source says of a tensor before reading it.

    Attributes:
      label: its name in the file.
      shape: as Hugging Face has it (`[out, in]`).
      dtype: of the numbers that `WeightSource.blocks` gives; None if it cannot read them.
      stored: how the file calls its storage ("BF16", "Q4_K").
    """

    label: str
    shape: tuple[int, ...]
    dtype: np.dtype | None
    stored: str


@runtime_checkable  # so that the tests' type checker can look at it
class WeightSource(Protocol):
    """Tensors under Hugging Face's names without prefix (`layers.0.mlp.up_proj.weight`), readable by rows."""

    @property
    def place(self) -> str:
        """Where the tensors are, for messages."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """All tensors but those of a vision tower; one whose name says nothing keeps it."""

    def label(self, name: str) -> str:
        """What the file would call a tensor that it lacks."""

    def blocks(self, name: str, rows: slice, columns: slice, unit: int) -> Iterator[tuple[int, np.ndarray]]:
        """The part `[rows, columns]` of a tensor in blocks of some rows, in order, as (first row, block).

        Each block begins and ends at a multiple of `unit`, as `rows` does. A vector is one column. Norms come as
        Hugging Face stores them (the model adds 1).
        """


def build(source: WeightSource, config: Gemma3Config, *, dtype, mesh: Mesh | None, kernel: Kernel) -> Gemma3:
    """The model of `config` with the weights of `source`.

    Args:
      source: where the weights are.
      config: what they must fit.
      dtype: float32 or bfloat16; None: bfloat16 if every matrix is stored so, else float32.
      mesh: places every parameter by `sharding.RULES`; None: the default device.
      kernel: see `attention.attend`.

    Raises:
      WeightsError: if tensors are missing, unexpected, misshapen or unreadable; nothing has been read then.
    """
    model = abstract_model(config, dtype=jnp.float32, kernel=kernel)
    variables = dict(nnx.to_flat_state(nnx.state(model)))
    layout = parameters(config)
    check(source, {part.name: part.shape(variables[path].shape) for path, parts in layout.items() for part in parts})
    dtype = stored_dtype(source) if dtype is None else dtype
    read_model(model, source, layout, lambda *_: dtype, mesh)
    return model


def read_model(
    model: Gemma3,
    source: WeightSource,
    layout: Mapping[Path, tuple[Part, ...]],
    dtype_of: Callable[[str, nnx.Variable], DTypeLike],
    mesh: Mesh | None,
) -> None:
    """Replaces the shapes in an abstract model by arrays from a source that has been checked.

    `layout` names the tensors of each parameter; `dtype_of` says, from the first one's name and the parameter, in what
    type it is to be.
    """
    variables = dict(nnx.to_flat_state(nnx.state(model)))
    for path, parts in layout.items():
        variable = variables[path]
        sharding = None if mesh is None else variable_sharding(variable, mesh)
        array = read_parameter(source, parts, variable.shape, dtype_of(parts[0].name, variable), sharding)
        variables[path] = variable.replace(array)
    nnx.update(model, nnx.from_flat_state(variables))


def check(source: WeightSource, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Refuses a source whose tensors are not exactly `wanted` (name → shape); a head as a copy of the embedding passes.

    Raises:
      WeightsError: with everything that is wrong, at most 20 names of each kind.
    """
    have = dict(source.tensors)
    head = have.pop(_HEAD, None)
    misshapen = [
        f"{have[name].label} {list(have[name].shape)}, wanted {list(shape)}"
        for name, shape in wanted.items()
        if name in have and have[name].shape != shape
    ]
    if head is not None and head.shape != wanted[_EMBEDDING]:
        misshapen.append(
            f"{head.label} {list(head.shape)}, wanted {list(wanted[_EMBEDDING])} (it is tied to the embedding)"
        )
    faults = Faults(source.place)
    faults.add("missing", [source.label(name) for name in wanted if name not in have])
    faults.add("unexpected", [tensor.label for name, tensor in have.items() if name not in wanted])
    faults.add("of another shape", misshapen)
    unreadable = [have[name] for name in wanted if name in have and have[name].dtype is None]
    faults.add("stored in a type that cannot be read", [f"{tensor.label} ({tensor.stored})" for tensor in unreadable])
    faults.report()


def stored_dtype(source: WeightSource) -> np.dtype:
    """bfloat16 if all matrices are stored in it, else float32.

    Norms follow the matrices. float16 widens: the residual stream of the 270M model reaches 1.0e5, above float16's
    65,504, and bfloat16 would drop three bits of each weight.
    """
    matrices = {tensor.dtype for tensor in source.tensors.values() if len(tensor.shape) == 2}
    return np.dtype(jnp.bfloat16) if matrices == {np.dtype(jnp.bfloat16)} else np.dtype(np.float32)


def read_parameter(
    source: WeightSource, parts: Iterable[Part], shape: tuple[int, ...], dtype, sharding: Sharding | None
) -> jax.Array:
    """A parameter of the model from the tensors that make it up, read and placed for this process's devices only."""
    places: dict[jax.Device | None, Bounds] = {None: tuple((0, size) for size in shape)}
    if sharding is not None:
        indices = sharding.addressable_devices_indices_map(shape)
        places = {device: tuple(map(_bounds, index or (), shape)) for device, index in indices.items()}
    buffers = {index: _aligned(tuple(stop - start for start, stop in index), dtype) for index in places.values()}
    for part in parts:
        _fill(source, part, shape, buffers)
    arrays = [jax.device_put(buffers[index], device) for device, index in places.items()]
    jax.block_until_ready(arrays)  # so that the host holds no more than one parameter
    return arrays[0] if sharding is None else jax.make_array_from_single_device_arrays(shape, sharding, arrays)


def _fill(source: WeightSource, part: Part, shape: tuple[int, ...], buffers: Mapping[Bounds, np.ndarray]) -> None:
    """Reads one tensor into every buffer that holds some of it; `buffers` are by what they hold of the parameter."""
    targets = [target for index, buffer in buffers.items() if (target := _target(part, index, buffer))]
    if not targets:
        return
    dims = [shape[d] for d in part.rows + part.cols] + ([] if part.cols else [1])
    across = len(part.rows)  # the first of the dimensions that make up the tensor's columns
    rows, columns = (_hull(index[d] for index, _ in targets) for d in (0, across))
    dims[across] = columns.stop - columns.start
    for index, _ in targets:
        index[across] = slice(index[across].start - columns.start, index[across].stop - columns.start)
    unit, pitch = math.prod(dims[1:across]), math.prod(dims[across + 1 :])
    for row, block in source.blocks(part.name, _scale(rows, unit), _scale(columns, pitch), unit):
        first, block = row // unit, block.reshape(-1, *dims[1:])
        for (lead, *rest), view in targets:
            begin, end = max(lead.start, first), min(lead.stop, first + len(block))
            if begin < end:
                view[begin - lead.start : end - lead.start] = block[(slice(begin - first, end - first), *rest)]


def _target(part: Part, index: Bounds, buffer: np.ndarray) -> tuple[list[slice], np.ndarray] | None:
    """What a buffer with `index` of the parameter holds of a tensor: slices of its dimensions, the buffer seen so."""
    if part.at is not None:
        dim, place = part.at
        start, stop = index[dim]
        if not start <= place < stop:
            return None
        part = dataclasses.replace(part, at=(dim, place - start))
    view = part.view(buffer)
    slices = [slice(*index[d]) for d in part.rows + part.cols]
    return (slices, view) if part.cols else ([*slices, slice(0, 1)], view[:, None])


def _hull(slices: Iterable[slice]) -> slice:
    """The smallest slice that holds all `slices`."""
    slices = list(slices)
    return slice(min(s.start for s in slices), max(s.stop for s in slices))


def _scale(index: slice, factor: int) -> slice:
    return slice(index.start * factor, index.stop * factor)


def block_rows(columns: int, unit: int) -> int:
    """Rows of a tensor of `columns` to read at a time: a multiple of `unit`, about `BLOCK_ELEMENTS` numbers."""
    return max(1, BLOCK_ELEMENTS // (columns * unit)) * unit


def _aligned(shape: tuple[int, ...], dtype) -> np.ndarray:
    """An uninitialised array at a multiple of `ALIGNMENT`; numpy's own lie at 16 bytes past a page."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    offset = -raw.ctypes.data % ALIGNMENT
    return raw[offset : offset + size].view(dtype).reshape(shape)


def _bounds(index: slice, size: int) -> tuple[int, int]:
    return index.indices(size)[:2]
