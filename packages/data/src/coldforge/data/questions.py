"""Questions for reinforcement learning, from one text each: a reasoning-gym task, a file, a data set on the hub.

    found = open_questions(["chain_sum:2000?max_terms=3", "gsm8k.jsonl", "openai/gsm8k:main"])
    train, heldout = split_questions(found, 200)
    question = train[order(len(train), seed=0, position=17)]

`Questions` is read by index. `question_gym` makes items when they are asked for; `question_rows` reads rows at once and
keeps what is needed; `question_order` is the order. Prompts are not made here: that is `ReasoningFormat.ask` and
`render_chat`. Left out: weights of sources (ask for more of one), shuffled files.
"""

import bisect
import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
import numpy.typing as npt

from coldforge.data.duplicates import exact_key
from coldforge.data.question_gym import SPEC, GymQuestions
from coldforge.data.question_order import Place, order, place
from coldforge.data.question_rows import OnBad, TableQuestions, question_of
from coldforge.data.records import Question
from coldforge.data.sources import is_hub_name, is_row_file, list_files, read_file, read_hub

__all__ = [
    "OnBad",
    "Place",
    "Question",
    "Questions",
    "Source",
    "open_questions",
    "order",
    "place",
    "question_of",
    "split_questions",
]

WANTED = "NAME:COUNT or NAME:COUNT?key=value&… of reasoning-gym, a path, or owner/name[:config][@revision] on the hub"
_HUB = re.compile(r"([^:@]+)(?::([^:@]+))?(?:@([^:@]+))?")

Indices = npt.NDArray[np.int64]


class Source(Protocol):
    """Questions of one place, by index."""

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides which questions these are, as JSON holds it."""

    @property
    def dropped(self) -> Mapping[str, int]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Question: ...


class Questions(Sequence[Question]):
    """Questions of several sources, one after the other, or some of them. Made by `open_questions`.

    Attributes:
        content_hash: SHA-256 (hex) of what decides which questions these are, and in which order: for rows all that is
            kept of them; for a task its name, options, seed, count and version. For parts of a split, every text too.
        dropped: Reason → how many rows were left out, of the whole that this is a part of.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        """Puts sources together."""
        self._sources = tuple(sources)
        self._starts = [0, *itertools.accumulate(map(len, self._sources))]
        self._indices: Indices | None = None
        self.dropped: Mapping[str, int] = sum((Counter(source.dropped) for source in sources), Counter())
        identities = [[source.name, len(source), source.identity] for source in self._sources]
        self.content_hash = hashlib.sha256(json.dumps(identities, sort_keys=True).encode()).hexdigest()

    def __len__(self) -> int:
        return self._starts[-1] if self._indices is None else len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Question: ...

    @overload
    def __getitem__(self, index: slice) -> "Questions": ...

    def __getitem__(self, index: int | slice) -> "Question | Questions":
        """Reads one question, or chooses some without reading them."""
        places = range(len(self))
        if isinstance(index, slice):
            return self.select(list(places[index]))
        number = places[index]
        number = number if self._indices is None else int(self._indices[number])
        source = bisect.bisect_right(self._starts, number) - 1
        return self._sources[source][number - self._starts[source]]

    def __iter__(self) -> Iterator[Question]:
        return (self[index] for index in range(len(self)))

    def select(self, indices: Sequence[int] | Indices) -> "Questions":
        """Returns the questions at these places, in this order, without reading them.

        Raises:
            IndexError: There is no such place.
        """
        chosen = np.asarray(indices, np.int64).reshape(-1)
        if chosen.size and not 0 <= chosen.min() <= chosen.max() < len(self):
            raise IndexError(f"the indices are {chosen.min()} to {chosen.max()}; wanted 0 to {len(self) - 1}.")
        return self._part(chosen, b"", self.dropped)

    def _part(self, chosen: Indices, seen: bytes, dropped: Mapping[str, int]) -> "Questions":
        part = object.__new__(Questions)
        part._sources, part._starts, part.dropped = self._sources, self._starts, dropped
        part._indices = chosen if self._indices is None else self._indices[chosen]
        part.content_hash = hashlib.sha256(
            self.content_hash.encode() + chosen.astype("<i8").tobytes() + seen
        ).hexdigest()
        return part

    def describe(self) -> dict[str, Any]:
        """Returns what a run's record says, as JSON holds it: count, sources (name → count), dropped, content_hash."""
        numbers = np.arange(len(self)) if self._indices is None else self._indices
        counts = np.bincount(np.searchsorted(self._starts, numbers, "right") - 1, minlength=len(self._sources))
        sources = Counter[str]()
        for source, count in zip(self._sources, counts.tolist(), strict=True):
            sources[source.name] += count
        return {"count": len(self), "sources": dict(sources), "dropped": dict(self.dropped)} | {
            "content_hash": self.content_hash
        }


def open_questions(specs: Sequence[str], *, split: str = "train", seed: int = 0, on_bad: OnBad = "refuse") -> Questions:
    """Finds questions and opens them. Rows are read once, all of them, into memory; see `question_rows`.

    Args:
        specs: Each a path (as `read_files` takes it), or else "NAME:COUNT" or "NAME:COUNT?key=value&…" of
            reasoning-gym, or else "owner/name", "owner/name:config" or with "@revision" on the hub.
        split: The split of a hub's data set. Files have none.
        seed: Of reasoning-gym's tasks; 0 or more.
        on_bad: "refuse": a row that is no question is an error. "drop": it is left out, and counted in `dropped`.

    Raises:
        FileNotFoundError: There is no such thing.
        ValueError: No spec, or one twice; a row is no question (file, row and what was wanted are named); a source has
            none; a task or its options are unknown.
        ModuleNotFoundError: An extra is missing; it is named.
        Others: As `read_files` and `read_hub`.
    """
    if isinstance(specs, str):
        raise ValueError(f"the specs are one text, {specs!r}; wanted a list of them.")
    if on_bad not in ("refuse", "drop"):
        raise ValueError(f"on_bad is {on_bad!r}; wanted refuse or drop.")
    if not specs or not all(spec.strip() for spec in specs):
        raise ValueError(f"no questions are named in {list(specs)}; wanted {WANTED}.")
    if twice := [spec for spec, count in Counter(specs).items() if count > 1]:
        raise ValueError(f"{twice[0]} is named more than once; its questions would count double.")
    return Questions([source for spec in specs for source in _open(spec, split, seed, on_bad)])


def _open(spec: str, split: str, seed: int, on_bad: OnBad) -> list[Source]:
    if (path := Path(spec)).exists():
        return [TableQuestions(file.name, read_file(file), str(file), on_bad) for file in list_files(path)]
    if SPEC.fullmatch(spec):
        return [GymQuestions(spec, seed)]
    if is_row_file(path):  # data/a.jsonl has the form of a hub name too
        raise FileNotFoundError(f"there is no file {spec}; wanted {WANTED}.")
    if (match := _HUB.fullmatch(spec)) and is_hub_name(match[1]):
        rows = read_hub(match[1], config=match[2], split=split, revision=match[3])
        name = match[1] if match[2] is None else f"{match[1]}:{match[2]}"
        return [TableQuestions(name, rows, f"{spec} ({split})", on_bad)]
    raise FileNotFoundError(f"there are no questions {spec!r}; wanted {WANTED}.")


def split_questions(questions: Questions, heldout: int) -> tuple[Questions, Questions]:
    """Parts questions into those to train on and those held out.

    Held out are those whose texts have the lowest hashes, so that the split follows from the texts alone, whatever
    their order and their sources; texts are equal that have the same words between white space. Of equal texts the
    first stays, the others are counted in `dropped` as "duplicate". All questions are read once: of tasks that are
    slow to make (see `GymQuestions`) that takes as long.

    Args:
        questions: As `open_questions` returns them.
        heldout: How many to hold out; 0: none.

    Returns:
        To train on, in their order; and held out, in the order of the hashes, so that the first few are a fair sample.

    Raises:
        ValueError: `heldout` is negative, or leaves nothing to train on.
    """
    joined = b"".join(exact_key(question.text) for question in questions)
    keys = np.frombuffer(joined, ">u8").astype(np.uint64).reshape(-1, 2)
    ranked = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: of equal texts the first comes first
    new = np.ones(len(ranked), bool)
    new[1:] = (keys[ranked[1:]] != keys[ranked[:-1]]).any(axis=1)
    firsts = ranked[new]
    if not 0 <= heldout < len(firsts):
        raise ValueError(
            f"heldout is {heldout} of {len(questions)} questions with {len(firsts)} different texts; wanted 0 or more, "
            "and at least one question to train on."
        )
    repeated = len(questions) - len(firsts)
    dropped = Counter(questions.dropped) + Counter({"duplicate": repeated})
    parts = (np.sort(firsts[heldout:]), firsts[:heldout])
    train, held = (questions._part(part, keys[part].astype(">u8").tobytes(), dropped) for part in parts)
    return train, held
