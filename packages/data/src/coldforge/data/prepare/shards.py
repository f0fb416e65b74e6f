"""Records on their way into shards: each is put into a split, and a split's shard is written once it is full.

    shards = Shards(out, state, HeldOut(0.02, None), 2048)
    shards.add(question_number(text, seed), tokens, record)
    shards.write(commit)                       # what is full
    shards.write(commit, last=True)            # all that is left
    manifest["splits"] = shards.entries()

Records wait in the file of `State`, so memory does not grow with them. Used by one process, in the order of the rows.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from coldforge.data.dataset import NO_RECORDS, SPLITS, chained, lengths_path, split_entry, write_shard
from coldforge.data.prepare.heldout import HeldOut
from coldforge.data.prepare.state import State, clean


class Shards:
    """The shards of both splits. Files in the directory that are not among those written so far are removed.

    Args:
        out: The directory.
        state: What waits.
        heldout: Which questions are held out.
        shard_records: Records in a file.
        facts: What `facts` gave at the last commit; {} to begin.
    """

    def __init__(
        self, out: Path, state: State, heldout: HeldOut, shard_records: int, facts: Mapping[str, Any] | None = None
    ) -> None:
        self._out, self._state, self._heldout, self._size = out, state, heldout, shard_records
        facts = facts or {}
        self.written: dict[str, list[dict[str, Any]]] = facts.get("shards", {split: [] for split in SPLITS})
        self._hashes: dict[str, str] = facts.get("hashes", dict.fromkeys(SPLITS, NO_RECORDS))
        clean(out, self.written)

    def facts(self) -> dict[str, Any]:
        """What to go on from, as JSON holds it."""
        return {"shards": self.written, "hashes": self._hashes}

    def add(self, question: int, tokens: int, record: bytes) -> None:
        """Takes in a record: `question_number` of its question, its tokens, its bytes."""
        split, leaving = self._heldout.place(question)
        self._state.add(split, question, tokens, record)
        for other in leaving:
            self._state.move(other)

    def write(self, commit: Callable[[], None], *, last: bool = False) -> None:
        """Writes the shards that are full, each followed by a commit; at the end all that is left.

        Where so many rows are held out, and not a share, none is written before the end that may yet leave.
        """
        for split in SPLITS:
            if split == "heldout" and self._heldout.may_leave and not last:
                continue
            while (count := min(self._state.pending[split], self._size)) and (last or count == self._size):
                lengths = self._state.lengths(split, count)
                number = len(self.written[split])
                self.written[split].append(write_shard(self._out, split, number, self._hashed(split, count), lengths))
                self._state.remove(split, count)
                commit()

    def _hashed(self, split: str, count: int) -> Iterator[bytes]:
        for record in self._state.records(split, count):
            self._hashes[split] = chained(self._hashes[split], record)
            yield record

    def count(self, split: str) -> int:
        """How many records a split has, with those that wait."""
        return self._state.pending[split] + sum(shard["records"] for shard in self.written[split])

    def entries(self) -> dict[str, Any]:
        """What the manifest says of the splits, when all is written."""
        return {
            split: split_entry(self.written[split], self._hashes[split], self._lengths(self.written[split]))
            for split in SPLITS
        }

    def _lengths(self, shards: Sequence[Mapping[str, Any]]) -> npt.NDArray[np.int32]:
        files = [lengths_path(self._out / shard["name"]) for shard in shards]
        return np.concatenate([np.empty(0, np.int32), *map(np.load, files)])
