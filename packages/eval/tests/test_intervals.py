"""Intervals: what they cover, counted exactly where that can be done and simulated elsewhere; and other people's."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from coldforge.eval.intervals import Estimate, bootstrap, difference_interval, ratio, reach, share, share_interval

pytestmark = pytest.mark.whole

REPEAT = 10_000  # the standard error of a coverage of 95 % is 0.22 points
EDGES = (0.0, 1e-9, 0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.07)
CHANCES = np.unique([*EDGES, *(1 - np.asarray(EDGES)), *np.linspace(0.05, 0.95, 181)])


def holds(low, high, true) -> np.ndarray:
    return (low <= true + 1e-12) & (true - 1e-12 <= high)


# One sample each: exact


@pytest.mark.parametrize("n", [1, 2, 5, 30, 500])
def test_one_sample_each_is_clopper_and_pearsons_interval(n):
    low, high = share_interval(np.arange(n + 1)[:, None] > np.arange(n))
    for hits in {0, 1, n // 3, n // 2, n - 1, n}:
        theirs = stats.binomtest(int(hits), n).proportion_ci(method="exact")
        assert (low[hits], high[hits]) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@pytest.mark.parametrize("n", [1, 2, 5, 10, 20, 30, 100])
def test_one_sample_each_covers_95_per_cent_counted_exactly(n):
    rights = np.arange(n + 1)
    low, high = share_interval(rights[:, None] > np.arange(n))
    chance = stats.binom.pmf(rights, n, CHANCES[:, None])
    assert (chance * holds(low, high, CHANCES[:, None])).sum(1).min() >= 0.95


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 10, 15, 20, 30, 49, 75])
def test_differences_of_one_sample_each_cover_94_per_cent_counted_exactly(n):
    """Every outcome (gained, lost, equal) of every chance of gaining and losing on a grid."""
    gained, lost = (counts.ravel() for counts in np.meshgrid(np.arange(n + 1), np.arange(n + 1)))
    possible = gained + lost <= n
    gained, lost = gained[possible, None], lost[possible, None]
    place = np.arange(n)
    low, high, _ = difference_interval(np.where(place < gained, 1, np.where(place < gained + lost, -1, 0)))

    grid = np.unique([*np.linspace(0, 1, 21), *np.asarray([0.3, 1, 2, 2.5, 2.8, 3, 3.5, 4, 5, 6, 8]) / n])
    up, down = (chance.ravel() for chance in np.meshgrid(grid, grid))
    possible = (up + down <= 1 + 1e-12) & (up >= down)  # the rest is the same with the models exchanged
    up, down = up[possible], down[possible]
    stay = np.maximum(0, 1 - up - down)
    chance = np.exp(
        special.gammaln(n + 1) - special.gammaln(gained + 1) - special.gammaln(lost + 1)
        - special.gammaln(n - gained - lost + 1)
        + special.xlogy(gained, up) + special.xlogy(lost, down) + special.xlogy(n - gained - lost, stay)
    )  # fmt: skip
    assert chance.sum(0) == pytest.approx(np.ones_like(up))
    covered = (chance * holds(low[:, None], high[:, None], up - down)).sum(0)
    assert covered.min() >= 0.94


# Clustered: simulated

POPULATIONS = {  # how questions differ → (the mean over questions, n chances of a right answer)
    "all alike, hard": (0.02, lambda rng, shape: np.full(shape, 0.02)),
    "all alike, easy": (0.99, lambda rng, shape: np.full(shape, 0.99)),
    "all alike": (0.5, lambda rng, shape: np.full(shape, 0.5)),
    "never or always": (0.3, lambda rng, shape: np.where(rng.random(shape) < 0.3, 1.0, 0.0)),
    "U-shaped, hard": (0.05, lambda rng, shape: rng.beta(0.015, 0.285, shape)),
    "U-shaped, easy": (0.98, lambda rng, shape: rng.beta(0.98, 0.02, shape)),
    "even": (0.5, lambda rng, shape: rng.beta(1, 1, shape)),
    "one in 33 easy, others hard": (0.0494, lambda rng, shape: np.where(rng.random(shape) < 0.03, 1.0, 0.02)),
    "one in ten hard, others easy": (0.882, lambda rng, shape: np.where(rng.random(shape) < 0.1, 0.0, 0.98)),
}


def drawn(name, n, samples) -> tuple[float, np.ndarray]:
    true, draw = POPULATIONS[name]
    rng = np.random.default_rng([n, samples, len(name)])
    return true, rng.binomial(samples, draw(rng, (REPEAT, n))) / samples


@pytest.mark.parametrize(("n", "samples"), [(5, 4), (5, 64), (10, 16), (20, 4), (30, 64)])
@pytest.mark.parametrize("name", POPULATIONS)
def test_clustered_samples_cover_94_per_cent(name, n, samples):
    true, values = drawn(name, n, samples)
    low, high = share_interval(values)
    assert holds(low, high, true).mean() >= 0.94


def test_the_usual_interval_does_not_cover_these():
    """So the test above can fail: the clustered t interval does."""
    true, values = drawn("one in 33 easy, others hard", 30, 64)
    half = stats.t.ppf(0.975, 29) * values.std(1, ddof=1) / np.sqrt(30)
    assert holds(values.mean(1) - half, values.mean(1) + half, true).mean() < 0.7


def test_ragged_samples_cover_94_per_cent():
    """As in an evaluation that is not done: questions have 1 to 16 samples."""
    rng = np.random.default_rng(5)
    samples = rng.integers(1, 17, 20)
    values = rng.binomial(samples, rng.beta(0.2, 0.8, (REPEAT, 20))) / samples
    assert holds(*share_interval(values), 0.2).mean() >= 0.94


@pytest.mark.parametrize("n", [10, 20, 100])
@pytest.mark.parametrize("big", [0.2, 0.5, 0.8])
def test_weighted_questions_cover_94_per_cent(n, big):
    """Questions of one to three instructions, each right or not, as its question is hard; those with three differ."""
    rng = np.random.default_rng(n)
    of = rng.integers(1, 4, (REPEAT, n))
    chance = np.where(of == 3, big, 0.5)
    hits = rng.binomial(of, rng.beta(chance, 1 - chance))
    true = (3 * big + 3 * 0.5) / 6
    assert holds(*share_interval(hits / of, of), true).mean() >= 0.94


def test_weights_that_are_the_same_change_nothing_and_others_do():
    values = [0.1, 0.5, 1.0, 0.0]
    assert share(values, weights=[3.0] * 4).text == share(values).text
    found = share(values, weights=[1, 2, 3, 1])
    assert found.value == pytest.approx((0.1 + 1 + 3) / 7)
    assert found.low < found.value < found.high
    assert share([1.0] * 3, weights=[0.1, 0.2, 0.7]).high == 1
    with pytest.raises(ValueError, match="wanted one each, more than 0"):
        share(values, weights=[1, 2, 0, 1])


PAIRS = {  # how two models differ → (the mean difference, n chances for each of them)
    "nothing differs": (0.0, lambda rng, shape: (np.full(shape, 0.3),) * 2),
    "a shift": (0.1, lambda rng, shape: (np.full(shape, 0.02), np.full(shape, 0.12))),
    "one in 20 gained, others alike": (
        0.049, lambda rng, shape: (np.full(shape, 0.02), np.where(rng.random(shape) < 0.05, 1.0, 0.02))
    ),
    "some gained, as many lost": (
        0.0, lambda rng, shape: tuple(np.where(rng.random(shape) < 0.1, 1.0, 0.1) for _ in range(2))
    ),
    "of their own, U-shaped": (0.05, lambda rng, shape: (rng.beta(0.02, 0.18, shape), rng.beta(0.03, 0.17, shape))),
    "near 1": (-0.03, lambda rng, shape: (rng.beta(4.9, 0.1, shape), rng.beta(4.75, 0.25, shape))),
    "a little better, rarely much worse": (
        0.0, lambda rng, shape: (np.full(shape, 0.5), np.where(rng.random(shape) < 0.05, 0.025, 0.525))
    ),
}  # fmt: skip


@pytest.mark.parametrize(("n", "samples"), [(5, 64), (10, 4), (20, 16), (30, 2), (30, 64)])
@pytest.mark.parametrize("name", PAIRS)
def test_clustered_differences_cover_94_per_cent(name, n, samples):
    true, draw = PAIRS[name]
    rng = np.random.default_rng([n, samples, len(name)])
    a, b = draw(rng, (REPEAT, n))
    a, b = rng.binomial(samples, a) / samples, rng.binomial(samples, b) / samples
    low, high, p_value = difference_interval(b - a, reach=reach(a, b, (samples, samples)))
    assert holds(low, high, true).mean() >= 0.94
    if true == 0:
        assert (p_value < 0.05).mean() <= 0.06


@pytest.mark.parametrize(("n", "cost"), [(30, 1.6), (60, 1.25), (200, 1.1)])
def test_what_is_added_costs_little_where_questions_differ_as_real_ones_do(n, cost):
    """Logits of difficulty with a standard deviation of 2.5, a model that is better by 0.7 ± 0.7; 64 samples."""
    rng = np.random.default_rng(n)
    logit = rng.normal(-0.5, 2.5, (1000, n))
    a = rng.binomial(64, special.expit(logit)) / 64
    b = rng.binomial(64, special.expit(logit + rng.normal(0.7, 0.7, (1000, n)))) / 64
    low, high, _ = difference_interval(b - a, reach=reach(a, b, (64, 64)))
    half = stats.t.ppf(0.975, n - 1) * (b - a).std(1, ddof=1) / np.sqrt(n)
    assert np.median((high - low) / 2 / half) < cost


def test_the_paired_t_interval_does_not_cover_these():
    _, draw = PAIRS["one in 20 gained, others alike"]
    rng = np.random.default_rng(0)
    a, b = draw(rng, (REPEAT, 20))
    values = (rng.binomial(16, b) - rng.binomial(16, a)) / 16
    half = stats.t.ppf(0.975, 19) * values.std(1, ddof=1) / np.sqrt(20)
    assert holds(values.mean(1) - half, values.mean(1) + half, 0.049).mean() < 0.8


def test_more_questions_bring_the_paired_t_interval_and_its_p_value():
    values = np.random.default_rng(0).normal(0.01, 0.4, 20_000).clip(-1, 1)
    low, high, p_value = difference_interval(values / 4)
    theirs = stats.ttest_1samp(values / 4, 0)
    assert (low, high) == pytest.approx(tuple(theirs.confidence_interval()), abs=1e-4)
    assert math.log(p_value) == pytest.approx(math.log(theirs.pvalue), rel=0.02)


# Other ways to the same


@pytest.mark.parametrize(("a", "b", "samples"), [(1, 1, 8), (2, 5, 64), (8, 2, 4), (0.5, 0.5, 1)])
def test_bootstrap_and_analytic_intervals_agree(a, b, samples):
    rng = np.random.default_rng(int(10 * a + b))
    values = rng.binomial(samples, rng.beta(a, b, 400)) / samples
    found = share(values)
    assert bootstrap(values) == pytest.approx((found.low, found.high), abs=0.1 * found.half_width)
    other = rng.binomial(samples, rng.beta(a, b, 400)) / samples
    low, high, _ = difference_interval(other - values, reach=reach(values, other, (samples, samples)))
    assert bootstrap(other - values) == pytest.approx((low, high), abs=0.1 * (high - low) / 2)


def test_bootstrap_of_any_statistic_is_repeated_by_its_seed():
    values = np.random.default_rng(0).exponential(size=101)
    low, high = bootstrap(values, np.median, resamples=2000)
    assert low < np.median(values) < high
    assert (low, high) == bootstrap(values, np.median, resamples=2000)
    assert (low, high) != bootstrap(values, np.median, resamples=2000, seed=1)
    with pytest.raises(ValueError, match=r"\(1,\); wanted two questions or more"):
        bootstrap([1.0])


@settings(max_examples=50)
@given(st.lists(st.fractions(0, 1, max_denominator=64), min_size=1, max_size=50))
def test_an_interval_holds_its_mean_and_is_the_same_for_wrong_as_for_right(values):
    numbers = np.asarray([float(value) for value in values])
    found, other = share(numbers), share(1 - numbers)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert (other.low, other.high) == pytest.approx((1 - found.high, 1 - found.low), abs=1e-9)
    coins = stats.beta.ppf([0.025, 0.975], [0.5, 1.5], [len(values) + 0.5] * 2)  # of no fewer coins than questions
    assert found.high - found.low <= 1 - coins[0] + 1e-9


@settings(max_examples=50)
@given(st.data(), st.integers(1, 64))
def test_a_differences_interval_holds_it_and_agrees_with_its_p_value(data, samples):
    rights = st.integers(0, samples)
    pairs = data.draw(st.lists(st.tuples(rights, rights), min_size=1, max_size=50))
    a, b = np.asarray(pairs).T / samples
    apart = reach(a, b, (samples, samples))
    assert 0 < apart <= 1
    low, high, p_value = difference_interval(b - a, reach=apart)
    assert -1 <= low <= (b - a).mean() + 1e-12
    assert (b - a).mean() - 1e-12 <= high <= 1
    assert (p_value < 0.05) == (low > 0 or high < 0)
    assert reach(b, a, (samples, samples)) == pytest.approx(apart)
    assert difference_interval(a - b, reach=apart) == pytest.approx((-high, -low, p_value), abs=1e-9)


def test_the_reach_is_what_differences_beyond_noise_show():
    rng = np.random.default_rng(0)
    same = rng.binomial(64, 0.3, (2, 200)) / 64
    assert reach(*same, (64, 64)) > 0.3  # nothing but noise: little is known of other questions
    spread = rng.binomial(64, rng.beta(0.5, 0.5, (2, 200))) / 64
    assert np.square(spread[0] - spread[1]).mean() < reach(*spread, (64, 64)) < 0.5
    assert reach(*rng.binomial(1, 0.3, (2, 200)), (1, 1)) == 1
    assert reach(*same, (64, np.full(200, 64))) == reach(*same, (64, 64))


def test_samples_that_agree_narrow_no_interval_and_those_that_differ_do():
    one, many = share([1, 0] * 10), share([0.5] * 20)
    assert many.half_width < 0.5 * one.half_width
    assert share([0] * 30).high == pytest.approx(1 - 0.025 ** (1 / 30))  # nothing seen in 30: the rule of three


# Lengths


def test_lengths_cover_what_their_docstring_says():
    """Log-normal lengths, harder questions longer: 8 samples of 30 questions; the mean of those with a right answer."""
    rng = np.random.default_rng(0)

    def draw(repeat, n, samples):
        hard = rng.normal(size=(repeat, n))
        tokens = np.exp(6 + 0.8 * hard[..., None] + 0.3 * rng.normal(size=(repeat, n, samples)))
        right = rng.random((repeat, n, samples)) < stats.norm.cdf(-0.5 * hard)[..., None]
        return (tokens * right).sum(-1), right.sum(-1)

    totals, counts = draw(1, 1_000_000, 1)
    true = totals.sum() / counts.sum()
    found = [ratio(*pair, unit="tokens") for pair in zip(*draw(2000, 30, 8), strict=True)]
    assert 0.92 <= np.mean([estimate.low <= true <= estimate.high for estimate in found]) <= 0.97


def test_a_ratios_error_is_that_of_independent_samples_where_they_are():
    tokens = np.random.default_rng(0).gamma(20, 20, 2000)
    found = ratio(tokens, np.ones(2000), unit="tokens")
    half = 1.961 * tokens.std(ddof=1) / math.sqrt(2000)
    assert (found.low, found.high) == pytest.approx((tokens.mean() - half, tokens.mean() + half), abs=0.3)
    assert found.value == pytest.approx(tokens.mean())


# What is shown and refused


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(0.6123, 0.5791, 0.6438, 200, 200), "61.2 % (57.9–64.4)"),
        (Estimate(1412.4, 1380.2, 1447.0, 30, 90, "tokens"), "1,412 tokens (1,380–1,447)"),
        (share([]), "nothing to count"),
        (ratio([], [], unit="tokens"), "nothing to count"),
        (ratio([9.0], [3], unit="tokens"), "3 tokens (0–?)"),
        (ratio([9.0, 8.0], [3, 0], unit="tokens"), "3 tokens (0–?)"),
        (share([0.5]), "50.0 % (0.0–100.0)"),
    ],
)
def test_text(estimate, text):
    assert estimate.text == text
    stored = json.loads(json.dumps(estimate.to_dict(), allow_nan=False))
    assert stored["n"] == estimate.n
    assert stored["confidence"] == 0.95
    assert repr(Estimate.from_dict(stored)) == repr(estimate)


@pytest.mark.parametrize("values", [[0.5, 1.01], [-0.1], [math.nan, 0.5]])
def test_what_is_no_share_is_refused(values):
    with pytest.raises(ValueError, match="wanted shares, from 0 to 1"):
        share(values)


def test_samples_instead_of_questions_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 3\); wanted one value per question"):
        share([[1, 0, 1], [0, 0, 1]])


def test_differences_of_no_or_one_question_say_that_anything_is_possible():
    assert difference_interval([]) == (-1, 1, 1)
    low, high, p_value = difference_interval([1.0])
    assert (low, high) == (-1, 1)
    assert p_value > 0.5
