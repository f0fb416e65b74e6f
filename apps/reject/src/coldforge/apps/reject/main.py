"""`coldforge-reject PRESET --from RUN --out DIR`: a policy's own right and clean samples become a data set.

In this order: the command line; the policy, its gate, questions and conversations, checked before any device is
touched; whose directory it is; samples that are not there yet, judged beside the sampler; what is kept of them, as a
data set.

Standard output holds the account, all else goes to standard error. Exit codes: 0; 1 nothing was kept; 2 something was
given that is wrong; 75 it stopped in time (SIGTERM, Ctrl-C, --max-hours): the same command goes on; 130 Ctrl-C before
that, or a second one. However it ended, the same command goes on.
"""

import logging
from typing import TYPE_CHECKING

import tyro
from rich.console import Console

from coldforge.apps.reject.config import Options
from coldforge.apps.reject.inputs import Inputs, find_inputs
from coldforge.apps.reject.plan import begin, finished, make_plan
from coldforge.apps.reject.presets import PRESETS
from coldforge.apps.reject.tables import show, show_acceptance, show_reasons
from coldforge.data.dataset import SAMPLES
from coldforge.data.rejection import NothingKeptError, SampleLog, SampleLogs, Selected, write_selection
from coldforge.stages.program import PASSED, STOPPED, margin, parse_preset, run_program, stopped

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from jax.sharding import Mesh

PROG = "coldforge-reject"
NOTHING = 1


def main(args: list[str] | None = None) -> None:
    """The program. `args`: instead of the command line's."""
    options = parse(args)
    run_program(PROG, lambda: run(options))


def parse(args: list[str] | None) -> Options:
    """Reads the command line."""
    return parse_preset(
        PRESETS, lambda preset: Options(start=tyro.MISSING, out=tyro.MISSING, config=preset), PROG, args
    )


def run(options: Options) -> int:
    """Does all of it, and returns the exit code."""
    inputs = find_inputs(options)
    plan = make_plan(inputs, options.config)
    made = finished(options.out, plan, inputs)
    from coldforge.apps.reject.sample import check
    from coldforge.stages import devices

    check(inputs, options.config)
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    devices.join(options.distributed)
    mesh = devices.make_mesh(options.config.mesh)
    notes = Console(stderr=True, quiet=not devices.first(), highlight=False)
    if made is not None:
        notes.print(f"{options.out} was complete.", style="dim", markup=False, soft_wrap=True)
    else:
        if devices.first():
            begin(options.out, plan)
        if not draw(options, inputs, mesh, notes):
            return STOPPED
        return write(options, inputs, plan, notes)
    if devices.first():
        show(made, Console(highlight=False))
    return PASSED


def draw(options: Options, inputs: Inputs, mesh: "Mesh | None", notes: Console) -> bool:
    """Samples what is not there yet; says whether all of it is."""
    import jax

    from coldforge import training
    from coldforge.apps.reject.judge import Judge
    from coldforge.apps.reject.progress import Bar
    from coldforge.apps.reject.sample import left, load_policy, sample
    from coldforge.stages import devices

    config, directory = options.config, options.out / SAMPLES
    devices.together()
    with SampleLog(directory, jax.process_index()) as log:
        logs = SampleLogs(directory)
        devices.together()  # all have read what is there, before anyone adds to it
        samples = config.sampling.samples
        todo = left(len(inputs.questions), samples, logs)
        total = len(inputs.questions) * samples
        notes.print(f"{len(inputs.questions):,} questions × {samples} samples; {logs.count:,} are there.", style="dim")
        if not todo:
            return True
        with notes.status("loading the policy"):
            model = load_policy(inputs, config, mesh)
        with (
            training.Stopper(options.max_hours, margin=margin(options.max_hours)) as stopper,
            Judge(inputs.tokenizer, inputs.form, config.grading) as judge,
            Bar(total, (one for _, one in logs), inputs.form, notes) as bar,
        ):
            done = sample(model, inputs, config, mesh, todo, judge, log, bar, stopper.should_stop)
        if not done:
            stopped(stopper.reason, "What was judged is kept.", notes)
        return done


def write(options: Options, inputs: Inputs, plan: "Mapping[str, Any]", notes: Console) -> int:
    """Makes the data set of all samples, in the first process; returns the exit code, in all."""
    from coldforge.stages import devices

    def choose() -> int:
        try:
            show(select(options, inputs, plan, notes), Console(highlight=False))
        except NothingKeptError as nothing:
            show_acceptance(nothing.acceptance, Console(highlight=False))
            show_reasons(nothing.audit, Console(highlight=False))
            notes.print(f"{PROG}: {nothing}", markup=False, soft_wrap=True)
            return NOTHING
        return PASSED

    devices.together()
    return devices.first_does(choose)


def select(options: Options, inputs: Inputs, plan: "Mapping[str, Any]", notes: Console) -> Selected:
    """Chooses among the samples and writes the data set."""
    config, asked = options.config, len(inputs.questions)
    with notes.status("choosing") as status:
        return write_selection(
            inputs.questions, SampleLogs(options.out / SAMPLES), options.out, tokenizer=inputs.tokenizer,
            tokenizer_name="tokenizer.model", form=inputs.form, count=config.sampling.samples, options=config.keep,
            chat=inputs.chat, facts={"plan": plan},
            progress=lambda done: status.update(f"choosing: {done:,} of {asked:,} questions"),
        )  # fmt: skip


if __name__ == "__main__":
    main()
