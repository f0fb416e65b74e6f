"""What an evaluation's samples come to: avg@k, pass@k, maj@k, rates and lengths, each with a 95 % interval.

    right = [[True, False], [True, True], [False, False]]     # per question, one per sample
    accuracy(right).text                                       # "50.0 % (3.9–96.1)"
    pass_at_k(right, 2).value                                  # 0.667

Each question counts the same, however many samples it has: a figure is a mean over questions of one value each, and
`intervals` says what it may be. Lengths alone are means over samples. All takes lists per question; 100,000 samples
take well under a second each time. `signal` says what a figure cannot show.

Left out: grading, which is the verifier's; and comparing two models, which is `compare`.
"""

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from coldforge.eval.intervals import Estimate, ratio, share

type PerQuestion[T] = Sequence[Sequence[T]]
"""A list per question, with an item per sample."""

type Same = Callable[[str, str], bool]
"""Whether two answers are the same."""

WIDE = 0.1  # of half an interval: what is wider than ± 10 points is pointed out


def accuracy(correct: PerQuestion[bool]) -> Estimate:
    """avg@k: the mean over questions of the share of a question's samples that are right.

    What DeepSeek-R1 calls pass@1 (2501.12948v2, D.1).

    Raises:
        ValueError: A question has no samples.
    """
    rights, counts = _counted(correct)
    return share(rights / counts, samples=int(counts.sum()))


def rate(hits: PerQuestion[bool | None]) -> Estimate:
    """The mean over questions of the share of a question's samples of which something is true, as of cut-off ones.

    Samples with None do not count (nothing can be said of them), nor do questions that have no others: see `n`.
    """
    known = [[bool(hit) for hit in some if hit is not None] for some in hits]
    return accuracy([some for some in known if some])


def pass_at_k(correct: PerQuestion[bool], k: int) -> Estimate:
    """The chance that at least one of k samples of a question is right, without bias (Chen et al. 2021, 2107.03374).

    Of a question with n samples, c of them right, it is 1 − C(n − c, k) / C(n, k): the part of all choices of k samples
    that have a right one. With k = 1 it is `accuracy`.

    Raises:
        ValueError: k is less than 1, or a question has fewer than k samples.
    """
    rights, counts = _counted(correct)
    if k < 1:
        raise ValueError(f"k is {k}; wanted at least 1.")
    if counts.size and (least := int(counts.min())) < k:
        raise ValueError(
            f"question {int(counts.argmin())} has {least} samples; pass@{k} needs at least {k} of each: "
            f"ask for more samples, or for pass@{least}."
        )
    kinds, places = np.unique(np.stack([counts, rights]), axis=1, return_inverse=True)
    of_kind = np.asarray([_pass_at_k(int(n), int(c), k) for n, c in kinds.T])
    return share(of_kind[places.ravel()], samples=int(counts.sum()))


def _pass_at_k(n: int, c: int, k: int) -> float:
    """The product form, which does not overflow."""
    return 1.0 - float(np.prod(1.0 - k / np.arange(n - c + 1, n + 1))) if n - c >= k else 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class Majority:
    """maj@k, and how much of it was decided by lot.

    Attributes:
        estimate: The chance that a question's most frequent answer is right.
        k: How many samples vote; 0: as many as each question has.
        ties: The share of votes in which several answers were the most frequent. There the value is the mean over
            them: what comes out on average if one of them is drawn.
        empty: The share of votes in which no sample had an answer; they count as wrong.
    """

    estimate: Estimate
    k: int
    ties: float
    empty: float

    @property
    def text(self) -> str:
        """As "63.3 % (43.9–80.1), 4 % tied"."""
        return self.estimate.text + (f", {100 * self.ties:.0f} % tied" if self.ties else "")

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return self.estimate.to_dict() | {"k": self.k, "ties": self.ties, "empty": self.empty}


def maj_at_k(
    answers: PerQuestion[str | None], correct: PerQuestion[bool], *, k: int | None = None, same: Same | None = None
) -> Majority:
    """Takes votes: is the most frequent answer to a question right (self-consistency; DeepSeek-R1's cons@64)?

    A sample without an answer does not vote. With k, a question's samples vote in groups of k, in their order, and what
    is left over does not vote: maj@16 of 64 samples is the mean of four votes.

    Args:
        answers: Per question, the answer of each sample; None where there is none.
        correct: Per question, whether each sample is right.
        k: How many samples vote; None: all that a question has.
        same: Whether two different texts are the same answer, as "1/2" and "0.5"; None: texts that differ are
            different answers. It is asked for each new text of a vote and the first of each group so far.

    Raises:
        ValueError: The two lists do not have the same shape, k is less than 1, or a question has fewer samples than k.
    """
    _, counts = _counted(correct)
    if [len(some) for some in answers] != counts.tolist():
        raise ValueError("answers and correct do not have the same numbers of samples; wanted one answer for each.")
    if k is not None and not 1 <= k <= (least := int(counts.min(initial=k))):
        raise ValueError(f"k is {k}, the fewest samples of a question are {least}; wanted k from 1 to {least}.")
    values, votes, ties, empty = np.zeros(len(counts)), 0, 0, 0
    for place, (texts, rights) in enumerate(zip(answers, correct, strict=True)):
        size = k or len(texts)
        results = [
            _vote(texts[start : start + size], rights[start : start + size], same)
            for start in range(0, len(texts) - size + 1, size)
        ]
        values[place] = sum(value for value, _ in results) / len(results)
        votes += len(results)
        ties += sum(winners > 1 for _, winners in results)
        empty += sum(winners == 0 for _, winners in results)
    estimate = share(values, samples=int(counts.sum()))
    return Majority(estimate, k or 0, ties / votes if votes else 0.0, empty / votes if votes else 0.0)


def _vote(texts: Sequence[str | None], rights: Sequence[bool], same: Same | None) -> tuple[float, int]:
    """Returns how right the winner is, and how many winners there are."""
    groups: dict[str, list[bool]] = {}  # the first text of a group → its votes
    names: dict[str, str] = {}  # a text → the first of its group
    for text, right in zip(texts, rights, strict=True):
        if text is None:
            continue
        if text not in names:
            names[text] = next((name for name in groups if same is not None and same(name, text)), text)
        groups.setdefault(names[text], []).append(bool(right))
    if not groups:
        return 0.0, 0
    most = max(map(len, groups.values()))
    # Equal answers may be graded differently where form counts: a group is as right as its votes are on average.
    winners = [sum(votes) / most for votes in groups.values() if len(votes) == most]
    return sum(winners) / len(winners), len(winners)


@dataclasses.dataclass(frozen=True, slots=True)
class Lengths:
    """Mean lengths in tokens, over all samples, and over those with a right and with a wrong answer."""

    all: Estimate
    right: Estimate
    wrong: Estimate

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"all": self.all.to_dict(), "right": self.right.to_dict(), "wrong": self.wrong.to_dict()}


def lengths(tokens: PerQuestion[int], correct: PerQuestion[bool]) -> Lengths:
    """Returns the lengths of samples: each sample counts the same here.

    Raises:
        ValueError: The two lists do not have the same shape.
    """
    counts = np.fromiter(map(len, correct), np.int64, len(correct))
    if [len(some) for some in tokens] != counts.tolist():
        raise ValueError("tokens and correct do not have the same numbers of samples; wanted one length for each.")
    owners = np.repeat(np.arange(len(counts)), counts)
    flat = np.fromiter(chain.from_iterable(tokens), np.float64, len(owners))
    right = np.fromiter(chain.from_iterable(correct), np.bool_, len(owners))

    def mean(chosen: npt.NDArray[np.bool_]) -> Estimate:
        some = owners[chosen]
        totals = np.bincount(some, weights=flat[chosen], minlength=len(counts))
        return ratio(totals, np.bincount(some, minlength=len(counts)), unit="tokens")

    return Lengths(mean(np.ones_like(right)), mean(right), mean(~right))


def by_category[C: Hashable](categories: Sequence[C], correct: PerQuestion[bool]) -> dict[C, Estimate]:
    """Returns the accuracy of each category, in the order in which they first occur.

    Raises:
        ValueError: There is not one category per question.
    """
    if len(categories) != len(correct):
        raise ValueError(f"there are {len(categories)} categories for {len(correct)} questions; wanted one each.")
    places: dict[C, list[int]] = {}
    for place, category in enumerate(categories):
        places.setdefault(category, []).append(place)
    return {category: accuracy([correct[place] for place in some]) for category, some in places.items()}


def signal(found: Estimate, *, chance: float = 0.0) -> list[str]:
    """Says what an accuracy cannot show, one sentence each; nothing if it can be used.

    Args:
        found: The accuracy.
        chance: What guessing gets: 0.25 with four choices.
    """
    if not found.n:
        return ["There are no questions: nothing can be said."]
    warnings = []
    if found.half_width > WIDE:
        warnings.append(
            f"{_questions(found.n)}: the 95 % interval is ± {100 * found.half_width:.0f} points, "
            "and smaller differences to other results are noise."
        )
    at = f"{100 * found.value:.1f} %"
    if chance and found.high < chance:
        warnings.append(
            f"{at} is below what guessing gets ({100 * chance:.0f} %): look at how answers are found, not at the score."
        )
    elif chance and found.low <= chance:
        warnings.append(f"{at} cannot be told from guessing ({100 * chance:.0f} %): no signal.")
    if found.value == 0:
        warnings.append("No answer is right: models that are worse or a little better look the same here.")
    elif found.value == 1:
        warnings.append("Every answer is right: a better model cannot look better here.")
    return warnings


def _questions(n: int) -> str:
    return "1 question" if n == 1 else f"{n:,} questions"


def _counted(correct: PerQuestion[bool]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns how many samples of each question are right, and how many it has."""
    counts = _integers(map(len, correct), len(correct))
    if counts.size and not counts.min():
        raise ValueError(f"question {int(counts.argmin())} has no samples; wanted one or more of each.")
    return _integers(map(sum, correct), len(correct)), counts


def _integers(numbers: Iterable[int], n: int) -> npt.NDArray[np.int64]:
    return np.fromiter(numbers, np.int64, n)
