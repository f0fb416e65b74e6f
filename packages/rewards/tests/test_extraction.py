"""Where a reply says its answer, and what its reasoning is."""

import sys

import pytest

from coldforge.rewards import Tags, extract, reasoning_of
from coldforge.rewards.spelling import boxes

FORM = Tags()
ALL = ("open tag", "boxed", "hashes", "phrase", "last number")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<reasoning>3 × 4</reasoning>\n<answer>12</answer>", "12"),
        ("<reasoning>3 × 4</reasoning>\n<answer>\n 12\n</answer>\n", "12"),
        ("<reasoning>3 boxes of 4</reasoning><answer>It is 12.</answer>", "It is 12."),
        ("<reasoning>a</reasoning> So <answer>12</answer> is it.", "12"),
        ("<answer>12</answer>", "12"),
        ("<answer>11</answer> no, <answer>12</answer>", "12"),
        ("<reasoning><answer>11</answer> is wrong</reasoning><answer>12</answer>", "12"),
        ("<reasoning>so <answer>11</answer></reasoning> hm", None),
        ("<answer>12", None),
        ("<answer></answer>", None),
        ("12</answer>", None),
        ("</answer>12<answer>", None),
        (r"so \boxed{12}", None),
        ("12", None),
        ("", None),
    ],
)
def test_only_tags_hold_answers(text, answer):
    assert extract(text, FORM) == answer


@pytest.mark.parametrize(
    ("text", "fallbacks", "answer"),
    [
        ("so <answer> 12", ALL, "12"),
        ("<answer>11</answer> <answer>12", ALL, "11"),  # a pair of tags comes before any fallback
        (r"\boxed{11} or rather $\boxed{\frac{1}{2}}$.", ALL, r"\frac{1}{2}"),
        (r"<answer>So it is \boxed{12}, thanks</answer>", ALL, "12"),
        (r"<answer>So it is \boxed{12}</answer>", (), r"So it is \boxed{12}"),
        (r"\boxed{12", ALL, "12"),  # never closed: no box, but a number
        (r"\boxed{12", ("boxed",), None),
        ("3 + 4 = 7\n#### 7", ALL, "7"),
        ("#### 7 \n #### 1,234 ", ALL, "1,234"),
        ("The answer is 12. I used 3 boxes", ALL, "12"),
        ("the final answer to this question is: **12**", ALL, "12"),
        ("Answer: x = 3.5", ("phrase",), "x = 3.5"),
        ("The answer is\n12", ("phrase",), "12"),
        ("The answer is 3.5.", ("phrase",), "3.5"),
        ("With 3 boxes of 4 there are 12 apples", ALL, "12"),
        ("minus 4, so −4", ALL, "−4"),
        ("that is 10-3", ALL, "3"),
        ("x = -3", ALL, "-3"),
        ("in all $1,234.50.", ALL, "$1,234.50"),
        ("a third is 1/3", ALL, "1/3"),
        ("some 15%", ALL, "15%"),
        ("it costs .5", ALL, ".5"),
        ("12", ("whole",), "12"),
        ("some 12 apples", ("whole",), "some 12 apples"),
        ("I would say that it is 12", ("whole",), None),
        ("12\n13", ("whole",), None),
        ("who knows", ALL, None),
        ("12 and 13", ("hashes", "phrase"), None),
        ("12 #### 13", ("last number", "hashes"), "13"),
        ("#### 13\nbut 14", ("last number", "hashes"), "14"),
    ],
)
def test_fallbacks_in_their_order(text, fallbacks, answer):
    assert extract(text, FORM, fallbacks) == answer


def test_an_unknown_fallback_is_named():
    with pytest.raises(ValueError, match="'first number' is no fallback; wanted some of open tag, boxed"):
        extract("12", FORM, ["first number"])


@pytest.mark.parametrize(
    ("text", "reasoning"),
    [
        ("<reasoning> so </reasoning><answer>12</answer>", "so"),
        ("<reasoning> so and", "so and"),
        ("so <answer>12</answer>", "so"),
        ("so</reasoning> <answer>12</answer>", "so"),
        ("so <reasoning>but</reasoning> then <answer>12</answer>", "but"),
        ("so it is", "so it is"),
        ("", ""),
    ],
)
def test_reasoning(text, reasoning):
    assert reasoning_of(text, FORM) == reasoning


def test_other_tags():
    form = Tags(("<think>", "</think>"), ("[[", "]]"))
    assert extract("<think>a[0][1]</think>[[12]]", form) == "12"
    assert form.parse("<think>a</think> [[12]] ") == ("a", "12")


@pytest.mark.parametrize(
    "text",
    [
        "<answer>a</answer><reasoning>b</reasoning>",
        "</reasoning>a<reasoning><answer>b</answer>",
        "<reasoning>a<answer></reasoning>b</answer>",
        "<reasoning>a</reasoning></answer>b<answer>",
        "<reasoning>a</reasoning><answer> </answer>",
        "<reasoning></reasoning><answer>b</answer>",
        "x<reasoning>a</reasoning><answer>b</answer>",
        "<reasoning>a</reasoning>x<answer>b</answer>",
        "<reasoning>a</reasoning><answer>b</answer>x",
        "<reasoning>a</reasoning><answer>b</answer><answer>b</answer>",
        "<reasoning>a</reasoning>",
        "",
    ],
)
def test_what_is_not_well_formed(text):
    assert not FORM.is_well_formed(text)
    with pytest.raises(ValueError, match="wanted"):
        FORM.parse(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"\boxed{a \boxed{4}", ["4"]),
        (r"\boxed{\boxed{4}}", [r"\boxed{4}"]),
        (r"} \boxed  {\{4\}} \boxed 5 \boxed\{6\}", [r"\{4\}"]),
        (r"{ \boxed{} \\\boxed{7}", ["", "7"]),
        (r"\boxed{8\}", []),
    ],
)
def test_boxes(text, found):
    assert boxes(text) == found


def test_boxes_that_never_close_take_a_step_each():
    """A looping model writes thousands; each took as many steps as there are characters behind it."""
    count, steps = 20_000, 0

    def line(frame, event, arg):
        nonlocal steps
        steps += 1
        assert steps < 30 * count
        return line

    before = sys.gettrace()
    sys.settrace(line)
    try:
        found = boxes(r"\boxed{1 " * count + "2}")
    finally:
        sys.settrace(before)
    assert found == ["1 2"]
