"""The safetensors format, read by rows and written tensor by tensor.

A file is the length of a JSON header (8 bytes), the header (name → dtype, shape, begin and end of its bytes), the
bytes. The `safetensors` package maps files into memory and writes from a dictionary that holds all tensors; here
neither more than a block is read at a time (mapped pages count as the process's memory as soon as they are touched),
nor more than a tensor held for writing. The tests compare with the package. Format:
https://huggingface.co/docs/safetensors
"""

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from coldforge.modeling.weights import WeightsError, block_rows

PAGE = 4096  # bytes; what a system reads at least
MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors package

DTYPES: Mapping[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A tensor in a file."""

    path: Path
    stored: str
    dtype: np.dtype | None  # None: not a floating-point type that numpy has
    shape: tuple[int, ...]
    offset: int  # of its first byte in the file


def read_header(path: Path) -> dict[str, Entry]:
    """The tensors of a file, in the order of its header; the file is checked to be complete, no tensor is read.

    Raises:
      WeightsError: if the file is cut off, or its header is no safetensors header.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER):
            raise WeightsError(
                f"{path} is not a safetensors file, or is cut off: its header should have {length:,} bytes, "
                f"and the file has {size:,} (a few hundred may be a Git LFS pointer). Download it again"
            )
        header = file.read(length)
    try:
        entries = {
            name: _entry(path, value, 8 + length)
            for name, value in json.loads(header).items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} has a header that is not safetensors': {error!r}. Download it again") from error
    end = max((stop for _, stop in entries.values()), default=8 + length)
    if end != size:
        fault = "cut off" if size < end else "too long"
        raise WeightsError(f"{path} is {fault}: wanted {end:,} bytes, got {size:,}. Download it again")
    return {name: entry for name, (entry, _) in entries.items()}


def _entry(path: Path, value: dict, data: int) -> tuple[Entry, int]:
    """The tensor that a header's value describes, and where its bytes end in the file."""
    stored, shape = str(value["dtype"]), tuple(int(size) for size in value["shape"])
    begin, end = (int(offset) for offset in value["data_offsets"])
    dtype = DTYPES.get(stored)
    size = end - begin if dtype is None else math.prod(shape) * dtype.itemsize
    if min((begin, *shape)) < 0 or end < begin or end - begin != size:
        raise ValueError(f"{stored} of shape {list(shape)} cannot lie at {begin} to {end}")
    return Entry(path, stored, dtype, shape, data + begin), data + end


def read_rows(entry: Entry, rows: slice, columns: slice, unit: int = 1) -> Iterator[tuple[int, np.ndarray]]:
    """The part `[rows, columns]` of a matrix (or of a vector, as one column) in blocks, as (first row, block).

    Rows are read whole and cut where that costs less than a page each; else each is read by itself.
    """
    if entry.dtype is None:
        raise ValueError(f"a tensor of {entry.path} is stored as {entry.stored}, which numpy has no type for")
    width, wanted = math.prod(entry.shape[1:]), columns.stop - columns.start
    pitch = width * entry.dtype.itemsize
    step = block_rows(width, unit)
    with entry.path.open("rb", buffering=0) as file:
        for row in range(rows.start, rows.stop, step):
            count, offset = min(step, rows.stop - row), entry.offset + row * pitch
            if pitch - wanted * entry.dtype.itemsize < PAGE:
                block = np.empty((count, width), entry.dtype)
                read_into(file.fileno(), block, offset, entry.path)
                yield row, block[:, columns]
                continue
            block = np.empty((count, wanted), entry.dtype)
            offset += columns.start * entry.dtype.itemsize
            for i in range(count):
                read_into(file.fileno(), block[i], offset + i * pitch, entry.path)
            yield row, block


def read_whole(entry: Entry) -> np.ndarray:
    """A whole tensor."""
    array = np.empty(entry.shape, entry.dtype)
    with entry.path.open("rb", buffering=0) as file:
        read_into(file.fileno(), array, entry.offset, entry.path)
    return array


def read_into(file: int, array: np.ndarray, offset: int, path: Path) -> None:
    """Fills `array` with the bytes at `offset`.

    Raises:
      WeightsError: if the file ends before (it was cut off after its header had been checked).
    """
    view = memoryview(array.reshape(-1).view(np.uint8))
    done = 0
    while done < len(view):  # one call reads at most 2 GiB
        if not (count := os.preadv(file, [view[done:]], offset + done)):
            raise WeightsError(
                f"{path} ended at byte {offset + done:,} while it was read; is something still writing it?"
            )
        done += count


def write(path: Path, tensors: Mapping[str, tuple[tuple[int, ...], np.dtype]], values: Iterable[np.ndarray]) -> None:
    """Writes a file of `tensors` (name → shape, dtype), whose `values` come in the same order, one at a time.

    The file appears under its name when it is complete.
    """
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (shape, dtype) in tensors.items():
        end = offset + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the package pads so, for aligned tensors
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for (name, (shape, dtype)), value in zip(tensors.items(), values, strict=True):
                if value.shape != shape or value.dtype != dtype:
                    raise ValueError(f"{name} is {value.dtype} {value.shape}, wanted {dtype} {shape}")
                file.write(memoryview(np.ascontiguousarray(value).reshape(-1).view(np.uint8)))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
