"""How often loops run: by XLA's word, by counting, by what fits, or unknown."""

from collections.abc import Callable

import pytest

from coldforge.apps.plan.hlo import Program, parse
from coldforge.apps.plan.loops import Scope, Trips, count_trips


def loop(
    condition: str, step: str, *, start: str = "constant(0)", extra: str = "", attributes: str = ""
) -> Trips | None:
    """The trips of a loop over (i, n, x), n = 10, that goes on while `condition` and puts `step` in the place of i."""
    text = f"""\
HloModule jit_f

%body (p: (s32[], s32[], f32[64,8])) -> (s32[], s32[], f32[64,8]) {{
  %p = (s32[], s32[], f32[64,8]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] get-tuple-element(%p), index=1
  %x = f32[64,8] get-tuple-element(%p), index=2
  %zero = s32[] constant(0)
  %one = s32[] constant(1)
  %three = s32[] constant(3)
  %next = s32[] {step}
  {extra or "%out = f32[64,8] negate(%x)"}
  ROOT %t = (s32[], s32[], f32[64,8]) tuple(%next, %n, %out)
}}

%condition (q: (s32[], s32[], f32[64,8])) -> pred[] {{
  %q = (s32[], s32[], f32[64,8]) parameter(0)
  %j = s32[] get-tuple-element(%q), index=0
  %m = s32[] get-tuple-element(%q), index=1
  %ten = s32[] constant(10)
  ROOT %go = pred[] {condition}
}}

ENTRY %main (a: f32[64,8], s: s32[]) -> f32[64,8] {{
  %a = f32[64,8] parameter(0)
  %s = s32[] parameter(1)
  %start = s32[] {start}
  %count = s32[] constant(10)
  %begin = (s32[], s32[], f32[64,8]) tuple(%start, %count, %a)
  %while = (s32[], s32[], f32[64,8]) while(%begin), condition=%condition, body=%body{attributes}
  ROOT %r = f32[64,8] get-tuple-element(%while), index=2
}}
"""
    program = parse(text)
    return count_trips(Scope(program, "main"), program.computations["main"]["while"])


@pytest.mark.parametrize(
    ("condition", "step", "start", "trips"),
    [
        ("compare(%j, %ten), direction=LT", "add(%i, %one)", "constant(0)", 10),
        ("compare(%j, %ten), direction=LE", "add(%i, %one)", "constant(0)", 11),
        ("compare(%j, %ten), direction=NE", "add(%one, %i)", "constant(4)", 6),
        ("compare(%j, %m), direction=LT", "add(%i, %three)", "constant(0)", 4),  # the bound is handed round
        ("compare(%ten, %j), direction=GT", "add(%i, %one)", "constant(0)", 10),
        ("compare(%j, %ten), direction=GT", "subtract(%i, %one)", "constant(15)", 5),
        ("compare(%j, %ten), direction=GE", "subtract(%i, %three)", "constant(15)", 2),
        ("compare(%j, %ten), direction=LT", "add(%i, %one)", "constant(12)", 0),
    ],
)
def test_counting(condition: str, step: str, start: str, trips: int) -> None:
    assert loop(condition, step, start=start) == Trips(trips, "exact")


def test_what_xla_says_comes_first() -> None:
    said = ', backend_config={"known_trip_count":{"n":"7"}}'
    assert loop("compare(%j, %ten), direction=LT", "multiply(%i, %i)", attributes=said) == Trips(7, "exact")


def test_an_unknown_start_gives_a_bound() -> None:
    assert loop("compare(%j, %ten), direction=LT", "add(%i, %one)", start="copy(%s)") == Trips(10, "at most")
    assert loop("compare(%j, %ten), direction=GT", "subtract(%i, %one)", start="copy(%s)") is None


def test_slices_bound_a_loop_that_data_end() -> None:
    update = """%part = f32[16,8] constant({...})
  %out = f32[64,8] dynamic-update-slice(%x, %part, %i, %zero)"""
    assert loop("compare(%j, %m), direction=LT", "multiply(%i, %three)", extra=update) == Trips(4, "at most")
    taken = """%part = f32[32,8] dynamic-slice(%x, %i, %zero), dynamic_slice_sizes={32,8}
  %out = f32[64,8] negate(%x)"""
    assert loop("compare(%j, %m), direction=LT", "multiply(%i, %three)", extra=taken) == Trips(2, "at most")


def test_nothing_tells() -> None:
    assert loop("compare(%j, %m), direction=LT", "multiply(%i, %three)") is None


def trips_of(program: Program) -> list[Trips | None]:
    """Of all loops of a program, outer ones first."""
    found: list[Trips | None] = []

    def walk(scope: Scope) -> None:
        for instruction in program.computations[scope.computation].values():
            if instruction.opcode == "while":
                found.append(count_trips(scope, instruction))
                walk(scope.enter(instruction.attribute("body"), instruction.operands, loop=True))

    walk(Scope(program, program.entry))
    return found


def test_compiled_loops(program: Callable[[str], Program]) -> None:
    assert trips_of(program("loops10")) == [Trips(3, "exact"), Trips(10, "exact")]
    assert trips_of(program("branches")) == [Trips(8, "at most")]
    # Eight parts of the weight, of which a trip takes two from either side: XLA counts to four in steps of two.
    assert trips_of(program("windowed")) == [Trips(2, "exact")]
    assert trips_of(program("step"))[0] == Trips(2, "exact")  # micro-batches
