"""Filters that remember: exact and near duplicates among the examples seen so far, in memory that does not grow.

`ExactDuplicates` compares whole texts, `NearDuplicates` estimates how much of their five-word runs two texts share
(Jaccard index) by MinHash, looks for candidates by locality-sensitive hashing, and compares the candidates' signatures.
Each has two steps: key or signature, which look at one example alone and can be made by several processes, and `check`,
which compares with what was seen. That is kept in a private SQLite database, which lives in a cache of 32 MB and beyond
that in a temporary file: with near duplicates the process takes 59 MB after 1,000 examples, 88 MB after 60,000 and
after 100,000, and then 0.9 KB of disk for each example.

MinHash is made here, of the n-grams that other filters need too, rather than by a library: 1.6 ms for 3,000 words, all
told. datasketch 2.0 takes 3.4 ms for shingles and signature alone and brings SciPy; rensa 0.5 takes 0.6 ms and is one
more compiled dependency; both keep their index in memory. An index is not kept on disk: who wants to go on after a
restart keeps keys and signatures, and gives them to `remember` again in the same order. Left out: sharing an index
among processes.
"""

import hashlib
import sqlite3
from collections.abc import Callable
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from coldforge.data.ngrams import ngram_hashes, words
from coldforge.data.records import Example, Refusal

_CACHE_KIB = 32 * 1024
_SHINGLE = 5

# 16 bands of 8: texts that share 80 % of their runs become candidates with probability 0.947, 85 %: 0.994, 90 %:
# 0.9999; 50 %: 0.06, and those are then told apart by their signatures (128 values, standard error 0.035 at 80 %).
_BANDS, _BAND = 16, 8
_GENERATOR = np.random.Generator(np.random.PCG64(20260101))
_FACTORS = _GENERATOR.integers(0, 2**64, (_BANDS * _BAND, 1), dtype=np.uint64) | np.uint64(1)
_TERMS = _GENERATOR.integers(0, 2**64, (_BANDS * _BAND, 1), dtype=np.uint64)
_CANDIDATES = """
SELECT signature, source, position FROM seen WHERE row IN
(SELECT row FROM bands WHERE key IN (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)) ORDER BY row
"""
_CHUNK = 1024  # runs at a time: 1 MB of products, which stays in a core's cache


def whole_text(example: Example) -> str:
    """What duplicates are judged by unless told otherwise: another trace of the same question is no duplicate."""
    return f"{example.question}\n{example.reasoning}\n{example.answer}"


class _Memory:
    """A table in a private database that SQLite deletes by itself, with a close that can be called by `with`."""

    def __init__(self, *tables: str) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        try:
            for setting in (f"cache_size=-{_CACHE_KIB}", "journal_mode=OFF", "synchronous=OFF", "temp_store=FILE"):
                self._database.execute(f"PRAGMA {setting}")
            for table in tables:
                self._database.execute(f"CREATE TABLE {table}")
            self._database.execute("BEGIN")  # one transaction for all: nothing is ever rolled back
        except BaseException:  # no `with` statement has it yet
            self._database.close()
            raise

    def close(self) -> None:
        """Forgets what was seen and frees memory and disk."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ExactDuplicates(_Memory):
    """Refuses an example whose text was seen before, white space aside: "duplicate". A `Filter`; close it."""

    def __init__(self, text: Callable[[Example], str] = whole_text) -> None:
        """Begins with nothing seen. `text` says what of an example counts, e.g. only the question."""
        super().__init__("seen (key BLOB PRIMARY KEY, source TEXT, row INTEGER) WITHOUT ROWID")
        self._text = text

    def __call__(self, example: Example) -> Refusal | None:
        """Judges an example and remembers it."""
        return self.check(exact_key(self._text(example)), example.source, example.index)

    def check(self, key: bytes, source: str, index: int) -> Refusal | None:
        """Judges the text with this key (`exact_key`) and remembers it as that of a row."""
        if self.remember(key, source, index):
            return None
        first, row = self._database.execute("SELECT source, row FROM seen WHERE key = ?", (key,)).fetchone()
        return Refusal("duplicate", f"the same text as row {row} of {first}.")

    def remember(self, key: bytes, source: str, index: int) -> bool:
        """Remembers a key, unless it is known, and says whether it is new."""
        return self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", (key, source, index)).rowcount > 0


class NearDuplicates(_Memory):
    """Refuses an example much like one that it let pass before: "near-duplicate". A `Filter`; close it."""

    def __init__(self, threshold: float = 0.8, text: Callable[[Example], str] = whole_text) -> None:
        """Begins with nothing seen.

        Args:
            threshold: From which share of common five-word runs on (Jaccard index) two texts count as near duplicates.
            text: What of an example counts.

        Raises:
            ValueError: The threshold is not from 0.7 to 1. Below that, candidates would be missed too often.
        """
        if not 0.7 <= threshold <= 1:
            raise ValueError(f"the threshold is {threshold}; wanted 0.7 to 1, as fewer common runs are not looked for.")
        super().__init__(
            "bands (key INTEGER, row INTEGER, PRIMARY KEY (key, row)) WITHOUT ROWID",
            "seen (row INTEGER PRIMARY KEY, signature BLOB, source TEXT, position INTEGER)",
        )
        self._threshold = threshold
        self._text = text

    def __call__(self, example: Example) -> Refusal | None:
        """Judges an example and, if there is nothing like it, remembers it. Texts of fewer than five words pass."""
        signature = text_signature(self._text(example))
        return None if signature is None else self.check(signature, example.source, example.index)

    def check(self, signature: npt.NDArray[np.uint32], source: str, index: int) -> Refusal | None:
        """Judges the text with this signature (`text_signature`); remembers it as that of a row if it lets it pass."""
        keys = _band_keys(signature)
        for other, first, position in self._database.execute(_CANDIDATES, keys):
            share = float(np.mean(np.frombuffer(other, np.uint32) == signature))
            if share >= self._threshold:
                return Refusal("near-duplicate", f"about {share:.0%} of the runs of row {position} of {first}.")
        self._insert(signature, keys, source, index)
        return None

    def remember(self, signature: npt.NDArray[np.uint32], source: str, index: int) -> None:
        """Remembers a signature without looking for others like it."""
        self._insert(signature, _band_keys(signature), source, index)

    def _insert(self, signature: npt.NDArray[np.uint32], keys: list[int], source: str, index: int) -> None:
        row = self._database.execute(
            "INSERT INTO seen (signature, source, position) VALUES (?, ?, ?)", (signature.tobytes(), source, index)
        ).lastrowid
        self._database.executemany("INSERT OR IGNORE INTO bands VALUES (?, ?)", [(key, row) for key in keys])


def _band_keys(signature: npt.NDArray[np.uint32]) -> list[int]:
    return [
        int.from_bytes(hashlib.blake2b(bytes([band]) + row.tobytes(), digest_size=8).digest(), signed=True)
        for band, row in enumerate(signature.reshape(_BANDS, _BAND))
    ]


def exact_key(text: str) -> bytes:
    """Returns 16 bytes that only texts with the same words between white space share."""
    return hashlib.blake2b(" ".join(text.split()).encode(), digest_size=16).digest()


def text_signature(text: str) -> npt.NDArray[np.uint32] | None:
    """Returns the `minhash` of a text's five-word runs; None if it has fewer words."""
    runs = ngram_hashes(words(text), _SHINGLE)
    return minhash(runs) if runs.size else None


def minhash(runs: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint32]:
    """Returns a signature: the share of places where two are equal estimates the runs' Jaccard index (Broder, 1997).

    Args:
        runs: At least one number, shape [n].

    Returns:
        Shape [128]: of 128 ways to shuffle all numbers, the upper half of the first one in each.
    """
    best = np.full(_BANDS * _BAND, 2**64 - 1, np.uint64)
    for start in range(0, len(runs), _CHUNK):
        best = np.minimum(best, (runs[start : start + _CHUNK] * _FACTORS + _TERMS).min(axis=1))
    return (best >> np.uint64(32)).astype(np.uint32)
