"""Grading: the form by ReasoningFormat, the answer wherever a reply has it, base and tuned model alike."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from coldforge.apps.sft.grade import FALLBACKS, fault_of, grade
from coldforge.data import AnswerKind, ReasoningFormat, Record
from coldforge.rewards import Tags, extract

FORM = ReasoningFormat()
RECORD = Record(np.zeros(2, np.int32), np.zeros(2, np.uint8), "s", 0, "How many?", "", "So.", "12", AnswerKind.NUMBER)


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


def test_replies_become_graded_ones() -> None:
    texts = [FORM.render("3 times 4", "12.0"), "12", FORM.render("x", "13"), ""]
    found = grade([RECORD] * 4, texts, [9, 1, 8, 0], [True, False, True, True], FORM, timeout=1)
    assert [reply.correct for reply in found] == [True, True, False, False]
    assert [reply.well_formed for reply in found] == [True, False, True, False]
    assert [(reply.ended, reply.truncated) for reply in found[:2]] == [(True, False), (False, True)]
    assert (found[0].found, found[0].wanted, found[0].prompt, found[0].tokens) == ("12.0", "12", "How many?", 9)


def test_code_and_proofs_are_not_graded_and_choices_are_compared_as_text() -> None:
    code, choice = replace(RECORD, kind=AnswerKind.CODE), replace(RECORD, kind=AnswerKind.CHOICE, answer="B")
    found = grade([code, choice, choice], ["12", "(b)", "<answer>(C)</answer>"], [1] * 3, [True] * 3, FORM, timeout=1)
    assert [reply.correct for reply in found] == [None, True, False]


def test_computer_algebra_has_the_last_word_and_a_limit(caplog: pytest.LogCaptureFixture) -> None:
    expression = replace(RECORD, kind=AnswerKind.EXPRESSION, answer=r"\frac{x}{2}")
    answers = ["0.5x", "9^{9^{9^{9}}}", "2x"]
    with caplog.at_level(logging.WARNING):
        found = grade(
            [expression] * 3, [FORM.render("half", answer) for answer in answers], [9] * 3, [True] * 3, FORM, timeout=2
        )
    assert [reply.correct for reply in found] == [True, False, False]
    assert "timeout: took more than 2 s of processor time" in caplog.text


def test_the_forms_of_both_packages_agree() -> None:
    assert (Tags().reasoning, Tags().answer) == (FORM.reasoning, FORM.answer)
    good = FORM.render("a", "b")
    for text in (
        good,
        good * 2,
        f" {good}\n",
        f"x{good}",
        good.replace("a", " "),
        good.replace("</answer>", ""),
        "",
        "b",
    ):
        assert Tags().is_well_formed(text) == FORM.is_well_formed(text)
