"""What a number of questions can show: the power of a paired comparison, and its two inverses.

    variance = Spread.single(0.2).variance(1)      # one sample each, 20 % of the questions change sides
    detectable(200, variance)                      # 0.092: the smallest difference that is found in 80 % of cases
    needed(0.02, variance)                         # 3,938 questions
    sentence(200, 0.092)                           # "With n = 200 questions you can see 9 points."

With many questions these are the formulas of Miller (arXiv 2411.00640, section 5): n = (z₀.₉₇₅ + z₀.₈)² variance / δ².
With few, they follow the tests that `compare` makes, whose added questions weigh: where 100 questions find 8 points in
67 % of cases (10 % of them change sides), Miller's say 74 % and these 62 %. Simulated, they are within six points of
both tests. Left out: the best split of a budget; more questions are always worth more than more samples of each.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy import special

from coldforge.eval.intervals import ADDED, ADDED_SQUARE, CONFIDENCE

POWER = 0.8
_MANY = 10**12  # questions: more than this is "never"


@dataclasses.dataclass(frozen=True, slots=True)
class Spread:
    """Where the variance of a question's difference between two models comes from (Miller, section 5).

    Attributes:
        between: ω²: the variance over questions of the difference that infinitely many samples would show.
        within: σ_A² and σ_B²: the variance of single samples of a question, on average over questions, of each model.

    Raises:
        ValueError: One of them is negative.
    """

    between: float
    within: tuple[float, float]

    def __post_init__(self) -> None:
        if not (self.between >= 0 and min(self.within) >= 0):
            raise ValueError(f"the variances are {self.between:g} and {self.within}; wanted 0 or more.")

    @classmethod
    def single(cls, changed: float) -> Self:
        """For one sample each: the share of questions that one of the models has right and the other has not."""
        if not 0 <= changed <= 1:
            raise ValueError(f"{changed:g} of the questions change sides; wanted a share, from 0 to 1.")
        return cls(changed, (0.0, 0.0))

    @classmethod
    def of(cls, a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> Self:
        """Estimates it from samples of the same questions, in the same order, two or more of each.

        Raises:
            ValueError: The questions are fewer than two or not as many, or one has fewer than two samples.
        """
        if len(a) != len(b) or len(a) < 2:
            raise ValueError(f"there are {len(a)} and {len(b)} questions; wanted the same ones, at least two.")
        sides = [[np.asarray(some, np.float64) for some in side] for side in (a, b)]
        if min(some.size for side in sides for some in side) < 2:
            raise ValueError("a question has a single sample; wanted two or more to tell samples from questions.")
        means = [np.asarray([some.mean() for some in side]) for side in sides]
        variances = [np.asarray([some.var(ddof=1) for some in side]) for side in sides]
        noise = sum(
            float(np.mean([v / some.size for v, some in zip(variance, side, strict=True)]))
            for variance, side in zip(variances, sides, strict=True)
        )
        seen = float((means[1] - means[0]).var(ddof=1))
        return cls(max(0.0, seen - noise), (float(variances[0].mean()), float(variances[1].mean())))

    def variance(self, samples: int) -> float:
        """The variance of a question's difference with so many samples from each model."""
        return self.between + sum(self.within) / samples


def power(
    difference: npt.ArrayLike, n: npt.ArrayLike, variance: float, *, reach: float = 1.0
) -> npt.NDArray[np.float64]:
    """Returns how likely a difference is found (p < 0.05, on the right side).

    Args:
        difference: The true difference of the two accuracies; 0.06 is six points.
        n: Questions, at least 2.
        variance: Of a question's difference between the models. Where the difference is large, less is possible, and
            taken: a question's difference is at most 1.
        reach: `intervals.reach` of the comparison, which says what the test adds; 1, the most, for one sample each.
    """
    size = np.abs(np.asarray(difference, np.float64))
    n = np.asarray(n, np.float64)
    spread = np.minimum(variance, 1 - size**2)
    total = n + 2 * ADDED
    mean = size * n / total
    squares = n * (spread + size**2) + 2 * ADDED_SQUARE * reach
    threshold = special.stdtrit(total - 1, 0.5 + CONFIDENCE / 2) * np.sqrt((squares / total - mean**2) / (total - 1))
    error = np.sqrt(n * spread) / total
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(error > 0, special.ndtr((mean - threshold) / error), np.float64(mean > threshold))


def detectable(n: int, variance: float, *, reach: float = 1.0, wanted: float = POWER) -> float:
    """Returns the smallest difference that n questions show with the wanted power; 1 if none does. See `power`."""
    if n < 2:
        return 1.0
    return _first(lambda size: float(power(size, n, variance, reach=reach)) >= wanted, 0.0, 1.0, 1e-5)


def needed(difference: float, variance: float, *, reach: float = 1.0, wanted: float = POWER) -> int:
    """Returns how many questions show a difference with the wanted power. See `power`.

    Raises:
        ValueError: The difference is 0, or more than 1: no number of questions shows it.
    """
    if not 0 < abs(difference) <= 1:
        raise ValueError(f"the difference is {difference:g}; wanted more than 0 and at most 1 (100 points).")

    def found(n: float) -> bool:
        return float(power(difference, math.ceil(n), variance, reach=reach)) >= wanted

    return math.ceil(_first(found, 2.0, _MANY, 0.5))


def _first(holds: Callable[[float], bool], low: float, high: float, step: float) -> float:
    """Returns where a condition begins to hold, from above and within a step; `high` if it does not."""
    while high - low > step:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def sentence(n: int, smallest: float) -> str:
    """Says what `detectable` found: "With n = 200 questions you can see 6 points."."""
    if smallest >= 1:
        return f"With n = {n:,} question{'s' * (n != 1)} you can see no difference."
    points = f"{100 * smallest:.1f}" if smallest < 0.02 else f"{100 * smallest:.0f}"
    return f"With n = {n:,} questions you can see {points} points."
