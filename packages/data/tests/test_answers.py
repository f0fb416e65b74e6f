"""Where the answer of a solution stands, and which answers are the same."""

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coldforge.data.answers import (
    CODE_REQUEST,
    answer_kind,
    answers_agree,
    find_answer,
    find_boxes,
    numeric_value,
    unwrap,
)
from coldforge.data.records import Refusal

balanced = st.recursive(
    st.text(alphabet="ab1 ,=^_-", max_size=5),
    lambda inner: (
        inner.map(lambda text: f"{{{text}}}")
        | st.lists(inner, max_size=3).map("".join)
        | inner.map(lambda text: f"\\{{{text}\\}}\\\\")
    ),
    max_leaves=6,
)


@given(contents=st.lists(balanced, max_size=4), around=st.text(alphabet="xy{}\n", max_size=3))
def test_boxes_are_found_however_deep_their_braces_are(contents: list[str], around: str) -> None:
    text = around + "".join(f"\\boxed{{{content}}} and {around}" for content in contents)
    assert find_boxes(text) == contents


@given(content=balanced, cut=st.integers(0, 200))
def test_a_box_that_was_cut_off_is_never_an_answer(content: str, cut: int) -> None:
    text = f"\\boxed{{{content}}}"
    if (cut := cut % len(text)) >= len("\\boxed"):
        found = find_boxes(text[:cut])
        assert isinstance(found, Refusal)
        assert found.reason == "broken-box"


@pytest.mark.parametrize(
    ("solution", "text", "kind"),
    [
        (r"First \boxed{3}, then \[\boxed{\frac{1}{\sqrt{2}}}.\]", r"\frac{1}{\sqrt{2}}", "expression"),
        (r"\boxed{ \$1{,}234.50 }", r"\$1{,}234.50", "number"),
        (r"\boxed {\text{(B)}}", "(B)", "choice"),
        (r"It is $\boxed{\boxed{7}}$.", "7", "number"),
        (r"Thus \boxed{\left\{x \mid x > 3\right\}}.", r"\left\{x \mid x > 3\right\}", "expression"),
        (r"So \boxed{2, 3 \text{ and } 5}.", r"2, 3 \text{ and } 5", "expression"),
        ("6 × 7 = 42\n#### 42", "42", "number"),
        ("A long way.\n\n**Final Answer:** 42.", "42", "number"),
        ("So the answer is $x = 3$.", "x = 3", "expression"),
        ("The answer: Paris", "Paris", "text"),
        ("12", "12", "number"),
        ("Paris.", "Paris", "text"),
        ("$-3.5$", "-3.5", "number"),
        ("We use\n```python\nprint(1)\n```", "We use\n```python\nprint(1)\n```", "code"),
        (r"Sympy says so:" + "\n```python\nx\n```\n" + r"so \boxed{5}", "5", "number"),
    ],
)
def test_the_answer_is_found(solution: str, text: str, kind: str) -> None:
    found = find_answer(solution, "How many?")
    assert not isinstance(found, Refusal)
    assert (found.text, found.kind) == (text, kind)


def test_code_and_proofs_keep_their_block() -> None:
    assert find_answer("def f(): ...", CODE_REQUEST + " Do it.") == ("def f(): ...", "code", "")
    assert find_answer("As \\boxed{1}.", CODE_REQUEST)[1] == "code"
    proof = "Let x be even.\n\nThen so is x + 2."
    assert find_answer(proof, "Show that x + 2 is even.") == (proof, "proof", "")
    assert find_answer(proof + " \\boxed{2}", "Find x and prove it.")[:2] == ("2", "number")


def test_prose_is_what_is_said_besides() -> None:
    assert find_answer("12", "?").prose == ""
    assert find_answer(r"$\boxed{12}$", "?").prose == ""
    assert find_answer(r"As said, \boxed{12}.", "?").prose == r"As said, \boxed{12}."
    assert find_answer("One and one.\n#### 2\n", "?").prose == "One and one."


@pytest.mark.parametrize(
    ("solution", "reason"),
    [
        (" \n", "empty-answer"),
        (r"So \boxed{}.", "empty-answer"),
        (r"So \boxed{$\text{ }$}.", "empty-answer"),
        ("#### ", "empty-answer"),
        (r"\boxed{1} or \boxed{\frac{1}{2}", "broken-box"),
        (r"It is \boxed 5.", "broken-box"),
        ("There were 3 and then 4 more, which is quite a lot of them.", "no-answer"),
        ("The answer is therefore 12 or 13.", "no-answer"),
        ("We come to\nthe end of 12 things, and that is all", "no-answer"),
    ],
)
def test_no_answer_is_guessed(solution: str, reason: str) -> None:
    found = find_answer(solution, "How many?")
    assert isinstance(found, Refusal)
    assert found.reason == reason


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("-1,234.5", Fraction(-2469, 2)),
        ("−3/4", Fraction(-3, 4)),
        (r"-\dfrac{3}{4}", Fraction(-3, 4)),
        (r"1{,}000", 1000),
        (r"10\,000", 10000),
        (r"\$2.50", Fraction(5, 2)),
        (r"15\%", Fraction(3, 20)),
        ("2e3", 2000),
        (".5", Fraction(1, 2)),
        *[
            (text, None)
            for text in ["", "-", ".", "1,23", "12 apples", "1/0", r"\frac{1}{0}", "e5", "1.2.3", "9" * 5000, "x"]
        ],
    ],
)
def test_numbers_are_read_exactly(text: str, value: Fraction | None) -> None:
    assert numeric_value(text) == value


@given(st.fractions())
def test_every_number_agrees_with_its_other_spellings(number: Fraction) -> None:
    top, bottom = number.as_integer_ratio()
    assert numeric_value(f"{top}/{bottom}") == number
    assert answers_agree(f"{top:,}.000", str(top))
    sign = "-" if top < 0 else ""
    assert answers_agree(f"${sign}\\frac{{{abs(top)}}}{{{bottom}}}$", f"{top} / {bottom}")


@given(st.text(alphabet="$\\()[]{}text boxed12", max_size=20))
def test_unwrapping_ends_and_is_final(text: str) -> None:
    once = unwrap(text)
    assert unwrap(once) == once
    assert once in text
    answer_kind(once)


def test_what_is_not_the_same_is_not() -> None:
    assert answers_agree(r"\text{Yes}", "yes ")
    assert not answers_agree("15%", "15")
    assert not answers_agree("x", "y")
    assert not answers_agree("1/3", "0.33")


def test_refusals_say_what_was_found() -> None:
    refusal = find_answer("It goes on and on, and never comes to a point that could be called one", "?")
    assert isinstance(refusal, Refusal)
    assert re.search(r"no \\boxed\{\}.*ends in 'It goes on", refusal.detail)
