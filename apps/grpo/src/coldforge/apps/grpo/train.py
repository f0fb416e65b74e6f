"""The parts of `coldforge.grpo.fit` wired to files, devices and a terminal. Imports JAX.

    with training_parts(built, inputs, run, options, stopper) as wired:
        result = fit(wired.start, wired.parts, built.loop)

In this order: what a checkpoint depends on; judge, sampler, watchdog; the callables; a new start or the newest
checkpoint; log and view, which the callables write to. Every process does the same; only the first one judges, writes
and shows, but for checkpoints.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from coldforge import grpo, training
from coldforge.apps.grpo.ask import Sampler, ask, shares
from coldforge.apps.grpo.build import Built
from coldforge.apps.grpo.config import MAY_DIFFER, Options, WatchdogOptions
from coldforge.apps.grpo.inputs import Inputs, question_at
from coldforge.apps.grpo.judge import Judge
from coldforge.grpo import Parts, RlLimits, Start, resume, rl_rules
from coldforge.stages.devices import use
from coldforge.stages.gate import write_replies


class Wired(NamedTuple):
    """What `fit` is given, and what the gate needs after it."""

    start: Start
    parts: Parts
    sampler: Sampler
    judge: Judge


@contextlib.contextmanager
def training_parts(
    built: Built, inputs: Inputs, run: training.Run, options: Options, stopper: training.Stopper
) -> Iterator[Wired]:
    """Where to start and what the loop calls; files, threads and processes end with the context.

    Raises:
        CheckpointError: The newest checkpoint belongs to another run, or cannot be read.
    """
    config, loop = built.config, built.config.loop
    checkpointer = training.Checkpointer(
        run.checkpoints, identity=run.manifest.identity, config=run.config, may_differ=MAY_DIFFER,
        keep_last=loop.keep_last,
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(checkpointer)
        judge = stack.enter_context(Judge(inputs, config))
        sampler = Sampler(built, inputs)
        watchdog = training.Watchdog(rules=rl_rules(limits_of(config.watchdog)))
        vote = training.Vote() if jax.process_count() > 1 else None

        def parts(step: int, log: training.MetricLog | None = None, view: training.LiveView | None = None) -> Parts:
            profiler = training.Profiler(run.tensorboard, first_step=step + 3, steps=options.profile)
            stack.enter_context(profiler)
            return Parts(
                prompt=lambda position: inputs.prompt(question_at(inputs, config, position)),
                question=lambda position: question_at(inputs, config, position).text,
                sample=sampler,
                judge=judge,
                train=_train_step(built, profiler, step),
                score=_score(built),
                shape=built.shape,
                place=lambda rows: training.place_batch(rows, mesh=built.mesh, whole=True),  # all have packed alike
                checkpoints=checkpoints,
                rollouts=run.path / "rollouts",
                evaluate=_evaluate(sampler, inputs, judge, run),
                keep=_keeper(run, view),
                log=log, watchdog=watchdog, memory=lambda: training.memory_metrics() | judge.faults(),
                compiles=lambda: _compiles(built, sampler),
                show=None if view is None else _shower(view, stopper),
                doing=None if view is None else view.doing,
                progress=(lambda _done, _of: None) if view is None else view.progress,
                found=None if view is None else view.finding,
                saved=None if view is None else view.saved,
                stop=lambda: stopper.reason if stopper.should_stop() else None,
                agree=None if vote is None else lambda yes: bool(vote.cast(int(yes))),
            )  # fmt: skip

        start = resume(parts(0), built.state, built.loop) or grpo.new_start(built.start(), built.loop)
        log = stack.enter_context(training.MetricLog(run.path, step=start.step or None))
        title = f"{config.model.size} in {run.path.name}"
        view = stack.enter_context(
            training.LiveView(loop.steps, title=title, step=start.step, time_limit=stopper.seconds_left)
        )
        if start.step:
            view.note(f"going on from step {start.step} of {loop.steps}")
        yield Wired(start, parts(start.step, log, view), sampler, judge)


def limits_of(options: WatchdogOptions) -> RlLimits:
    """The watchdog's limits, of options.

    Raises:
        ValueError: One is not above 0.
    """
    return RlLimits(**dataclasses.asdict(options))


def _train_step(built: Built, profiler: training.Profiler, step: int) -> Callable[[Any, Any], Any]:
    def train(state: training.TrainState, batch: grpo.Rows) -> tuple[training.TrainState, Mapping[str, Any]]:
        nonlocal step
        step += 1
        with use(built.mesh):
            return profiler.run(step, built.train_step, state, built.frozen, batch)

    return train


def _shower(view: training.LiveView, stopper: training.Stopper) -> Callable[[int, Mapping[str, float]], None]:
    """Shows the numbers of a step; from the second update on, which compiles nothing, the time box has room for one.

    The loop asks whether to stop after each group of samples: what the stopper takes for a step is much shorter than an
    update.
    """
    kept, updates = stopper.margin, 0

    def show(step: int, scalars: Mapping[str, float]) -> None:
        nonlocal updates
        if "time/update" in scalars:
            updates += 1
            if updates > 1:
                stopper.margin = max(stopper.margin, kept + scalars["time/update"])
        view.update(step, scalars)

    return show


def _score(built: Built) -> Callable[[Any, Any], Any]:
    def score(params: Any, batch: grpo.Rows) -> Any:
        with use(built.mesh):
            return built.score(params, built.frozen, batch)

    return score


def _compiles(built: Built, sampler: Sampler) -> dict[str, int]:
    """Programs compiled so far, by what they are for."""
    return {"train": built.train_step.compiles(), "score": built.score._cache_size(), "sample": sampler.compiles}


def _evaluate(
    sampler: Sampler, inputs: Inputs, judge: Judge, run: training.Run
) -> Callable[[Any], Mapping[str, float]]:
    """Figures of replies to the held-out questions; the replies are kept in the run."""

    def evaluate(params: Any) -> Mapping[str, float]:
        replies = ask(sampler, params, inputs.heldout, judge)
        write_replies(run.path / "heldout" / "latest.jsonl", replies)
        return shares(replies)

    return evaluate


def _keeper(run: training.Run, view: training.LiveView | None) -> Callable[..., None]:
    """Saves a batch that broke an update."""

    def keep(step: int, batch: grpo.Rows, scalars: Mapping[str, float]) -> None:
        if jax.process_index() > 0:  # all have the same batch
            return
        path = run.path / "bad_batches" / f"step_{step}.npz"
        named = {name: values for name, values in batch._asdict().items() if values is not None}
        training.save_batch(path, named, {"step": step, "scalars": scalars})
        if view is not None:
            view.note(f"step {step} was not applied; its batch is in {path}")

    return keep
