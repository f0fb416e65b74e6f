"""What the samples of a task add up to, without their texts: `Tally`, and the `Metrics` that are made of it.

A tally takes samples one by one while they are graded or read, and holds a few numbers of each, so that 100,000 of them
with long texts fit into memory. `Progress` is what a running evaluation shows of it.
"""

import dataclasses
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from coldforge.eval.intervals import Estimate, share
from coldforge.eval.metrics import accuracy, by_category, lengths, maj_at_k, pass_at_k, rate
from coldforge.eval.records import NOT_JUDGED, Graded
from coldforge.eval.task import Task

UNCHECKED = ("timeout", "error")
_VOTES = 3  # with two samples a vote is their first


class Entry(NamedTuple):
    """What is kept of a sample. `key`: its answer in one spelling; `place`: whatever the caller wants to find it by."""

    number: int
    correct: bool
    tokens: int
    ended: bool
    well_formed: bool | None
    answered: bool
    verdict: str
    key: str | None
    measures: Mapping[str, tuple[float, float]]
    place: Any


class Tally:
    """The samples of one task, by question.

    Attributes:
        task: The task's name.
        rows: Question → its samples, in the order in which they were added.
        categories: Question → its category.
        samples: How many samples there are.
        votes: Whether answers can be counted as votes: not where instructions are followed, or a scorer of the
            question's own takes answers that differ.
    """

    def __init__(self, name: str, task: Task | None = None) -> None:
        """With the task, answers are brought into one spelling for votes; without, they are taken as they are."""
        self.task = name
        self.rows: dict[str, list[Entry]] = {}
        self.categories: dict[str, str] = {}
        self.samples = 0
        self._questions = {each.id: each for each in task.questions} if task else {}
        asked = self._questions.values()
        self.votes = not any(each.kind == "instructions" or "scorer" in each.meta for each in asked)
        self._key = task.key if task else None
        self._keys: dict[tuple[str, str], str] = {}

    def add(self, sample: Graded, place: Any = None) -> None:
        """Counts a sample."""
        key = sample.extracted
        if key is not None and self._key is not None:
            pair = (sample.question, key)  # a question's samples often agree
            if pair not in self._keys:
                self._keys[pair] = self._key(self._questions[sample.question], key)
            key = self._keys[pair]
        self.categories[sample.question] = sample.category
        self.rows.setdefault(sample.question, []).append(
            Entry(
                sample.number, sample.correct, sample.tokens, sample.ended, sample.well_formed,
                sample.extracted is not None, sample.verdict, key, sample.measures, place,
            )
        )  # fmt: skip
        self.samples += 1

    def correct(self) -> dict[str, list[bool]]:
        """Question → whether each of its samples is right, as `compare` takes it."""
        return {question: [entry.correct for entry in row] for question, row in self.rows.items()}

    def accuracy(self) -> Estimate:
        """avg@k of the samples so far."""
        return accuracy([[entry.correct for entry in row] for row in self.rows.values()])

    def entries(self) -> list[Entry]:
        """All samples in a row."""
        return [entry for row in self.rows.values() for entry in row]


class Length(NamedTuple):
    """Lengths in tokens: their mean with its interval, and what share of samples is how long at most."""

    mean: Estimate
    median: float
    p90: float
    longest: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metrics:
    """What a task's samples come to.

    Attributes:
        accuracy: avg@k, the mean over questions of the share of right samples: DeepSeek-R1's pass@1.
        pass_at: k → pass@k, for 2, 4, 8 … up to the number of samples.
        majority: maj@k over all samples; None with fewer than three, and where answers are no votes (`Tally.votes`).
            Equal answers vote together if they have one spelling (`answer_key`), right ones no less than wrong ones.
        ties: The share of votes that were tied; a tie counts what it is worth on average.
        truncated: Samples that were cut off.
        well_formed: Samples in the form that was asked for; None: none was.
        no_answer: Samples in which no answer was found.
        unchecked: Samples whose check took too long or failed. They count as not right.
        measures: Further scores of the task's verifier, by name.
        lengths: "all", "right", "wrong" → lengths; without the last two where there are none.
        verdicts: Verdict → samples, most frequent first.
    """

    accuracy: Estimate
    pass_at: Mapping[int, Estimate]
    majority: Estimate | None
    ties: float
    truncated: Estimate
    well_formed: Estimate | None
    no_answer: Estimate
    unchecked: Estimate
    measures: Mapping[str, Estimate]
    lengths: Mapping[str, Length]
    verdicts: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return _plain(values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Reads what `to_dict` gave."""
        return cls(
            **dict(values)  # what is as JSON holds it
            | {name: Estimate.from_dict(values[name]) for name in ("accuracy", "truncated", "no_answer", "unchecked")}
            | {name: values[name] and Estimate.from_dict(values[name]) for name in ("majority", "well_formed")}
            | {
                "pass_at": {int(k): Estimate.from_dict(each) for k, each in values["pass_at"].items()},
                "measures": {name: Estimate.from_dict(each) for name, each in values["measures"].items()},
                "lengths": {
                    name: Length(**each | {"mean": Estimate.from_dict(each["mean"])})
                    for name, each in values["lengths"].items()
                },
            }
        )


def first_of(row: Sequence[Entry]) -> Entry:
    """Sample 0 of a question, with which its prompt is stored."""
    return min(row, key=lambda entry: entry.number)


def metrics_of(tally: Tally) -> Metrics:
    """Counts.

    Raises:
        ValueError: There are no samples.
    """
    rows = list(tally.rows.values())
    if not rows:
        raise ValueError(f"{tally.task} has no samples.")
    correct = [[entry.correct for entry in row] for row in rows]
    least = min(map(len, rows))
    steps = sorted({2**i for i in range(1, least.bit_length()) if 2**i <= least} | ({least} - {1}))
    answers = [[entry.key for entry in row] for row in rows]
    vote = maj_at_k(answers, correct) if tally.votes and least >= _VOTES else None
    formed = rate([[entry.well_formed for entry in row] for row in rows])
    return Metrics(
        accuracy=accuracy(correct),
        pass_at={k: pass_at_k(correct, k) for k in steps},
        majority=vote.estimate if vote else None,
        ties=vote.ties if vote else 0.0,
        truncated=rate([[not entry.ended for entry in row] for row in rows]),
        well_formed=formed if formed.n else None,
        no_answer=rate([[not entry.answered for entry in row] for row in rows]),
        unchecked=rate([[entry.verdict in UNCHECKED for entry in row] for row in rows]),
        measures=_measures(tally.task, rows),
        lengths=_lengths(rows, correct),
        verdicts=dict(Counter(entry.verdict for row in rows for entry in row).most_common()),
    )


def category_accuracies(tally: Tally) -> dict[str, Estimate]:
    """The accuracy of each category by name; nothing where there is only one."""
    if len(set(tally.categories.values())) < 2:
        return {}
    found = by_category(
        [tally.categories[question] for question in tally.rows],
        [[entry.correct for entry in row] for row in tally.rows.values()],
    )
    return dict(sorted(found.items()))


def cautions(metrics: Metrics) -> list[str]:
    """What a reader should know of how the samples came about, before believing the accuracy."""
    found = []
    if (cut := metrics.truncated.value) >= 0.05:
        found.append(f"{100 * cut:.0f} % of the samples were cut off: allow more new tokens, or see what is repeated.")
    if (none := metrics.no_answer.value) >= 0.05:
        found.append(f"In {100 * none:.0f} % of the samples no answer was found: look at some, before the score.")
    if (count := sum(metrics.verdicts.get(verdict, 0) for verdict in UNCHECKED)) > 0:
        found.append(f"{count:,} checks took too long or failed; they count as not right.")
    if count := metrics.verdicts.get(NOT_JUDGED, 0):
        found.append(f"{count:,} samples have nothing to be compared with; they count as not right.")
    return found


def _measures(task: str, rows: list[list[Entry]]) -> dict[str, Estimate]:
    """Σ hits ÷ Σ of over all samples of each measure: a question with three instructions counts three times."""
    found = {}
    for name in dict.fromkeys(name for row in rows for entry in row for name in entry.measures):
        pairs = [[entry.measures[name] for entry in row if name in entry.measures] for row in rows]
        hits, of = np.asarray([np.sum(row, axis=0) for row in pairs if row], np.float64).T
        if (bad := (hits < 0) | (hits > of) | (of <= 0)).any():
            raise ValueError(f"{task}: the measure {name!r} has {hits[bad][0]:g} hits of {of[bad][0]:g} in a question.")
        found[name] = share(hits / of, weights=of, samples=sum(map(len, pairs)))
    return found


def _lengths(rows: list[list[Entry]], correct: list[list[bool]]) -> dict[str, Length]:
    means = lengths([[entry.tokens for entry in row] for row in rows], correct)
    tokens = np.asarray([entry.tokens for row in rows for entry in row], np.float64)
    right = np.asarray([hit for row in correct for hit in row], np.bool_)
    found = {}
    for name, mean, some in (
        ("all", means.all, tokens),
        ("right", means.right, tokens[right]),
        ("wrong", means.wrong, tokens[~right]),
    ):
        if some.size:
            median, p90, longest = np.quantile(some, (0.5, 0.9, 1.0)).tolist()
            found[name] = Length(mean, median, p90, longest)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Estimate):
        return value.to_dict()
    if isinstance(value, Length):
        return _plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value


class Progress:
    """How far a running evaluation is.

    Attributes:
        tallies: Task → its samples so far. `tallies[name].accuracy().text` is the running accuracy.
        total: How many samples are wanted.
        resumed: How many of them were there when it began.
        seconds: Since it began.
    """

    def __init__(self, tallies: Mapping[str, Tally], *, total: int, resumed: int) -> None:
        self.tallies, self.total, self.resumed = tallies, total, resumed
        self._began = time.monotonic()

    @property
    def done(self) -> int:
        """How many samples are graded."""
        return sum(tally.samples for tally in self.tallies.values())

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    @property
    def seconds_left(self) -> float:
        """At the pace so far; nan where nothing was done yet."""
        done = self.done - self.resumed
        return self.seconds / done * (self.total - self.done) if done else math.nan
