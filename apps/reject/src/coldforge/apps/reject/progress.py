"""How far sampling is, for people: samples, the share that is right and in form, tokens a second, the time left.

In a terminal it stays in its place; elsewhere a line is written every half minute. Imports no JAX.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from coldforge.data import ReasoningFormat
from coldforge.data.rejection import RIGHT, Sampled, is_acceptable

EVERY = 30.0  # seconds between lines, where there is no terminal


class Bar:
    """Progress of sampling. Use it in a `with` statement; it may be told from several threads.

    Args:
        total: Samples in all.
        before: Those that earlier sessions have judged.
        form: What replies have to look like.
        console: Where to; usually standard error.
        clock: Seconds, for tests.
    """

    def __init__(
        self, total: int, before: Iterable[Sampled], form: ReasoningFormat, console: Console,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._total, self._form, self._console, self._clock = total, form, console, clock
        self._lock = threading.Lock()
        self._judged = self._right = self._good = 0
        for one in before:  # which may be more than memory holds
            self.judged([one])
        self._done = self._before = self._judged
        self._tokens, self._begun = 0, clock()
        self._last = self._begun
        self._bar = Progress(
            SpinnerColumn(), TextColumn("sampling"), BarColumn(12), MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"), console=console, transient=True,
            disable=console.quiet or not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=total, completed=self._done, said="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def judged(self, samples: Sequence[Sampled]) -> None:
        """Counts samples that were judged."""
        right = sum(one.verdict == RIGHT for one in samples)
        good = sum(is_acceptable(one, self._form) for one in samples)
        with self._lock:
            self._judged, self._right, self._good = self._judged + len(samples), self._right + right, self._good + good

    def sampled(self, samples: int, tokens: int) -> None:
        """Counts samples that were made, and shows how far it is."""
        self._done += samples
        self._tokens += tokens
        if self._console.is_terminal:
            self._bar.update(self._task, completed=self._done, said=self.said())
        elif self._clock() - self._last >= EVERY or self._done == self._total:
            self._last = self._clock()
            self._console.print(f"{self._done:,}/{self._total:,} samples: {self.said()}", soft_wrap=True)

    def said(self) -> str:
        """What is known so far, in words: "right 43 %, in form 38 %, 1,234 tok/s, 0:04:10 left"."""
        seconds = max(self._clock() - self._begun, 1e-9)
        parts = []
        if self._judged:
            parts += [f"right {self._right / self._judged:.0%}, in form {self._good / self._judged:.0%}"]
        parts += [f"{self._tokens / seconds:,.0f} tok/s"]
        made = self._done - self._before
        if made and self._done < self._total:
            rest = round((self._total - self._done) * seconds / made)
            parts += [f"{rest // 3600}:{rest // 60 % 60:02}:{rest % 60:02} left"]
        return ", ".join(parts)
