"""Grading: the form by ReasoningFormat, the answer wherever a reply has it, or by the task's own scorer."""

import pytest

from coldforge.data import ReasoningFormat
from coldforge.rewards import MathPool, Response, extract
from coldforge.stages.gate import read_replies, write_replies
from coldforge.stages.grade import FALLBACKS, fault_of, grade

FORM = ReasoningFormat()


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (FORM.render("3 times 4", "12"), "12"),
        ("<reasoning>3 times 4 <answer>12</answer>", "12"),
        ("<answer>11</answer> no: <answer> 12", "11"),
        (r"It is $\boxed{12}$, not 13.", "12"),
        ("3 * 4 = 12\n#### 12", "12"),
        ("First 3, then 4.\nThe answer is 12.", "12"),
        ("With 3 boxes of 4 there are 12 apples in 1,200.50 crates", "1,200.50"),
        ("from here, after much thought, I would say that it is minus −4", "−4"),
        ("perhaps one day somebody will come along who knows", ""),
        ("unknown", "unknown"),
        ("", ""),
        (r"broken \boxed{12", "12"),
    ],
)
def test_answers_are_found_in_any_form(text: str, answer: str) -> None:
    assert (extract(text, FORM, FALLBACKS) or "") == answer


def test_equal_faults_have_equal_names() -> None:
    assert fault_of(FORM.render("a", "b"), FORM) == ""
    assert fault_of("<answer>3</answer>", FORM) == "<reasoning> occurs 0 times"
    before = [fault_of(word + FORM.render("a", "b"), FORM) for word in ("So ", "Well ")]
    assert before == ["there is text before the sections"] * 2
    whole = FORM.render("a", "b")
    on = [fault_of(whole + more, FORM) for more in ("\nSo there.", whole, f"</answer>{whole[:9]}")]
    assert on == ["it goes on after </answer>"] * 3
    assert fault_of(f"{whole}\n", FORM) == ""
    assert fault_of("<answer>3</answer> and more", FORM) == "<reasoning> occurs 0 times"


def test_replies_are_graded_by_kind_and_come_back_from_the_disk(tmp_path) -> None:
    replies = [
        Response(FORM.render("six halves", "3"), 9, True, "How many?", "3.0", {"kind": "number"}),
        Response("(b)", 3, False, "Which?", "B", {"kind": "choice", "choices": ["x", "y"]}),
        Response("def f(): pass", 4, True, "Write f", None, {"kind": "code"}),
    ]
    with MathPool(seconds=5) as pool:
        found = grade(replies, FORM, pool)
    assert [one.correct for one in found] == [True, True, None]
    assert [(one.well_formed, one.truncated) for one in found] == [(True, False), (False, True), (False, False)]
    write_replies(tmp_path / "gate" / "replies.jsonl", found)
    assert read_replies(tmp_path / "gate" / "replies.jsonl") == found
