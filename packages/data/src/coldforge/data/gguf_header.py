"""Reads the key-value pairs at the head of a GGUF file: configuration and vocabulary, not tensors.

The `gguf` package's reader makes an array of every one of the 262,144 token strings and takes 10 s for Gemma's file;
this one walks the same bytes in 0.2 s. It maps the file, so the weights behind the header are never read.

Left out: tensors, writing, version 1 (2023, never used for Gemma), and big-endian files. Format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
import struct
from pathlib import Path
from typing import Any

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
# GGUF's type number -> the letter `struct` knows it by. Strings (8) and arrays (9) have a length in front.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING = 8
_ARRAY = 9
_LENGTH = struct.Struct("<Q")


def is_gguf(path: Path) -> bool:
    """Whether the file begins as GGUF files do."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_metadata(path: Path) -> dict[str, Any]:
    """Reads all key-value pairs of a GGUF file.

    Args:
        path: The file, version 2 or 3, little-endian.

    Returns:
        Keys to values: int, float, bool, str, or a list of these (e.g. `tokenizer.ggml.tokens`: 262,144 strings).

    Raises:
        ValueError: The file is not GGUF, is of another version, is cut off, or holds a value of an unknown type.
    """
    if not is_gguf(path):
        raise ValueError(f"{path} is not a GGUF file: it does not begin with {MAGIC!r}.")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _read_pairs(data)
        except struct.error as error:
            raise ValueError(
                f"{path} is cut off: it ends after {len(data):,} bytes, within its header. Download it again."
            ) from error
        except ValueError as error:
            raise ValueError(f"{path} cannot be read as GGUF: {error}") from error


def _read_pairs(data: mmap.mmap) -> dict[str, Any]:
    version, _tensors, pairs = struct.unpack_from("<IQQ", data, len(MAGIC))
    if version not in _VERSIONS:
        raise ValueError(f"its version is {version} (little-endian); versions {_VERSIONS} can be read.")
    metadata = {}
    position = len(MAGIC) + struct.calcsize("<IQQ")
    for _ in range(pairs):
        (key,), position = _read_strings(data, position, 1)
        (kind,) = struct.unpack_from("<I", data, position)
        metadata[key], position = _read_value(data, position + 4, kind)
    return metadata


def _read_value(data: mmap.mmap, position: int, kind: int) -> tuple[Any, int]:
    """Returns the value at `position` and the position behind it."""
    if kind == _ARRAY:
        item_kind, count = struct.unpack_from("<IQ", data, position)
        return _read_items(data, position + 12, item_kind, count)
    values, position = _read_items(data, position, kind, 1)
    return values[0], position


def _read_items(data: mmap.mmap, position: int, kind: int, count: int) -> tuple[list[Any], int]:
    if kind == _STRING:
        return _read_strings(data, position, count)
    if kind in _SCALARS:
        layout = f"<{count}{_SCALARS[kind]}"
        return list(struct.unpack_from(layout, data, position)), position + struct.calcsize(layout)
    if kind == _ARRAY:
        items = []
        for _ in range(count):
            item, position = _read_value(data, position, kind)
            items.append(item)
        return items, position
    raise ValueError(f"it holds a value of the unknown type {kind} at byte {position:,}.")


def _read_strings(data: mmap.mmap, position: int, count: int) -> tuple[list[str], int]:
    strings = []
    unpack, size = _LENGTH.unpack_from, _LENGTH.size
    for _ in range(count):
        (length,) = unpack(data, position)
        start = position + size
        position = start + length
        text = data[start:position]
        if len(text) != length:  # a slice behind the end is short, not an error
            raise struct.error
        strings.append(text.decode())
    return strings, position
