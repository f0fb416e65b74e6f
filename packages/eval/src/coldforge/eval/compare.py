"""Is one model better than another? Paired by question: difference, interval, p-value, wins, losses, what n can show.

    result = compare({"q1": [True], "q2": [False]}, {"q1": [True], "q2": [True]}, names=("base", "tuned"))
    print(result.text)         # never two bare numbers
    result.wins                # ("q2",)

Questions differ far more than models do, so the same questions tell more than as many others would (Miller, arXiv
2411.00640). In this order: the questions checked, each one's difference, the interval and p-value of their mean
(`intervals.difference_interval`; with one sample each McNemar's exact test), the power.

A sign-flip permutation test is left out: it asks whether differences are symmetric about 0, not whether their mean is
0. Where b gains 5 points on most questions and loses one question in twenty altogether, so that the models are equal,
it says p < 0.05 in 18 % of cases (30 questions, 64 samples); the test here in less than 1 %.
"""

import dataclasses
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from coldforge.eval.intervals import CONFIDENCE, Estimate, Floats, difference_interval, reach, share
from coldforge.eval.power import POWER, detectable, sentence

type Samples = Mapping[str, Sequence[float]]
"""Question id → what each of its samples is worth, from 0 to 1: right or not."""

_SHOWN_IDS = 5


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Accuracy of model b minus that of model a, on the same questions.

    Attributes:
        names: What a and b are called.
        a, b: Their accuracies on these questions, with an interval each.
        samples: How many samples a question has, on average, for a and for b.
        difference: b − a; nan over no questions.
        low, high: The ends of its 95 % interval.
        p_value: How likely so large a difference is if there is none; two-sided. McNemar's exact test for one sample
            each, else the t test that the interval is the inverse of.
        wins: Questions (ids) that b does better, largest difference first.
        losses: Questions that a does better, largest difference first.
        ties: Questions that both do alike, in order.
        detectable: The smallest difference that so many questions, which vary as these do, show with a power of 80 %.
        left_out: Questions that only one of them was asked.
    """

    names: tuple[str, str]
    a: Estimate
    b: Estimate
    samples: tuple[float, float]
    difference: float
    low: float
    high: float
    p_value: float
    wins: tuple[str, ...]
    losses: tuple[str, ...]
    ties: tuple[str, ...]
    detectable: float
    left_out: int

    @property
    def n(self) -> int:
        """How many questions were compared."""
        return self.a.n

    @property
    def shown(self) -> bool:
        """Whether the difference is more than chance: p < 0.05."""
        return self.p_value < 1 - CONFIDENCE

    @property
    def difference_text(self) -> str:
        """As "+6.0 points (+1.2 to +10.8), p = 0.015"."""
        if not self.n:
            return "nothing to compare"
        numbers = [f"{100 * number:+.1f}" for number in (self.difference, self.low, self.high)]
        return f"{numbers[0]} points ({numbers[1]} to {numbers[2]}), p {_p(self.p_value)}"

    @property
    def text(self) -> str:
        """The whole comparison in three lines: both accuracies, the difference, and what n can show."""
        if not self.n:
            return f"{self.names[0]} and {self.names[1]} have no questions in common."
        first, second = self.names
        verdict = f"{second if self.difference > 0 else first} is better" if self.shown else "no difference is shown"
        lines = [
            f"{first} {self.a.text}, {second} {self.b.text}; n = {self.n:,}",
            f"{second} − {first}: {self.difference_text}: {verdict}",
            f"{len(self.wins):,} won, {len(self.losses):,} lost, {len(self.ties):,} equal. "
            + sentence(self.n, self.detectable),
        ]
        if self.left_out:
            lines.append(f"Left out: {self.left_out:,} questions that only one of them was asked.")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "names": list(self.names),
            "a": self.a.to_dict(),
            "b": self.b.to_dict(),
            "n": self.n,
            "samples": list(self.samples),
            "difference": None if math.isnan(self.difference) else self.difference,
            "low": self.low,
            "high": self.high,
            "confidence": CONFIDENCE,
            "p_value": self.p_value,
            "shown": self.shown,
            "wins": list(self.wins),
            "losses": list(self.losses),
            "ties": len(self.ties),
            "detectable": self.detectable,
            "power": POWER,
            "left_out": self.left_out,
        }


def compare(a: Samples, b: Samples, *, names: tuple[str, str] = ("A", "B"), common: bool = False) -> Comparison:
    """Compares two models by their samples of the same questions.

    A question counts the same however many samples it has; a and b may have different numbers.

    Args:
        a, b: Question id → a number from 0 to 1 for each sample: True and False, credit, or one estimate of pass@k.
        names: What they are called in texts.
        common: Compare the questions that both were asked, and count the others, instead of refusing.

    Raises:
        ValueError: The questions are not the same (without `common`), one has no samples, or a number is not from 0
            to 1.
    """
    ids = [question for question in a if question in b]
    left_out = len(a) + len(b) - 2 * len(ids)
    if left_out and not common:
        raise ValueError(_unlike(a, b, names, left_out))
    (first, a_counts), (second, b_counts) = (_means(some, ids, name) for some, name in zip((a, b), names, strict=True))
    n, a_count, b_count = len(ids), int(a_counts.sum()), int(b_counts.sum())
    changes, apart = second - first, float(reach(first, second, (a_counts, b_counts)))
    low, high, p_value = (float(number) for number in difference_interval(changes, reach=apart))
    if n and a_count == b_count == n and _are_whole(first) and _are_whole(second):
        p_value = _mcnemar(changes)
    order = np.argsort(-np.abs(changes), kind="stable")
    return Comparison(
        names=names,
        a=share(first, samples=a_count),
        b=share(second, samples=b_count),
        samples=(a_count / max(n, 1), b_count / max(n, 1)),
        difference=float(changes.mean()) if n else math.nan,
        low=low,
        high=high,
        p_value=p_value,
        wins=tuple(ids[place] for place in order if changes[place] > 0),
        losses=tuple(ids[place] for place in order if changes[place] < 0),
        ties=tuple(ids[place] for place in order if changes[place] == 0),
        detectable=detectable(n, float(changes.var(ddof=1)) if n > 1 else 0.0, reach=apart),
        left_out=left_out,
    )


def by_category[C: Hashable](
    a: Samples, b: Samples, category: Callable[[str], C], *, names: tuple[str, str] = ("A", "B"), common: bool = False
) -> dict[C, Comparison]:
    """Compares two models in each category of questions, with p-values corrected for there being several (`holm`).

    Args:
        a, b, names, common: As `compare` takes them.
        category: A question's id → its category.

    Raises:
        ValueError: As `compare` raises it.
    """
    parts: dict[C, tuple[dict[str, Sequence[float]], dict[str, Sequence[float]]]] = {}
    for side, some in enumerate((a, b)):
        for question, samples in some.items():
            parts.setdefault(category(question), ({}, {}))[side][question] = samples
    found = {name: compare(*sides, names=names, common=common) for name, sides in parts.items()}
    corrected = holm([result.p_value for result in found.values()])
    return {
        name: dataclasses.replace(result, p_value=p_value)
        for (name, result), p_value in zip(found.items(), corrected, strict=True)
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrects p-values for being several (Holm 1979): if nothing differs, one below 0.05 comes up in 5 % of cases.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def _means(some: Samples, ids: Sequence[str], name: str) -> tuple[Floats, Floats]:
    """Returns the mean of each question's samples, and how many they are."""
    means, counts = np.zeros(len(ids)), np.zeros(len(ids))
    for place, question in enumerate(ids):
        samples = some[question]
        if not len(samples):
            raise ValueError(f"question {question!r} of {name} has no samples; wanted one or more.")
        if not (min(samples) >= 0 and max(samples) <= 1):
            raise ValueError(f"question {question!r} of {name} has the samples {samples!r:.80}; wanted 0 to 1.")
        means[place] = sum(samples) / len(samples)
        counts[place] = len(samples)
    return means, counts


def _are_whole(values: Floats) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def _mcnemar(changes: Floats) -> float:
    """How likely as uneven a split, or more, of the questions that changed sides is: fair coins, both ends."""
    from scipy import stats  # here: importing it takes a second, and who only asks questions has no use for it

    gained, lost = int((changes > 0).sum()), int((changes < 0).sum())
    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def _unlike(a: Samples, b: Samples, names: tuple[str, str], count: int) -> str:
    parts = []
    for name, odd in ((names[0], sorted(a.keys() - b.keys())), (names[1], sorted(b.keys() - a.keys()))):
        if odd:
            parts.append(f"{len(odd)} were asked only of {name}, as {', '.join(map(repr, odd[:_SHOWN_IDS]))}")
    return (
        f"{count} questions have no partner: {'; '.join(parts)}. A paired comparison needs the same questions: "
        "evaluate both on the same task, or compare those in common (common=True)."
    )


def _p(value: float) -> str:
    if value < 0.0001:
        return "< 0.0001"
    return f"= {value:.2g}" if value < 0.1 else f"= {value:.2f}"
