"""What becomes of one row, whatever the others are: a record's bytes or a refusal. The work that processes share.

In this order: conversion; the filters; tokens, and whether there are too many; what the row is later compared with
others by. `Judges` hands chunks of rows to processes and gives back their outcomes in the order of the rows, a few
chunks ahead, so that no more than these are in memory. Processes are started afresh ("spawn"), as forking a process
with threads is not safe; one process means this one. If the process that started them is killed, they end too.
"""

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from types import TracebackType
from typing import NamedTuple, Self

from coldforge.data.convert import Conversion, convert
from coldforge.data.dataset import Record
from coldforge.data.duplicates import exact_key, text_signature, whole_text
from coldforge.data.filters import Decontamination, Filter, filters_of
from coldforge.data.prepare.heldout import question_number
from coldforge.data.prepare.plan import Options
from coldforge.data.records import AnswerKind, Refusal, Row
from coldforge.data.tokenizer import Tokenizer
from coldforge.data.tokens import tokenize

_AHEAD = 3  # chunks for each process that are waiting or done


class Kept(NamedTuple):
    """A row that passed all that can be said of it alone.

    Attributes:
        source, kind: What an audit counts.
        record: `Record.pack`.
        tokens: How many.
        question: `question_number`.
        key, signature: What duplicates are found by, where they are looked for.
    """

    source: str
    kind: AnswerKind
    record: bytes
    tokens: int
    question: int
    key: bytes | None
    signature: bytes | None


class Dropped(NamedTuple):
    """A row that is not used; `tokens` if they were counted."""

    refusal: Refusal
    tokens: int | None = None


class Judgement(NamedTuple):
    """The outcomes of a chunk's rows, and what they took in seconds of processor time: in the tokenizer, in all."""

    outcomes: list[Kept | Dropped]
    tokenizer_seconds: float
    seconds: float


@dataclass(frozen=True)
class Judge:
    """Judges rows by options; made once in each process."""

    tokenizer: Tokenizer
    options: Options
    contamination: Decontamination | None = None

    def filters(self) -> list[Filter]:
        """The filters that the options ask for, the quick ones first."""
        options = self.options
        found = filters_of(
            mixed=options.mixed_language, paragraphs=options.long_paragraphs, code=options.code_blocks,
            repeated=options.repetition,
        )  # fmt: skip
        return found if self.contamination is None else [*found, self.contamination]

    def chunk(self, rows: Sequence[Row]) -> Judgement:
        """Judges rows.

        Raises:
            RuntimeError: A row made the code fail, which none should; it is named.
        """
        begun, tokenizer_seconds, outcomes = time.process_time(), 0.0, list[Kept | Dropped]()
        options, filters = self.options, self.filters()
        how = Conversion(options.form, options.keep_prose, options.accept_worked)
        for row in rows:
            try:
                outcome, seconds = self._row(row, how, filters)
            except Exception as error:
                raise RuntimeError(f"row {row.index} of {row.source} could not be judged: {error!r}") from error
            outcomes.append(outcome)
            tokenizer_seconds += seconds
        return Judgement(outcomes, tokenizer_seconds, time.process_time() - begun)

    def _row(self, row: Row, how: Conversion, filters: Sequence[Filter]) -> tuple[Kept | Dropped, float]:
        example = convert(row, how)
        if isinstance(example, Refusal):
            return Dropped(example), 0.0
        for judge in filters:
            if refusal := judge(example):
                return Dropped(refusal), 0.0
        begun = time.process_time()
        tokens = tokenize(example, self.tokenizer, how.form)
        seconds = time.process_time() - begun
        if len(tokens) > self.options.max_tokens:
            detail = f"{len(tokens):,} tokens; allowed are {self.options.max_tokens:,}."
            return Dropped(Refusal("too-long", detail), len(tokens)), seconds
        text = whole_text(example)
        key = exact_key(text) if self.options.duplicates else None
        signature = text_signature(text) if self.options.near_duplicates is not None else None
        record = Record.of(example, tokens).pack()
        number = question_number(example.question, self.options.seed)
        signed = None if signature is None else signature.tobytes()
        return Kept(example.source, example.kind, record, len(tokens), number, key, signed), seconds


class Judges:
    """Several processes that judge chunks of rows. Use it in a `with` statement."""

    def __init__(self, judge: Judge, processes: int) -> None:
        """Starts the processes, unless there is to be only this one."""
        self._here = judge if processes == 1 else None
        self._window = _AHEAD * processes
        self._pool: ProcessPoolExecutor | None = None
        if self._here is None:
            self._pool = ProcessPoolExecutor(processes, get_context("spawn"), _start, (judge,))

    def judged[Chunk](
        self, chunks: Iterable[Chunk], rows: Callable[[Chunk], Sequence[Row]]
    ) -> Iterator[tuple[Chunk, Judgement]]:
        """Judges chunks, and yields each with its outcomes, in order.

        Raises:
            RuntimeError: A process has ended, e.g. because memory ran out; or as `Judge.chunk`.
        """
        if self._here is not None:
            for chunk in chunks:
                yield chunk, self._here.chunk(rows(chunk))
            return
        assert self._pool is not None
        waiting: deque[tuple[Chunk, Future[Judgement]]] = deque()
        try:
            for chunk in chunks:
                waiting.append((chunk, self._pool.submit(_judged, rows(chunk))))
                if len(waiting) >= self._window:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a process ended before its work was done, most likely for want of memory; with fewer of them the run "
                "goes on from where it was."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


_judge: Judge | None = None  # in a process of its own: what it was started with


def _start(judge: Judge) -> None:
    global _judge
    _judge = judge
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Waits until the parent is gone, killed perhaps; nothing else would tell this process, and it would stay."""
    if (parent := parent_process()) is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _judged(rows: Sequence[Row]) -> Judgement:
    assert _judge is not None
    return _judge.chunk(rows)
