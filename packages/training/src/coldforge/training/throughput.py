"""Tokens per second, and where the rest of the time went.

    throughput = Throughput()
    for batch in batches:
        with throughput.waiting("data"): batch = next(batches)     # part of the step, and shown: time/data
        ...
        log.scalars(step, throughput.step(tokens=..., trained_tokens=...))       # when a step's metrics arrived
        with throughput.pause("checkpoint"): save()                # not part of any step, and shown: time/checkpoint

A step is timed from the arrival of the metrics of the step before to the arrival of its own. The first interval of a
process holds the compilation, so it is shown as `time/first_step` and has no rate. Neither has an interval with a pause
in it: the device works on while the host saves, so what is left of the interval says little.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Totals:
    """What a process did so far.

    Attributes:
      steps: timed ones, which leaves out the first and those with a pause.
      tokens: in timed steps.
      trained_tokens: in timed steps.
      seconds: of timed steps.
      first_step: seconds to the first step's metrics.
      waits: name → seconds, the first step's included.
      pauses: name → seconds.
      elapsed: seconds since the start.
    """

    steps: int
    tokens: int
    trained_tokens: int
    seconds: float
    first_step: float
    waits: dict[str, float]
    pauses: dict[str, float]
    elapsed: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else float("nan")

    @property
    def trained_tokens_per_second(self) -> float:
        return self.trained_tokens / self.seconds if self.seconds else float("nan")


@dataclass
class _Spans:
    """Seconds by name: since the last step, and in all."""

    now: dict[str, float] = field(default_factory=dict)
    total: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, seconds: float) -> None:
        for spans in (self.now, self.total):
            spans[name] = spans.get(name, 0.0) + seconds


class Throughput:
    """Counts tokens and seconds of the steps of one process; see the top of this file."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._start = self._last = clock()
        self._waits, self._pauses = _Spans(), _Spans()
        self._first: float | None = None
        self._steps = self._tokens = self._trained = 0
        self._seconds = 0.0

    @contextmanager
    def waiting(self, name: str) -> Iterator[None]:
        """Time inside a step that is shown as `time/NAME`."""
        with self._timed(self._waits, name):
            yield

    @contextmanager
    def pause(self, name: str) -> Iterator[None]:
        """Time that belongs to no step, shown as `time/NAME` with the next one. Not to be nested."""
        with self._timed(self._pauses, name):
            yield

    def step(self, *, tokens: int, trained_tokens: int) -> dict[str, float]:
        """The metrics of the step whose numbers have just arrived: rates where it has one, seconds in any case.

        Args:
          tokens: of the whole batch, all processes, padding left out.
          trained_tokens: those with a loss weight.
        """
        now = self._clock()
        paused = sum(self._pauses.now.values())
        seconds, self._last = now - self._last - paused, now
        metrics = {f"time/{name}": s for name, s in (self._waits.now | self._pauses.now).items()}
        if self._first is None:
            self._first = metrics["time/first_step"] = seconds
        else:
            metrics["time/step"] = seconds
            if not self._pauses.now and seconds > 0:
                metrics["train/tokens_per_second"] = tokens / seconds
                metrics["train/trained_tokens_per_second"] = trained_tokens / seconds
                self._steps += 1
                self._tokens += tokens
                self._trained += trained_tokens
                self._seconds += seconds
        self._waits.now.clear()
        self._pauses.now.clear()
        return metrics

    def totals(self) -> Totals:
        """The sums so far, for a report."""
        return Totals(
            self._steps, self._tokens, self._trained, self._seconds, self._first or 0.0,
            dict(self._waits.total), dict(self._pauses.total), self._clock() - self._start,
        )  # fmt: skip

    @contextmanager
    def _timed(self, spans: _Spans, name: str) -> Iterator[None]:
        start = self._clock()
        try:
            yield
        finally:
            spans.add(name, self._clock() - start)
