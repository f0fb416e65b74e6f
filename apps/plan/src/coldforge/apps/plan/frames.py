"""Which function, and which line, an op of a compiled program comes from.

XLA keeps for most ops the stack of Python calls that traced them, as four tables in front of the program's text:

    FileNames       1 "…/coldforge/modeling/model.py"
    FunctionNames   1 "MLP.__call__"
    FileLocations   1 {file_name_id=1 function_name_id=1 line=175 …}
    StackFrames     1 {file_location_id=1 parent_frame_id=1}

A frame's parent is printed one higher than it is; 1 means none. `read` turns them into short names of calls.
"""

import dataclasses
import re
from collections.abc import Mapping

OURS = re.compile(r"(?:^|/src|-packages)/coldforge/")  # in a clone, which may be named so itself, or installed


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an op comes from: `calls` "MLP/Linear", `line` "model.py:95"."""

    calls: str
    line: str


def read(text: str) -> Mapping[int, Place]:
    """For each frame of a program's text, its innermost function that is ours; frames without one are absent."""
    head = text[: match.start()] if (match := re.search(r"^(ENTRY |%)", text, re.MULTILINE)) else text
    files, functions = _names(head, "FileNames"), _names(head, "FunctionNames")
    locations, frames = dict(_numbers(head, "FileLocations")), dict(_numbers(head, "StackFrames"))
    places = {}
    for frame in frames:
        calls: list[str] = []
        line, current = "", frame
        while current in frames:
            location, parent = frames[current][:2]
            file, function, number = locations[location][:3]
            if OURS.search(files[file]):
                line = line or f"{files[file].rpartition('/')[2]}:{number}"
                name = _short(functions[function])
                if name and (not calls or calls[-1] != name):
                    calls.append(name)
            current = parent - 1
        if line:
            places[frame] = Place("/".join(reversed(calls[:2])), line)
    return places


def _section(text: str, name: str) -> list[str]:
    found = re.search(rf"^{name}\n((?:\d+ .*\n)*)", text, re.MULTILINE)
    return found.group(1).splitlines() if found else []


def _names(text: str, section: str) -> dict[int, str]:
    lines = (line.split(" ", 1) for line in _section(text, section))
    return {int(key): value.strip('"') for key, value in lines}


def _numbers(text: str, section: str) -> list[tuple[int, list[int]]]:
    """Each line's key and the numbers of its fields, in the order they are written."""
    lines = (line.split(" ", 1) for line in _section(text, section))
    return [(int(key), [int(number) for number in re.findall(r"=(\d+)", fields)]) for key, fields in lines]


def _short(function: str) -> str:
    """A function's outermost name: `_Linear.__call__` is Linear, `sft_loss.<locals>.loss` is sft_loss."""
    return re.sub(r"\..*", "", function).strip("_<>")
