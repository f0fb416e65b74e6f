"""`coldforge-grpo PRESET --from RUN`: from a cold start to a policy whose answers are right more often.

In this order: the command line; the cold start, its gate, the questions, checked before any device is touched; the
options; the run's directory; base weights and adapter; the newest checkpoint, if there is one; held-out questions
before; rollouts and updates; the gate, paired with the replies before; the adapter; the report.

Standard output holds the gate's table; all else goes to standard error. Exit codes: 0 the gate is passed; 2 something
was given that is wrong; 3 the gate has failed; 4 training broke off (not finite, or the watchdog); 75 it stopped in
time (SIGTERM, Ctrl-C, --max-hours); 130 Ctrl-C before there was anything to save, or a second one. After 75 and 130 the
same command goes on.
"""

import logging
from typing import TYPE_CHECKING

import tyro
from rich.console import Console

from coldforge.apps.grpo.config import MAY_DIFFER, Options
from coldforge.apps.grpo.inputs import Inputs, find_inputs
from coldforge.apps.grpo.presets import PRESETS
from coldforge.stages.program import FAILED, PASSED, broken_off, margin, parse_preset, run_program

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from coldforge import training

PROG = "coldforge-grpo"


def main(args: list[str] | None = None) -> None:
    """The program. `args`: instead of the command line's."""
    options = parse(args)
    run_program(PROG, lambda: run(options))


def parse(args: list[str] | None) -> Options:
    """Reads the command line."""
    return parse_preset(
        PRESETS, lambda preset: Options(start=tyro.MISSING, run=tyro.MISSING, config=preset), PROG, args
    )


def run(options: Options) -> int:
    """Does all of it, and returns the exit code."""
    inputs = find_inputs(options)
    from coldforge import training
    from coldforge.apps.grpo.checks import check
    from coldforge.stages import devices

    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs with a traceback what it raises as well
    devices.join(options.distributed)
    mesh = devices.make_mesh(options.config.mesh)
    check(options, inputs, mesh)  # before a directory is given a configuration that cannot run
    with (
        training.open_run(
            options.run, stage="grpo", config=options.config, identity=inputs.identity, may_differ=MAY_DIFFER
        ) as opened,
        training.Stopper(options.max_hours, margin=margin(options.max_hours)) as stopper,
    ):
        return work(options, inputs, opened, stopper, mesh)


def work(
    options: Options, inputs: Inputs, run: "training.Run", stopper: "training.Stopper", mesh: "Mesh | None"
) -> int:
    """Rollouts, updates, adapter, gate, report: the stage itself, in an open run."""
    from coldforge import grpo
    from coldforge.apps.grpo import build, start, train, verdict
    from coldforge.apps.grpo.story import STORY
    from coldforge.stages import devices
    from coldforge.stages.gate import show
    from coldforge.stages.output import save_model
    from coldforge.stages.report import write_report

    notes = Console(stderr=True, quiet=not devices.first(), highlight=False)
    with notes.status("loading the policy"):
        model = start.load_policy(run, inputs, options.config, mesh)
        built = build.build(model, options.config, mesh=mesh)
        del model
    notes.print(start.summary(built, inputs))

    with train.training_parts(built, inputs, run, options, stopper) as wired:
        before = verdict.before(built, inputs, wired, run)
        trained = grpo.fit(wired.start, wired.parts, built.loop)
        run.update(figures=start.figures(run.manifest, trained))
        done = trained.reason == "done"
        params = trained.state.params
        result, after = verdict.hold_gate(params, before, inputs, wired, run) if done else (None, [])
    if result is None:  # said below the view: it draws over what is printed while it is open
        return broken_off(run, trained.step, trained.reason, notes)

    save_model(run, built.with_params(params), inputs.weights, inputs.tokenizer, options.config.output)
    if devices.first():
        show(result, before, after, Console(), STORY.labels)
        write_report(run, result, before, after, STORY, count=options.config.output.examples)
    failed = ", ".join(check.name for check in result.checks if not check.passed)
    run.close("finished", f"gate failed: {failed}" if failed else "gate passed")
    notes.print(f"{run.report}\n{run.manifest.adapter_path or run.path / 'model'}", soft_wrap=True)
    return PASSED if devices.everybodys(result.passed) else FAILED


if __name__ == "__main__":
    main()
