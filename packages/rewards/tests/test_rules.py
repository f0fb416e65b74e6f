"""Rewards by rule against their definitions."""

import math

import pytest

from coldforge.rewards import (
    Accuracy,
    CosineLength,
    FormatParts,
    FormatStrict,
    Grader,
    Judged,
    Length,
    Repetition,
    Response,
    SoftOverlong,
    Tags,
    Verdict,
    each,
)

FORM = Tags()
GOOD = "<reasoning>3 × 4</reasoning>\n<answer>12</answer>"


def replies(*texts, gold="12", ended=True):
    return Grader(FORM, fallbacks=["last number"]).judge([Response(text, 10, ended, gold=gold) for text in texts])


def long(*tokens, **more):
    return [Judged("", count, True, **more) for count in tokens]


def test_accuracy_with_and_without_the_gate():
    judged = replies(GOOD, "12", GOOD.replace("12", "13"), "none")
    assert Accuracy()(judged) == [1, 1, 0, 0]
    assert Accuracy(gate=True)(judged) == [1, 0, 0, 0]
    assert Accuracy(wrong=-1, no_answer=-2)(judged) == [1, 1, -1, -2]
    assert Accuracy(gate=True, wrong=-1)(judged) == [1, -1, -1, 0]


def test_accuracy_of_checks_that_failed_and_of_scorers():
    judged = [Judged("", 1, True, verdict=verdict, credit=credit) for verdict, credit in (
        (Verdict.TIMEOUT, 0.0), (Verdict.ERROR, 0.0), (Verdict.WRONG, 0.3), (Verdict.RIGHT, 0.9))]  # fmt: skip
    assert Accuracy(wrong=-1)(judged) == [0, 0, 0.3, 0.9]


def test_accuracy_of_what_was_not_judged_is_an_error():
    with pytest.raises(ValueError, match=r"no verdict on this reply; accuracy needs a right answer"):
        Accuracy()(replies(GOOD, gold=None))


def test_strict_form():
    judged = replies(GOOD, GOOD + "x", "12", "")
    assert FormatStrict()(judged) == [1, 0, 0, 0]
    assert FormatStrict(otherwise=-0.5)(judged) == [1, -0.5, -0.5, -0.5]
    assert FormatStrict()(replies(GOOD, ended=False)) == [0]


@pytest.mark.parametrize(
    ("text", "points"),
    [
        (GOOD, 8),
        ("", 0),
        ("12", 0),
        ("<answer>12</answer>", 2),
        ("<reasoning>3 × 4<answer>12</answer>", 3),
        ("<answer>12</answer><reasoning>a</reasoning>", 4),
        ("So: " + GOOD, 7),
        (GOOD.replace("12", " "), 7),
        (GOOD + GOOD, 0),
        (GOOD + "</answer>", 3),
        ("<reasoning><answer></reasoning></answer>", 4),
    ],
)
def test_form_by_parts(text, points):
    assert FormatParts(FORM)(replies(text, gold=None)) == [points / 8]
    assert (points == 8) == FORM.is_well_formed(text)


def test_form_by_parts_wants_an_end():
    assert FormatParts(FORM)(replies(GOOD, gold=None, ended=False)) == [7 / 8]


def test_repetition():
    plain = (
        "First we count the boxes, then the apples in each, and multiply both numbers to get how many there are in all."
    )
    judged = replies(plain, plain + plain, "so we get " * 200, "!" * 500, "ha" * 500, "重复" * 200, "12", "", gold=None)
    values = Repetition()(judged)
    assert values[0] == values[6] == values[7] == 0
    assert -0.5 < values[1] < -0.2
    assert all(value < -0.9 for value in values[2:6])
    # By hand: a b a b a, runs of 2: ab ba ab ba: half of them are new.
    assert Repetition(n=2, allowed=0)(replies("a b a b a", gold=None)) == [-0.5]
    assert Repetition(n=2, allowed=0.25)(replies("a b a b a", gold=None)) == pytest.approx([-1 / 3])


def test_length_in_tokens():
    assert Length(100, 200)(long(0, 50, 100, 200, 300, 400, 999)) == [0, 0.5, 1, 1, 0.5, 0, 0]
    assert Length(0, 200)(long(0, 200)) == [1, 1]


def test_soft_overlong_is_daposs():
    rule = SoftOverlong(20480, 4096)
    assert rule(long(1, 16384, 18432, 20480, 20481, 10**6)) == [0, 0, -0.5, -1, -1, -1]


def test_cosine_length():
    rule = CosineLength(100, right=(2, 1), wrong=(-10, 0), exceeded=-7)
    assert rule(long(0, 50, 100, 101, verdict=Verdict.RIGHT)) == pytest.approx([2, 1.5, 1, -7])
    assert rule(long(0, 50, 100, verdict=Verdict.WRONG)) == pytest.approx([-10, -5, 0])
    assert rule([Judged("", 50, False, verdict=Verdict.RIGHT)]) == [-7]
    # The formula as it stands in the paper: end + ½ (start - end)(1 + cos(π t / T)).
    assert rule(long(30, verdict=Verdict.RIGHT)) == pytest.approx([1 + 0.5 * (1 + math.cos(math.pi * 0.3))])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SoftOverlong(10, 20), "limit = 10, cache = 20; wanted 0 < cache <= limit tokens"),
        (lambda: SoftOverlong(10, 0), "cache = 0"),
        (lambda: Length(5, 4), "low = 5, high = 4"),
        (lambda: CosineLength(0), "limit = 0"),
        (lambda: Repetition(0), "n = 0"),
    ],
)
def test_settings_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_each():
    assert each(lambda reply: reply.tokens / 10)(long(5, 10)) == [0.5, 1]
