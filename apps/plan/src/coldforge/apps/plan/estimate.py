"""What a compiled program costs by XLA:TPU's own model: cycles op by op, kernels and collectives counted beside.

XLA:TPU writes `estimated_cycles` into each fusion, copy and reshape that it schedules. `estimate` walks the program
from its entry: the cycles of a loop's body times its trips, of a conditional's dearest branch (or cheapest, if wanted),
of a fusion once (what is inside it carries none of its own). It is a model: good for comparing two programs on the same
chip and for finding what to change. It leaves out, and `Estimate` counts apart:
  - Pallas kernels, which XLA does not look into;
  - collectives (`collectives` has their bytes);
  - other ops without an estimate (sorts, single transfers).
Transfers between memories run beside the rest and have none.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable
from typing import Literal, NamedTuple

from coldforge.apps.plan.collectives import Collective, find_collective
from coldforge.apps.plan.hlo import Instruction, Program, arrays
from coldforge.apps.plan.loops import Scope, Trips, count_trips

# No work of their own, or done beside other work.
_FREE = re.compile(
    r"parameter|constant|tuple|get-tuple-element|bitcast|partition-id|replica-id|after-all|add-dependency|"
    r"optimization-barrier|domain|.*-done|(copy|slice|dynamic-slice|dynamic-update-slice)-start"
)
_NO_KERNEL = ("ConcatBitcast", "AssumeGatherIndicesInBound", "AllocateBuffer", "Sharding", "PinToVmem")


@dataclasses.dataclass(frozen=True)
class Op:
    """One op with an estimate: `cycles` in all its `times` executions."""

    name: str
    opcode: str
    op_name: str
    frame: int
    shape: str
    cycles: int
    times: int


@dataclasses.dataclass(frozen=True)
class Kernel:
    """Executions of one Pallas kernel in one step."""

    name: str
    op_name: str
    times: int


@dataclasses.dataclass(frozen=True)
class Loop:
    """A loop whose trips are no constant. `trips` None: nothing tells, and it is counted once."""

    op_name: str
    frame: int
    trips: Trips | None
    counted: int


@dataclasses.dataclass
class Estimate:
    """What one execution of a program costs a chip.

    Attributes:
        ops: Those with an estimate.
        kernels: Pallas kernels.
        collectives: With how often each runs.
        unpriced: Executions of other ops without an estimate, by opcode.
        loops: Those that run as often as data decide.
        conditionals: How many there are; of each one branch is counted, the dearest unless said otherwise.
    """

    ops: list[Op] = dataclasses.field(default_factory=list)
    kernels: list[Kernel] = dataclasses.field(default_factory=list)
    collectives: list[tuple[Collective, int]] = dataclasses.field(default_factory=list)
    unpriced: Counter[str] = dataclasses.field(default_factory=Counter)
    loops: list[Loop] = dataclasses.field(default_factory=list)
    conditionals: int = 0

    @property
    def cycles(self) -> int:
        """The estimate of all ops that have one."""
        return sum(op.cycles for op in self.ops)

    def sent(self, *, overlapped: bool | None = None) -> float:
        """Bytes that a chip sends to others, in all collectives or in those that (do not) run beside other work."""
        chosen = (one for one in self.collectives if overlapped is None or one[0].overlapped == overlapped)
        return sum(collective.sent * times for collective, times in chosen)

    def add(self, other: "Estimate") -> None:
        """Adds the cost of another part of the program."""
        for field in ("ops", "kernels", "collectives", "loops"):
            getattr(self, field).extend(getattr(other, field))
        self.unpriced.update(other.unpriced)
        self.conditionals += other.conditionals


def estimate(program: Program, *, share: float = 1.0, branch: Literal["dearest", "cheapest"] = "dearest") -> Estimate:
    """The cost of a program.

    Args:
        program: From `hlo.parse`.
        share: Of the most trips that a loop can make whose trips data decide, how many it makes.
        branch: Which branch of each conditional counts.
    """
    return _walk(Scope(program, program.entry), 1, _Rules(share, max if branch == "dearest" else min))


class _Rules(NamedTuple):
    """How what data decide is counted: the share of trips, and which branch."""

    share: float
    choose: Callable[..., Estimate]


def _walk(scope: Scope, times: int, rules: _Rules) -> Estimate:
    cost = Estimate()
    for instruction in scope.program.computations[scope.computation].values():
        if instruction.opcode == "while":
            cost.add(_loop(scope, instruction, times, rules))
        elif instruction.opcode == "conditional":
            branches = [_walk(scope.enter(name, ()), times, rules) for name in instruction.branches()]
            cost.add(rules.choose(branches, key=lambda branch: branch.cycles))
            cost.conditionals += 1
        elif called := _called(instruction):
            cost.add(_walk(scope.enter(called, instruction.operands), times, rules))
        else:
            _price(cost, scope, instruction, times)
    return cost


def _called(instruction: Instruction) -> str:
    """The computation that an instruction runs in its place."""
    if instruction.opcode == "call":
        return instruction.attribute("to_apply")
    return instruction.attribute("calls") if instruction.opcode == "async-start" else ""


def _loop(scope: Scope, loop: Instruction, times: int, rules: _Rules) -> Estimate:
    trips = count_trips(scope, loop)
    count = 1 if trips is None else trips.count
    if trips is not None and trips.how == "at most":
        count = -(-round(trips.count * rules.share * 1e6) // 10**6)
    cost = _walk(scope.enter(loop.attribute("body"), loop.operands, loop=True), times * count, rules)
    cost.add(_walk(scope.enter(loop.attribute("condition"), loop.operands, loop=True), times * (count + 1), rules))
    if trips is None or trips.how != "exact":
        cost.loops.append(Loop(loop.op_name, loop.frame, trips, count))
    return cost


def _price(cost: Estimate, scope: Scope, instruction: Instruction, times: int) -> None:
    """Adds one instruction that runs no other computation of its own."""
    collective = find_collective(scope.program, scope.computation, instruction)
    if collective is not None:
        cost.collectives.append((collective, times))
    cycles = instruction.estimated_cycles
    if cycles is not None:
        shape = ", ".join(_brief(kind) for kind in arrays(instruction.type)[:2])
        named = _named(scope.program, instruction)
        op = Op(instruction.name, instruction.opcode, named.op_name, named.frame, shape, cycles * times, times)
        cost.ops.append(op)
    elif collective is None and instruction.opcode == "custom-call":
        target = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
        name = target.group(1) if target else "?"
        if name == "tpu_custom_call":
            cost.kernels.append(Kernel(_kernel_name(instruction), instruction.op_name, times))
        elif name not in _NO_KERNEL:
            cost.unpriced[f"custom-call {name}"] += times
    elif collective is None and not _FREE.fullmatch(instruction.opcode) and not _scalar(instruction):
        cost.unpriced[instruction.opcode] += times


def _named(program: Program, instruction: Instruction) -> Instruction:
    """The instruction itself or, where XLA gave a fusion no name, the last one in it that has one."""
    if instruction.op_name or instruction.opcode != "fusion":
        return instruction
    inside = program.computations[instruction.attribute("calls")].values()
    return next((one for one in reversed(inside) if one.op_name), instruction)


def _brief(array: tuple[str, tuple[int, ...]]) -> str:
    return f"{array[0]}[{','.join(map(str, array[1]))}]"


def _scalar(instruction: Instruction) -> bool:
    """Whether all it makes is a number or a few: index arithmetic, which costs nothing to speak of."""
    return all(len(dims) == 0 or dims == (1,) for _, dims in arrays(instruction.type))


def _kernel_name(instruction: Instruction) -> str:
    """A Pallas kernel's own name: what the instruction is called, without XLA's number."""
    return re.sub(r"(\.\d+|\.clone|\.remat\d*)+$", "", instruction.name)
