"""Power: held against simulated comparisons, Miller's formulas, and its own inverses."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from coldforge.eval.compare import compare
from coldforge.eval.intervals import difference_interval, reach
from coldforge.eval.power import Spread, detectable, needed, power, sentence

REPEAT = 4000  # the standard error of a power of 80 % is 0.6 points


@pytest.mark.parametrize(
    ("n", "changed", "difference"),
    [(30, 0.3, 0.2), (50, 0.5, 0.3), (100, 0.1, 0.08), (100, 0.2, 0.1), (200, 0.05, 0.04), (500, 0.2, 0.06)],
)
def test_power_for_one_sample_each_is_what_mcnemars_test_has(n, changed, difference):
    rng = np.random.default_rng(n)
    gained, lost, _ = rng.multinomial(
        n, [(changed + difference) / 2, (changed - difference) / 2, 1 - changed], REPEAT
    ).T
    p_values = np.minimum(1, 2 * stats.binom.cdf(np.minimum(gained, lost), gained + lost, 0.5))
    seen = np.mean(p_values < 0.05)
    assert power(difference, n, changed - difference**2) == pytest.approx(seen, abs=0.06)


@pytest.mark.parametrize(("n", "samples", "difference"), [(20, 4, 0.3), (30, 16, 0.15), (100, 8, 0.08), (500, 4, 0.04)])
def test_power_for_several_samples_is_what_comparisons_have(n, samples, difference):
    rng = np.random.default_rng(n)
    a = rng.beta(2, 2, (REPEAT, n)) * (1 - difference)
    b = a + difference
    within = tuple(float(np.mean(p * (1 - p))) for p in (a, b))
    a, b = rng.binomial(samples, a) / samples, rng.binomial(samples, b) / samples
    apart = reach(a, b, (samples, samples))
    _, _, p_values = difference_interval(b - a, reach=apart)
    variance = Spread(0, within).variance(samples)
    assert power(difference, n, variance, reach=apart.mean()) == pytest.approx(np.mean(p_values < 0.05), abs=0.03)


def test_a_comparison_finds_what_it_says_it_can_in_80_per_cent_of_cases():
    """The whole way: what `compare` calls detectable is planted in new samples, and found."""
    rng = np.random.default_rng(0)

    def samples(p):
        return {str(place): right.tolist() for place, right in enumerate(rng.random((100, 4)) < p[:, None])}

    p = rng.beta(2, 2, 100) * 0.8
    smallest = np.mean([compare(samples(p), samples(p)).detectable for _ in range(20)])
    assert 0.1 < smallest < 0.15
    found = [compare(samples(p), samples(p + smallest)).shown for _ in range(400)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.06)


def test_many_questions_have_millers_formulas():
    """Section 5: n = (z + z)² (ω² + σ_A²/K + σ_B²/K) / δ², with ω² = 1/9, σ² = 1/6, K = 10."""
    spread = Spread(1 / 9, (1 / 6, 1 / 6))
    variance = spread.variance(10)
    assert variance == pytest.approx(1 / 9 + 1 / 30)
    wanted = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) ** 2 * variance / 0.01**2
    assert needed(0.01, variance, reach=0.1) == pytest.approx(wanted, rel=0.01)
    assert detectable(round(wanted), variance, reach=0.1) == pytest.approx(0.01, rel=0.01)


@settings(max_examples=50)
@given(st.floats(0.01, 0.9), st.floats(0.001, 1), st.floats(0.01, 1))
def test_needed_and_detectable_are_inverses_of_power(difference, variance, apart):
    n = needed(difference, variance, reach=apart)
    assert power(difference, n, variance, reach=apart) >= 0.8
    if n > 2:
        assert power(difference, n - 1, variance, reach=apart) < 0.8
    smallest = detectable(n, variance, reach=apart)
    assert smallest <= difference + 1e-5


def test_more_questions_more_difference_and_less_variance_are_more_power():
    assert (np.diff(power(0.1, np.arange(5, 500), 0.2)) > 0).all()
    assert (np.diff(power(np.linspace(0.01, 0.7, 50), 40, 0.3)) > 0).all()
    assert power(0.1, 100, 0.1) > power(0.1, 100, 0.2) > power(0.1, 100, 0.4)
    assert power(-0.1, 100, 0.2) == power(0.1, 100, 0.2)


def test_few_questions_show_little():
    assert detectable(1, 0.2) == 1
    assert detectable(2, 0.2) == 1
    assert detectable(5, 0.2) == 1  # not even five questions of five
    assert 0.5 < detectable(8, 0.2) < 1
    assert power(0.5, 200, 0.0) == 1  # every question differs by as much: no variance at all


@pytest.mark.parametrize(
    ("n", "smallest", "text"),
    [
        (200, 0.0604, "With n = 200 questions you can see 6 points."),
        (14_042, 0.0123, "With n = 14,042 questions you can see 1.2 points."),
        (1, 1.0, "With n = 1 question you can see no difference."),
    ],
)
def test_sentence(n, smallest, text):
    assert sentence(n, smallest) == text


def test_spread_is_found_in_samples():
    """ω² = 0.04 + 0.04 and σ² = 2/15·…: of beta-distributed questions, with few samples each."""
    rng = np.random.default_rng(0)
    a, b = rng.beta(2, 3, 4000), rng.beta(2, 3, 4000)
    found = Spread.of((rng.random((4000, 3)) < a[:, None]).tolist(), (rng.random((4000, 5)) < b[:, None]).tolist())
    assert found.between == pytest.approx(2 * stats.beta(2, 3).var(), rel=0.1)
    assert found.within == pytest.approx([0.4 * 0.6 - stats.beta(2, 3).var()] * 2, rel=0.05)
    assert found.variance(4) == pytest.approx(found.between + sum(found.within) / 4)


def test_what_cannot_be_planned_is_refused():
    with pytest.raises(ValueError, match=r"difference is 0; wanted more than 0"):
        needed(0.0, 0.2)
    with pytest.raises(ValueError, match=r"1.5 of the questions change sides"):
        Spread.single(1.5)
    with pytest.raises(ValueError, match="single sample; wanted two or more"):
        Spread.of([[1], [0, 1]], [[1, 1], [0, 0]])
    with pytest.raises(ValueError, match="2 and 1 questions; wanted the same"):
        Spread.of([[1, 0], [0, 1]], [[1, 1]])
    with pytest.raises(ValueError, match="wanted 0 or more"):
        Spread(math.nan, (0.1, 0.1))
