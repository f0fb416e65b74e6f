"""The nano corpus as token ids: documents encoded once, kept in one file, read by `coldforge.data.Batches`."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coldforge.data import Tokenizer
from coldforge.data.tokens import Part

from nano_corpus import Document

DRILLS = frozenset(("facts", "direct", "products", "counts"))  # lines whose left side is drawn at random


class Example(NamedTuple):
    """A document's ids and their parts: int32 and uint8, `[length]`."""

    ids: np.ndarray
    parts: np.ndarray


class Examples:
    """Examples one after the other in flat arrays."""

    def __init__(self, ids: np.ndarray, parts: np.ndarray, ends: np.ndarray, seed: int) -> None:
        self._ids, self._parts, self._ends = ids, parts, ends
        self.hash = f"{seed} {len(ends)} {len(ids)}"
        self.lengths = np.diff(ends, prepend=0).astype(np.int32)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Example:
        place = slice(self._ends[index] - self.lengths[index], self._ends[index])
        return Example(self._ids[place], self._parts[place])

    @property
    def tokens(self) -> int:
        return len(self._ids)

    @classmethod
    def of(cls, documents: Iterator[Document], tokenizer: Tokenizer, seed: int) -> "Examples":
        ids: list[np.ndarray] = []
        parts: list[np.ndarray] = []
        for document in documents:
            example = encode(document, tokenizer)
            ids.append(example.ids)
            parts.append(example.parts)
        ends = np.cumsum([len(one) for one in ids])
        return cls(np.concatenate(ids), np.concatenate(parts), ends, seed)

    def save(self, path: Path) -> None:
        partial = path.with_name(f".{path.name}.partial.npz")
        np.savez(partial, ids=self._ids.astype(np.int16), parts=self._parts, ends=self._ends)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path, seed: int) -> "Examples":
        with np.load(path) as file:
            return cls(file["ids"].astype(np.int32), file["parts"], file["ends"], seed)


def encode(document: Document, tokenizer: Tokenizer) -> Example:
    """Ids and parts. Not learned are a user's turn and, in drills, the left side of a line: nothing foretells them."""
    if document.reply is not None:
        prompt = tokenizer.encode_chat([{"role": "user", "content": document.text}])
        reply = [*tokenizer.encode(document.reply), tokenizer.end_of_turn_id]
        parts = np.repeat(np.array([Part.PROMPT, Part.ANSWER], np.uint8), [len(prompt), len(reply)])
        return Example(np.array(prompt + reply, np.int32), parts)
    ids = np.array([*tokenizer.encode(document.text, add_bos=True), tokenizer.eos_id], np.int32)
    parts = np.full(len(ids), Part.REASONING, np.uint8)
    if document.kind in DRILLS:
        parts[_left_sides(ids, tokenizer)] = Part.PROMPT
    parts[0] = Part.PROMPT
    return Example(ids, parts)


def _left_sides(ids: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """Which tokens stand between the beginning of a line and its " = ", that included."""
    [newline], [equals] = tokenizer.encode("\n"), tokenizer.encode(" = ")
    left, inside = np.zeros(len(ids), bool), True
    for place, token in enumerate(ids.tolist()):
        left[place] = inside
        if token == equals:
            inside = False
        elif token == newline:
            inside = True
    return left
