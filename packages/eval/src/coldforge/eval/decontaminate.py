"""Has a model seen the questions? Which of them share 10 words in a row with training data, and which words.

    found = overlap(items_of(task.questions), read_rows("train.jsonl"), name="math500 in train.jsonl")
    print(found.text)               # how many, how much of each, which passage, and in which row
    found.questions                 # the ids, to look at the accuracy without them

DeepSeek-R1 drops training rows that match an evaluation question or solution by 10-grams (2501.12948v2, D.1);
`coldforge.data`'s `Decontamination` does that while data is prepared. This is the other way round: the data is there,
and it is asked what of an evaluation set it holds. Words, runs and what does not count are the same there and here.

Training rows are read once, one at a time, and all texts in them are looked at, whatever the column. Memory is that of
the evaluation set's words. Left out: paraphrases and translations, which runs of words do not find; data sets that are
already tokens (give the rows that they were made of).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from coldforge.data.ngrams import ngram_hashes, words
from coldforge.data.records import Question, Refusal, Row

N = 10
WHOLE = 0.8  # of a text's words: it was copied, not just quoted
_SHOWN = 20  # lines of the text
_SHOWN_WORDS = 24  # of a passage there

Part = Literal["question", "solution"]


class Item(NamedTuple):
    """What training data must not hold.

    Attributes:
        id: The question's.
        question: Its text.
        solution: A worked solution, or "". One of fewer than ten words, as a bare answer is, tells nothing.
    """

    id: str
    question: str
    solution: str = ""


def items_of(questions: Iterable[Question]) -> list[Item]:
    """Takes a task's questions, with the solutions that they carry in `meta["solution"]`."""
    return [Item(question.id, question.text, str(question.meta.get("solution") or "")) for question in questions]


@dataclass(frozen=True, slots=True)
class Match:
    """A question or solution of which training data holds something.

    Attributes:
        id: The question's.
        part: Which of its texts.
        share: The part of the text's words that stand in matched runs.
        passage: The longest stretch of matched words, in lower case and without punctuation.
        rows: How many training rows hold a run of it.
        first: The first of the rows, as "train.jsonl, row 17": where the passage begins.
    """

    id: str
    part: Part
    share: float
    passage: str
    rows: int
    first: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlap:
    """What training data holds of an evaluation set.

    Attributes:
        name: What was compared with what.
        n: How many words make a run.
        items: How many questions there are.
        matches: The texts that were found, the most complete first.
        rows: How many training rows were read.
        unreadable: How many of them could not be read, and so were not compared.
        common: How many runs did not count, as many texts of the evaluation set share them.
    """

    name: str
    n: int
    items: int
    matches: tuple[Match, ...]
    rows: int
    unreadable: int
    common: int

    @property
    def questions(self) -> tuple[str, ...]:
        """The ids of questions of which something was found, in the order of `matches`."""
        return tuple(dict.fromkeys(match.id for match in self.matches))

    @property
    def whole(self) -> tuple[str, ...]:
        """The ids of those whose question or solution was found nearly whole: 80 % of its words."""
        return tuple(dict.fromkeys(match.id for match in self.matches if match.share >= WHOLE))

    @property
    def text(self) -> str:
        """For people: the counts, and a table of the first twenty."""
        found, share = len(self.questions), 100 * len(self.questions) / self.items
        lines = [
            f"{self.name}: {found:,} of {self.items:,} questions ({share:.1f} %) share {self.n} words in a row with "
            f"{self.rows:,} training rows; {len(self.whole):,} of them nearly whole."
        ]
        if self.unreadable:
            lines.append(f"{self.unreadable:,} rows could not be read and were not compared.")
        if self.common:
            lines.append(f"{self.common:,} runs that many of its texts share did not count.")
        if self.matches:
            lines += ["", *_table(self.matches[:_SHOWN])]
        if len(self.matches) > _SHOWN:
            lines.append(f"… and {len(self.matches) - _SHOWN:,} more")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        counts = {"questions": len(self.questions), "whole": len(self.whole)}
        return asdict(self) | counts | {"matches": [asdict(match) for match in self.matches]}


def overlap(
    items: Iterable[Item],
    training: Iterable[Row | Mapping[str, Any] | str],
    *,
    name: str = "the evaluation set in the training data",
    n: int = N,
    common: float = 0.1,
) -> Overlap:
    """Looks for the texts of an evaluation set in training rows.

    A text of fewer than n words has no run: a question counts where a text of a row has exactly its words.

    Args:
        items: The evaluation set.
        training: Rows of any kind, read once: a `Row`, columns by name, or a text. All strings in it are looked at.
        name: What is compared with what, for the report.
        n: How many words make a run.
        common: Runs in more than this share of the evaluation set's texts, and in more than ten of them, do not count:
            they are instructions that questions share.

    Raises:
        ValueError: There are no questions, two have the same id, none has a word, or there are no training rows.
    """
    index = _Index(items, n, common)
    rows = unreadable = 0
    for number, row in enumerate(training):
        rows += 1
        if isinstance(row, Row) and isinstance(row.data, Refusal):
            unreadable += 1
            continue
        index.look(_texts(row.data if isinstance(row, Row) else row), _where(row, number))
    if not rows:
        raise ValueError("there are no training rows; wanted the data that the model was trained on.")
    matches = sorted(index.matches(), key=lambda match: -match.share)
    return Overlap(
        name=name, n=n, items=index.items, matches=tuple(matches), rows=rows, unreadable=unreadable, common=index.common
    )


class _Index:
    """The runs of an evaluation set, and what was found of them so far. A "text" is a question or a solution."""

    def __init__(self, items: Iterable[Item], n: int, common: float) -> None:
        self._n = n
        self._names: list[tuple[str, Part]] = []
        self._words: list[list[str]] = []
        ids = set[str]()
        for item in items:
            if item.id in ids:
                raise ValueError(f"the question {item.id!r} occurs twice; wanted one id for each.")
            ids.add(item.id)
            parts: tuple[tuple[Part, str], ...] = (("question", item.question), ("solution", item.solution))
            for part, text in parts:
                if text_words := words(text):
                    self._names.append((item.id, part))
                    self._words.append(text_words)
        self.items = len(ids)
        if not self._words:
            raise ValueError(f"{self.items} questions have no words; wanted the texts that training must not hold.")
        self._runs, self._of_text = self._collect()
        self._starts, self._owners, counts = self._ownership()
        many = counts > max(10.0, common * len(self._words))
        self.common = int(many.sum())
        # −2: does not count; −1: not found; else a number of `self._rows`, the first row that has it.
        self._first = np.where(many, -2, -1).astype(np.int64)
        self._rows: list[str] = []
        self._counts = np.zeros(len(self._words), np.int64)
        self._short: dict[tuple[str, ...], list[int]] = {}
        self._short_first: dict[int, str] = {}
        for place, (text_words, (_, part)) in enumerate(zip(self._words, self._names, strict=True)):
            if len(text_words) < n and part == "question":
                self._short.setdefault(tuple(text_words), []).append(place)

    def _collect(self) -> tuple[npt.NDArray[np.uint64], list[npt.NDArray[np.int64]]]:
        """Returns all runs, sorted, and for each text the places of its own among them, in order."""
        hashes = [ngram_hashes(text_words, self._n) for text_words in self._words]
        runs, places = np.unique(np.concatenate(hashes), return_inverse=True)
        return runs, np.split(places.astype(np.int64), np.cumsum([len(some) for some in hashes])[:-1])

    def _ownership(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Returns which texts have run i: owners[starts[i] : starts[i + 1]], and how many they are."""
        own = [np.unique(places) for places in self._of_text]
        texts = np.repeat(np.arange(len(own)), [len(places) for places in own])
        places = np.concatenate(own)
        counts = np.bincount(places, minlength=len(self._runs))
        return np.concatenate(([0], np.cumsum(counts))), texts[np.argsort(places, kind="stable")], counts

    def look(self, texts: Iterable[str], where: str) -> None:
        """Counts what a training row holds."""
        found, runs = set[int](), list[npt.NDArray[np.int64]]()
        for text in texts:
            text_words = words(text)
            if len(text_words) < self._n:
                for place in self._short.get(tuple(text_words), ()):
                    found.add(place)
                    self._short_first.setdefault(place, where)
            elif self._runs.size:
                hashes = ngram_hashes(text_words, self._n)
                places = np.minimum(np.searchsorted(self._runs, hashes), self._runs.size - 1)
                runs.append(places[(self._runs[places] == hashes) & (self._first[places] != -2)])
        if any(some.size for some in runs):
            unique = np.unique(np.concatenate(runs))
            new = unique[self._first[unique] == -1]
            if new.size:
                self._first[new] = len(self._rows)
                self._rows.append(where)
            for run in unique:
                found.update(self._owners[self._starts[run] : self._starts[run + 1]].tolist())
        if found:
            self._counts[list(found)] += 1

    def matches(self) -> Iterator[Match]:
        """Returns what was found, in the order of the questions."""
        for text in np.flatnonzero(self._counts).tolist():
            identity, part = self._names[text]
            text_words, rows = self._words[text], int(self._counts[text])
            if text in self._short_first:
                yield Match(identity, part, 1.0, " ".join(text_words), rows, self._short_first[text])
                continue
            first = self._first[self._of_text[text]]
            covered = np.convolve(first >= 0, np.ones(self._n, np.int64)) > 0
            edges = np.flatnonzero(np.diff(np.concatenate(([False], covered, [False])).astype(np.int8)))
            starts, ends = edges[::2], edges[1::2]
            longest = int(np.argmax(ends - starts))
            start, end = int(starts[longest]), int(ends[longest])
            passage = " ".join(text_words[start:end])
            yield Match(identity, part, float(covered.mean()), passage, rows, self._rows[int(first[start])])


def _texts(value: Any) -> Iterator[str]:
    """Yields all strings in a row, messages and other nested values too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner)


def _where(row: Row | Mapping[str, Any] | str, number: int) -> str:
    return f"{row.source}, row {row.index}" if isinstance(row, Row) else f"row {number}"


def _table(matches: Sequence[Match]) -> list[str]:
    lines = [("question", "part", "share", "rows", "first", "longest passage")]
    for match in matches:
        passage = match.passage.split()
        shown = " ".join(passage[:_SHOWN_WORDS]) + (" …" if len(passage) > _SHOWN_WORDS else "")
        lines.append((match.id, match.part, f"{100 * match.share:.0f} %", f"{match.rows:,}", match.first, shown))
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[5]]) for line in lines
    ]
