"""Configs and identities as plain nested mappings: written to files, read back, and compared field by field."""

import dataclasses
import math
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import PurePath
from typing import Any, NamedTuple

ABSENT = "absent"


class Difference(NamedTuple):
    """A field that is not the same here and there, with both values as text."""

    field: str
    there: str
    here: str


def plain(value: Any, field: str = "") -> Any:
    """`value` as what JSON and YAML know: dicts with text keys, lists, text, numbers, booleans, None.

    Dataclasses become dicts, tuples lists, paths text, numpy's numbers Python's.

    Raises:
      TypeError: for anything else, naming the field.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return plain(fields, field)
    if isinstance(value, Mapping):
        return {str(k): plain(v, f"{field}.{k}" if field else str(k)) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v, f"{field}.{i}") for i, v in enumerate(value)]
    if isinstance(value, PurePath):
        return str(value)
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return plain(value.item(), field)
    raise TypeError(
        f"{field or 'the value'} is {value!r} of type {type(value).__name__}, which a config file cannot hold: "
        "give text, a number, a boolean, None, or lists and mappings of those"
    )


def spelled(value: Any) -> Any:
    """A plain value in which numbers that JSON lacks are the texts "NaN", "Infinity" and "-Infinity": to be seen."""
    if isinstance(value, Mapping):
        return {k: spelled(v) for k, v in value.items()}
    if isinstance(value, list):
        return [spelled(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def differences(
    there: Mapping[str, Any], here: Mapping[str, Any], *, may_differ: Collection[str] = ()
) -> list[Difference]:
    """The fields of two plain mappings that are not equal, nested ones as `a.b`.

    Args:
      there: as stored.
      here: as wanted now.
      may_differ: fields that are not compared; `logging.*` is all of a group.
    """
    old, new = _flat(there), _flat(here)
    names = [name for name in old | new if not any(fnmatchcase(name, pattern) for pattern in may_differ)]
    pairs = [Difference(name, *(repr(x[name]) if name in x else ABSENT for x in (old, new))) for name in names]
    return [pair for pair in pairs if pair.there != pair.here]


def table(found: Collection[Difference], *, there: str, here: str) -> str:
    """The differences as indented lines, one a field, for an error message."""
    return "\n".join(f"  {d.field}: {there} {d.there}, {here} {d.here}" for d in found)


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):  # an empty one is the same as none
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
