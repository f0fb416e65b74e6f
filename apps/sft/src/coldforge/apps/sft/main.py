"""`coldforge-sft PRESET`: the cold start, from a prepared data set to a model that passes its gate.

In this order: the command line; what the run reads, checked before any device is touched; the grader, tried on the
data's own replies; the run's directory; base weights and their identity, and the policy to go on with, if there is one;
the compiled steps; training, from the newest checkpoint if there is one; the adapter; the gate; the report. JAX
is imported after the parsing, so that `--help` takes half a second, and keeps what it compiles in the user's cache
directory (unless JAX_COMPILATION_CACHE_DIR names another).

Standard output holds the gate's table; all else goes to standard error. Exit codes: 0 the gate is passed; 2 something
was given that is wrong; 3 the gate has failed; 4 training broke off (not finite, or the watchdog); 75 it stopped in
time (SIGTERM, Ctrl-C, --max-hours); 130 Ctrl-C before there was anything to save, or a second one. After 75 and 130 the
same command goes on.
"""

import logging
from typing import TYPE_CHECKING

import tyro
from rich.console import Console

from coldforge.apps.sft.config import MAY_DIFFER, Options
from coldforge.apps.sft.inputs import Inputs, find_inputs
from coldforge.apps.sft.presets import PRESETS
from coldforge.stages.program import FAILED, PASSED, broken_off, margin, parse_preset, run_program

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from coldforge import training

PROG = "coldforge-sft"


def main(args: list[str] | None = None) -> None:
    """The program. `args`: instead of the command line's."""
    options = parse(args)
    run_program(PROG, lambda: run(options))


def parse(args: list[str] | None) -> Options:
    """Reads the command line."""
    return parse_preset(PRESETS, lambda preset: Options(data=tyro.MISSING, run=tyro.MISSING, config=preset), PROG, args)


def run(options: Options) -> int:
    """Does all of it, and returns the exit code."""
    inputs = find_inputs(options)
    from coldforge import training
    from coldforge.apps.sft.grade import check_grader
    from coldforge.apps.sft.start import check_start
    from coldforge.stages import devices

    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs with a traceback what it raises as well
    devices.join(options.distributed)
    mesh = devices.make_mesh(options.config.mesh)
    check_start(inputs, options.config)
    check_grader(inputs.prompts, inputs.dataset.form, timeout=options.config.gate.timeout)
    with (
        training.open_run(
            options.run, stage="sft", config=options.config, identity=inputs.identity, may_differ=MAY_DIFFER
        ) as opened,
        training.Stopper(options.max_hours, margin=margin(options.max_hours)) as stopper,
    ):
        return work(options, inputs, opened, stopper, mesh)


def work(
    options: Options, inputs: Inputs, run: "training.Run", stopper: "training.Stopper", mesh: "Mesh | None"
) -> int:
    """Training, adapter, gate, report: the stage itself, in an open run."""
    from coldforge import sft
    from coldforge.apps.sft import ask, build, start, train, verdict
    from coldforge.apps.sft.output import dataset_entry, figures, summary
    from coldforge.apps.sft.story import STORY
    from coldforge.stages import devices
    from coldforge.stages.gate import show
    from coldforge.stages.model import load_base
    from coldforge.stages.output import describe, save_model
    from coldforge.stages.report import write_report

    config, notes = options.config, Console(stderr=True, quiet=not devices.first(), highlight=False)
    build.abstract_batch(config, mesh)  # refuses rows that cannot be split, before any weight is read
    with notes.status("loading the base"):
        model = load_base(inputs.weights, config.model, inputs.tokenizer.vocab_size, mesh)
        ask.check_context(model, inputs, config)
        start.check_base(model, inputs)
        describe(
            run, model, inputs.weights, inputs.tokenizer, model=config.model, lora=config.lora,
            dataset=dataset_entry(inputs),
        )  # fmt: skip
        model = start.begin(model, inputs, config, mesh)
    batches = train.batches_of(inputs, config, devices.row_share(mesh))
    steps = config.loop.steps or batches.steps(config.loop.epochs)
    built = build.build(model, config, steps=steps, mesh=mesh)
    del model
    notes.print(summary(built, inputs, steps, batches))

    with train.training_parts(built, batches, steps, inputs, run, options, stopper) as (first, parts, clock):
        trained = sft.fit(first, parts, train.fit_config(config, steps))
        run.update(figures=figures(run.manifest, trained, clock))
        step, reason = trained.step, trained.reason
        params = train.chosen(trained, parts.checkpoints, built).params if reason == "done" else None
        del trained, first
    if params is None:  # said below the view: it draws over what is printed while it is open
        return broken_off(run, step, reason, notes)

    save_model(run, built.sampler(params), inputs.weights, inputs.tokenizer, config.output)
    try:
        result, before, after = verdict.hold_gate(built, params, inputs, run, stopper, notes, again=options.regate)
    except verdict.StoppedError as stopped:
        return broken_off(run, steps, str(stopped), notes)
    if devices.first():
        show(result, before, after, Console())
        write_report(run, result, before, after, STORY, count=config.output.examples)
    failed = ", ".join(check.name for check in result.checks if not check.passed)
    run.close("finished", f"gate failed: {failed}" if failed else "gate passed")
    notes.print(f"{run.report}\n{run.manifest.adapter_path or run.path / 'model'}", soft_wrap=True)
    return PASSED if devices.everybodys(result.passed) else FAILED
