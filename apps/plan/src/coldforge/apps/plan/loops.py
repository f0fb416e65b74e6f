"""How often a loop of a compiled program runs.

Three ways, in this order:
  1. XLA says so itself (`known_trip_count`);
  2. the loop counts: it compares a number that its body increases by a constant with another that does not change, and
     both ends lead to constants, here or in the loops around it;
  3. it does not, as when data decide (a loss that skips what does not count): then a loop that writes slices into a
     buffer runs at most as often as slices fit into it.
If none applies, the count is None. Only the integers of 2 are ever evaluated.
"""

import dataclasses
import re
from collections.abc import Iterator
from typing import Literal

from coldforge.apps.plan.hlo import Instruction, Program, arrays

_SAME = ("copy", "convert", "bitcast", "reshape", "copy-start", "copy-done", "optimization-barrier")


@dataclasses.dataclass(frozen=True)
class Trips:
    """How often a loop runs, and how that is known: "exact", or "at most" where data decide."""

    count: int
    how: Literal["exact", "at most"]


@dataclasses.dataclass(frozen=True)
class Scope:
    """A computation being read, and what its parameters stand for.

    Attributes:
        program: The whole.
        computation: The name of the one being read.
        outer: Where it is called from; None for the entry, and for a loop read without regard to what is around it.
        arguments: Names, in `outer`, of what it is called with.
        loop: The body of a loop: its one parameter changes from trip to trip.
    """

    program: Program
    computation: str
    outer: "Scope | None" = None
    arguments: tuple[str, ...] = ()
    loop: bool = False

    def __getitem__(self, name: str) -> Instruction:
        return self.program.computations[self.computation][name]

    @property
    def root(self) -> str:
        """The name of the computation's result."""
        return self.program.roots[self.computation]

    def enter(self, computation: str, arguments: tuple[str, ...], *, loop: bool = False) -> "Scope":
        """The scope of a computation that an instruction of this one calls."""
        return Scope(self.program, computation, self, arguments, loop)


@dataclasses.dataclass(frozen=True)
class Number:
    """`element` of the loop's tuple (None: nothing) plus `offset`."""

    element: int | None
    offset: int


def count_trips(scope: Scope, loop: Instruction) -> Trips | None:
    """How often `loop`, a while of `scope`, runs; None if nothing tells."""
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes)
    if known:
        return Trips(int(known.group(1)), "exact")
    program, body_name = scope.program, loop.attribute("body")
    counted = _count(scope, loop, Scope(program, loop.attribute("condition")), Scope(program, body_name))
    if counted is not None:
        return counted
    bound = max(_slices(program, body_name, "dynamic-update-slice"), default=0)
    bound = bound or max(_slices(program, body_name, "dynamic-slice"), default=0)
    return Trips(bound, "at most") if bound else None


def _count(scope: Scope, loop: Instruction, condition: Scope, body: Scope) -> Trips | None:
    """Way 2; `condition` and `body` are read by themselves, so that the loop's tuple is what their numbers rest on."""
    found = _comparison(condition, condition.root)
    if found is None:
        return None
    direction, left, right = found
    if left.element is None or _step(body, left.element) == 0:  # written the other way round: bound > i
        mirrored = {"LT": "GT", "LE": "GE", "GT": "LT", "GE": "LE"}
        direction, left, right = mirrored.get(direction, direction), right, left
    step = None if left.element is None else _step(body, left.element)
    if left.element is None or not step:
        return None
    start = _initial(scope, loop, left.element)
    end = right.offset
    if right.element is not None:
        first = _initial(scope, loop, right.element) if _step(body, right.element) == 0 else None
        if first is None:
            return None
        end += first
    end += {"LE": 1, "GE": -1}.get(direction, 0)
    if start is None and step < 0:
        return None
    span = end - (start or 0) - left.offset
    return Trips(max(0, -(-span // step)), "exact" if start is not None else "at most")


def _comparison(scope: Scope, name: str) -> tuple[str, Number, Number] | None:
    """The comparison that a condition's result is, perhaps inside a fusion."""
    instruction = scope[name]
    if instruction.opcode == "fusion":
        inner = scope.enter(instruction.attribute("calls"), instruction.operands)
        return _comparison(inner, inner.root)
    if instruction.opcode in _SAME:
        return _comparison(scope, instruction.operands[0])
    direction = re.search(r"direction=(\w+)", instruction.attributes)
    if instruction.opcode != "compare" or direction is None:
        return None
    left, right = (evaluate(scope, operand) for operand in instruction.operands)
    return None if left is None or right is None else (direction.group(1), left, right)


def _step(body: Scope, element: int) -> int | None:
    """By how much a body increases an element of its tuple; None if not by a constant."""
    root = body.program.root(body.computation)
    if root.opcode != "tuple":
        return None
    number = evaluate(body, root.operands[element])
    return None if number is None or number.element != element else number.offset


def _initial(scope: Scope, loop: Instruction, element: int) -> int | None:
    """The constant that an element of a loop's tuple starts from."""
    number = _element(scope, loop.operands[0], element)
    return None if number is None or number.element is not None else number.offset


def evaluate(scope: Scope, name: str) -> Number | None:
    """The value of an integer as a constant, or a constant more than an element of the loop's tuple; else None."""
    instruction = scope[name]
    operands, opcode = instruction.operands, instruction.opcode
    if opcode == "constant":
        return Number(None, int(instruction.argument)) if re.fullmatch(r"-?\d+", instruction.argument) else None
    if opcode in _SAME:
        return evaluate(scope, operands[0])
    if opcode == "get-tuple-element":
        index = re.search(r"index=(\d+)", instruction.attributes)
        return _element(scope, operands[0], int(index.group(1))) if index else None
    if opcode == "parameter" and scope.outer is not None and not scope.loop:
        return evaluate(scope.outer, scope.arguments[int(instruction.argument)])
    if opcode == "fusion":
        inner = scope.enter(instruction.attribute("calls"), operands)
        return evaluate(inner, inner.root)
    if opcode in ("add", "subtract"):
        return _sum(evaluate(scope, operands[0]), evaluate(scope, operands[1]), 1 if opcode == "add" else -1)
    return None


def _sum(a: Number | None, b: Number | None, sign: int) -> Number | None:
    """Returns a + sign · b, where at most one of them rests on the loop's tuple."""
    if a is None or b is None or (b.element is not None and (a.element is not None or sign < 0)):
        return None
    return Number(a.element if b.element is None else b.element, a.offset + sign * b.offset)


def _element(scope: Scope, name: str, index: int) -> Number | None:
    """An element of a tuple."""
    instruction = scope[name]
    if instruction.opcode == "tuple":
        return evaluate(scope, instruction.operands[index])
    if instruction.opcode in _SAME:
        return _element(scope, instruction.operands[0], index)
    if instruction.opcode == "fusion":
        inner = scope.enter(instruction.attribute("calls"), instruction.operands)
        return _element(inner, inner.root, index)
    if instruction.opcode == "parameter":
        if scope.outer is None:
            return Number(index, 0)
        # What a body hands on unchanged is what the loop began with.
        if scope.loop and _step(Scope(scope.program, scope.computation), index) != 0:
            return None
        return _element(scope.outer, scope.arguments[int(instruction.argument)], index)
    return None


def _slices(program: Program, computation: str, opcode: str) -> Iterator[int]:
    """How many slices fit into each buffer of which a computation, or a fusion in it, takes slices of one dimension."""
    instructions = program.computations[computation]
    for instruction in instructions.values():
        if instruction.opcode == "fusion":
            yield from _slices(program, instruction.attribute("calls"), opcode)
        elif instruction.opcode == opcode:
            buffer = instructions[instruction.operands[0]]
            part = instructions[instruction.operands[1]] if opcode == "dynamic-update-slice" else instruction
            [(_, whole)], [(_, slice_)] = arrays(buffer.type), arrays(part.type)
            ratios = [-(-w // s) for w, s in zip(whole, slice_, strict=True) if w != s]
            if len(ratios) <= 1:
                yield ratios[0] if ratios else 1
