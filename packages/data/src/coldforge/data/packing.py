"""Which examples share a row: a plan made of their lengths alone, before a single record is read.

Rows have room for `capacity` tokens; examples go in whole. A plan is a pure function of lengths, capacity, seed and
epoch, so that rows, batches and padding of an epoch are known before training, every process makes the same plan, and
a place in the data is two numbers.

    1. Shuffle all examples (seed, epoch).
    2. Cut them into windows of equal size: at least 4,096 examples, and at least 256 rows' worth of tokens.
    3. In a window, best fit: the longest example first, each into the fullest row that still has room for it.
    4. Shuffle all rows of the epoch.

Best fit over everything at once would give the one longest example the same neighbours in every epoch; windows keep
them random, for at most 0.2 points more padding. A million examples take a second and 30 MB. The README has figures.

Left out: tokens (`batches` fills them in), sequences cut in two, rows of several capacities.
"""

import zlib
from bisect import bisect_left, insort
from dataclasses import dataclass
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

WINDOW_EXAMPLES = 4096
WINDOW_ROWS = 256

Lengths = npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Rows of examples: `len(plan)` rows, `plan[i]` the examples of row i.

    Attributes:
        capacity: Tokens that a row has room for.
        examples: int32, shape [examples]; the numbers of all examples, row by row.
        starts: int32, shape [rows + 1]; row i holds `examples[starts[i] : starts[i + 1]]`.
        tokens: Of all examples.
    """

    capacity: int
    examples: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int32]
    tokens: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: SupportsIndex) -> npt.NDArray[np.int32]:
        place = row.__index__()
        if not 0 <= place < len(self):
            raise IndexError(f"the plan has {len(self)} rows; {place} is none of them.")
        return self.examples[self.starts[place] : self.starts[place + 1]]

    @property
    def padding_share(self) -> float:
        """The share of the rows' positions that no token fills."""
        return 1.0 - self.tokens / (len(self) * self.capacity)

    @property
    def fingerprint(self) -> str:
        """Eight hex digits that differ between plans; equal on every machine and version of numpy."""
        return f"{zlib.crc32(self.starts.astype('<i4'), zlib.crc32(self.examples.astype('<i4'))):08x}"


def plan_rows(
    lengths: Lengths, capacity: int, *, seed: int | None = None, epoch: int = 0, pack: bool = True, window: int = 0
) -> Plan:
    """Plans the rows of an epoch.

    >>> plan = plan_rows(np.array([3, 5, 2, 6]), 8)
    >>> [row.tolist() for row in (plan[i] for i in range(len(plan)))]
    [[0, 1], [2, 3]]

    Args:
        lengths: Tokens of each example, shape [examples].
        capacity: Tokens that a row has room for.
        seed: Of the order; None leaves examples in order within a row, and rows in the order of their first example.
        epoch: Each has an order of its own.
        pack: False gives each example a row of its own.
        window: Examples that are packed together; 0 chooses.

    Returns:
        A plan in which each example occurs once.

    Raises:
        ValueError: There are no examples, or one is longer than a row: it is named.
    """
    lengths = np.asarray(lengths)
    _check(lengths, capacity)
    count, tokens = len(lengths), int(lengths.sum(dtype=np.int64))
    order = np.arange(count) if seed is None else shuffled(count, seed, epoch, 0)
    if not pack:
        return Plan(capacity, order.astype(np.int32), np.arange(count + 1, dtype=np.int32), tokens)
    if not window:
        window = max(WINDOW_EXAMPLES, WINDOW_ROWS * capacity * count // tokens)
    rows, first = np.empty(count, np.int64), 0
    for part in np.array_split(np.arange(count), max(1, round(count / window))):
        rows[part], used = _best_fit(lengths[order[part]], capacity)
        rows[part] += first
        first += used
    names = _by_first_use(rows, first) if seed is None else shuffled(first, seed, epoch, 1)
    rows = names[rows]
    examples = order[np.argsort(rows, kind="stable")]
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=first))])
    return Plan(capacity, examples.astype(np.int32), starts.astype(np.int32), tokens)


def shuffled(count: int, *key: int) -> npt.NDArray[np.int64]:
    """A random order of `count` numbers that depends on `key` alone.

    numpy keeps the streams of a bit generator from version to version, and those of `permutation` it does not.
    """
    numbers = np.random.PCG64(np.random.SeedSequence(key)).random_raw(count)
    return np.argsort(numbers, kind="stable")


def _best_fit(lengths: Lengths, capacity: int) -> tuple[npt.NDArray[np.int64], int]:
    """The row of each example, and how many rows there are: longest first, each into the fullest row with room."""
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    shortest = int(lengths.min())
    rooms: list[int] = []  # the different numbers of free tokens of open rows, sorted
    rows_with: dict[int, list[int]] = {}
    chosen, used = [], 0
    for length in lengths[order].tolist():
        place = bisect_left(rooms, length)
        if place == len(rooms):
            row, room = used, capacity
            used += 1
        else:
            room = rooms[place]
            row = rows_with[room].pop()
            if not rows_with[room]:
                del rooms[place]
        chosen.append(row)
        room -= length
        if room >= shortest:
            same = rows_with.setdefault(room, [])
            if not same:
                insort(rooms, room)
            same.append(row)
    rows = np.empty(len(lengths), np.int64)
    rows[order] = chosen
    return rows, used


def _by_first_use(rows: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """New names of rows, in the order in which `rows` mentions them first."""
    _, first = np.unique(rows, return_index=True)
    names = np.empty(count, np.int64)
    names[np.argsort(first, kind="stable")] = np.arange(count)
    return names


def _check(lengths: Lengths, capacity: int) -> None:
    if lengths.ndim != 1 or not lengths.size:
        raise ValueError(f"there are no examples to make rows of (lengths of shape {lengths.shape}).")
    if (shortest := int(lengths.min())) < 1:
        raise ValueError(f"example {int(lengths.argmin())} has {shortest} tokens; wanted at least 1.")
    if (longest := int(lengths.max())) > capacity:
        example, long = int(lengths.argmax()), int((lengths > capacity).sum())
        raise ValueError(
            f"example {example} has {longest:,} tokens, and rows have room for {capacity:,} ({long:,} of "
            f"{len(lengths):,} examples are too long). They are not cut, as the answer is at the end: raise the length "
            "of rows, or prepare the data with a limit on tokens."
        )
