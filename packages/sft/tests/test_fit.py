"""The loop, over fakes: order of events, one step late, resuming, stopping, broken steps."""

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from coldforge.sft import FitConfig, Parts, Start, fit, resume
from coldforge.training import Restored, Throughput, TrainState

pytestmark = pytest.mark.whole


def new_state(step: int, params: float) -> TrainState:
    """A state whose parameters are one number."""
    return TrainState(step, params, opt_state=(), key=None)


def train(state: TrainState, batch: float) -> tuple[TrainState, dict[str, Any]]:
    """The "loss" is the batch; what is trained adds batches up, unless one is not finite."""
    applied = math.isfinite(batch)
    metrics = {
        "loss": np.float32(batch), "weight": 10.0, "grad_norm": 1.0, "applied": int(applied),
        "reasoning_nll": 12.0, "reasoning_tokens": 6.0, "answer_nll": 2.0, "answer_tokens": 4.0,
        "tokens": 12, "positions": 16,
    }  # fmt: skip
    return new_state(state.step + 1, state.params + batch if applied else state.params), metrics


class Batches:
    """0.5, 1.5, 2.5, …; those in `odd` are nan."""

    def __init__(self, odd: tuple[int, ...] = ()) -> None:
        self.at, self.odd = 0, odd

    def __next__(self) -> float:
        self.at += 1
        return math.nan if self.at in self.odd else self.at - 0.5

    def get_state(self) -> dict[str, Any]:
        return {"at": self.at}

    def set_state(self, state: dict[str, Any]) -> None:
        self.at = state["at"]


@dataclass
class Checkpoints:
    """What was saved, by step; `events` is shared with the other fakes and says what happened in which order."""

    events: list[str]
    saved: dict[int, Restored] = field(default_factory=dict)

    def save(self, step: int, state: Any, data_state: Any, metrics: Any) -> None:
        self.events.append(f"save {step}")
        self.saved[step] = Restored(step, state, copy.deepcopy(data_state), dict(metrics))

    def restore_latest(self, abstract_state: Any) -> Restored | None:
        return copy.deepcopy(self.saved[max(self.saved)]) if self.saved else None

    def wait(self) -> None:
        self.events.append("wait")


@dataclass
class Log:
    events: list[str]
    rows: dict[int, dict[str, float]] = field(default_factory=dict)
    texts: list[tuple[int, str, str]] = field(default_factory=list)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self.events.append(f"log {step}")
        self.rows[step] = self.rows.get(step, {}) | values

    def text(self, step: int, tag: str, text: str) -> None:
        self.texts.append((step, tag, text))

    def sync(self) -> None:
        self.events.append("sync")


@pytest.fixture
def events() -> list[str]:
    return []


@dataclass
class Finding:
    kind: str
    fatal: bool = False

    def __str__(self) -> str:
        return f"{self.kind}!"


@dataclass
class Watch:
    """Speaks at the steps it is told to; its memory is how many numbers it has seen."""

    at: dict[int, Finding] = field(default_factory=dict)
    seen: list[int] = field(default_factory=list)

    def observe(self, step: int, metrics: Any) -> list[Finding]:
        self.seen.append(step)
        return [self.at[step]] if step in self.at and "train/loss" in metrics else []

    def to_dict(self) -> dict[str, Any]:
        return {"seen": list(self.seen)}

    def from_dict(self, state: Any) -> None:
        self.seen = list(state["seen"])


def evaluation(loss: float) -> dict[str, float]:
    parts = {"reasoning_nll": 1.0, "reasoning_tokens": 2.0, "answer_nll": 1.0, "answer_tokens": 4.0}
    return {"loss": 10 * loss, "weight": 10.0, "tokens": 6, "positions": 8} | parts


def start() -> Start:
    return Start(new_state(0, 0.0))


def test_a_run_in_ten_lines(events):
    checkpoints = Checkpoints(events)
    result = fit(start(), Parts(train=train, batches=Batches(), checkpoints=checkpoints), FitConfig(steps=4))
    assert result.state == new_state(4, 0.5 + 1.5 + 2.5 + 3.5)
    assert (result.reason, result.step) == ("done", 4)
    assert list(checkpoints.saved) == [4]
    assert result.metrics["train/loss"] == 3.5


def test_metrics_are_entered_one_step_late_and_before_any_save(events):
    def dispatch(state, batch):
        events.append(f"step {state.step + 1}")
        return train(state, batch)

    parts = Parts(train=dispatch, batches=Batches(), checkpoints=Checkpoints(events), log=Log(events))
    fit(start(), parts, FitConfig(steps=5, checkpoint_every=3))
    assert events == [
        "step 1", "step 2", "log 1", "step 3", "log 2", "log 3", "sync", "wait", "save 3",
        "step 4", "step 5", "log 4", "log 5", "sync", "wait", "save 5", "wait",
    ]  # fmt: skip


def test_scalars_have_the_names_that_logs_and_watchdog_know(events):
    log = Log(events)
    parts = Parts(
        train=train, batches=Batches(), checkpoints=Checkpoints(events), log=log, clock=Throughput(),
        memory=lambda: {"memory/host_gib": 1.0}, epoch=lambda: 0.25, evaluate=lambda state: evaluation(2.0),
    )  # fmt: skip
    fit(start(), parts, FitConfig(steps=3, eval_every=0))
    row = log.rows[3]
    assert row["train/loss_reasoning"] == 2.0
    assert row["train/loss_answer"] == 0.5
    assert row["data/padding_share"] == 0.25
    assert row["train/epoch"] == 0.25
    assert row["memory/host_gib"] == 1.0
    assert row["eval/loss"] == 2.0
    assert row["eval/loss_answer"] == 0.25
    assert {"train/grad_norm", "train/applied", "time/step", "train/tokens_per_second"} <= row.keys()


def test_the_best_evaluation_is_saved_and_remembered(events):
    losses = iter([3.0, 2.0, 2.5, 1.9, 1.8])
    checkpoints = Checkpoints(events)
    parts = Parts(
        train=train, batches=Batches(), checkpoints=checkpoints, evaluate=lambda state: evaluation(next(losses))
    )
    first = fit(start(), parts, FitConfig(steps=8, eval_every=2, checkpoint_every=0))
    assert list(checkpoints.saved) == [2, 4, 8]
    assert checkpoints.saved[4].metrics["eval/loss"] == 2.0
    assert first.best == 1.9
    resumed = resume(checkpoints, Batches(), None, new_state(0, 0.0))
    assert (resumed.step, resumed.best) == (8, 1.9)
    assert fit(resumed, parts, FitConfig(steps=10, eval_every=10)).best == 1.8
    parts = Parts(train=train, batches=Batches(), checkpoints=Checkpoints([]), evaluate=lambda state: evaluation(1.0))
    fit(start(), parts, FitConfig(steps=8, eval_every=2, checkpoint_every=0, save_best=False))
    assert list(parts.checkpoints.saved) == [8]


@pytest.mark.parametrize("killed_at", [1, 3, 4, 7, 9])
def test_a_killed_run_continues_to_the_same_end(events, killed_at):
    """Whatever was done after the last checkpoint is done again, from the same data and with the same memory."""
    config = FitConfig(steps=10, checkpoint_every=2)
    whole, watch = Checkpoints([]), Watch()
    wanted = fit(start(), Parts(train=train, batches=Batches(), checkpoints=whole, watchdog=watch), config)

    def dies(state, batch):
        if state.step == killed_at:
            raise KeyboardInterrupt
        return train(state, batch)

    checkpoints = Checkpoints(events)
    with pytest.raises(KeyboardInterrupt):
        fit(start(), Parts(train=dies, batches=Batches(), checkpoints=checkpoints, watchdog=Watch()), config)
    batches, again = Batches(), Watch()
    resumed = resume(checkpoints, batches, again, new_state(0, 0.0)) or start()
    assert resumed.step == killed_at - killed_at % 2
    found = fit(resumed, Parts(train=train, batches=batches, checkpoints=checkpoints, watchdog=again), config)
    assert found.state == wanted.state
    assert again.seen == watch.seen == list(range(1, 11))
    assert checkpoints.saved[10] == whole.saved[10]


def test_a_run_that_is_done_stays_as_it_is(events):
    parts = Parts(train=train, batches=Batches(), checkpoints=Checkpoints(events))
    result = fit(Start(new_state(5, 1.0), step=5), parts, FitConfig(steps=5))
    assert (result.state, result.reason, result.metrics) == (new_state(5, 1.0), "done", {})
    assert events == ["wait"]


def test_a_broken_step_is_kept_and_the_run_goes_on(events):
    kept = []
    parts = Parts(
        train=train, batches=Batches(odd=(3,)), checkpoints=Checkpoints(events),
        keep=lambda step, batch, place, scalars: kept.append((step, batch, place, scalars["train/applied"])),
    )  # fmt: skip
    result = fit(start(), parts, FitConfig(steps=5))
    assert result.skipped == [3]
    assert result.reason == "done"
    assert result.state == new_state(5, 0.5 + 1.5 + 3.5 + 4.5)
    [(step, batch, place, applied)] = kept
    assert (step, math.isnan(batch), place, applied) == (3, True, {"at": 2}, 0.0)


def test_a_broken_step_ends_the_run_if_asked_and_the_state_is_saved(events):
    checkpoints = Checkpoints(events)
    parts = Parts(train=train, batches=Batches(odd=(3,)), checkpoints=checkpoints)
    result = fit(start(), parts, FitConfig(steps=9, on_nan="stop"))
    assert (result.reason, result.step) == ("not finite", 4), "step 4 was under way when step 3 was found out"
    assert list(checkpoints.saved) == [4]
    parts = Parts(train=train, batches=Batches(odd=(5,)), checkpoints=checkpoints)
    assert fit(start(), parts, FitConfig(steps=5, on_nan="stop")).reason == "not finite"


def test_findings_are_told_and_a_fatal_one_ends_the_run(events):
    told, log = [], Log(events)
    watch = Watch({2: Finding("odd"), 4: Finding("hopeless", fatal=True)})
    parts = Parts(
        train=train, batches=Batches(), checkpoints=Checkpoints(events), watchdog=watch, found=told.append, log=log
    )
    result = fit(start(), parts, FitConfig(steps=9))
    assert [finding.kind for finding in result.findings] == ["odd", "hopeless"] == [one.kind for one in told]
    assert (result.reason, result.step) == ("watchdog", 5)
    assert log.texts == [(2, "watchdog", "odd!"), (4, "watchdog", "hopeless!")]


def test_it_stops_when_told_to_and_saves(events):
    answers = iter([None, None, "SIGTERM"])
    checkpoints = Checkpoints(events)
    parts = Parts(train=train, batches=Batches(), checkpoints=checkpoints, stop=lambda: next(answers))
    result = fit(start(), parts, FitConfig(steps=9))
    assert (result.reason, result.step, list(checkpoints.saved)) == ("SIGTERM", 3, [3])
    parts = Parts(train=train, batches=Batches(), checkpoints=checkpoints, stop=lambda: "SIGTERM")
    assert fit(start(), parts, FitConfig(steps=1)).reason == "done", "told to stop after what was the last step anyway"


def test_told_to_stop_it_saves_first_and_looks_later(events):
    """At step 4 an evaluation and texts are due. Their time comes in the next session; all is as if undisturbed."""

    def parts(log, checkpoints, stop=None):
        losses = {2: 3.0, 4: 1.0, 6: 2.0}
        return Parts(
            train=train, batches=Batches(), checkpoints=checkpoints, log=log, stop=stop,
            evaluate=lambda state: events.append(f"eval {state.step}") or evaluation(losses[state.step]),
            sample=lambda state: {"samples/0": f"after {state.step}"},
        )  # fmt: skip

    config = FitConfig(steps=6, eval_every=2, checkpoint_every=3, sample_every=4)
    whole, kept = Log(events), Checkpoints(events)
    wanted = fit(start(), parts(whole, kept), config)

    events.clear()
    log, checkpoints = Log(events), Checkpoints(events)
    answers = iter([None, None, None, "SIGTERM"])
    stopped = fit(start(), parts(log, checkpoints, lambda: next(answers)), config)
    assert (stopped.reason, stopped.step) == ("SIGTERM", 4)
    assert "eval 4" not in events
    assert log.texts == []
    again = parts(log, checkpoints)
    result = fit(resume(checkpoints, again.batches, None, new_state(0, 0.0)), again, config)
    assert events.count("eval 4") == 1
    assert (log.rows, log.texts) == (whole.rows, whole.texts)
    assert (result.state, result.best) == (wanted.state, wanted.best)
    assert {step: saved.data_state for step, saved in checkpoints.saved.items()} == {
        step: saved.data_state for step, saved in kept.saved.items()
    }
    assert not resume(checkpoints, again.batches, None, new_state(0, 0.0)).owed


def test_a_checkpoint_is_due_after_minutes_too(events, monkeypatch):
    now = iter(range(0, 10_000, 50))
    monkeypatch.setattr("coldforge.sft.loop.time.monotonic", lambda: float(next(now)))
    checkpoints, told = Checkpoints(events), []
    parts = Parts(train=train, batches=Batches(), checkpoints=checkpoints, saved=told.append)
    fit(start(), parts, FitConfig(steps=6, checkpoint_every=0, checkpoint_minutes=2.0))
    assert list(checkpoints.saved) == [3, 6]
    assert told == [3, 6]
    never = Parts(train=train, batches=Batches(), checkpoints=Checkpoints([]), agree=lambda late: False)
    fit(start(), never, FitConfig(steps=6, checkpoint_every=0, checkpoint_minutes=2.0))
    assert list(never.checkpoints.saved) == [6], "another process is not late"


def test_texts_are_sampled_and_logged(events):
    log = Log(events)
    parts = Parts(
        train=train, batches=Batches(), checkpoints=Checkpoints(events), log=log,
        sample=lambda state: {"samples/0": f"after {state.step}"},
    )  # fmt: skip
    fit(start(), parts, FitConfig(steps=5, sample_every=2))
    assert log.texts == [(2, "samples/0", "after 2"), (4, "samples/0", "after 4")]


@pytest.mark.parametrize(("wrong", "said"), [({"steps": 0}, "steps must be"), ({"steps": 1, "eval_every": -1}, "eval")])
def test_configs_are_checked(wrong, said):
    with pytest.raises(ValueError, match=said):
        FitConfig(**wrong)
