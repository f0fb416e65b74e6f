"""The parts of `coldforge.sft.fit` wired to files, devices and a terminal. Imports JAX.

    with training_parts(built, batches, steps, inputs, run, options, stopper) as (start, parts, clock):
        result = fit(start, parts, fit_config(options.config, steps))

In this order: what a checkpoint depends on; a new start or the newest checkpoint; log, view, watchdog; the callables.
Every process does the same; only the first one writes and shows, but for checkpoints, of which each writes its shards.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from coldforge import training
from coldforge.apps.sft.ask import sample_texts
from coldforge.apps.sft.build import Built
from coldforge.apps.sft.config import MAY_DIFFER, Options, SftConfig
from coldforge.apps.sft.inputs import Inputs
from coldforge.data import Batches, TokenBatch, eval_batches
from coldforge.sft import FitConfig, FitResult, Parts, Start, resume
from coldforge.stages.devices import row_share, use


def batches_of(inputs: Inputs, config: SftConfig, share: tuple[int, int]) -> Batches:
    """The training batches; this process's rows of them."""
    shape = config.batches
    return Batches(
        inputs.dataset.train, seq_len=shape.seq_len, rows=shape.rows, accumulation=shape.accumulation,
        seed=config.loop.seed, reasoning_weight=shape.reasoning_weight, answer_weight=shape.answer_weight,
        process_index=share[0], process_count=share[1],
    )  # fmt: skip


def fit_config(config: SftConfig, steps: int) -> FitConfig:
    """When the loop does what."""
    loop = config.loop
    return FitConfig(
        steps=steps, eval_every=loop.eval_every, checkpoint_every=loop.checkpoint_every,
        checkpoint_minutes=loop.checkpoint_minutes, sample_every=loop.sample_every, on_nan=loop.on_nan,
    )  # fmt: skip


def watchdog_config(inputs: Inputs) -> training.WatchdogConfig:
    """Thresholds; random weights may begin with any loss."""
    if inputs.weights is None:
        return training.WatchdogConfig(first_loss_high=math.inf)
    return training.WatchdogConfig(vocab_size=inputs.tokenizer.vocab_size)


def chosen(trained: FitResult, checkpoints: Any, built: Built) -> training.TrainState:
    """The state that the run hands on: the last one, or that of the lowest held-out loss, from its checkpoint."""
    best = checkpoints.best() if built.config.output.take == "best" else None
    return trained.state if best in (None, trained.step) else checkpoints.restore(best, built.state).state


@contextlib.contextmanager
def training_parts(
    built: Built, batches: Batches, steps: int, inputs: Inputs, run: training.Run, options: Options,
    stopper: training.Stopper,
) -> Iterator[tuple[Start, Parts, training.Throughput]]:  # fmt: skip
    """Where to start, what the loop calls, and its clock; files and threads end with the context.

    Raises:
        CheckpointError: The newest checkpoint belongs to another run, or cannot be read.
    """
    config, loop = built.config, built.config.loop
    checkpointer = training.Checkpointer(
        run.checkpoints, identity=run.manifest.identity, config=run.config, may_differ=MAY_DIFFER,
        keep_last=loop.keep_last, keep_best=1,
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(checkpointer)
        stack.callback(batches.close)
        watchdog = training.Watchdog(watchdog_config(inputs))
        start = resume(checkpoints, batches, watchdog, built.state) or Start(built.start())
        log = stack.enter_context(training.MetricLog(run.path, step=start.step or None))
        title = f"{config.model.size} in {run.path.name}"
        box = stopper.seconds_left
        view = stack.enter_context(training.LiveView(steps, title=title, step=start.step, time_limit=box))
        profiler = stack.enter_context(
            training.Profiler(run.tensorboard, first_step=start.step + 3, steps=options.profile)
        )
        if start.step:
            view.note(f"going on from step {start.step} of {steps}")
        clock = training.Throughput()
        vote = training.Vote() if jax.process_count() > 1 else None

        def show(step: int, scalars: Mapping[str, float]) -> None:
            view.update(step, scalars, epoch=scalars.get("train/epoch"))

        parts = Parts(
            train=_train_step(built, profiler, start.step),
            batches=batches,
            checkpoints=checkpoints,
            place=lambda batch: training.place_batch(batch, mesh=built.mesh),
            evaluate=_busy(view, "held-out loss", held_out(built, inputs)),
            sample=_busy(view, "sampling", lambda state: sample_texts(built, state.params, inputs)),
            keep=_keeper(run, batches, view),
            log=log, watchdog=watchdog, clock=clock, memory=training.memory_metrics,
            epoch=lambda: batches.epoch, show=show, found=view.finding, saved=view.saved,
            stop=lambda: stopper.reason if stopper.should_stop() else None,
            agree=None if vote is None else lambda yes: bool(vote.cast(int(yes))),
        )  # fmt: skip
        yield start, parts, clock


def _train_step(built: Built, profiler: training.Profiler, step: int) -> Callable[[Any, Any], Any]:
    def train(state: training.TrainState, batch: TokenBatch) -> tuple[training.TrainState, Mapping[str, Any]]:
        nonlocal step
        step += 1
        with use(built.mesh):
            return profiler.run(step, built.train_step, state, built.frozen, batch)

    return train


def held_out(built: Built, inputs: Inputs) -> Callable[[training.TrainState], dict[str, Any]]:
    """Sums over held-out rows, the same ones every time; all batches are dispatched before the first is waited for."""
    shape, loop = built.config.batches, built.config.loop
    index, count = row_share(built.mesh)
    held = eval_batches(
        inputs.dataset.heldout, seq_len=shape.seq_len, rows=shape.rows, reasoning_weight=shape.reasoning_weight,
        answer_weight=shape.answer_weight, limit=loop.eval_batches, process_index=index, process_count=count,
    )  # fmt: skip

    def evaluate(state: training.TrainState) -> dict[str, Any]:
        with use(built.mesh):
            sums = [
                built.eval_step(state.params, built.frozen, training.place_batch(batch, mesh=built.mesh))
                for batch in held
            ]
            total = jax.tree.map(lambda *parts: sum(parts), *sums)
        return {"loss": total.loss, "weight": total.weight} | total.aux

    return evaluate


def _keeper(run: training.Run, batches: Batches, view: training.LiveView) -> Callable[..., None]:
    """Saves a batch that broke a step, each process its own rows, and the numbers of all its examples."""

    def keep(step: int, batch: TokenBatch, place: dict[str, Any], scalars: Mapping[str, float]) -> None:
        part = f"_process_{jax.process_index()}" if jax.process_count() > 1 else ""
        path = run.path / "bad_batches" / f"step_{step}{part}.npz"
        training.save_batch(path, batch, {"step": step, "scalars": scalars, "examples": batches.examples(place)})
        view.note(f"step {step} was not applied; its batch is in {path}")

    return keep


def _busy[S, R](view: training.LiveView, what: str, function: Callable[[S], R]) -> Callable[[S], R]:
    def busy(state: S) -> R:
        with view.doing(what):
            return function(state)

    return busy
