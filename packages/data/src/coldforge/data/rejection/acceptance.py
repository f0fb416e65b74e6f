"""How much was kept, by source and by how hard the questions are.

A question's difficulty is the share of its samples that are right, whatever their form. `Acceptance` counts questions
by it; the audit beside it says why samples were not kept.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

BUCKETS = ("none", "to 25 %", "to 50 %", "to 75 %", "below all", "all")
"""Shares of right samples that are counted together: none, above that up to a quarter, …, all but some, all."""


def bucket(right: int, samples: int) -> str:
    """The bucket of a question.

    >>> [bucket(right, 8) for right in (0, 1, 2, 3, 6, 7, 8)]
    ['none', 'to 25 %', 'to 25 %', 'to 50 %', 'to 75 %', 'below all', 'all']
    """
    if right == samples:
        return BUCKETS[-1]
    return BUCKETS[0] if right == 0 else BUCKETS[-(-4 * right // samples)]


@dataclass(slots=True)
class Tally:
    """What was counted of some questions: `kept <= clean <= right <= samples`.

    Attributes:
        questions, samples: How many.
        right: Samples with a right answer.
        clean: Those of them that passed all that can be said of a sample alone.
        kept: Those that were chosen.
        gave: Questions of which something was kept.
    """

    questions: int = 0
    samples: int = 0
    right: int = 0
    clean: int = 0
    kept: int = 0
    gave: int = 0

    def add(self, other: "Tally") -> None:
        """Adds what another has counted."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass
class Acceptance:
    """The account of all questions.

    Attributes:
        sources: Source → bucket → what was counted, buckets in the order of `BUCKETS`.
    """

    sources: dict[str, dict[str, Tally]] = field(default_factory=dict)

    def add(self, source: str, *, samples: int, right: int, clean: int, kept: int) -> None:
        """Counts a question."""
        buckets = self.sources.setdefault(source, {name: Tally() for name in BUCKETS})
        buckets[bucket(right, samples)].add(Tally(1, samples, right, clean, kept, int(kept > 0)))

    def by_source(self) -> dict[str, Tally]:
        """Source → all of it."""
        return {name: _sum(buckets.values()) for name, buckets in self.sources.items()}

    def by_difficulty(self) -> dict[str, Tally]:
        """Bucket → all sources."""
        return {name: _sum(buckets[name] for buckets in self.sources.values()) for name in BUCKETS}

    @property
    def total(self) -> Tally:
        """All of it."""
        return _sum(self.by_source().values())

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            name: {bucket: asdict(tally) for bucket, tally in buckets.items()} for name, buckets in self.sources.items()
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """What `to_dict` gave, again."""
        return cls(
            {name: {bucket: Tally(**tally) for bucket, tally in buckets.items()} for name, buckets in data.items()}
        )


def _sum(tallies: Any) -> Tally:
    total = Tally()
    for tally in tallies:
        total.add(tally)
    return total
