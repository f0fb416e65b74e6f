"""The page: whole in itself, with every curve there is, and safe from what a model wrote."""

import re
from pathlib import Path

import numpy as np

from coldforge import training
from coldforge.sft import GateLimits, Graded, judge
from coldforge.stages.gate import COLD_START
from coldforge.stages.report import Story, report_page

STORY = Story(
    "Cold start",
    {
        "Loss, nats a token": ({"train/loss": "trained on", "eval/loss": "held out"}, False),
        "Gradient norm": ({"train/grad_norm": "before clipping"}, True),
    },
    COLD_START,
)


def graded(index: int, text: str, **more: object) -> Graded:
    fields = {"tokens": 5, "well_formed": True, "ended": True, "truncated": False, "correct": True, "wanted": "4"}
    return Graded(prompt=f"question {index} <b>", text=text, **(fields | more))  # type: ignore[arg-type]


def page(**curves: tuple[list[int], list[float]]) -> str:
    base = [
        graded(i, "<script>alert(1)</script>", well_formed=False, correct=False, fault="no & tag") for i in range(80)
    ]
    tuned = [graded(i, f"fine {i}") for i in range(80)]
    manifest = training.Manifest(
        stage="sft", created="2026-11-25", updated="2026-11-25T10:00:00Z", command="coldforge-sft tiny --run 'a <b>'",
        figures={"steps": 50, "eval/loss": 0.25}, base={"path": "weights"}, directory=Path("/runs/first"),
    )  # fmt: skip
    result = judge(base, tuned, GateLimits())
    arrays = {name: (np.array(steps), np.array(values)) for name, (steps, values) in curves.items()}
    return report_page(
        manifest, {"optimizer": {"learning_rate": 0.01}}, arrays, result, list(zip(base, tuned, strict=True))[:3], STORY
    )


def test_nothing_is_fetched_and_nothing_a_model_wrote_is_markup() -> None:
    text = page(**{"train/loss": ([1, 2, 3], [3.0, 2.0, 1.0])})
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "<code>coldforge-sft tiny --run &#x27;a &lt;b&gt;&#x27;</code>" in text
    linked = [link for link in re.findall(r"""(?:src|href)=["']([^"']+)""", text) if not link.startswith("#")]
    assert linked == []
    assert "gate passed" in text
    assert "optimizer.learning_rate" in text


def test_curves_are_drawn_where_there_are_points_and_survive_numbers_that_are_none() -> None:
    some = {
        "train/loss": ([1, 2, 3], [3.0, np.nan, 1.0]),
        "eval/loss": ([2], [2.5]),
        "train/grad_norm": ([1, 2], [0.0, 1.0]),
    }
    text = page(**some)
    assert text.count("<svg") == 2
    assert "held out" in text
    assert "before clipping" in text or "Gradient norm" in text
    assert page().count("<svg") == 0


def test_curves_that_are_equal_are_both_seen_and_those_that_are_zero_are_left_out() -> None:
    equal = page(**{"train/loss": ([1, 2], [2.0, 1.0]), "eval/loss": ([1, 2], [2.0, 1.0])})
    assert "stroke-dasharray: 4.81" in equal
    assert "stroke-dasharray: 4.81" not in page(**{"train/loss": ([1, 2], [2.0, 1.0]), "eval/loss": ([2], [1.5])})
    zero = page(**{"train/loss": ([1, 2], [2.0, 0.0]), "train/grad_norm": ([1, 2], [0.0, 0.0])})
    assert zero.count("<svg") == 1
    assert "Gradient norm" not in zero
