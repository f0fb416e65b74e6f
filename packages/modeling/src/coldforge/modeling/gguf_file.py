"""Weights in a GGUF file: its header, and its tensors dequantised by rows (any type that the `gguf` package knows).

The package's own reader makes an array of every one of the 262,144 token strings and takes 9.5 s for the 270M file;
this one steps over them in 0.1 s and leaves only their number. Norms are stored as `1 + w` and come back as `w`; the
rotary dimensions of a Gemma file are not permuted (unlike Llama's). Left out: writing, versions before 2, big-endian
files, and models split over several files. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import dataclasses
import math
import mmap
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import jax.numpy as jnp
import numpy as np
from gguf import GGMLQuantizationType

from coldforge.modeling.safetensors_file import read_into
from coldforge.modeling.weights import Tensor, WeightsError, block_rows

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
# Type number → the letter by which `struct` knows it. Strings (8) and arrays (9) have a length in front.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

_NAMES: Mapping[str, str] = {
    "token_embd.weight": "embed_tokens.weight",
    "output_norm.weight": "norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES: Mapping[str, str] = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_BACK = {ours: theirs for theirs, ours in [*_NAMES.items(), *_LAYER_NAMES.items()]}

_FLOATS: Mapping[GGMLQuantizationType, np.dtype] = {
    GGMLQuantizationType.F32: np.dtype(np.float32),
    GGMLQuantizationType.F16: np.dtype(np.float16),
    GGMLQuantizationType.BF16: np.dtype(jnp.bfloat16),
}


@dataclasses.dataclass(frozen=True)
class SkippedArray:
    """An array in the metadata (tokens, scores) of which only the length was read."""

    length: int

    def __len__(self) -> int:
        return self.length


@dataclasses.dataclass(frozen=True)
class Entry:
    """A tensor in a file; `shape` is in numpy's order, the reverse of the file's."""

    shape: tuple[int, ...]
    type_number: int
    offset: int

    @property
    def known(self) -> bool:
        """Whether this version of gguf knows the type."""
        return self.type_number in GGMLQuantizationType

    @property
    def kind(self) -> GGMLQuantizationType:
        """The type, if it is known."""
        return GGMLQuantizationType(self.type_number)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row (of the whole tensor, if it is a vector)."""
        block, size = gguf.GGML_QUANT_SIZES[self.kind]
        return self.shape[-1] // block * size

    @property
    def end(self) -> int:
        """Where the tensor's bytes end in the file; where they begin, if the type is not known."""
        return self.offset + (math.prod(self.shape[:-1]) * self.row_bytes if self.known else 0)

    @property
    def tensor_dtype(self) -> np.dtype | None:
        """The dtype of the numbers: float32 for quantised ones, None if `gguf` has no code to read them."""
        if not self.known:
            return None
        if self.kind in _FLOATS:
            return _FLOATS[self.kind]
        try:
            gguf.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[self.kind][1]), np.uint8), self.kind)
        except NotImplementedError:
            return None
        return np.dtype(np.float32)


class GGUFSource:
    """The tensors of a GGUF file (a `weights.WeightSource`), and its `metadata`.

    Raises:
      WeightsError: if the file is not GGUF, is cut off, or is one of several.
    """

    def __init__(self, path: Path):
        self.place = str(path)
        self._path = path
        self.metadata, entries = read_header(path)
        if (count := self.metadata.get("split.count", 1)) not in (0, 1):
            raise WeightsError(
                f"{path} is one of {count} files of a split model; merge them (llama-gguf-split --merge) first"
            )
        self._entries = {_canonical(label): entry for label, entry in entries.items()}
        self.tensors: Mapping[str, Tensor] = {
            _canonical(label): Tensor(label, entry.shape, entry.tensor_dtype, _type_name(entry))
            for label, entry in entries.items()
        }

    def label(self, name: str) -> str:
        """What a GGUF file calls the tensor."""
        if match := re.fullmatch(r"layers\.(\d+)\.(.+)\.weight", name):
            return f"blk.{match[1]}.{_BACK[match[2]]}.weight"
        return _BACK.get(name, name)

    def blocks(self, name: str, rows: slice, columns: slice, unit: int) -> Iterator[tuple[int, np.ndarray]]:
        """See `weights.WeightSource.blocks`; in float32. Rows are read whole, since they come in quantised groups."""
        entry = self._entries[name]
        with self._path.open("rb", buffering=0) as file:
            if len(entry.shape) == 1:
                vector = gguf.dequantize(self._raw(file.fileno(), entry, 0, 1), entry.kind).reshape(-1, 1)
                vector = vector - 1 if name.endswith("norm.weight") else vector
                yield rows.start, vector[rows]
                return
            step = block_rows(entry.shape[1], unit)
            for row in range(rows.start, rows.stop, step):
                raw = self._raw(file.fileno(), entry, row, min(step, rows.stop - row))
                yield row, gguf.dequantize(raw, entry.kind)[:, columns]

    def _raw(self, file: int, entry: Entry, row: int, count: int) -> np.ndarray:
        raw = np.empty((count, entry.row_bytes), np.uint8)
        read_into(file, raw, entry.offset + row * entry.row_bytes, self._path)
        return raw


def read_header(path: Path) -> tuple[dict[str, Any], dict[str, Entry]]:
    """Metadata and tensors of a file; arrays in the metadata come as `SkippedArray`. No tensor is read.

    Raises:
      WeightsError: if the file is not GGUF or is cut off, in the header or behind it.
    """
    with path.open("rb") as file:
        if (magic := file.read(4)) != MAGIC:
            raise WeightsError(f"{path} is not a GGUF file: it begins with {magic!r}, wanted {MAGIC!r}")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                metadata, entries = _parse(data)
            except (struct.error, OverflowError) as error:
                size = f"{len(data):,} bytes"
                raise WeightsError(
                    f"{path} is damaged or cut off within its header ({size}). Download it again"
                ) from error
            except ValueError as error:
                raise WeightsError(f"{path} cannot be read as GGUF: {error}") from error
            end = max((entry.end for entry in entries.values()), default=0)
            if end > len(data):
                raise WeightsError(f"{path} is cut off: wanted {end:,} bytes, got {len(data):,}. Download it again")
    return metadata, entries


def _parse(data: mmap.mmap) -> tuple[dict[str, Any], dict[str, Entry]]:
    version, tensors, pairs = struct.unpack_from("<IQQ", data, 4)
    if version not in _VERSIONS:
        raise ValueError(f"version is {version} (read as little-endian), wanted one of {_VERSIONS}")
    metadata, position = {}, 4 + struct.calcsize("<IQQ")
    for _ in range(pairs):
        key, position = _string(data, position)
        (kind,) = struct.unpack_from("<I", data, position)
        metadata[key], position = _value(data, position + 4, kind)
    found = {}
    for _ in range(tensors):
        name, position = _string(data, position)
        (dims,) = struct.unpack_from("<I", data, position)
        *shape, number, offset = struct.unpack_from(f"<{dims}QIQ", data, position + 4)
        position += 4 + struct.calcsize(f"<{dims}QIQ")
        found[name] = (tuple(reversed(shape)), number, offset)
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"general.alignment is {alignment!r}")
    start = -(-position // alignment) * alignment
    return metadata, {name: _entry(name, *what, start) for name, what in found.items()}


def _entry(name: str, shape: tuple[int, ...], number: int, offset: int, start: int) -> Entry:
    entry = Entry(shape, number, start + offset)
    if entry.known and (not shape or shape[-1] % gguf.GGML_QUANT_SIZES[entry.kind][0]):
        raise ValueError(f"tensor {name} of shape {list(shape)} cannot be {entry.kind.name}")
    return entry


def _value(data: mmap.mmap, position: int, kind: int) -> tuple[Any, int]:
    """The value at `position` and the position behind it."""
    if kind == _STRING:
        return _string(data, position)
    if kind == _ARRAY:
        return _skip_array(data, position)
    if kind not in _SCALARS:
        raise ValueError(f"metadata has a value of unknown type {kind} at byte {position:,}")
    layout = "<" + _SCALARS[kind]
    (value,) = struct.unpack_from(layout, data, position)
    if layout == "<f":
        value = float(str(np.float32(value)))  # 1e-06, as it was meant, and not 9.999999974752427e-07
    return value, position + struct.calcsize(layout)


def _string(data: mmap.mmap, position: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", data, position)
    (text,) = struct.unpack_from(f"{length}s", data, position + 8)
    return text.decode(), position + 8 + length


def _skip_array(data: mmap.mmap, position: int) -> tuple[SkippedArray, int]:
    kind, count = struct.unpack_from("<IQ", data, position)
    position += 12
    if kind == _STRING:
        unpack = struct.Struct("<Q").unpack_from
        for _ in range(count):
            position += 8 + unpack(data, position)[0]
    elif kind in _SCALARS:
        position += count * struct.calcsize("<" + _SCALARS[kind])
    else:
        raise ValueError(f"metadata has an array of a type that is not expected there ({kind}) at byte {position:,}")
    return SkippedArray(count), position


def _canonical(label: str) -> str:
    """`blk.0.attn_q.weight` → `layers.0.self_attn.q_proj.weight`; a name of another kind stays as it is."""
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", label)
    if match and match[2] in _LAYER_NAMES:
        return f"layers.{match[1]}.{_LAYER_NAMES[match[2]]}.weight"
    return _NAMES.get(label, label)


def _type_name(entry: Entry) -> str:
    return entry.kind.name if entry.known else f"type {entry.type_number}, unknown to this version of gguf"
