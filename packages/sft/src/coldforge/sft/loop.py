"""The loop: a state, batches and a compiled step go in; on the way it watches, evaluates, samples, saves and stops.

    start = resume(checkpoints, batches, watchdog, abstract_state) or Start(init_state(params, optimizer, seed))
    result = fit(start, Parts(train=step, batches=batches, checkpoints=checkpoints, ...), FitConfig(steps=500))
    result.reason                     # "done", or why it ended before that

Everything it touches is a callable or one of the small protocols of `Parts`, so that a test can fake it in ten lines.

The host runs ahead of the device: a step is dispatched, and then the metrics of the step before are fetched, logged and
judged. It waits for the device only where something hangs on the numbers: before an evaluation, a checkpoint or a text.
A checkpoint holds all that the next step depends on (state, place in the data, memory of the watchdog), and is written
when the log has every step up to it: a run killed at any moment and started again goes on to the same curve.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax

from coldforge.sft.loss import means, padding_share, trained_tokens
from coldforge.training import Restored, TrainState

Scalars = dict[str, float]

STEP_METRICS = (
    "loss", "weight", "grad_norm", "grad_norm_clipped", "update_norm", "learning_rate", "applied",
)  # fmt: skip


@runtime_checkable
class Batches(Protocol):
    """An endless iterator over batches that knows where it is."""

    def __next__(self) -> Any: ...
    def get_state(self) -> dict[str, Any]: ...
    def set_state(self, state: dict[str, Any]) -> None: ...


@runtime_checkable
class Checkpoints(Protocol):
    """`coldforge.training.Checkpointer`, as far as it is used."""

    def save(self, step: int, state: Any, data_state: Mapping[str, Any], metrics: Mapping[str, float]) -> None: ...
    def restore_latest(self, abstract_state: Any) -> Restored | None: ...
    def wait(self) -> None: ...


@runtime_checkable
class Log(Protocol):
    """`coldforge.training.MetricLog`, as far as it is used."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...
    def text(self, step: int, tag: str, text: str) -> None: ...
    def sync(self) -> None: ...


@runtime_checkable
class Watch(Protocol):
    """`coldforge.training.Watchdog`, as far as it is used."""

    def observe(self, step: int, metrics: Mapping[str, float]) -> list[Any]: ...
    def to_dict(self) -> dict[str, Any]: ...
    def from_dict(self, state: Mapping[str, Any]) -> None: ...


@runtime_checkable
class Clock(Protocol):
    """`coldforge.training.Throughput`, as far as it is used."""

    def waiting(self, name: str) -> AbstractContextManager[None]: ...
    def pause(self, name: str) -> AbstractContextManager[None]: ...
    def step(self, *, tokens: int, trained_tokens: int) -> Scalars: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig:
    """When what happens.

    Attributes:
      steps: of the whole run, those of earlier sessions included.
      eval_every: steps between evaluations; 0: only after the last step.
      checkpoint_every: steps between checkpoints; 0: only after the last step, and when it stops.
      checkpoint_minutes: minutes after which a checkpoint is due whatever the step.
      sample_every: steps between sampled texts; 0: none.
      save_best: also save when an evaluation is the best so far.
      on_nan: after a step that was not applied, whose batch is kept: go on ("skip") or end the run ("stop").

    Raises:
      ValueError: for numbers below 0, or no steps.
    """

    steps: int
    eval_every: int = 50
    checkpoint_every: int = 100
    checkpoint_minutes: float = math.inf
    sample_every: int = 0
    save_best: bool = True
    on_nan: Literal["skip", "stop"] = "skip"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        for name in ("eval_every", "checkpoint_every", "checkpoint_minutes", "sample_every"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """What the loop calls. Only `train`, `batches` and `checkpoints` are needed.

    Attributes:
      train: `(state, batch) -> (state, metrics)`, the compiled step; metrics are device scalars: those of
        `coldforge.training.make_train_step` and the sums of `sft_loss`.
      batches: where batches come from.
      checkpoints: where states go to.
      place: puts a batch of the iterator on the devices.
      evaluate: `(state) -> sums` over held-out rows: `loss`, `weight` and the sums of `sft_loss`, on devices or not.
      sample: `(state) -> texts by name`.
      keep: `(step, batch, place, scalars)`, saves a batch that broke a step; `place` is where in the data it began.
      log, watchdog, clock: see the protocols.
      memory: more scalars for each step.
      epoch: passes over the data so far.
      show: `(step, scalars)`, after every step and every evaluation.
      found: takes each finding of the watchdog.
      saved: `(step)`, when a checkpoint is complete; told at the latest with the next one.
      stop: a reason to stop after the present step, or None; asked once a step, and the same in all processes.
      agree: makes one process's yes everybody's; may take a step to do so.
    """

    train: Callable[[TrainState, Any], tuple[TrainState, Mapping[str, Any]]]
    batches: Batches
    checkpoints: Checkpoints
    place: Callable[[Any], Any] = lambda batch: batch
    evaluate: Callable[[TrainState], Mapping[str, Any]] | None = None
    sample: Callable[[TrainState], Mapping[str, str]] | None = None
    keep: Callable[[int, Any, dict[str, Any], Scalars], Any] | None = None
    log: Log | None = None
    watchdog: Watch | None = None
    clock: Clock | None = None
    memory: Callable[[], Scalars] = dict
    epoch: Callable[[], float] | None = None
    show: Callable[[int, Scalars], None] | None = None
    found: Callable[[Any], None] | None = None
    saved: Callable[[int], None] | None = None
    stop: Callable[[], str | None] | None = None
    agree: Callable[[bool], bool] | None = None


class Start(NamedTuple):
    """Where a session begins.

    Attributes:
      state: its arrays are consumed.
      step: how many steps it has behind it.
      best: the lowest held-out loss so far.
      owed: what was due at that step and is still to be done, since the session before had to stop: "eval", "sample".
    """

    state: TrainState
    step: int = 0
    best: float = math.inf
    owed: tuple[str, ...] = ()


class FitResult(NamedTuple):
    """How a session ended.

    Attributes:
      state: the last one, which is saved.
      step: how many steps the run has behind it.
      reason: "done"; or why it ended before its last step: "not finite", "watchdog", or what `Parts.stop` said.
      metrics: the last value of each scalar in this session.
      best: the lowest held-out loss of the run.
      skipped: steps of this session that were not applied.
      findings: what the watchdog said in this session.
    """

    state: TrainState
    step: int
    reason: str
    metrics: Scalars
    best: float
    skipped: list[int]
    findings: list[Any]


def resume(
    checkpoints: Checkpoints, batches: Batches, watchdog: Watch | None, abstract_state: TrainState
) -> Start | None:
    """Goes back to the newest complete checkpoint: its state; data and watchdog are put where they were.

    Returns:
      None if there is no checkpoint.

    Raises:
      CheckpointError: as `coldforge.training.Checkpointer.restore_latest`.
    """
    restored = checkpoints.restore_latest(abstract_state)
    if restored is None:
        return None
    batches.set_state(restored.data_state["batches"])
    if watchdog is not None and restored.data_state["watchdog"] is not None:
        watchdog.from_dict(restored.data_state["watchdog"])
    best = restored.data_state["best"]
    owed = tuple(restored.data_state.get("owed", ()))  # not in checkpoints of 0.1
    return Start(restored.state, restored.step, math.inf if best is None else best, owed)


def fit(start: Start, parts: Parts, config: FitConfig) -> FitResult:
    """Trains up to `config.steps`, or until it is told to stop; the last state is saved in any case.

    Told to stop, it saves first; an evaluation or texts that were due at that step are made up for when it goes on.
    A run that has its steps behind it (started again after its end) is returned as it is.

    Args:
      start: from `resume`, or a new state.
      parts: what it calls.
      config: when.

    Raises:
      CheckpointError, OSError: a checkpoint or a line of the log cannot be written. What was saved before stays.
    """
    state, step = start.state, start.step
    books = _Books(parts, config, start)
    if start.owed:
        books.look(step, state, start.owed)
        books.save(step, state)
    reason = books.fault
    while step < config.steps and reason is None:
        step += 1
        place = parts.batches.get_state()
        with books.waiting("data"):
            batch = next(parts.batches)
        state, metrics = parts.train(state, parts.place(batch))
        books.dispatched(_Step(step, batch, place, metrics))  # enters the step before: it is done, or soon will be
        last = step == config.steps
        looks = {"eval": last or _due(step, config.eval_every), "sample": _due(step, config.sample_every)}
        looks_due = tuple(name for name, due in looks.items() if due)
        reason = books.fault or (parts.stop() if parts.stop is not None else None)
        saving = last or reason is not None or _due(step, config.checkpoint_every) or books.late()
        if looks_due or saving:
            books.settle()  # waits for this step
        if reason is not None and looks_due:
            books.save(step, state, owed=looks_due)  # first: who tells to stop may not wait for more
        if reason is None or last:
            books.look(step, state, looks_due)
        if (saving or books.improved) and (books.saved < step or last):
            books.save(step, state)
        reason = reason or books.fault
    books.settle()
    if books.saved < step:
        books.save(step, state)
    books.wait()
    if step == config.steps and reason != books.fault:  # it was to stop, and had ended anyway
        reason = None
    return FitResult(state, step, reason or "done", books.latest, books.best, books.skipped, books.findings)


class _Step(NamedTuple):
    """A step that the device works on: its number, its batch and where that began, and its metrics to be."""

    number: int
    batch: Any
    place: dict[str, Any]
    metrics: Mapping[str, Any]
    epoch: float | None = None


class _Books:
    """What has been seen of a session: the step under way, the last numbers, the best, what went wrong."""

    def __init__(self, parts: Parts, config: FitConfig, start: Start) -> None:
        self.parts, self.config = parts, config
        self.best, self.saved = start.best, start.step
        self.latest: Scalars = {}
        self.skipped: list[int] = []
        self.findings: list[Any] = []
        self.fault: str | None = None  # why the run must not go on
        self.improved = False  # whether the last step's evaluation is the best so far, and not saved yet
        self._open: _Step | None = None
        self._evaluated: tuple[int, Scalars] = (0, {})
        self._last_save = time.monotonic()
        self._saving = False  # whether the last checkpoint may not be complete yet

    def waiting(self, name: str) -> AbstractContextManager[None]:
        return nullcontext() if self.parts.clock is None else self.parts.clock.waiting(name)

    def pausing(self, name: str) -> AbstractContextManager[None]:
        return nullcontext() if self.parts.clock is None else self.parts.clock.pause(name)

    def dispatched(self, step: _Step) -> None:
        """Notes that the device has a step to work on, and enters the one before."""
        for value in step.metrics.values():
            if isinstance(value, jax.Array):
                value.copy_to_host_async()
        epoch = None if self.parts.epoch is None else self.parts.epoch()
        before, self._open = self._open, step._replace(epoch=epoch)
        if before is not None:
            self._enter(before)

    def settle(self) -> None:
        """Enters the step under way, for which it waits."""
        if self._open is not None:
            before, self._open = self._open, None
            self._enter(before)

    def late(self) -> bool:
        """Whether the last checkpoint is too long ago, for all processes."""
        minutes = self.config.checkpoint_minutes
        if not math.isfinite(minutes):
            return False
        late = time.monotonic() - self._last_save >= 60 * minutes
        return late if self.parts.agree is None else self.parts.agree(late)

    def look(self, step: int, state: TrainState, due: tuple[str, ...]) -> None:
        """What is due of evaluation and texts."""
        if "eval" in due:
            self.evaluate(step, state)
        if "sample" in due:
            self.sample(step, state)

    def evaluate(self, step: int, state: TrainState) -> None:
        """Held-out losses of a state."""
        if self.parts.evaluate is None:
            return
        with self.pausing("eval"):
            sums = _fetched(self.parts.evaluate(state))
        loss = sums["loss"] / sums["weight"] if sums["weight"] else math.nan
        scalars = {"eval/loss": loss} | means(sums, group="eval")
        self._evaluated = step, scalars
        self._tell(step, scalars)
        if loss < self.best:
            self.best, self.improved = loss, self.config.save_best

    def sample(self, step: int, state: TrainState) -> None:
        """Texts of a state, for people."""
        if self.parts.sample is None:
            return
        with self.pausing("samples"):
            texts = self.parts.sample(state)
        for name, text in texts.items():
            if self.parts.log is not None:
                self.parts.log.text(step, name, text)

    def save(self, step: int, state: TrainState, owed: tuple[str, ...] = ()) -> None:
        """A checkpoint of a state whose numbers are all entered, but for the looks that are owed."""
        parts = self.parts
        data_state = {
            "batches": parts.batches.get_state(),
            "watchdog": None if parts.watchdog is None else parts.watchdog.to_dict(),
            "best": self.best if math.isfinite(self.best) else None,
            "owed": list(owed),
        }
        evaluated, scalars = self._evaluated
        with self.pausing("checkpoint"):
            if parts.log is not None:
                parts.log.sync()
            self._complete()
            parts.checkpoints.save(step, state, data_state, scalars if evaluated == step else {})
        self.saved, self.improved, self._last_save = step, False, time.monotonic()
        self._saving = True

    def wait(self) -> None:
        """Returns when the last checkpoint is complete."""
        with self.pausing("checkpoint"):
            self._complete()

    def _complete(self) -> None:
        self.parts.checkpoints.wait()
        if self._saving and self.parts.saved is not None:
            self.parts.saved(self.saved)
        self._saving = False

    def _enter(self, step: _Step) -> None:
        parts, sums = self.parts, _fetched(step.metrics)
        scalars = {f"train/{name}": sums[name] for name in STEP_METRICS if name in sums} | means(sums)
        scalars["data/padding_share"] = padding_share(sums)
        if step.epoch is not None:
            scalars["train/epoch"] = step.epoch
        if parts.clock is not None:
            scalars |= parts.clock.step(tokens=int(sums["tokens"]), trained_tokens=int(trained_tokens(sums)))
        if not sums["applied"]:
            self.skipped.append(step.number)
            if parts.keep is not None:
                parts.keep(step.number, step.batch, step.place, scalars)
            if self.config.on_nan == "stop":
                self.fault = "not finite"
        self._tell(step.number, scalars | parts.memory())

    def _tell(self, step: int, scalars: Scalars) -> None:
        parts = self.parts
        self.latest |= scalars
        if parts.log is not None:
            parts.log.scalars(step, scalars)
        for finding in [] if parts.watchdog is None else parts.watchdog.observe(step, scalars):
            self.findings.append(finding)
            if parts.found is not None:
                parts.found(finding)
            if parts.log is not None:
                parts.log.text(step, "watchdog", str(finding))
            if finding.fatal:
                self.fault = self.fault or "watchdog"
        if parts.show is not None:
            parts.show(step, scalars)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _fetched(metrics: Mapping[str, Any]) -> Scalars:
    """The numbers, for which it waits."""
    return {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
