"""What the loop is given and what it gives back: `Parts`, callables and small protocols; `Start` and `FitResult`.

Everything the loop touches is here, so that a test can fake it in ten lines.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from coldforge.grpo.judging import Judge
from coldforge.grpo.packing import BatchShape
from coldforge.grpo.rollout import Prompt, Sample
from coldforge.training import Restored, TrainState

Scalars = dict[str, float]


@runtime_checkable
class Checkpoints(Protocol):
    """`coldforge.training.Checkpointer`, as far as it is used."""

    def save(self, step: int, state: Any, data_state: Mapping[str, Any], metrics: Mapping[str, float]) -> None: ...
    def restore_latest(self, abstract_state: Any) -> Restored | None: ...
    def steps(self) -> list[int]: ...
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


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the loop calls.

    Attributes:
      prompt, sample, judge: see `coldforge.grpo.rollout`.
      train: `(state, batch) -> (state, metrics)`, the compiled step, of `grpo_loss`.
      score: `(params, batch) -> log-probabilities` `[accumulation, rows, seq]`; needed for a reference, or for
        old_policy "trainer".
      shape: of an update's batch; see `packing.shape_for`.
      checkpoints: where states go to.
      rollouts: a directory for the samples of the rollout under way; not used if a rollout has one update.
      place: puts a batch on the devices.
      evaluate: `(params) -> numbers` over held-out questions, with names such as "eval/correct"; the first is the one
        that `FitResult.best` is of, the larger the better; a step's checkpoint has them as its metrics.
      keep: `(step, batch, scalars)`, saves a batch that broke an update.
      question: text of the question at a position, for the log.
      log, watchdog: see the protocols.
      compiles: numbers of compiled programs, by name.
      memory: more scalars for each step.
      show: `(step, scalars)`, after every step and every evaluation.
      doing: `(what)`, a context in which something takes long.
      progress: `(done, of)`, groups sampled, of those that have been asked for.
      found: takes each finding of the watchdog.
      saved: `(step)`, when a checkpoint is complete; told at the latest with the next one.
      stop: a reason to stop, or None; the same in all processes. Asked once a step, and once a group while sampling.
      agree: makes one process's yes everybody's; may take a step to do so.
    """

    prompt: Prompt
    sample: Sample
    judge: Judge
    train: Callable[[TrainState, Any], tuple[TrainState, Mapping[str, Any]]]
    shape: BatchShape
    checkpoints: Checkpoints
    rollouts: Path
    score: Callable[[Any, Any], Any] | None = None
    place: Callable[[Any], Any] = lambda batch: batch
    evaluate: Callable[[Any], Mapping[str, float]] | None = None
    keep: Callable[[int, Any, Scalars], Any] | None = None
    question: Callable[[int], str] | None = None
    log: Log | None = None
    watchdog: Watch | None = None
    compiles: Callable[[], Mapping[str, int]] = dict
    memory: Callable[[], Scalars] = dict
    show: Callable[[int, Scalars], None] | None = None
    doing: Callable[[str], Any] | None = None
    progress: Callable[[int, int], None] = lambda _done, _of: None
    found: Callable[[Any], None] | None = None
    saved: Callable[[int], None] | None = None
    stop: Callable[[], str | None] = lambda: None
    agree: Callable[[bool], bool] | None = None


class Start(NamedTuple):
    """Where a session begins.

    Attributes:
      state: its arrays are consumed.
      reference: parameters of π_ref; None without one.
      step: how many updates it has behind it.
      position: of the first question of the next rollout.
      best: the best evaluation so far.
      owed: whether the evaluation of that step is still to be done, since the session before had to stop.
    """

    state: TrainState
    reference: Any = None
    step: int = 0
    position: int = 0
    best: float = -math.inf
    owed: bool = False


class FitResult(NamedTuple):
    """How a session ended.

    Attributes:
      state: the last one, which is saved.
      step: how many updates the run has behind it.
      reason: "done"; or why it ended before its last step: "not finite", "watchdog", or what `Parts.stop` said.
      metrics: the last value of each scalar in this session.
      best: the best evaluation of the run; −inf without one.
      skipped: updates of this session that were not applied.
      findings: what the watchdog said in this session.
    """

    state: TrainState
    step: int
    reason: str
    metrics: Scalars
    best: float
    skipped: list[int]
    findings: list[Any]
