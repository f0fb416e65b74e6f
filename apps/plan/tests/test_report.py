"""What people read, in 80 columns."""

import dataclasses
import io
from collections.abc import Callable

from rich.console import Console

from coldforge.apps.plan.memory import Refusal
from coldforge.apps.plan.plan import Plan
from coldforge.apps.plan.report import show

MakePlan = Callable[..., Plan]


def screen(plan: Plan) -> str:
    console = Console(file=io.StringIO(), width=80)
    show(plan, console, top=5)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    return text


def test_a_plan_that_fits(make_plan: MakePlan) -> None:
    text = screen(make_plan())
    for expected in (
        "sft tiny on v5e:2x4  mesh data 8 × fsdp 1 × tensor 1",
        "temporaries  3.00 GiB",
        "of 15.75 GiB: fits, 12.",
        "a model, not a measurement",
        "GHz, XLA:TPU estimates",
        "8 calls, not priced: products at peak",
        "matmul floor",
        "td,vd->tv",
        "all others",
        "all-reduce",
        "4 × splash_mha_fwd_segmented_residuals",
        "A loop runs at most 4 times; counted 4",
        "2 sort",
        "compiled in 60 s by jax 0.12.0.1, libtpu 0.0.52",
    ):
        assert expected in text, f"{expected!r} not in\n{text}"


def test_a_plan_that_does_not_fit(make_plan: MakePlan) -> None:
    text = screen(make_plan(temporaries=17 * 2**30))
    assert "does not fit, 1.51 GiB too much" in text


def test_a_refusal(make_plan: MakePlan) -> None:
    refusal = Refusal(int(33.8 * 2**30), int(15.75 * 2**30), "E1000: CompileTimeHbmOom: Ran out of memory on HBM")
    text = screen(dataclasses.replace(make_plan(), memory=None, cost=None, refusal=refusal))
    assert "It wants 33.80 GiB where there are 15.75" in text
    assert "CompileTimeHbmOom" in text
    assert "model.remat" in text
