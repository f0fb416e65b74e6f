"""Grading: the form by ReasoningFormat, the answer wherever a reply has it, base and tuned model alike."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from coldforge.apps.sft.grade import grade
from coldforge.data import AnswerKind, ReasoningFormat, Record
from coldforge.rewards import Tags

FORM = ReasoningFormat()
RECORD = Record(np.zeros(2, np.int32), np.zeros(2, np.uint8), "s", 0, "How many?", "", "So.", "12", AnswerKind.NUMBER)


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
