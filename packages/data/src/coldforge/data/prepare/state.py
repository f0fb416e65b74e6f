"""What a run has done so far, on disk, so that another can go on when it was killed: one SQLite file in the directory.

It holds the plan, where the run is in its sources, its accounts, the records that are not in a shard yet, and what
duplicates are found by. Everything changes in one transaction, which `commit` ends: killed at any moment, the file is
as the last commit left it. A shard is written, and named, before the commit that takes its records out of here; what is
found of shards beyond the last commit is removed, as the run will write it again. SQLite's lock keeps a second run out.
"""

import errno
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from coldforge.data.dataset import SPLITS, UNFINISHED, lengths_path

_TABLES = (
    "facts (name TEXT PRIMARY KEY, value TEXT)",
    "pending (place INTEGER PRIMARY KEY, split TEXT, question INTEGER, tokens INTEGER, record BLOB)",
    "seen (number INTEGER PRIMARY KEY, key BLOB, signature BLOB, source TEXT, position INTEGER)",
)
_CACHE_KIB = 16 * 1024


class Seen(NamedTuple):
    """What duplicates of a row are found by; `None` for what was not remembered of it."""

    key: bytes | None
    signature: bytes | None
    source: str
    position: int


class State:
    """The file of an unfinished run. Use it in a `with` statement.

    Attributes:
        pending: Split → how many of its records are not in a shard yet.
    """

    def __init__(self, directory: Path) -> None:
        """Opens the file, or makes one.

        Raises:
            OSError: Another run is at it, or it cannot be written.
        """
        self._path = directory / UNFINISHED
        with self._naming():
            self._database = sqlite3.connect(self._path, timeout=0, isolation_level=None)
        try:
            self._begin()
        except BaseException:  # no `with` statement has it yet
            self._database.close()
            raise

    def _begin(self) -> None:
        """Locks the file, and reads what a run has left in it."""
        with self._naming():
            self._database.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
            self._database.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._database.execute("BEGIN EXCLUSIVE")
            for table in _TABLES:
                self._database.execute(f"CREATE TABLE IF NOT EXISTS {table}")
            counts = self._database.execute("SELECT split, COUNT(*) FROM pending GROUP BY split").fetchall()
            [[last]] = self._database.execute("SELECT MAX(place) FROM pending").fetchall()
        self.pending = Counter[str](dict(counts))
        self._place = self.facts().get("place", last or 0)

    def facts(self) -> dict[str, Any]:
        """Returns what the last commit said; {} before the first."""
        with self._naming():
            return {name: json.loads(value) for name, value in self._database.execute("SELECT name, value FROM facts")}

    def commit(self, facts: Mapping[str, Any]) -> None:
        """Makes all that was done the state to go on from, with facts of the caller's.

        Raises:
            OSError: It cannot be written; the state is that of the commit before.
        """
        values = [(name, json.dumps(value)) for name, value in (dict(facts) | {"place": self._place}).items()]
        with self._naming():
            self._database.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", values)
            self._database.execute("COMMIT")
            self._database.execute("BEGIN EXCLUSIVE")

    def add(self, split: str, question: int, tokens: int, record: bytes) -> None:
        """Takes in a record, as the last of its split."""
        self._place += 1
        with self._naming():
            self._database.execute(
                "INSERT INTO pending VALUES (?, ?, ?, ?, ?)", (self._place, split, question, tokens, record)
            )
        self.pending[split] += 1

    def move(self, question: int) -> None:
        """Moves the held out records of a question to the end of the training split."""
        with self._naming():
            found = self._database.execute(
                "SELECT place FROM pending WHERE split = 'heldout' AND question = ? ORDER BY place", (question,)
            ).fetchall()
            for place in found:
                self._place += 1
                self._database.execute(
                    "UPDATE pending SET split = 'train', place = ? WHERE place = ?", (self._place, *place)
                )
        self.pending["heldout"] -= len(found)
        self.pending["train"] += len(found)

    def heldout_questions(self) -> Counter[int]:
        """Returns question → how many held out records are pending."""
        query = "SELECT question, COUNT(*) FROM pending WHERE split = 'heldout' GROUP BY question"
        with self._naming():
            return Counter(dict(self._database.execute(query).fetchall()))

    def lengths(self, split: str, count: int) -> list[int]:
        """Returns the tokens of a split's first records."""
        query = "SELECT tokens FROM pending WHERE split = ? ORDER BY place LIMIT ?"
        with self._naming():
            return [tokens for (tokens,) in self._database.execute(query, (split, count))]

    def records(self, split: str, count: int) -> Iterator[bytes]:
        """Yields a split's first records."""
        query = "SELECT record FROM pending WHERE split = ? ORDER BY place LIMIT ?"
        with self._naming():
            for (record,) in self._database.execute(query, (split, count)):
                yield record

    def remove(self, split: str, count: int) -> None:
        """Forgets a split's first records, as they are in a shard now."""
        query = "DELETE FROM pending WHERE place IN (SELECT place FROM pending WHERE split = ? ORDER BY place LIMIT ?)"
        with self._naming():
            self._database.execute(query, (split, count))
        self.pending[split] -= count

    def see(self, seen: Seen) -> None:
        """Remembers what duplicates of a row are found by."""
        with self._naming():
            self._database.execute("INSERT INTO seen (key, signature, source, position) VALUES (?, ?, ?, ?)", seen)

    def seen(self) -> Iterator[Seen]:
        """Yields all that was remembered, in order."""
        with self._naming():
            for row in self._database.execute("SELECT key, signature, source, position FROM seen ORDER BY number"):
                yield Seen(*row)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Makes SQLite's errors say which file, and what to do."""
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY"):
                raise OSError(
                    errno.EBUSY, "another run is at work here; wait for it, or end it", str(self._path)
                ) from error
            number = errno.ENOSPC if getattr(error, "sqlite_errorname", "") == "SQLITE_FULL" else errno.EIO
            raise OSError(number, f"cannot be read or written: {error}", str(self._path)) from error


def clean(directory: Path, shards: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Removes what a killed run left: temporary files, and shards that the last commit does not know."""
    known = {name for split in SPLITS for shard in shards[split] for name in _files(directory / shard["name"])}
    for pattern in (".*.tmp", *(f"{split}-*.{kind}" for split in SPLITS for kind in ("arrayrecord", "lengths.npy"))):
        for file in directory.glob(pattern):
            if file.name not in known:
                file.unlink()


def _files(shard: Path) -> tuple[str, str]:
    return shard.name, lengths_path(shard).name
