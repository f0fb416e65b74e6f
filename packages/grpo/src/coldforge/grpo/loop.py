"""The loop: rollout, rewards, advantages, updates; what it calls, what it keeps, and how it goes on after a kill.

    config = GrpoConfig(steps=1600, questions=512, group_size=16, minibatches=16)
    start = resume(parts, abstract_state, config) or new_start(init_state(params, optimizer, seed), config)
    result = fit(start, parts, config)
    result.reason                      # "done", or why it ended before that

A rollout of `questions × group_size` samples is made by the policy as it is (`rollout.collect`), judged, given
advantages, scored under the reference, and split into minibatches, each of which is one step: an update of the policy.

A checkpoint is written between two updates. It holds the state, the reference, and the place: how many steps, which
question comes next, what the watchdog remembers. Everything random follows from the seed and these numbers, so a run
that is killed makes the same rollout again. Within a rollout the samples are of a policy that is gone; they lie beside
the checkpoints (`rollouts/`), until no checkpoint needs them.
"""

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from coldforge.grpo import experience as store
from coldforge.grpo.advantage import minibatches, update_weights, with_advantages
from coldforge.grpo.config import GrpoConfig
from coldforge.grpo.experience import Experience
from coldforge.grpo.judging import StoppedError
from coldforge.grpo.measures import rollout_scalars, texts
from coldforge.grpo.objective import fetched, means
from coldforge.grpo.packing import Place, Rows, pack, padding_share
from coldforge.grpo.parts import FitResult, Parts, Scalars, Start
from coldforge.grpo.rollout import collect
from coldforge.training import TrainState

STEP_METRICS = ("loss", "grad_norm", "grad_norm_clipped", "update_norm", "learning_rate", "applied")


def new_start(state: TrainState, config: GrpoConfig) -> Start:
    """The start of a new run: the reference is the policy as it is, if the loss has one."""
    return Start(state, _copied(state.params) if config.policy.needs_reference else None)


def saved_state(state: TrainState, reference: Any) -> dict[str, Any]:
    """What a checkpoint's arrays are: `restore` needs the same, abstract."""
    return {"train": state, "reference": {} if reference is None else reference}


def resume(parts: Parts, abstract: TrainState, config: GrpoConfig) -> Start | None:
    """Goes back to the newest complete checkpoint; the watchdog is put where it was. None if there is none.

    Raises:
      CheckpointError: as `coldforge.training.Checkpointer.restore_latest`.
      FileNotFoundError: the samples of the rollout under way are gone.
    """
    reference = abstract.params if config.policy.needs_reference else None
    restored = parts.checkpoints.restore_latest(saved_state(abstract, reference))
    if restored is None:
        return None
    place = restored.data_state
    if parts.watchdog is not None and place["watchdog"] is not None:
        parts.watchdog.from_dict(place["watchdog"])
    if restored.step % config.updates and not (path := rollout_path(parts, restored.step // config.updates)).exists():
        raise FileNotFoundError(
            f"the checkpoint of step {restored.step} lies within a rollout, and its samples are gone: {path}. Put the "
            "file back, or delete the newest checkpoint, to go on from one before it"
        )
    state = restored.state
    best = -math.inf if place["best"] is None else place["best"]
    reference = state["reference"] if config.policy.needs_reference else None
    return Start(state["train"], reference, restored.step, place["position"], best, place["owed"])


def fit(start: Start, parts: Parts, config: GrpoConfig) -> FitResult:
    """Trains up to `config.steps`, or until it is told to stop; the last state is saved in any case.

    Told to stop while it samples, it drops the rollout under way, which will be made again, the same. Told to stop at a
    step with an evaluation, it saves first; the evaluation is made up for when the run goes on.

    Args:
      start: from `resume`, or `new_start`.
      parts: what it calls.
      config: the numbers.

    Raises:
      ValueError: the configuration needs a reference, or `Parts.score`, which is not there; a prompt does not fit; or
        as `coldforge.grpo.collect`.
      FileNotFoundError, ValueError: the samples of the rollout under way are gone, or damaged.
      CheckpointError, OSError: a checkpoint, a rollout's samples or a line of the log cannot be written. What was saved
        before stays.
      Exception: what sampler and judge raise; `JudgeError` in other processes than the first, where the judge did.
    """
    if config.policy.needs_reference and (start.reference is None or parts.score is None):
        raise ValueError("policy.beta is above 0: the loop needs a reference to start from and `Parts.score`")
    if config.old == "trainer" and parts.score is None:
        raise ValueError("old_policy 'trainer' scores samples: the loop needs `Parts.score`")
    run = _Run(start, parts, config)
    if start.owed:
        run.evaluate()
        run.save()
    reason = run.fault
    while run.step < config.steps and reason is None:
        number, update = divmod(run.step, config.updates)
        try:
            rollout = run.rollout(number, update)
        except StoppedError as stopped:
            reason = str(stopped)
            break
        splits = minibatches(rollout.samples, number, config)
        for chosen in splits[update : config.steps - number * config.updates]:
            reason = run.update(rollout, chosen)
            if reason is not None:
                break
    run.finish()
    if run.step == config.steps:  # if it was to stop, it had ended anyway
        reason = run.fault
    return FitResult(run.state, run.step, reason or "done", run.latest, run.best, run.skipped, run.findings)


def rollout_path(parts: Parts, number: int) -> Path:
    """Where the samples of a rollout are kept while it is under way."""
    return parts.rollouts / f"rollout_{number:08d}.npz"


class _Run:
    """A session under way: state, reference, place, and what has been seen."""

    def __init__(self, start: Start, parts: Parts, config: GrpoConfig) -> None:
        self.parts, self.config = parts, config
        self.state, self.reference = start.state, start.reference
        self.step, self.position, self.best = start.step, start.position, start.best
        self.latest: Scalars = {}
        self.skipped: list[int] = []
        self.findings: list[Any] = []
        self.fault: str | None = None
        self._pending: Scalars = {}  # of the rollout, to go with its first update
        self._measured: Scalars = {}  # by the evaluation of this very step
        self._saved = start.step
        self._saving = False
        self._last_save = time.monotonic()

    def rollout(self, number: int, update: int) -> Experience:
        """The samples of a rollout with all that its updates need: new ones, or those of the session before."""
        parts, config = self.parts, self.config
        if update:
            return store.load(rollout_path(parts, number))
        with self.doing("sampling"):
            found, self.position = collect(
                self.state.params, number, self.position, prompt=self._prompt, sample=parts.sample, judge=parts.judge,
                config=config, stop=parts.stop, progress=parts.progress,
            )  # fmt: skip
        found = with_advantages(found, config)
        began = time.perf_counter()
        if config.policy.needs_reference:
            with self.doing("scoring under the reference"):
                found = dataclasses.replace(found, ref_logprobs=self._scored(found, self.reference))
        if config.old == "trainer":
            with self.doing("scoring under the policy"):
                found = dataclasses.replace(found, old_logprobs=self._scored(found, self.state.params))
        self._pending = rollout_scalars(found) | {"time/score": time.perf_counter() - began}
        if number % config.texts_every == 0:
            self._tell_texts(found, number)
        if config.updates > 1 and jax.process_index() == 0:
            store.save(rollout_path(parts, number), found)
        if config.updates > 1 and jax.process_count() > 1:
            multihost_utils.sync_global_devices("rollout stored")  # before a checkpoint that needs it
        return found

    def update(self, rollout: Experience, chosen: np.ndarray) -> str | None:
        """One step: an update by the chosen samples; a reason to stop after it, or None."""
        parts, config = self.parts, self.config
        began = time.perf_counter()
        weights, denominator = update_weights(rollout, chosen, config)
        kept = np.flatnonzero(weights)
        batch, _ = pack(rollout, chosen[kept], weights[kept], denominator, parts.shape)
        self.state, metrics = parts.train(self.state, parts.place(batch))
        self.step, self._measured = self.step + 1, {}
        self._enter(batch, metrics, began)
        if config.refresh_reference and self.step % config.refresh_reference == 0 and self.reference is not None:
            self.reference = _copied(self.state.params)
        last = self.step == config.steps
        reason = self.fault or parts.stop()
        look = last or (config.eval_every > 0 and self.step % config.eval_every == 0)
        if look and reason is not None:
            self.save(owed=True)  # first: who tells to stop may not wait for more
        if look and (reason is None or last):
            self.evaluate()
        due = config.checkpoint_every > 0 and self.step % config.checkpoint_every == 0
        if (last or reason is not None or due or self._late()) and (self._saved < self.step or last):
            self.save()
        return reason or self.fault

    def finish(self) -> None:
        """Saves what is not saved yet, and waits for it."""
        if self._saved < self.step:
            self.save()
        with self.doing("saving"):
            self._complete()

    def doing(self, what: str) -> AbstractContextManager[Any]:
        return nullcontext() if self.parts.doing is None else self.parts.doing(what)

    def _prompt(self, position: int) -> np.ndarray:
        """The prompt at a position, if rows have room for it and a completion."""
        ids = self.parts.prompt(position)
        room, longest = self.parts.shape.seq_len, self.config.max_new_tokens
        if len(ids) + (longest or 1) > room:
            raise ValueError(
                f"the prompt of the question at position {position} has {len(ids)} tokens; with a completion of "
                f"{longest or 'at least 1'} it does not fit into rows of {room}: leave it out, or make rows longer"
            )
        return ids

    def _scored(self, rollout: Experience, params: Any) -> list[np.ndarray]:
        """Log-probabilities of all completions under `params`, in lots of as many samples as an update has."""
        parts, config = self.parts, self.config
        assert parts.score is not None
        bare = dataclasses.replace(rollout, advantages=None, old_logprobs=None, ref_logprobs=None)  # one program
        found: dict[int, np.ndarray] = {}
        size = config.samples // config.minibatches
        order = np.argsort(-rollout.lengths, kind="stable")
        for first in range(0, len(order), size):
            chosen = order[first : first + size]
            batch, places = pack(bare, chosen, np.ones(len(chosen)), 1.0, parts.shape)
            values = _whole(parts.score(params, parts.place(batch)))
            found |= _unpacked(values, places)
        return [found[i] for i in range(rollout.samples)]

    def _enter(self, batch: Rows, metrics: Mapping[str, Any], began: float) -> None:
        """The numbers of an update, for which it waits; those of its rollout go with the first one."""
        sums = fetched(metrics)
        seconds = time.perf_counter() - began
        scalars: Scalars = {"time/update": seconds}
        if batch.denominator.sum() == 0:  # known beforehand: no sample has anything to teach
            scalars |= {"train/empty": 1.0, "train/grad_norm": 0.0, "train/learning_rate": sums["learning_rate"]}
        else:
            scalars |= {f"train/{name}": sums[name] for name in STEP_METRICS if name in sums} | means(sums)
            scalars |= {"train/tokens": sums["tokens"], "train/tokens_per_second": sums["tokens"] / seconds}
            scalars |= {"train/trained_tokens": sums["trained_tokens"], "data/padding_share": padding_share(batch)}
            if not sums["applied"]:
                self._broke(batch, scalars)
        first = self.step % self.config.updates == 1 or self.config.updates == 1
        if self.config.old == "sampler" and not first:  # then π_θ is not the policy that sampled any more
            scalars = {name: value for name, value in scalars.items() if not name.startswith("policy/gap")}
        scalars |= self._pending | {f"compiles/{name}": float(n) for name, n in self.parts.compiles().items()}
        self._pending = {}
        self._tell(self.step, scalars | self.parts.memory())

    def _broke(self, batch: Rows, scalars: Scalars) -> None:
        self.skipped.append(self.step)
        if self.parts.keep is not None:
            self.parts.keep(self.step, batch, scalars)
        if self.config.on_nan == "stop":
            self.fault = "not finite"

    def evaluate(self) -> None:
        """Numbers of the policy as it is, over held-out questions."""
        if self.parts.evaluate is None:
            return
        with self.doing("held-out questions"):
            scalars = dict(self.parts.evaluate(self.state.params))
        self._tell(self.step, scalars)
        self._measured = scalars
        self.best = max(self.best, next(iter(scalars.values()), -math.inf))

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

    def _tell_texts(self, found: Experience, number: int) -> None:
        parts = self.parts
        if parts.log is None or not self.config.texts:
            return
        asked: Sequence[str] | None = None
        if parts.question is not None:
            asked = [parts.question(int(position)) for position in found.positions]
        for name, text in texts(found, self.config.texts, asked, seed=number).items():
            parts.log.text(self.step + 1, name, text)

    def _late(self) -> bool:
        """Whether the last checkpoint is too long ago, for all processes."""
        if not math.isfinite(self.config.checkpoint_minutes):
            return False
        late = time.monotonic() - self._last_save >= 60 * self.config.checkpoint_minutes
        return late if self.parts.agree is None else self.parts.agree(late)

    def save(self, owed: bool = False) -> None:
        """A checkpoint of this step; `owed`: its evaluation is still to be done."""
        parts = self.parts
        place = {
            "position": self.position,
            "watchdog": None if parts.watchdog is None else parts.watchdog.to_dict(),
            "best": self.best if math.isfinite(self.best) else None,
            "owed": owed and parts.evaluate is not None,
        }
        with self.doing("saving"):
            if parts.log is not None:
                parts.log.sync()
            self._complete()
            parts.checkpoints.save(self.step, saved_state(self.state, self.reference), place, self._measured)
        self._saved, self._saving, self._last_save = self.step, True, time.monotonic()

    def _complete(self) -> None:
        """Waits for the last checkpoint; then the samples that no checkpoint needs any more can go."""
        self.parts.checkpoints.wait()
        if not self._saving:
            return
        self._saving = False
        if self.parts.saved is not None:
            self.parts.saved(self._saved)
        if jax.process_index() == 0:
            within = {step // self.config.updates for step in (*self.parts.checkpoints.steps(), self.step)
                      if step % self.config.updates}  # fmt: skip
            for path in self.parts.rollouts.glob("rollout_*.npz"):
                if int(path.stem.removeprefix("rollout_")) not in within:
                    path.unlink()


def _unpacked(values: np.ndarray, places: Sequence[Place]) -> dict[int, np.ndarray]:
    """Each sample's own numbers out of `[accumulation, rows, seq]`."""
    return {p.sample: np.asarray(values[p.micro, p.row, p.first : p.last], np.float32) for p in places}


def _whole(values: Any) -> np.ndarray:
    """An array on the host, whole, wherever its parts are."""
    if getattr(values, "is_fully_addressable", True):
        return np.asarray(values)
    return np.asarray(multihost_utils.process_allgather(values, tiled=True))


def _copied(params: Any) -> Any:
    """The same values in arrays of their own: a training step consumes those of its state."""
    return jax.tree.map(jnp.copy, params)
