"""Comparison beyond the table: errors, what computer algebra is spared, and that nothing is equal by accident."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coldforge.rewards import Equality, MathPool, Pair, equal, equal_many, read_quantity
from coldforge.rewards.algebra import latex_of
from coldforge.rewards.choices import read_choice


class NoPool(MathPool):
    """A pool that must not be asked."""

    def verify(self, pairs):
        raise AssertionError(pairs)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("12", "12"), ("1,234.50", "1234.5"), ("15%", "0.15"), ("12 or 13", "12"), ("apples", "12"), ("b", "(B)"),
        ("Paris", "paris"), ("1, 2", "2, 1"), (r"\frac{x}{2}", r"\dfrac{x}{2}"), ("(1, 2)", "(2, 1)"),
        ("18 apples", "18"), ("I think it is x", "2x"), ("", "12"),
    ],
)  # fmt: skip
def test_cheap_checks_cost_no_process(answer, gold):
    pool = NoPool()
    equal(answer, gold, pool=pool)
    assert pool.stats.starts == 0


@pytest.mark.parametrize(
    ("answer", "gold", "options", "message"),
    [
        ("12", "", {}, "the right answer is empty"),
        ("12", "  ", {}, "the right answer is empty"),
        ("12", "twelve", {"kind": "number"}, "'twelve' is no number"),
        ("B", "Paris", {"kind": "choice"}, "'Paris' names no choice"),
        ("12", "12", {"kind": "integer"}, "'integer' is no kind of answer; wanted one of auto, number"),
        ("12", "12", {"units": "si"}, "units is 'si'; wanted one of none, optional, convert, ignore"),
        ("12", "12", {"percent": "yes"}, "percent is 'yes'"),
        ("12", "12", {"decimal": ";"}, "decimal is ';'"),
        ("12", "12", {"tolerance": -1}, "tolerance is -1"),
    ],
)
def test_errors_name_what_is_wanted(answer, gold, options, message):
    with pytest.raises(ValueError, match=message):
        equal(answer, gold, **options)


def test_an_unreadable_right_answer_is_said(pool):
    [compared] = equal_many([Pair("x+1", r"\frac{x}{", "expression")], Equality(), pool)
    assert compared.verdict == "wrong"
    assert "the right answer cannot be read as an expression" in compared.detail


def test_one_shared_pool():
    assert equal("2*(x+1)", "2x+2") == "right"


@settings(max_examples=200, deadline=None)
@given(st.integers(-(10**12), 10**12), st.integers(0, 6))
def test_a_number_equals_itself_however_it_is_written(number, decimals):
    gold = str(number)
    forms = [
        f"{number:,}",
        f"{number}.{'0' * decimals}",
        f"${number}$",
        rf"\boxed{{{number}}}",
        f"{number} apples",
        f"{number:+}",
    ]
    assert {equal(form, gold, pool=NoPool()) for form in forms} == {"right"}
    assert {equal(form, str(number + 1), pool=NoPool()) for form in forms} == {"wrong"}


@settings(max_examples=200, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e15, max_value=1e15))
def test_floats_are_read_exactly(number):
    assert float(read_quantity(repr(number)).value) == number or math.isclose(number, 0, abs_tol=1e-99)


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_judged(text):
    assert equal(text, "12345", kind="number", pool=NoPool()) in ("wrong", "no answer")
    assert equal(text, "B", pool=NoPool()) in ("right", "wrong", "no answer")
    latex_of(text)
    read_choice(text, ["London", "Paris"])


@pytest.mark.parametrize(
    "text", ["9" * 5000, "(" * 400, "1," * 300, r"\frac{" * 80, "{" * 500, "1/" * 100, "0." + "1" * 199]
)
def test_monsters_are_quick(text):
    assert equal(text, "12345", kind="number") == "wrong"
