"""Grading: the form by ReasoningFormat, the answer wherever a reply has it, base and tuned model alike."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from coldforge.apps.sft import grade as module
from coldforge.apps.sft.grade import check_grader, grade
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


@pytest.mark.whole
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


def known(*answers: str, kind: AnswerKind = AnswerKind.NUMBER) -> list[Record]:
    return [replace(RECORD, question=f"How many? {n}", answer=answer, kind=kind) for n, answer in enumerate(answers)]


@pytest.mark.parametrize(
    "records",
    [
        known("1,250", "-3", "0.5", "1/2", "12"),
        known("A", "(A)", "B", "A", kind=AnswerKind.CHOICE),
        known("Paris", "paris", "the left one", kind=AnswerKind.TEXT),
        known("def f(): pass", kind=AnswerKind.CODE),
        known("7", "7"),  # nothing else to be wrong with
    ],
)
def test_our_grader_tells_right_from_wrong(records: list[Record]) -> None:
    check_grader(records, FORM, timeout=2)


def test_a_grader_that_finds_other_answers_or_takes_any_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    records = known(*[str(n) for n in range(40)])

    def grader(change: object) -> None:
        monkeypatch.setattr(module, "grade", lambda *a, **k: [change(reply) for reply in grade(*a, **k)])

    grader(lambda reply: replace(reply, correct=reply.correct and reply.wanted not in ("3", "4")))
    check_grader(records, FORM, timeout=2)  # two of forty may be odd
    grader(lambda reply: replace(reply, correct=reply.correct and len(reply.wanted) > 1, found=reply.found[:1]))
    with pytest.raises(
        ValueError, match=r"calls 10 of 40 replies wrong that are right.* it finds '0', and '0' is right"
    ):
        check_grader(records, FORM, timeout=2)
    grader(lambda reply: replace(reply, correct=True))
    with pytest.raises(ValueError, match="calls 40 of 40 replies right that have another prompt's answer"):
        check_grader(records, FORM, timeout=2)
    grader(lambda reply: replace(reply, well_formed=False))
    with pytest.raises(ValueError, match="calls 40 of 40 replies wrong that are right"):
        check_grader(records, FORM, timeout=2)
