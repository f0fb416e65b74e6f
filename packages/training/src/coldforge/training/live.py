"""What a run looks like while it trains: a few lines at the bottom of the terminal, or a line of a log now and then.

    with LiveView(total_steps=500, title="runs/first", step=restored_step) as view:
        view.update(step, metrics, epoch=0.4)        # names as in metrics.SCALARS; what is there is shown
        with view.doing("evaluating"): ...
        view.progress(3, 16)                         # of what it is doing: a part of a step that takes long
        view.finding(finding)                        # of the watchdog: a line above, which stays
        view.note("saved at step 100")

Both go to stderr. In a terminal a thread redraws four times a second whatever the loop does, and `update` only stores
numbers. Where stderr is no terminal there are no control codes and no bar: a line at the first step, then one every
`every` seconds, and one at the end. Processes other than the first show nothing.
"""

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import jax
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from coldforge.training.watchdog import Finding

REFRESHES_PER_SECOND = 4
SMOOTHED = (
    "train/loss", "train/loss_reasoning", "train/loss_answer", "train/grad_norm", "train/tokens_per_second",
    "reward/total", "rollout/correct", "rollout/format", "rollout/length",
)  # fmt: skip
SMOOTHING = 0.9  # of exponential means: the last ten steps or so
Cell = tuple[str, str, str]  # label, value, style


class LiveView:
    """The view of one run; see the top of this file.

    Args:
      total_steps: of the whole run.
      title: what is trained.
      step: where the run starts: 0, or the step it continues from.
      time_limit: seconds from now after which the run will be stopped, where it has such a limit.
      every: seconds between lines where there is no terminal.
      enabled: whether to show anything; None: in process 0 only.
      console: of rich; stderr's by default.
      live: whether to redraw in place; None: if the console is a terminal that can.
      clock: seconds, for tests.
    """

    def __init__(
        self,
        total_steps: int,
        *,
        title: str = "",
        step: int = 0,
        time_limit: float | None = None,
        every: float = 30.0,
        enabled: bool | None = None,
        console: Console | None = None,
        live: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.enabled = jax.process_index() == 0 if enabled is None else enabled
        self._console = console or Console(stderr=True, highlight=False)
        if live is None:  # FORCE_COLOR alone makes rich take a file for a terminal
            live = self._console.is_interactive and self._console.file.isatty()
        self._view = _View(title, total_steps, step, time_limit, clock)
        self._every, self._clock = every, clock
        self._next_line, self._told = -math.inf, clock()
        self._written = step  # last step that a line was written for
        self._live: Live | None = None
        if self.enabled and live:
            self._live = Live(
                self._view,
                console=self._console,
                refresh_per_second=REFRESHES_PER_SECOND,
                redirect_stdout=sys.stdout.isatty(),  # what is piped elsewhere stays there
            )

    def update(self, step: int, metrics: Mapping[str, Any], *, epoch: float | None = None) -> None:
        """The metrics of one step; those of earlier steps that are not among them stay in view."""
        if not self.enabled:
            return
        self._view.update(step, {name: float(value) for name, value in metrics.items()}, epoch)
        if self._live is None and self._clock() >= self._next_line:
            self._next_line = self._clock() + self._every
            self._line()

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Says what the loop is busy with between steps: evaluating, sampling, saving."""
        before, self._view.doing, self._view.part = self._view.doing, what, ""
        try:
            yield
        finally:
            self._view.doing, self._view.part = before, ""

    def progress(self, done: int, of: int) -> None:
        """How far what it is `doing` has come, for steps that take minutes or hours."""
        self._view.part = f" {done} of {of}"
        if self._live is None and self._clock() >= self._told + self._every:
            self._told = self._clock()
            self.note(f"step {self._view.step}/{self._view.total}, {self._view.doing}{self._view.part}")

    def saved(self, step: int) -> None:
        """A checkpoint of this step is complete."""
        self._view.saved = step

    def finding(self, finding: Finding) -> None:
        """A finding of the watchdog, above the view."""
        if self._live is None:
            self.note(f"WATCHDOG, {finding}")
            return
        style = "bold red" if finding.fatal else "bold yellow"
        why = [("likely cause", finding.cause), ("what to do", finding.advice)]
        self._print(
            Group(
                Text(f"watchdog, step {finding.step}: {finding.saw}", style),
                *(Padding(Text.assemble((f"{label}: ", "dim"), what), (0, 0, 0, 4)) for label, what in why),
            )
        )

    def note(self, text: str) -> None:
        """A line above the view, or in the log."""
        self._print(Text(text if self._live else f"{time.strftime('%H:%M:%S')} {text}"))

    def __enter__(self) -> "LiveView":
        if self._live is not None:
            self._live.start(refresh=True)
            self._console.show_cursor(True)  # rich hides it, and a killed process could not bring it back
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif self.enabled and self._view.step > self._written:
            self._line()

    def _line(self) -> None:
        self._written, self._told = self._view.step, self._clock()
        self.note(self._view.line())

    def _print(self, text: RenderableType) -> None:
        if self.enabled:
            # soft_wrap: a log's line is not cut at the 80 columns that rich takes for a file
            self._console.print(text, soft_wrap=self._live is None)


class _View:
    """What is known, and how it is drawn. A thread draws while the loop updates: values are replaced, not changed."""

    def __init__(self, title: str, total: int, step: int, time_limit: float | None, clock: Callable[[], float]) -> None:
        self.title, self.total, self.step, self.epoch = title, total, step, math.nan
        self.doing, self.part, self.saved = "", "", step
        self._limit, self._clock = time_limit, clock
        self._start = clock()
        self._times: deque[tuple[int, float]] = deque(maxlen=50)  # step, when; the first comes after the compilation
        self._metrics: dict[str, float] = {}
        self._means: dict[str, tuple[float, float]] = {}  # name → weighted sum, weight
        self._skipped = 0

    def update(self, step: int, metrics: dict[str, float], epoch: float | None) -> None:
        self.step = step
        if epoch is not None:
            self.epoch = epoch
        if not self._times or step > self._times[-1][0]:
            self._times.append((step, self._clock()))
        self._skipped += metrics.get("train/applied") == 0
        means = dict(self._means)
        for name in SMOOTHED:
            if math.isfinite(value := metrics.get(name, math.nan)):
                total, weight = means.get(name, (0.0, 0.0))
                means[name] = (SMOOTHING * total + value, SMOOTHING * weight + 1)
        self._means, self._metrics = means, self._metrics | metrics

    def seconds_to_go(self) -> float:
        """By the pace of the last 50 steps, evaluations and checkpoints among them; nan while it is unknown."""
        if len(self._times) < 2:
            return math.nan
        (first, start), (last, end) = self._times[0], self._times[-1]
        return (self.total - self.step) * (end - start) / (last - first)

    def line(self) -> str:
        """All of it in one line, for a log."""
        share = f"{100 * self.step / max(self.total, 1):.0f} %"
        return ", ".join(
            [f"step {self.step}/{self.total} ({share})", *(f"{a} {b}" for cells in self._groups() for a, b, _ in cells)]
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        top = Table.grid(padding=(0, 1), expand=True)
        top.add_column(ratio=1)
        for _ in range(2):
            top.add_column(no_wrap=True)
        if self._times:
            bar: RenderableType = ProgressBar(total=max(self.total, 1), completed=self.step)
        else:  # the first step compiles: nobody knows for how long
            bar = ProgressBar(total=None, pulse=True, animation_time=self._clock())
        top.add_row(bar, Text(f"{100 * self.step // max(self.total, 1)} %", "bold"), f"{self.step}/{self.total}")
        title = Text(self.title, "bold", no_wrap=True, overflow="ellipsis")
        doing = self.doing + self.part or ("" if self._times else "first step: compiling")
        if doing:
            title.append(f"  {doing}…" if self.title else f"{doing}…", "italic")
        yield Group(title, top, *(line for cells in self._groups() for line in _flow(cells, options.max_width)))

    def _groups(self) -> Iterator[list[Cell]]:
        """What there is to show, in groups that begin a line: time, losses, rewards, the rest."""
        m, mean = self._metrics, {name: total / weight for name, (total, weight) in self._means.items()}
        yield self._time_cells()
        last = m.get("train/loss", 0.0)
        bad = [("last loss", str(last), "bold red")] if not math.isfinite(last) else []
        skipped = [("skipped", str(self._skipped), "bold red")] if self._skipped else []
        told = "reward/total" not in m  # a policy's loss is about 0 whatever it learns
        yield [
            *(_cell("loss", mean.get("train/loss"), ".4f", "bold") if told else []), *bad,
            *_cell("reasoning", mean.get("train/loss_reasoning"), ".4f"),
            *_cell("answer", mean.get("train/loss_answer"), ".4f"),
            *_cell("held out", m.get("eval/loss"), ".4f"), *skipped,
        ]  # fmt: skip
        failed = m.get("rewards/timeouts", 0.0) + m.get("rewards/errors", 0.0)
        yield [  # of reinforcement learning
            *_cell("reward", mean.get("reward/total"), ".3f", "bold"),
            *_cell("right", mean.get("rollout/correct"), ".1%"),
            *_cell("in form", mean.get("rollout/format"), ".1%"),
            *_cell("cut off", m.get("rollout/truncated"), ".1%"),
            *_cell("tokens", mean.get("rollout/length"), ".0f"),
            *_cell("no signal", m.get("rollout/zero_variance"), ".0%"),
            *_cell("entropy", m.get("policy/entropy"), ".3f"),
            *_cell("KL", m.get("policy/kl"), ".4f"),
            *_cell("held out", m.get("eval/correct"), ".1%"),
            *([("failed checks", f"{failed:.0f}", "bold yellow")] if failed else []),
        ]
        memory = m.get("memory/device_peak_gib", m.get("memory/host_gib"))
        limit = m.get("memory/device_limit_gib")
        yield [
            *_cell("tok/s", mean.get("train/tokens_per_second"), ",.0f"),
            *_cell("gradient", mean.get("train/grad_norm"), "#.3g"),
            *_cell("rate", m.get("train/learning_rate"), ".2e"),
            *_cell("padding", m.get("data/padding_share"), ".1%"),
            *_cell("memory", memory, ".1f", unit=" GiB" if limit is None else f" of {limit:.1f} GiB"),
            *([("saved at", str(self.saved), "")] if self.saved else []),
        ]  # fmt: skip

    def _time_cells(self) -> list[Cell]:
        now, to_go = self._clock(), self.seconds_to_go()
        cells: list[Cell] = [("elapsed", clock_time(now - self._start), "")]
        if not math.isnan(to_go):
            cells.append(("to go", clock_time(to_go), ""))
        if self._limit is not None:
            left = max(self._start + self._limit - now, 0.0)
            cells.append(("time box", f"{clock_time(left)} left", "yellow" if to_go > left else ""))
        return cells + _cell("epoch", self.epoch, ".2f")


def _cell(label: str, value: float | None, form: str, style: str = "", unit: str = "") -> list[Cell]:
    """One cell, or none where there is no value yet."""
    return [] if value is None or math.isnan(value) else [(label, format(value, form) + unit, style)]


def clock_time(seconds: float) -> str:
    """`clock_time(3725.4)` is "1:02:05"."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def _flow(cells: list[Cell], width: int) -> Iterator[Text]:
    """Cells in as many lines as the width asks for."""
    line = Text()
    for label, value, style in cells:
        cell = Text.assemble((f"{label} ", "dim"), (value, style))
        if line and line.cell_len + 3 + cell.cell_len > width:
            yield line
            line = Text()
        line = line + Text("   ") + cell if line else cell
    if line:
        yield line
