"""What people read of GRPO's programs, in 80 columns."""

import dataclasses
import io
from collections.abc import Callable

from rich.console import Console

from coldforge.apps.plan.memory import Refusal
from coldforge.apps.plan.plan_grpo import GrpoPlan, ProgramPlan
from coldforge.apps.plan.report_grpo import duration, show_grpo

MakePlan = Callable[..., GrpoPlan]


def screen(plan: GrpoPlan) -> str:
    """What is printed; a line of more than 80 columns would be broken, and a column's text cut."""
    console = Console(file=io.StringIO(), width=80)
    show_grpo(plan, console)
    text = console.file.getvalue()
    assert "…" not in text.replace("slots, …)", "")
    wide = Console(file=io.StringIO(), width=200)
    show_grpo(plan, wide)
    assert max(len(line.rstrip()) for line in wide.file.getvalue().splitlines()) <= 80
    return text


def test_a_plan_that_fits(make_grpo_plan: MakePlan) -> None:
    text = screen(make_grpo_plan())
    for expected in (
        "grpo r1 on v5e:2x4  mesh data 8 × fsdp 1 × tensor 1",
        "LoRA of rank 64, remat full; 16 updates for each rollout of",
        "512 × 16 samples, of up to 1,024 + 31,744 tokens",
        "Of 15.75 GiB: fits",
        "update: what update does, ",
        "Sampler: 2,048 slots of 32,768 tokens (256 a device), as many as fit",
        "a slot: 139.0 MiB of bfloat16 in ring caches, 832.0 in full ones (104 slots)",
        "too many: 2,112",
        "a run takes about 1,408 by itself; --rollout.slots 2048 takes these",
        "by jax 0.12.0.1, libtpu 0.0.52",
    ):
        assert expected in text, f"{expected!r} not in\n{text}"
    [decode] = [line.split() for line in text.splitlines() if line.startswith("decode")]
    assert decode[1:7] == ["0.01", "3.00", "0.25", "1.00", "4.26", "fits"]
    assert decode[-2:] == ["61", "s"]


def test_slots_that_were_asked_for(make_grpo_plan: MakePlan) -> None:
    plan = make_grpo_plan()
    text = screen(dataclasses.replace(plan, sampler=dataclasses.replace(plan.sampler, given=True, tried=[])))
    assert "as asked for" in text
    assert "by itself" not in text
    assert "too many" not in text


def test_a_plan_that_does_not_fit(make_grpo_plan: MakePlan, make_program: Callable[..., ProgramPlan]) -> None:
    refusal = Refusal(int(33.8 * 2**30), int(15.75 * 2**30), "E1000: CompileTimeHbmOom: Ran out of memory")
    programs = [make_program("score", beside=2**34), make_program("update", memory=None, cost=None, refusal=refusal)]
    text = screen(make_grpo_plan(programs=programs, sampler=None))
    for expected in ("does not fit", "too much", "33.80", "refused", "CompileTimeHbmOom", "not one slot", "remat"):
        assert expected in text, f"{expected!r} not in\n{text}"


def test_durations() -> None:
    assert [duration(s) for s in (0.01234, 12.34, 1234.5)] == ["12.3 ms", "12.3 s", "1,234 s"]
