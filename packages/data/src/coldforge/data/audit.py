"""What became of the rows of each source: an account that people read and that adds up.

`Audit` counts as rows are judged: `keep` or `drop` for each. It holds counts and a few samples, never the rows, so its
memory does not grow with them; parts made by several processes are put together by `merge`, and `to_dict` and
`from_dict` carry it through JSON. The samples are those rows whose hash with the seed is lowest: each row is as likely
as any other, and the same are drawn however the rows are cut into parts. `audit_page` shows it. Left out: a table for
the terminal, which is an app's.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from coldforge.data.records import AnswerKind, Refusal, Row

LENGTH_LIMITS = (1024, 2048, 4096, 8192, 16384, 32768)
SAMPLES = 3
_SAMPLE_CHARACTERS, _SAMPLE_TEXT, _SAMPLE_ITEMS = 2400, 400, 4  # of a row, of one of its texts; messages


@dataclass(frozen=True, slots=True)
class Sample:
    """A row that was dropped: its position, what was wrong, and its texts in short."""

    index: int
    detail: str
    text: str


@dataclass(slots=True)
class SourceAudit:
    """One source's account. `rows == kept + dropped.total()`.

    Attributes:
        kept: How many rows are used.
        dropped: Reason → how many rows.
        kinds: Answer kind → how many of the kept rows.
        lengths: Tokens → how many rows: of all that were tokenized, also those that were then dropped as too long.
        samples: Reason → up to `SAMPLES` rows, each as likely as any other.
    """

    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    samples: dict[str, list[Sample]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many rows there were."""
        return self.kept + self.dropped.total()

    def percentile(self, percent: float) -> int | None:
        """Returns the least length that this share of the tokenized rows does not exceed; None if there are none.

        >>> SourceAudit(lengths=Counter({10: 1, 20: 2, 90: 1})).percentile(50)
        20

        Raises:
            ValueError: `percent` is not above 0 and at most 100.
        """
        if not 0 < percent <= 100:
            raise ValueError(f"percent is {percent}; wanted above 0 and at most 100.")
        seen, wanted = 0, percent / 100 * self.lengths.total()
        for length in sorted(self.lengths):
            seen += self.lengths[length]
            if seen >= wanted:
                return length
        return None

    def share_up_to(self, tokens: int) -> float | None:
        """Returns the share of the tokenized rows that have at most so many tokens; None if there are none."""
        total = self.lengths.total()
        return sum(count for length, count in self.lengths.items() if length <= tokens) / total if total else None


class Labelled(Protocol):
    """What of an example is counted; an `Example` and a `dataset.Record` have it."""

    @property
    def source(self) -> str: ...
    @property
    def kind(self) -> AnswerKind: ...


class Audit:
    """The account of several sources, in the order in which they came.

    Attributes:
        sources: Source → its account.
    """

    def __init__(self, *, seed: int = 0) -> None:
        """Begins with nothing counted. `seed` decides which rows become samples."""
        self.sources: dict[str, SourceAudit] = {}
        self.seed = seed

    def keep(self, example: Labelled, tokens: int | None = None) -> None:
        """Counts a row that is used, with its length in tokens if it is known."""
        account = self.sources.setdefault(example.source, SourceAudit())
        account.kept += 1
        account.kinds[example.kind] += 1
        if tokens is not None:
            account.lengths[tokens] += 1

    def drop(self, row: Row, refusal: Refusal, tokens: int | None = None) -> None:
        """Counts a row that is not used, and why; with its length if it was tokenized."""
        account = self.sources.setdefault(row.source, SourceAudit())
        account.dropped[refusal.reason] += 1
        if tokens is not None:
            account.lengths[tokens] += 1
        samples = account.samples.setdefault(refusal.reason, [])
        if len(samples) < SAMPLES or self._rank(row.source, row.index) < self._rank(row.source, samples[-1].index):
            sample = Sample(row.index, refusal.detail, _excerpt(row))
            account.samples[refusal.reason] = self._lowest(row.source, [*samples, sample])

    def merge(self, other: "Audit") -> None:
        """Adds what another audit counted.

        Raises:
            ValueError: Its seed is another, so that its samples were drawn otherwise.
        """
        if other.seed != self.seed:
            raise ValueError(f"the audits have the seeds {self.seed} and {other.seed}; wanted the same.")
        for name, theirs in other.sources.items():
            ours = self.sources.setdefault(name, SourceAudit())
            for reason, samples in theirs.samples.items():
                ours.samples[reason] = self._lowest(name, [*ours.samples.get(reason, []), *samples])
            ours.kept += theirs.kept
            ours.dropped.update(theirs.dropped)
            ours.kinds.update(theirs.kinds)
            ours.lengths.update(theirs.lengths)

    def _lowest(self, source: str, samples: Iterable[Sample]) -> list[Sample]:
        return sorted(samples, key=lambda sample: self._rank(source, sample.index))[:SAMPLES]

    def _rank(self, source: str, index: int) -> bytes:
        return hashlib.blake2b(f"{self.seed} {index} {source}".encode(), digest_size=8).digest()

    def to_dict(self) -> dict[str, Any]:
        """Returns the account as what JSON can hold."""
        return {
            name: {
                "kept": account.kept,
                "dropped": dict(account.dropped),
                "kinds": dict(account.kinds),
                "lengths": {str(length): count for length, count in sorted(account.lengths.items())},
                "samples": {
                    reason: [{"index": one.index, "detail": one.detail, "text": one.text} for one in samples]
                    for reason, samples in account.samples.items()
                },
            }
            for name, account in self.sources.items()
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, seed: int = 0) -> Self:
        """Makes an audit again of what `to_dict` gave.

        Raises:
            KeyError: A part is missing.
        """
        audit = cls(seed=seed)
        for name, account in data.items():
            audit.sources[name] = SourceAudit(
                kept=account["kept"],
                dropped=Counter(account["dropped"]),
                kinds=Counter(account["kinds"]),
                lengths=Counter({int(length): count for length, count in account["lengths"].items()}),
                samples={reason: [Sample(**one) for one in samples] for reason, samples in account["samples"].items()},
            )
        return audit


def _excerpt(row: Row) -> str:
    """Returns the row's texts, each with its beginning and end, or "" for a row that could not be read."""
    if isinstance(row.data, Refusal):
        return ""
    return "\n".join(f"{name}: {_shown(value)}" for name, value in row.data.items())[:_SAMPLE_CHARACTERS]


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_shown(inner)}" for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        return "".join(f"\n- {_shown(inner)}" for inner in value[:_SAMPLE_ITEMS]) or "none"
    text = value if isinstance(value, str) else repr(value)
    if len(text) <= _SAMPLE_TEXT:
        return text
    cut = len(text) - _SAMPLE_TEXT
    return f"{text[: _SAMPLE_TEXT // 2]} […{cut:,} characters…] {text[-_SAMPLE_TEXT // 2 :]}"
