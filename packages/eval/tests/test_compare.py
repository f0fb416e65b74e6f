"""Comparison: against other people's tests, in what it says, what it refuses, and how long it takes."""

import itertools
import json
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from coldforge.eval.compare import by_category, compare, holm


def pair(gained: int, lost: int, both: int = 0, neither: int = 0) -> tuple[dict, dict]:
    """One sample each."""
    a = [False] * gained + [True] * lost + [True] * both + [False] * neither
    b = [True] * gained + [False] * lost + [True] * both + [False] * neither
    return tuple({f"q{place}": [right] for place, right in enumerate(some)} for some in (a, b))


@settings(max_examples=50)
@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 5), st.integers(1, 5))
def test_one_sample_each_is_mcnemars_exact_test(gained, lost, both, neither):
    result = compare(*pair(gained, lost, both, neither))
    changed = gained + lost
    if changed <= 10:  # by brute force: every way in which the coins could have fallen
        flips = [sum(signs) for signs in itertools.product((1, -1), repeat=changed)]
        assert result.p_value == pytest.approx(np.mean([abs(total) >= abs(gained - lost) for total in flips]))
    n = gained + lost + both + neither
    assert (len(result.wins), len(result.losses), len(result.ties)) == (gained, lost, both + neither)
    assert result.difference == pytest.approx((gained - lost) / n)
    assert result.low <= result.difference <= result.high
    turned = compare(*reversed(pair(gained, lost, both, neither)))
    assert (turned.low, turned.high, turned.p_value) == pytest.approx((-result.high, -result.low, result.p_value))


def test_many_samples_are_a_paired_t_test_of_questions():
    rng = np.random.default_rng(0)
    a, b = rng.random((2000, 8)) < 0.5, rng.random((2000, 4)) < 0.52
    result = compare(dict(enumerate(a.tolist())), dict(enumerate(b.tolist())))
    theirs = stats.ttest_rel(b.mean(1), a.mean(1))
    assert result.samples == (8, 4)
    assert result.p_value == pytest.approx(theirs.pvalue, abs=0.01)
    assert (result.low, result.high) == pytest.approx(tuple(theirs.confidence_interval()), abs=0.001)


def test_the_same_questions_tell_more_than_others():
    rng = np.random.default_rng(0)
    p = rng.beta(0.5, 0.5, 200)
    a, b = ({str(i): row.tolist() for i, row in enumerate(rng.random((200, 16)) < q[:, None])} for q in (p, p))
    result = compare(a, b)
    assert result.high - result.low < 0.5 * (result.a.half_width + result.b.half_width)


def test_wins_and_losses_are_listed_by_size():
    a = {"x": [0, 0], "y": [1, 0], "z": [1, 1], "w": [0, 1], "v": [1, 1]}
    b = {"x": [1, 0], "y": [1, 0], "z": [0, 0], "w": [1, 1], "v": [1, 0]}
    result = compare(a, b)
    assert result.wins == ("x", "w")
    assert result.losses == ("z", "v")
    assert result.ties == ("y",)
    assert result.difference == pytest.approx(-0.1)


def test_text_never_has_two_bare_numbers():
    text = compare(*pair(25, 12, 80, 83), names=("base", "tuned")).text
    assert text == (
        "base 46.0 % (38.9–53.2), tuned 52.5 % (45.3–59.6); n = 200\n"
        "tuned − base: +6.5 points (+0.3 to +12.6), p = 0.047: tuned is better\n"
        "25 won, 12 lost, 163 equal. With n = 200 questions you can see 9 points."
    )
    worse = compare(*pair(2, 14, 50, 134), names=("base", "tuned")).text
    assert "p = 0.0042: base is better" in worse
    assert "no difference is shown" in compare(*pair(5, 3, 10, 10)).text
    assert "p < 0.0001" in compare(*pair(80, 3, 10, 10)).text


def test_stored_as_json():
    result = compare(*pair(3, 2, 1, 1))
    stored = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert stored["wins"] == ["q0", "q1", "q2"]
    assert stored["p_value"] == 1
    assert stored["shown"] is False
    empty = compare({}, {})
    assert json.loads(json.dumps(empty.to_dict(), allow_nan=False))["difference"] is None


def test_other_questions_are_refused_by_name_or_left_out_and_counted():
    a, b = pair(3, 2, 1, 1)
    b = {**b, "q9": [True]}
    del b["q0"]
    with pytest.raises(
        ValueError, match=r"2 questions have no partner: 1 were asked only of A, as 'q0'; .* B, as 'q9'"
    ):
        compare(a, b)
    result = compare(a, b, common=True)
    assert (result.n, result.left_out) == (6, 2)
    assert "Left out: 2 questions" in result.text


def test_nothing_in_common_is_said():
    result = compare({"x": [1]}, {"y": [1]}, common=True)
    assert (result.n, result.left_out, result.p_value) == (0, 2, 1)
    assert math.isnan(result.difference)
    assert result.text == "A and B have no questions in common."
    assert result.difference_text == "nothing to compare"


def test_one_question_shows_nothing():
    result = compare({"x": [0] * 64}, {"x": [1] * 64})
    assert (result.low, result.high, result.detectable, result.shown) == (-1, 1, 1, False)
    assert "you can see no difference" in result.text


@pytest.mark.parametrize("bad", [[], [1.5], [-0.1, 1]])
def test_bad_samples_are_refused_by_name(bad):
    with pytest.raises(ValueError, match=r"question 'x' of tuned has"):
        compare({"x": [1.0]}, {"x": bad}, names=("base", "tuned"))


def test_estimates_of_pass_at_k_can_be_compared():
    """One number each that is neither right nor wrong: the t test, not McNemar's."""
    values = np.random.default_rng(0).random((2, 300))
    result = compare(*({str(i): [value] for i, value in enumerate(side)} for side in values))
    assert result.p_value == pytest.approx(stats.ttest_rel(*values).pvalue, abs=0.02)


def test_categories_are_compared_with_corrected_p_values():
    parts = {"much": pair(12, 1, 10, 10), "little": pair(5, 3, 10, 10)}
    a, b = ({f"{name} {q}": some for name, sides in parts.items() for q, some in sides[k].items()} for k in (0, 1))
    found = by_category(a, b, lambda question: question.split()[0])
    assert list(found) == ["much", "little"]
    alone = compare(*parts["much"])
    assert (found["much"].low, found["much"].high, found["much"].n) == (alone.low, alone.high, alone.n)
    assert found["much"].p_value == 2 * alone.p_value
    assert found["little"].p_value == compare(*parts["little"]).p_value


def test_a_category_that_one_model_was_not_asked_is_refused():
    with pytest.raises(ValueError, match="1 were asked only of B, as 'y1'"):
        by_category({"x1": [1]}, {"x1": [1], "y1": [1]}, lambda question: question[0])


def test_holm_is_the_step_down_of_bonferroni():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


def test_holm_errs_in_one_family_in_twenty():
    families = np.random.default_rng(0).random((4000, 10))
    assert np.mean([min(holm(family.tolist())) < 0.05 for family in families]) == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize(("questions", "samples"), [(100_000, 1), (1562, 64)])
def test_100_000_samples_take_less_than_two_seconds(questions, samples):
    rights = np.random.default_rng(0).random((2, questions, samples)) < 0.4
    a, b = ({str(place): some for place, some in enumerate(side.tolist())} for side in rights)
    started = time.process_time()
    compare(a, b)
    assert time.process_time() - started < 2
