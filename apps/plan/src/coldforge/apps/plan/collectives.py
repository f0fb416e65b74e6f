"""Collectives of a compiled program: which, how large, over how many devices, and the bytes they move between chips.

XLA:TPU prices no collective. What can be read off the text is its kind, the shape of its data and the group of devices
that take part. What a chip then sends at least, on a ring of n chips (Patarasuk & Yuan 2009,
doi 10.1016/j.jpdc.2008.09.002), follows for data of S bytes:

    all-gather          S of the result:  S (n − 1) / n
    reduce-scatter      S of the operand: S (n − 1) / n
    all-reduce          S of the operand: 2 S (n − 1) / n     (a reduce-scatter, then an all-gather)
    all-to-all          S of the operand: S (n − 1) / n       (what leaves the chip; on a torus it passes others)
    collective-permute  S of the operand: S                   (of a chip that has somebody to send to)

A chip receives as much as it sends. One collective can stand in several places: `-start` and `-done`, or, on TPU, a
fusion that starts it, fusions that carry it along behind a product, and one that ends it; it counts where it starts.
An all-reduce of which a fusion keeps a slice is a reduce-scatter.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping

from coldforge.apps.plan.hlo import Instruction, Program, logical_bytes

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute")
RING: Mapping[str, Callable[[int], float]] = {
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "ragged-all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda _: 1.0,
}


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a program.

    Attributes:
        kind: One of KINDS.
        data: S above, in bytes: of the whole that a group gathers, reduces or exchanges.
        group: How many devices take part together.
        overlapped: Whether it runs beside other work.
        op_name: Where in the traced program it comes from.
    """

    kind: str
    data: int
    group: int
    overlapped: bool
    op_name: str

    @property
    def sent(self) -> float:
        """Bytes that a chip sends."""
        return RING[self.kind](self.group) * self.data


def find_collective(program: Program, computation: str, instruction: Instruction) -> Collective | None:
    """The collective that an instruction starts, or is; None for all others, and for those that end one."""
    if instruction.opcode == "fusion":
        return _in_fusion(program, instruction)
    kind = instruction.opcode.removesuffix("-start")
    if kind not in KINDS:
        return None
    overlapped = instruction.opcode.endswith("-start")
    return _read(program, computation, instruction, kind, overlapped, instruction.op_name)


def _in_fusion(program: Program, fusion: Instruction) -> Collective | None:
    inside = fusion.attribute("calls")
    instructions = program.computations[inside]
    for instruction in instructions.values():
        kind = instruction.opcode
        if kind not in KINDS:
            continue
        starts = any('custom_call_target="AsyncCollectiveStart"' in i.attributes for i in instructions.values())
        if not starts and _channel(instruction) in _started(program):
            return None  # carried along, or ended
        if kind == "all-reduce" and program.root(inside).opcode == "dynamic-slice":
            kind = "reduce-scatter"
        return _read(program, inside, instruction, kind, starts, fusion.op_name or instruction.op_name)
    return None


def _channel(instruction: Instruction) -> str:
    found = re.search(r"channel_id=(\d+)", instruction.attributes)
    return found.group(1) if found else instruction.name


@functools.lru_cache(maxsize=2)
def _started(program: Program) -> frozenset[str]:
    """Channels of the collectives that fusions start."""
    started = set()
    for name in program.fused:
        instructions = program.computations[name].values()
        if any('custom_call_target="AsyncCollectiveStart"' in i.attributes for i in instructions):
            started |= {_channel(i) for i in instructions if i.opcode in KINDS}
    return frozenset(started)


def _read(
    program: Program, computation: str, instruction: Instruction, kind: str, overlapped: bool, op_name: str
) -> Collective:
    group = group_size(instruction.attributes, program.partitions)
    here = program.computations[computation]
    data = sum(logical_bytes(here[operand].type) for operand in instruction.operands)
    if kind == "all-gather":  # each device puts in a part
        data *= group
    if kind == "collective-permute" and "source_target_pairs={}" in instruction.attributes:
        data = 0
    return Collective(kind, data, group, overlapped, op_name)


def group_size(attributes: str, partitions: int) -> int:
    """How many devices each group of a collective has.

    Written in one of four ways: `{{0,1},{2,3}}`; `[4,2]<=[8]` (4 groups of 2); `mesh['data'=2,'fsdp'=4] {'fsdp'}`; `{}`
    (one group of all). A collective-permute has pairs instead: how many devices take part.

    Raises:
        ValueError: Written in a fifth way.
    """
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}(?:,\s|$)", attributes):
        return len(set(re.findall(r"\d+", pairs.group(1))))
    if (found := re.search(r"replica_groups=(.*)", attributes)) is None:
        return partitions
    text = found.group(1)
    if text.startswith("{}"):
        return partitions
    if listed := re.match(r"\{\{([\d,]+)\}", text):
        return len(listed.group(1).split(","))
    if iota := re.match(r"\[(\d+),(\d+)\]<=", text):
        return int(iota.group(2))
    if mesh := re.match(r"mesh\[([^\]]*)\][^{]*\{([^}]*)\}", text):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']*)'=(\d+)", mesh.group(1))}
        parts = re.findall(
            r"'([^']*)'(?::\(\d+\)(\d+))?", mesh.group(2)
        )  # 'axis', or 'axis':(before)size of a part of it
        return math.prod(int(part) if part else sizes[name] for name, part in parts)
    raise ValueError(f"the groups of a collective are written in a way not known here: {text[:120]!r}")
