"""Batches for training and for evaluation: packed rows of a split, read ahead by Grain, with a place to resume from.

    batches = Batches(dataset.train, seq_len=4096, rows=8, accumulation=4, seed=0)
    batch = next(batches)                    # TokenBatch of [4, 8, 4096]
    state = batches.get_state()              # JSON; batches.set_state(state) goes on right there

In this order: `TokenBatch`; `Batches`, endless; `eval_batches`, finite and in order; then what they share: which rows
come when (`_Stream`, over `packing`), rows filled with tokens (`_Share`), and Grain's threads (`_read_ahead`).

The rows of an epoch, and their order, follow from the data, its seed and the epoch alone. An epoch's rows seldom fill
its last batch; it is completed with the first rows of the next epoch, so that every batch is full, and each example
comes exactly once per epoch. Each process makes the same plan, and reads and fills its own rows only: of every
micro-batch the slice `process_index` of `process_count`.

Grain is imported when batches are made (extra `training`). Left out: weights that change in the course of a run,
mixtures of splits, bucketed row lengths.
"""

import hashlib
import math
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self, SupportsIndex

import numpy as np
import numpy.typing as npt

from coldforge.data.extras import needs
from coldforge.data.packing import Plan, plan_rows
from coldforge.data.tokens import Part, loss_weights

PREFETCH = 2
"""Batches that are read ahead, by as many threads."""

Examples = npt.NDArray[np.int32]


class TokenBatch(NamedTuple):
    """Packed rows, `[accumulation, rows, seq]` each (or without the first dimension).

    Attributes:
        tokens: int32; 0 on padding.
        positions: int32; of a token within its example, from 0; 0 on padding.
        segment_ids: int32; which example of the row a token belongs to, from 1; 0 on padding.
        loss_weights: float32; how much the token counts as a target. 0 on prompts, on padding, and on the first token
            of an example, which nothing predicts.
        parts: uint8; the `Part` of each token.
    """

    tokens: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int32]
    segment_ids: npt.NDArray[np.int32]
    loss_weights: npt.NDArray[np.float32]
    parts: npt.NDArray[np.uint8]


class Tokenized(Protocol):
    """An example: token ids and their parts, of the same length."""

    @property
    def ids(self) -> npt.NDArray[np.int32]: ...
    @property
    def parts(self) -> npt.NDArray[np.uint8]: ...


class Split(Protocol):
    """Examples in any order. `coldforge.data.dataset.Split` is one; any that can be read by several threads will do.

    One that has a `hash` of its content is known by it when a state is set; others by their lengths.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Tokenized: ...
    @property
    def lengths(self) -> npt.NDArray[np.int32]: ...


class Batches:
    """An endless iterator over batches of a split; see the head of this file for order and resuming."""

    def __init__(
        self, split: Split, *, seq_len: int, rows: int, accumulation: int = 1, seed: int = 0,
        reasoning_weight: float = 1.0, answer_weight: float = 1.0, pack: bool = True,
        process_index: int = 0, process_count: int = 1, prefetch: int = PREFETCH,
    ) -> None:  # fmt: skip
        """Plans the first epoch; nothing is read before the first `next`.

        Args:
            split: Examples.
            seq_len: Tokens of a row.
            rows: Of a micro-batch, over all processes.
            accumulation: Micro-batches of a batch.
            seed: Of the order.
            reasoning_weight: α, the loss weight of reasoning.
            answer_weight: β, the loss weight of the answer and of the end of the turn.
            pack: False gives each example a row of its own.
            process_index: Which slice of each micro-batch's rows to give.
            process_count: How many slices there are.
            prefetch: Batches to read ahead, by as many threads; 0: none, everything happens in `next`.

        Raises:
            ValueError: There are no examples; one is longer than a row (it is named); `rows` cannot be shared out; a
                number is out of range.
            ModuleNotFoundError: Grain is not installed.
        """
        if seed < 0:
            raise ValueError(f"seed is {seed}; wanted 0 or more.")
        lengths, weights = np.asarray(split.lengths), (reasoning_weight, answer_weight)
        self._share = _Share(split, lengths, seq_len, rows, accumulation, weights, process_index, process_count)
        self._stream = _Stream(lengths, seq_len, seed=seed, pack=pack)
        self._identity: dict[str, Any] = {
            "version": 1, "data": _data_id(split), "examples": len(split), "seed": int(seed), "seq_len": int(seq_len),
            "rows": int(rows), "accumulation": int(accumulation), "pack": bool(pack),
            "reasoning_weight": float(reasoning_weight), "answer_weight": float(answer_weight),
        }  # fmt: skip
        self._prefetch = prefetch
        self._reader: Any = None
        self._go_to(0, 0)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TokenBatch:
        """The next batch, `[accumulation, rows // process_count, seq_len]` each.

        Raises:
            ValueError: A record is damaged, has another length than the split says, or has no token that counts.
        """
        if self._reader is None:
            raise ValueError("the batches are closed; set_state opens them again.")
        try:
            batch: TokenBatch = next(self._reader)
        except BaseException:
            self._go_to(*self._place())  # Grain would go on with the batch after it
            raise
        self._given += 1
        return batch

    @property
    def batches_per_epoch(self) -> float:
        """How many batches the first epoch's rows fill; other epochs' differ by the luck of packing."""
        return self._stream.rows(0) / self._share.batch_rows

    @property
    def padding_share(self) -> float:
        """The share of positions that are padding, in the epoch that the next batch begins in."""
        return self._stream.plan(self._place()[0]).padding_share

    @property
    def epoch(self) -> float:
        """Passes over the data so far: 1.25 when a quarter of the second epoch's rows has come."""
        epoch, row = self._place()
        return epoch + row / len(self._stream.plan(epoch))

    def steps(self, epochs: float) -> int:
        """How many batches it takes until so many epochs' rows have come, from the very beginning.

        Raises:
            ValueError: `epochs` is not positive.
        """
        if not epochs > 0:
            raise ValueError(f"epochs is {epochs}; wanted more than 0.")
        whole, part = int(epochs), epochs % 1
        rows = sum(self._stream.rows(epoch) for epoch in range(whole))
        if part:
            rows += math.ceil(part * self._stream.rows(whole))
        return math.ceil(rows / self._share.batch_rows)

    def get_state(self) -> dict[str, Any]:
        """Where the next batch begins, and what it is a place in. JSON can hold it; it is equal in all processes."""
        epoch, row = self._place()
        return self._identity | {"plan": self._stream.plan(epoch).fingerprint, "epoch": epoch, "row": row}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes to where `get_state` was called, here or in a run with more or fewer processes.

        Raises:
            ValueError: The state is one of other data, seed, shape or weights; the field is named. Nothing changes.
        """
        epoch, row = self._checked(state)
        self._go_to(epoch, row)

    def examples(self, state: Mapping[str, Any] | None = None) -> list[list[int]]:
        """The numbers in the split of the examples of a whole batch, row by row, over all processes.

        Args:
            state: Of the batch that would come next; None: the one that comes next here.

        Raises:
            ValueError: As `set_state`.
        """
        epoch, row = self._place() if state is None else self._checked(state)
        return [found.tolist() for found in self._stream.take(epoch, row, self._share.batch_rows)]

    def close(self) -> None:
        """Ends the threads that read ahead. There are no further batches, unless `set_state` opens it again."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _place(self) -> tuple[int, int]:
        epoch, row = self._origin
        return self._stream.locate(epoch, row + self._given * self._share.batch_rows)

    def _go_to(self, epoch: int, row: int) -> None:
        self.close()
        self._origin, self._given = (epoch, row), 0
        stream, share = self._stream, self._share

        def make(number: int) -> TokenBatch:
            return share.fill(stream.take(epoch, row + number * share.batch_rows, share.batch_rows))

        self._reader = _read_ahead(make, sys.maxsize, self._prefetch)

    def _checked(self, state: Mapping[str, Any]) -> tuple[int, int]:
        for name in (*self._identity, "plan", "epoch", "row"):
            if name not in state:
                raise ValueError(f"the state of the data has no {name!r}; wanted what get_state gave.")
        for name, ours in self._identity.items():
            if state[name] != ours:
                raise ValueError(
                    f"the state of the data was saved with {name} {state[name]!r}, and here {name} is {ours!r}. Use "
                    "what the run began with, or begin a new run."
                )
        epoch, row = state["epoch"], state["row"]
        if not (isinstance(epoch, int) and isinstance(row, int) and epoch >= 0 <= row < self._stream.rows(epoch)):
            raise ValueError(f"the state of the data has epoch {epoch!r}, row {row!r}, which is no place in it.")
        if (plan := self._stream.plan(epoch).fingerprint) != state["plan"]:
            raise ValueError(
                f"the state of the data was saved with plan {state['plan']!r}, and here plan is {plan!r}: this version "
                "of coldforge-data packs otherwise. Resume with the one that the run began with, or begin a new run."
            )
        return epoch, row


@dataclass(frozen=True, eq=False)
class EvalBatches:
    """The rows of a split once, in order: iterate it as often as you like; `len()` says how many batches there are.

    Attributes:
        plan: Which examples share a row; see `packing`.
    """

    plan: Plan
    _share: "_Share"
    _count: int
    _prefetch: int

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[TokenBatch]:
        """Batches of `[accumulation, rows // process_count, seq_len]` each. Raises as `next` of `Batches`."""
        reader = _read_ahead(lambda number: self._share.fill(self._rows(number)), self._count, self._prefetch)
        try:
            yield from reader
        finally:
            reader.close()

    @property
    def examples(self) -> list[int]:
        """The numbers in the split of the examples that come, in order, over all processes."""
        return [int(example) for number in range(self._count) for row in self._rows(number) for example in row]

    def _rows(self, number: int) -> list[Examples]:
        size = self._share.batch_rows
        have = [self.plan[row] for row in range(number * size, min((number + 1) * size, len(self.plan)))]
        return have + [np.empty(0, np.int32)] * (size - len(have))


def eval_batches(
    split: Split, *, seq_len: int, rows: int, accumulation: int = 1, reasoning_weight: float = 1.0,
    answer_weight: float = 1.0, pack: bool = True, limit: int | None = None, process_index: int = 0,
    process_count: int = 1, prefetch: int = PREFETCH,
) -> EvalBatches:  # fmt: skip
    """Plans finite batches of a split, in order: each example once, and the last batch filled up with empty rows.

    Examples are packed best fit without a shuffle, and rows stand in the order of their first examples. In an empty row
    everything is 0. Arguments and errors are those of `Batches`, and:

    Args:
        limit: At most so many batches; None: all.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; wanted at least 1 batch, or None for all.")
    lengths, weights = np.asarray(split.lengths), (reasoning_weight, answer_weight)
    share = _Share(split, lengths, seq_len, rows, accumulation, weights, process_index, process_count)
    plan = plan_rows(lengths, seq_len, pack=pack)
    count = math.ceil(len(plan) / share.batch_rows)
    return EvalBatches(plan, share, count if limit is None else min(count, limit), prefetch)


class _Stream:
    """The rows of all epochs, one after the other. Safe to ask from several threads."""

    def __init__(self, lengths: npt.NDArray[np.int32], seq_len: int, *, seed: int, pack: bool) -> None:
        self._lengths, self._seq_len, self._seed, self._pack = lengths, seq_len, seed, pack
        self._plans: dict[int, Plan] = {}  # the newest few
        self._rows: dict[int, int] = {}  # of every epoch so far
        self._lock = threading.Lock()
        self.plan(0)

    def plan(self, epoch: int) -> Plan:
        with self._lock:
            if epoch not in self._plans:
                made = plan_rows(self._lengths, self._seq_len, seed=self._seed, epoch=epoch, pack=self._pack)
                self._plans[epoch], self._rows[epoch] = made, len(made)
                if len(self._plans) > 4:
                    del self._plans[min(self._plans.keys() - {epoch})]
            return self._plans[epoch]

    def rows(self, epoch: int) -> int:
        return self._rows[epoch] if epoch in self._rows else len(self.plan(epoch))

    def locate(self, epoch: int, row: int) -> tuple[int, int]:
        """`row`, counted from the beginning of `epoch`, as an epoch and a row of that epoch."""
        while row >= (rows := self.rows(epoch)):
            epoch, row = epoch + 1, row - rows
        return epoch, row

    def take(self, epoch: int, row: int, count: int) -> list[Examples]:
        """The examples of so many rows from there on, across the ends of epochs."""
        taken: list[Examples] = []
        while len(taken) < count:
            epoch, row = self.locate(epoch, row)
            plan = self.plan(epoch)
            more = [plan[i] for i in range(row, min(len(plan), row + count - len(taken)))]
            taken, row = taken + more, row + len(more)
        return taken


@dataclass(frozen=True)
class _Share:
    """One process's share of each batch, and how rows are filled."""

    split: Split
    lengths: npt.NDArray[np.int32]
    seq_len: int
    rows: int
    accumulation: int
    weights: tuple[float, float]
    process_index: int
    process_count: int

    def __post_init__(self) -> None:
        for name in ("seq_len", "rows", "accumulation", "process_count"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; wanted at least 1.")
        if not 0 <= self.process_index < self.process_count:
            raise ValueError(f"process_index is {self.process_index}; wanted 0 to {self.process_count - 1}.")
        if self.rows % self.process_count:
            raise ValueError(
                f"rows is {self.rows} and there are {self.process_count} processes; wanted a multiple, as each process "
                "gives as many rows of a micro-batch."
            )
        loss_weights(np.zeros(0, np.uint8), reasoning=self.weights[0], answer=self.weights[1])

    @property
    def batch_rows(self) -> int:
        """Rows of a batch, over all processes."""
        return self.rows * self.accumulation

    def fill(self, rows: Sequence[Examples]) -> TokenBatch:
        """Reads the examples of this process's rows among those of a batch."""
        local = self.rows // self.process_count
        first = self.process_index * local
        shape = (self.accumulation, local, self.seq_len)
        tokens, positions, segments = (np.zeros(shape, np.int32) for _ in range(3))
        parts = np.zeros(shape, np.uint8)
        count_up = np.arange(self.seq_len, dtype=np.int32)
        for micro in range(self.accumulation):
            for row in range(local):
                end = 0
                for segment, example in enumerate(rows[micro * self.rows + first + row], start=1):
                    found = self._read(int(example))
                    begin, end = end, end + len(found.ids)
                    place = (micro, row, slice(begin, end))
                    tokens[place], parts[place] = found.ids, found.parts
                    segments[place], positions[place] = segment, count_up[: end - begin]
        weights = loss_weights(parts, reasoning=self.weights[0], answer=self.weights[1])
        weights[positions == 0] = 0  # what comes first in a text is predicted by nothing
        return TokenBatch(tokens, positions, segments, weights, parts)

    def _read(self, example: int) -> Tokenized:
        found, length = self.split[example], int(self.lengths[example])
        if found.ids.shape != (length,) or found.parts.shape != (length,):
            raise ValueError(
                f"example {example} has ids of shape {found.ids.shape} and parts of shape {found.parts.shape}; the "
                f"split's lengths say {length} tokens. Prepare the data again."
            )
        counted = [part for part, weight in zip((Part.REASONING, Part.ANSWER), self.weights, strict=True) if weight]
        if not any((found.parts[1:] == part).any() for part in counted):
            raise ValueError(
                f"example {example} has no token with a loss weight: nothing would be learned from it. Its parts are "
                f"{sorted(set(found.parts.tolist()))}, and those that count are {[int(part) for part in counted]}."
            )
        return found


class _Source:
    """What Grain asks for elements by number."""

    def __init__(self, make: Callable[[int], TokenBatch], count: int) -> None:
        self._make, self._count = make, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: SupportsIndex) -> TokenBatch:
        return self._make(number.__index__())


def _read_ahead(make: Callable[[int], TokenBatch], count: int, prefetch: int) -> Any:
    """Grain's iterator over `make(0)`, `make(1)` and so on, made ahead in threads, in order."""
    if prefetch < 0:
        raise ValueError(f"prefetch is {prefetch}; wanted 0 (none) or more batches.")
    grain = needs("grain", "training", "a pipeline of batches")
    options = grain.ReadOptions(num_threads=prefetch, prefetch_buffer_size=prefetch)
    return iter(grain.MapDataset.source(_Source(make, count)).to_iter_dataset(options))


def _data_id(split: Split) -> str:
    """What tells a split from others: the hash of its content if it has one, else of its lengths."""
    known = getattr(split, "hash", None)
    return known if isinstance(known, str) else hashlib.sha256(split.lengths.astype("<i4").tobytes()).hexdigest()
