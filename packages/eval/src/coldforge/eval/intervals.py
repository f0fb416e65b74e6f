"""Intervals that hold: 95 % intervals of means over questions, for shares, for differences and for lengths.

    share([1, 0.5, 0, 1]).text                    # "62.5 % (12.3–97.2)": one value in [0, 1] per question
    difference_interval([0, 1, 0, -1, 0.25])      # low, high and p-value of a paired difference
    bootstrap(values, np.median)                  # whatever has no formula

The unit is the question, not the sample: 30 questions with 64 samples each are 30 draws from the questions that one
could have asked (Miller, arXiv 2411.00640). The usual intervals do not hold where evaluations live, with
few questions and shares near 0 and 1: a variance that is estimated from questions that all came out alike is too
small. So each interval here adds a question or two that nobody asked, right and wrong, and is an exact one where it can
be. `tools/eval_coverage.py` measures what they cover, and the usual ones beside them.

Left out: other levels than 95 %, since what is added was fitted to that one.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy import special

CONFIDENCE = 0.95
_TAIL = (1 - CONFIDENCE) / 2
_Z = float(special.ndtri(1 - _TAIL))

ADDED = 1
"""How many questions `difference_interval` adds on either side. Many would draw a large difference towards 0."""
ADDED_SQUARE = 1.6
"""By how much their squares count. With 1.4 and one sample each it covers down to 93.8 %."""

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True)
class Estimate:
    """A figure, and what it may be: a mean over questions with its 95 % interval.

    Attributes:
        value: The mean; nan over no questions.
        low, high: The interval's ends. Over no questions: all that is possible.
        n: How many questions, the unit of the interval.
        samples: How many samples of them.
        unit: "%" (value and ends are shares, from 0 to 1) or what is counted, as "tokens".
    """

    value: float
    low: float
    high: float
    n: int
    samples: int
    unit: str = "%"

    @property
    def half_width(self) -> float:
        """Half the length of the interval."""
        return (self.high - self.low) / 2

    @property
    def text(self) -> str:
        """As "61.2 % (57.9–64.4)" or "412 tokens (380–447)"."""
        if math.isnan(self.value):
            return "nothing to count"
        if self.unit == "%":
            return f"{100 * self.value:.1f} % ({100 * self.low:.1f}–{100 * self.high:.1f})"
        high = f"{self.high:,.0f}" if math.isfinite(self.high) else "?"
        return f"{self.value:,.0f} {self.unit} ({self.low:,.0f}–{high})"

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it: what is not a finite number is None."""
        numbers = {name: getattr(self, name) for name in ("value", "low", "high")}
        finite = {name: number if math.isfinite(number) else None for name, number in numbers.items()}
        return finite | {"n": self.n, "samples": self.samples, "unit": self.unit, "confidence": CONFIDENCE}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """Reads what `to_dict` gave."""
        value, high = stored["value"], stored["high"]
        return cls(
            math.nan if value is None else value, stored["low"], math.inf if high is None else high,
            stored["n"], stored["samples"], stored["unit"],
        )  # fmt: skip


def share(values: npt.ArrayLike, *, weights: npt.ArrayLike | None = None, samples: int | None = None) -> Estimate:
    """Returns the mean of one value per question, with its interval.

    Args:
        values: [n], each from 0 to 1: the share of a question's samples that are right, or an estimate of pass@k.
        weights: [n], what each question counts; None: the same. `share(hits / of, weights=of)` is Σ hits ÷ Σ of, as of
            IFEval's instructions, of which a question has one to three.
        samples: How many samples they were made of; None: one each.

    Raises:
        ValueError: A value is not from 0 to 1, there is not one dimension, or a weight is not more than 0.
    """
    array = np.asarray(values, np.float64)
    if array.ndim != 1:
        raise ValueError(f"the values have the shape {array.shape}; wanted one value per question, [n].")
    if array.size and not (array.min() >= 0 and array.max() <= 1):  # nan fails, too
        raise ValueError(f"the values go from {array.min():g} to {array.max():g}; wanted shares, from 0 to 1.")
    size = np.ones_like(array) if weights is None else np.asarray(weights, np.float64)
    if size.shape != array.shape or not (size > 0).all():
        raise ValueError(f"{array.size} values have the weights {size.tolist()!r:.80}; wanted one each, more than 0.")
    count = array.size if samples is None else samples
    if not array.size:
        return Estimate(math.nan, 0.0, 1.0, 0, count)
    low, high = share_interval(array, size)
    return Estimate(float(np.average(array, weights=size)), float(low), float(high), array.size, count)


def share_interval(values: npt.ArrayLike, weights: npt.ArrayLike = 1.0) -> tuple[Floats, Floats]:
    """Returns the interval's ends for means of shares over the last axis: Clopper–Pearson on an effective number.

    After Korn and Graubard (Survey Methodology 24, 1998): n questions whose values vary by a part r of what right and
    wrong alone would vary by, p (1 − p), tell as much as n / r coins; since r is an estimate, as much as
    n / r · (z / t)². Two changes. r is taken after adding one question that is right and one that is wrong, so that
    questions that happened to come out alike do not pass for certainty. And where r is below 1 the effective number is
    not less than n, since no values from 0 to 1 vary by more than right and wrong alone do. With weights, r is that of
    a ratio of sums (Cochran, Sampling Techniques, 6.3), and more than 1 where the questions that count more differ.

    With one sample each, r is 1 and this is Clopper and Pearson's interval (Biometrika 26, 1934), which covers at least
    95 % whatever n and p. With more, it covers at least 94.5 % in each of 83 kinds of questions (n from 5 to 100, up to
    64 samples, means from 0.5 % on; 10,000 draws each), and Korn and Graubard's own down to 32 %.

    Args:
        values: [..., n], each from 0 to 1; n at least 1.
        weights: [..., n], what each question counts, more than 0.
    """
    values = np.asarray(values, np.float64)
    n = values.shape[-1]
    size = np.broadcast_to(np.asarray(weights, np.float64), values.shape)
    size = size / size.mean(-1, keepdims=True)
    total = (size * values).sum(-1)
    padded = (total + 1) / (n + 2)
    squares = np.square(size * (values - padded[..., None])).sum(-1) + (1 - padded) ** 2 + padded**2
    ratio = squares / ((n + 2) * padded * (1 - padded))
    shrink = (_Z / special.stdtrit(n + 1, 1 - _TAIL)) ** 2
    effective = np.where(ratio < 1, np.maximum(n, n / ratio * shrink), n / ratio)
    return _clopper_pearson(total / n, effective)


def _clopper_pearson(p: Floats, n: Floats) -> tuple[Floats, Floats]:
    """The interval of a binomial share p of n, where n p need not be a whole number."""
    none, all_ = p <= 0, p >= 1 - 1e-12  # weights may leave a rounding error
    safe = np.where(none | all_, 0.5, p) * n
    low = np.where(all_, _TAIL ** (1 / n), special.betaincinv(safe, n - safe + 1, _TAIL))
    high = np.where(none, 1 - _TAIL ** (1 / n), special.betaincinv(safe + 1, n - safe, 1 - _TAIL))
    return np.where(none, 0.0, low), np.where(all_, 1.0, high)


def difference_interval(values: npt.ArrayLike, *, reach: npt.ArrayLike = 1.0) -> tuple[Floats, Floats, Floats]:
    """Returns the interval's ends and the p-value for means of paired differences over the last axis.

    A t interval after adding a question that one model does better and one that the other does, by the square root of
    `reach`; in the variance they count 1.6 times. With one sample each, they are questions that only one of them has
    right: so do Bonett and Price (2012), but without the 1.6 and with a normal quantile, which covers down to 89 %
    (n = 10, each question changes sides). Counted exactly for one sample each, this covers at least 94.0 % for n from 2
    to 3,000. With more samples it covers at least 95.0 % in each of 188 kinds of pairs (n from 5 to 100, up to 64
    samples; 10,000 draws each); the plain t interval, 1.1 to 4 times as narrow, covers down to 9 % there.

    The p-value is that of the same t statistic: below 0.05 exactly where the interval leaves out 0.

    Args:
        values: [..., n], each from −1 to 1: a question's share of right samples of one model minus that of the other.
        reach: [...], from the function of this name; 1 for one sample each.
    """
    values = np.asarray(values, np.float64)
    total = values.shape[-1] + 2 * ADDED
    mean = values.sum(-1) / total
    squares = np.square(values).sum(-1) + 2 * ADDED_SQUARE * np.asarray(reach, np.float64)
    error = np.sqrt((squares / total - mean**2) / (total - 1))
    half = special.stdtrit(total - 1, 1 - _TAIL) * error
    p_value = 2 * special.stdtr(total - 1, -np.abs(mean) / error)
    return np.maximum(-1.0, mean - half), np.minimum(1.0, mean + half), p_value


def reach(a: npt.ArrayLike, b: npt.ArrayLike, samples: tuple[npt.ArrayLike, npt.ArrayLike]) -> Floats:
    """Returns how far apart two models may be on a question that was not asked: a mean square, at most 1.

    It is that of the differences seen and of one that is complete. A difference counts by the part of its square that
    is more than four times its variance from sampling, so that questions on which nothing is seen but noise say nothing
    about others: the next one may be one that only one model has right. With one sample each that is so of all, and
    the reach is 1.

    Args:
        a, b: [..., n], each model's share of right samples of a question.
        samples: How many samples each model's shares are made of, [..., n] or one number.
    """
    shares = [np.asarray(side, np.float64) for side in (a, b)]
    noise = np.zeros_like(shares[0])
    for side, count in zip(shares, samples, strict=True):
        k = np.asarray(count, np.float64)
        likely = (side * k + 1) / (k + 2)  # 0 of 64 does not mean never
        noise = noise + likely * (1 - likely) / k
    square = np.square(shares[1] - shares[0])
    weight = np.maximum(0.0, 1 - 4 * noise / np.maximum(square, 1e-12))
    return (1 + (weight * square).sum(-1)) / (1 + weight.sum(-1))


def ratio(totals: npt.ArrayLike, counts: npt.ArrayLike, *, unit: str) -> Estimate:
    """Returns a mean over samples, `totals.sum() / counts.sum()`, with an interval whose unit is the question.

    For lengths: a t interval of the logarithm by linearisation (Cochran, Sampling Techniques, 6.3), over the questions
    that have any. Lengths have no upper end and a long tail, so nothing can be promised: it covered 92 to 95 % with 8
    samples a question, and with one 87 to 95 %, where the logarithm's standard deviation is 0.4 to 1.2.

    Args:
        totals: [n], what is counted, summed over a question's samples; 0 or more.
        counts: [n], the question's samples.
        unit: What is counted, as "tokens".
    """
    counts = np.asarray(counts, np.float64)
    totals = np.asarray(totals, np.float64)[counts > 0]
    counts = counts[counts > 0]
    n, samples, total = counts.size, float(counts.sum()), float(totals.sum())
    if not n:
        return Estimate(math.nan, 0.0, math.inf, 0, 0, unit)
    mean = total / samples
    if n < 2 or not total:
        return Estimate(mean, 0.0, math.inf, n, int(samples), unit)
    error = math.sqrt(n / (n - 1) * float(np.square(totals - mean * counts).sum())) / samples
    factor = math.exp(min(float(special.stdtrit(n - 1, 1 - _TAIL)) * error / mean, 700.0))
    return Estimate(mean, mean / factor, mean * factor, n, int(samples), unit)


def bootstrap(
    values: npt.ArrayLike, statistic: Callable[..., Any] = np.mean, *, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Returns the ends of the percentile interval of any statistic of questions, drawn again with replacement.

    For what has no formula. It needs some fifty questions, and values that differ, to mean something: where all are 1
    it says that nothing else is possible.

    Args:
        values: [n], one value per question.
        statistic: Takes values and the keyword `axis`, as `np.mean` and `np.median` do.
        resamples: How often the questions are drawn.
        seed: The same seed gives the same ends.

    Raises:
        ValueError: There are fewer than two questions.
    """
    from scipy import stats  # a second to import

    array = np.asarray(values, np.float64)
    if array.ndim != 1 or array.size < 2:
        raise ValueError(f"the values have the shape {array.shape}; wanted two questions or more, [n].")
    found = stats.bootstrap(
        (array,), statistic, n_resamples=resamples, batch=max(1, 2_000_000 // array.size), vectorized=True,
        confidence_level=CONFIDENCE, method="percentile", rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
