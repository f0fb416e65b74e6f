"""What a compiled step keeps in a chip's memory, part by part, and what XLA says when there is not enough.

What a step is given are its entry's parameters, in their layouts (TPU pads small arrays to tiles); by name they are
`state.params…`, `state.opt_state…`, `frozen…`, `batch…`; those of the sampler `weights…`, `slots…`, `store…`.
Temporaries are XLA's own sum over all that lives on the way: activations kept for the backward pass, stacked weights,
logits, buffers of collectives.
"""

import dataclasses
import re
from collections import Counter
from typing import Any

from coldforge.apps.plan.hlo import Program, padded_bytes

PARTS = {
    "frozen": "frozen weights",
    "state.params": "trained parameters",
    "state.opt_state": "optimizer",
    "batch": "batch",
    "state": "step and key",
    "params": "trained parameters",  # where they are given alone
    "weights": "sampler's weights",
    "slots": "slots",
    "store": "prompt store",
}
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)([KMGT]?)"


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one chip.

    Attributes:
        parts: What the step is given, by part.
        temporaries: What lives while it runs.
        outputs: What it returns in memory of its own; the new state takes the place of the old.
        code: The program.
        peak: XLA's own figure for the most that lives at one time, its own accounting of arguments included.
    """

    parts: dict[str, int]
    temporaries: int
    outputs: int
    code: int
    peak: int

    @property
    def arguments(self) -> int:
        """What the step is given."""
        return sum(self.parts.values())

    @property
    def total(self) -> int:
        """All of it."""
        return self.arguments + self.temporaries + self.outputs + self.code


def read_memory(program: Program, analysis: Any) -> Memory:
    """The memory of a program, from its text and `compiled.memory_analysis()`."""
    parts: Counter[str] = Counter()
    for instruction in program.computations[program.entry].values():
        if instruction.opcode == "parameter":
            name = instruction.op_name
            part = next((part for prefix, part in PARTS.items() if name.startswith(prefix)), "other arguments")
            parts[part] += padded_bytes(instruction.type)
    if rest := analysis.argument_size_in_bytes - parts.total():  # what XLA rounds up
        parts["other arguments"] += rest
    return Memory(
        parts={part: parts[part] for part in (*PARTS.values(), "other arguments") if parts[part]},
        temporaries=analysis.temp_size_in_bytes,
        outputs=analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        code=analysis.generated_code_size_in_bytes,
        peak=analysis.peak_memory_in_bytes,
    )


@dataclasses.dataclass(frozen=True)
class Refusal:
    """XLA refused a program because a chip's memory does not hold it.

    Attributes:
        needed: Bytes that it wanted; 0 if the message names none.
        available: Bytes that there are; 0 likewise.
        message: The first line of what XLA said.
    """

    needed: int
    available: int
    message: str


def read_refusal(message: str) -> Refusal | None:
    """Reads XLA:TPU's message; None if it is about something else.

    It has had several forms: "… HLO temporaries (33.80G) exceeds available HBM (15.75G)", "Used 20.93G of 15.48G hbm",
    "TPU TensorCore Hbm usage: 34.82G, … exceeding available bytes: 95.74G".
    """
    if "RESOURCE_EXHAUSTED" not in message or not re.search("hbm", message, re.IGNORECASE):
        return None
    for pattern in (
        rf"\({_SIZE}\) exceeds available HBM \({_SIZE}\)",
        rf"Used {_SIZE} of {_SIZE} hbm",
        rf"Hbm usage: {_SIZE}.*available bytes: {_SIZE}",
    ):
        if found := re.search(pattern, message):
            needed, unit, available, other = found.groups()
            return Refusal(_bytes(needed, unit), _bytes(available, other), _first_line(message))
    return Refusal(0, 0, _first_line(message))


def _bytes(number: str, unit: str) -> int:
    return round(float(number) * _UNITS[unit])


def _first_line(message: str) -> str:
    return message.strip().splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ")
