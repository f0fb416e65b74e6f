"""`coldforge-sft PRESET`: the cold start, from a prepared data set to a model that passes its gate.

In this order: the command line; what the run reads, checked without JAX; the run's directory; base weights and their
identity; the compiled steps; training, from the newest checkpoint if there is one; the adapter; the gate; the report.
JAX is imported after the parsing, so that `--help` takes half a second, and keeps what it compiles in the user's cache
directory (unless JAX_COMPILATION_CACHE_DIR names another).

Standard output holds the gate's table; all else goes to standard error. Exit codes: 0 the gate is passed; 2 something
was given that is wrong; 3 the gate has failed; 4 training broke off (not finite, or the watchdog); 75 it stopped in
time (SIGTERM, Ctrl-C, --max-hours): the same command goes on.
"""

import inspect
import logging
import os
import sys
from typing import TYPE_CHECKING

import tyro
from rich.console import Console

from coldforge.apps.sft.config import MAY_DIFFER, Options
from coldforge.apps.sft.inputs import Inputs, find_inputs
from coldforge.apps.sft.presets import PRESETS
from coldforge.data.embedded import cache_dir

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from coldforge import training

PASSED, WRONG, FAILED, BROKE_OFF, STOPPED = 0, 2, 3, 4, 75


def main(args: list[str] | None = None) -> None:
    """The program. `args`: instead of the command line's."""
    options = parse(args)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_dir() / "jax"))
    try:
        sys.exit(run(options))
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError, ModuleNotFoundError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not type(error).__module__.startswith("coldforge."):
            raise  # XLA's, which nobody has foreseen
        print(f"coldforge-sft: {error}", file=sys.stderr)  # how packages say that they were given something wrong
        sys.exit(WRONG)


def parse(args: list[str] | None) -> Options:
    """Reads the command line."""
    chosen = (sys.argv[1:] if args is None else args)[
        :1
    ]  # its help tells all of its docstring, the list the first line
    kinds = {}
    for name, preset in PRESETS.items():
        said = inspect.getdoc(preset) or ""
        options = Options(data=tyro.MISSING, run=tyro.MISSING, config=preset())
        kinds[name] = (said if name in chosen else said.partition("\n")[0], options)
    return tyro.extras.overridable_config_cli(kinds, args=args, prog="coldforge-sft")


def run(options: Options) -> int:
    """Does all of it, and returns the exit code."""
    inputs = find_inputs(options)
    from coldforge import training
    from coldforge.apps.sft import devices

    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs with a traceback what it raises as well
    devices.join(options.distributed)
    mesh = devices.make_mesh(options.config.mesh)
    identity = {"dataset": inputs.dataset.content_hash, "tokenizer": inputs.dataset.tokenizer_hash}
    with (
        training.open_run(
            options.run, stage="sft", config=options.config, identity=identity, may_differ=MAY_DIFFER
        ) as opened,
        training.Stopper(options.max_hours, margin=margin(options.max_hours)) as stopper,
    ):
        return stages(options, inputs, opened, stopper, mesh)


def stages(
    options: Options, inputs: Inputs, run: "training.Run", stopper: "training.Stopper", mesh: "Mesh | None"
) -> int:
    """Training, adapter, gate, report: the stage itself, in an open run."""
    from coldforge import sft
    from coldforge.apps.sft import ask, base, build, devices, report, train, verdict
    from coldforge.apps.sft.output import describe, figures, save_model, summary

    config, notes = options.config, Console(stderr=True, quiet=not devices.first(), highlight=False)
    build.abstract_batch(config, mesh)  # refuses rows that cannot be split, before any weight is read
    with notes.status("loading the base"):
        model = base.load_base(inputs, config, mesh)
        ask.check_context(model, inputs, config)
        describe(run, model, inputs, config)
    batches = train.batches_of(inputs, config, devices.row_share(mesh))
    steps = config.loop.steps or batches.steps(config.loop.epochs)
    built = build.build(build.adapted(model, config), config, steps=steps, mesh=mesh)
    del model
    notes.print(summary(built, inputs, steps, batches))

    with train.training_parts(built, batches, steps, inputs, run, options, stopper) as (start, parts, clock):
        trained = sft.fit(start, parts, train.fit_config(config, steps))
        run.update(figures=figures(run.manifest, trained, clock))
        step, reason = trained.step, trained.reason
        params = train.chosen(trained, parts.checkpoints, built).params if reason == "done" else None
        del trained, start
    if params is None:  # said below the view: it draws over what is printed while it is open
        return broken_off(run, step, reason, notes)

    save_model(built, params, inputs, run)
    try:
        result, before, after = verdict.hold_gate(built, params, inputs, run, stopper, notes, again=options.regate)
    except verdict.StoppedError as stopped:
        return broken_off(run, steps, str(stopped), notes)
    if devices.first():
        verdict.show(result, before, after, Console())
        report.write_report(run, result, before, after, count=config.output.examples)
    failed = ", ".join(check.name for check in result.checks if not check.passed)
    run.close("finished", f"gate failed: {failed}" if failed else "gate passed")
    notes.print(f"{run.report}\n{run.manifest.adapter_path or run.path / 'model'}", soft_wrap=True)
    return PASSED if devices.everybodys(result.passed) else FAILED


def broken_off(run: "training.Run", step: int, reason: str, notes: Console) -> int:
    """Says how a run ended before its end, and how to go on."""
    broke = reason in ("not finite", "watchdog")
    run.close("failed" if broke else "stopped", reason)
    notes.print(f"stopped after step {step}: {reason}. It is saved.", style="bold")
    notes.print(run.how_to_continue(), soft_wrap=True, markup=False)
    return BROKE_OFF if broke else STOPPED


def margin(max_hours: float | None) -> float:
    """Seconds of a time box that are kept for saving: a minute, or a tenth of a very small box."""
    return 60.0 if max_hours is None else min(60.0, 360.0 * max_hours)
