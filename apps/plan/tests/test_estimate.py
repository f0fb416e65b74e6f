"""Cycles over loops, branches and fusions; kernels, collectives and what has no price counted apart."""

from collections import Counter
from collections.abc import Callable

import pytest

from coldforge.apps.plan import frames
from coldforge.apps.plan.estimate import Estimate, estimate
from coldforge.apps.plan.groups import group, scopes, split, stage
from coldforge.apps.plan.hlo import Program, parse

PEAK = 4 * 128 * 128 * 2  # operations of a v5e chip in a cycle


def test_a_loop_costs_its_trips(program: Callable[[str], Program]) -> None:
    ten, twenty = estimate(program("loops10")), estimate(program("loops20"))
    inner = [op for op in ten.ops if op.times == 30]  # 3 × 10
    outer = [op for op in ten.ops if op.times == 3]
    assert sum(op.cycles for op in inner) + sum(op.cycles for op in outer) == ten.cycles
    assert twenty.cycles - ten.cycles == sum(op.cycles for op in inner)
    products = 30 * 2 * 1024**3 / PEAK
    assert products < ten.cycles < 3 * products
    assert ten.loops == []


def test_the_dearest_branch_counts(program: Callable[[str], Program]) -> None:
    found = estimate(program("branches"))
    assert found.conditionals == 1
    products = [op for op in found.ops if op.times == 1 and op.op_name.endswith("dot_general")]
    assert len(products) == 3  # the other branch has one


def test_or_the_cheapest_if_wanted(program: Callable[[str], Program]) -> None:
    found = estimate(program("branches"), branch="cheapest")
    assert found.conditionals == 1
    assert len([op for op in found.ops if op.times == 1 and op.op_name.endswith("dot_general")]) == 1


def test_a_loop_that_data_end_counts_for_a_share(program: Callable[[str], Program]) -> None:
    whole, half = estimate(program("branches")), estimate(program("branches"), share=0.5)
    [loop] = half.loops
    assert (loop.trips.count, loop.counted) == (8, 4)
    in_loop = sum(op.cycles for op in whole.ops if op.times == 8)
    assert whole.cycles - half.cycles == in_loop / 2
    assert [loop.counted for loop in estimate(program("branches"), share=0.3).loops] == [3]  # a chunk is done whole


def test_a_split_product_costs_what_a_whole_one_does(program: Callable[[str], Program]) -> None:
    found = estimate(program("windowed"))
    assert 1.0 < found.cycles / (2 * 2048 * 4096 * 16384 / PEAK) < 1.2


def test_kernels_are_counted_and_named(program: Callable[[str], Program]) -> None:
    found = estimate(program("step"))
    calls: Counter[str] = Counter()
    for kernel in found.kernels:
        calls[kernel.name] += kernel.times
    assert calls == {  # 2 micro-batches; the forward kernel runs again in the backward pass
        "splash_mha_fwd_segmented_residuals": 4,
        "splash_mha_dkv_segmented_no_residuals": 2,
        "splash_mha_dq_segmented_no_residuals": 2,
    }
    assert found.unpriced["sort"] == 2
    assert {loop.counted for loop in found.loops} == {4}  # 1,024 tokens a chip in chunks of 256


def test_conditional_written_with_two_names_and_async_calls() -> None:
    text = """\
HloModule jit_f

%wrapped (a: f32[8]) -> f32[8] {
  %a = f32[8] parameter(0)
  ROOT %f = f32[8] fusion(%a), kind=kLoop, calls=%inside, backend_config={"estimated_cycles":"100"}
}

%inside (b: f32[8]) -> f32[8] {
  %b = f32[8] parameter(0)
  ROOT %n = f32[8] negate(%b)
}

%cheap (c: f32[8]) -> f32[8] {
  ROOT %c = f32[8] parameter(0)
}

ENTRY %main (x: f32[8], p: pred[]) -> f32[8] {
  %x = f32[8] parameter(0)
  %p = pred[] parameter(1)
  %start = ((f32[8]), f32[8], u32[]) async-start(%x), calls=%wrapped
  %done = f32[8] async-done(%start)
  %odd = f32[8] fusion(%x), kind=kLoop, calls=%inside, backend_config={"estimated_cycles":"-1"}
  %called = f32[8] call(%done), to_apply=%wrapped
  ROOT %c = f32[8] conditional(%p, %called, %x), true_computation=%wrapped, false_computation=%cheap
}
"""
    found = estimate(parse(text))
    assert found.cycles == 300
    assert found.unpriced == {"fusion": 1}  # a negative estimate is none


def test_estimates_add_up() -> None:
    one = Estimate(unpriced=Counter(sort=1), conditionals=1)
    one.add(Estimate(unpriced=Counter(sort=2), conditionals=1))
    assert (one.unpriced["sort"], one.conditionals, one.cycles, one.sent()) == (3, 2, 0, 0)


def test_ops_are_grouped_by_pass_function_and_product(text: Callable[[str], str]) -> None:
    found = estimate(parse(text("step")))
    groups = group(found.ops, frames.read(text("step")))
    assert sum(one.cycles for one in groups) == found.cycles
    assert sum(one.ops for one in groups) == len(found.ops)
    assert [one.cycles for one in groups] == sorted((one.cycles for one in groups), reverse=True)
    logits = next(one for one in groups if one.what == "td,vd->tv")
    assert logits.stage == "forward"
    assert logits.line.startswith("chunks.py:")
    assert {"forward", "backward", "recompute", ""} == {one.stage for one in groups}
    splash = [one for one in groups if one.where == "splash/splash_rows"]
    assert {one.stage for one in splash} >= {"backward", "recompute"}


@pytest.mark.parametrize(
    ("name", "passed", "kept"),
    [
        ("jit(f)/while/body/transpose(jvp(attn))/bd,df->bf/mul", "backward", ["attn", "bd,df->bf", "mul"]),
        ("jit(step)/jvp()/while/body/closed_call/checkpoint/mul", "forward", ["mul"]),
        ("jit(f)/transpose(jvp())/while/body/checkpoint/rematted_computation/norm/exp", "recompute", ["norm", "exp"]),
        ("jit(step)/vmap(static(a/b))/jit(_f)/add", "", ["static(a/b)", "add"]),
        ("", "", []),
    ],
)  # fmt: skip
def test_names_of_the_traced_program(name: str, passed: str, kept: list[str]) -> None:
    assert stage(name) == passed
    assert scopes(name) == kept


def test_splitting_heeds_parentheses() -> None:
    assert split("jit(f)/vmap(a/b)/c") == ["jit(f)", "vmap(a/b)", "c"]


def test_a_clone_named_coldforge_does_not_make_its_libraries_ours() -> None:
    text = """\
HloModule jit_f

FileNames
1 "/home/me/coldforge/packages/losses/src/coldforge/losses/means.py"
2 "/home/me/coldforge/.venv/lib/python3.12/site-packages/optax/tree.py"
3 "/home/me/.venv/lib/python3.12/site-packages/coldforge/modeling/model.py"

FunctionNames
1 "token_mean"
2 "norm"
3 "MLP.__call__"

FileLocations
1 {file_name_id=1 function_name_id=1 line=5 end_line=5}
2 {file_name_id=2 function_name_id=2 line=6 end_line=6}
3 {file_name_id=3 function_name_id=3 line=7 end_line=7}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=2}
4 {file_location_id=2 parent_frame_id=1}

ENTRY %main (x: f32[8]) -> f32[8] {
}
"""
    assert frames.read(text) == {
        1: frames.Place("token_mean", "means.py:5"),
        2: frames.Place("token_mean", "means.py:5"),
        3: frames.Place("token_mean/MLP", "model.py:7"),
    }


def test_frames_without_tables_or_functions_of_ours() -> None:
    assert frames.read("HloModule jit_f\n\nENTRY %main (x: f32[8]) -> f32[8] {\n}\n") == {}
