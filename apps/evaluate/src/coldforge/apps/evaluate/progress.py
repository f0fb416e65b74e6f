"""How far an evaluation is, for people: a bar for each task with its running accuracy, and the time that is left.

In a terminal it stays in its place; elsewhere a line is written every half minute. Imports no JAX.
"""

import math
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from coldforge.eval import Task
from coldforge.eval.records import Sampling
from coldforge.eval.settings import samples_of
from coldforge.eval.tally import Progress as Reached

EVERY = 30.0  # seconds between lines, where there is no terminal


class Bars:
    """Bars for tasks; call it as `evaluate`'s `on_progress`.

    Args:
        tasks: In their order.
        sampling: Says how many samples each has.
        console: Where to; usually standard error.
    """

    def __init__(self, tasks: Sequence[Task], sampling: Sampling, console: Console) -> None:
        self._console, self._last = console, 0.0
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"), console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self._ids = {
            task.name: self._bars.add_task(task.name, total=len(task.questions) * samples_of(task, sampling), said="")
            for task in tasks
        }

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._bars.stop()

    def __call__(self, reached: Reached) -> None:
        """Shows how far it is."""
        running = [name for name, tally in reached.tallies.items() if tally.samples]
        if not self._console.is_terminal:
            if time.monotonic() - self._last >= EVERY or reached.done == reached.total:
                self._last = time.monotonic()
                said = ", ".join(f"{name} {_accuracy(reached, name)}" for name in running)
                self._console.print(f"{reached.done:,}/{reached.total:,}{_left(reached)}: {said}", soft_wrap=True)
            return
        for name in running:
            said = _accuracy(reached, name) + (_left(reached) if name == running[-1] else "")
            self._bars.update(self._ids[name], completed=reached.tallies[name].samples, said=said)


def _accuracy(reached: Reached, name: str) -> str:
    """The running accuracy with its interval: "41 % (33-50)"."""
    found = reached.tallies[name].accuracy()
    if math.isnan(found.value):
        return ""
    return f"{100 * found.value:.0f} % ({100 * found.low:.0f}–{100 * found.high:.0f})"


def _left(reached: Reached) -> str:
    seconds = reached.seconds_left
    if math.isnan(seconds) or reached.done == reached.total:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f", {hours}:{minutes:02}:{rest:02} left" if hours else f", {minutes}:{rest:02} left"
