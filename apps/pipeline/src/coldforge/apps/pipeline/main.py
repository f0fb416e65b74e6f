"""`coldforge [PRESET]`: data, cold start, GRPO, rejection sampling, fine-tuning, GRPO, evaluation; one directory.

In this order: the command line; what is to be done (the ledger's decisions), shown; each stage by its own program,
unless it is finished; the accuracy of every checkpoint; the report. A stage that fails its gate ends the run.

Standard output holds the tables, all else goes to standard error. Exit codes are those of the stages: 0 all of it is
done; 1 rejection sampling has kept nothing; 2 something was given that is wrong; 3 a gate has failed; 4 training broke
off; 75 it stopped in time; 130 Ctrl-C before there was anything to save, or a second one. After both the same command
goes on.
"""

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, get_args

import psutil
from rich.console import Console

from coldforge.apps.pipeline import view
from coldforge.apps.pipeline.checks import check, check_extras
from coldforge.apps.pipeline.config import Options, StageName
from coldforge.apps.pipeline.presets import PRESETS, default_run
from coldforge.apps.pipeline.stages import Stage, stages_of
from coldforge.apps.pipeline.work import Decision
from coldforge.stages.program import BROKE_OFF, FAILED, PASSED, STOPPED, WRONG, margin, parse_preset, run_program

if TYPE_CHECKING:
    from coldforge import training
    from coldforge.apps.pipeline.ledger import Ledger
    from coldforge.training.run import Status

PROG = "coldforge"
DEFAULT = "nano"
NAMES: tuple[str, ...] = get_args(StageName)


def main(args: Sequence[str] | None = None) -> None:
    """The program. `args`: instead of the command line's."""
    words = list(sys.argv[1:] if args is None else args)
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words = [DEFAULT, *words]
    run_program(PROG, lambda: run(parse(words)))


def parse(words: list[str]) -> Options:
    """Reads the command line."""
    preset = words[0]
    return parse_preset(PRESETS, lambda config: Options(run=default_run(preset), config=config), PROG, words)


def run(options: Options) -> int:
    """Does all of it, and returns the exit code."""
    chosen = within(options)
    if options.max_hours is not None and not options.max_hours > 0:
        raise ValueError(f"--max-hours is {options.max_hours}: a session without time does nothing; wanted more than 0")
    check(options.config)
    plan = foreseen(chosen, options)
    if options.dry_run:
        view.show_plan(plan, options, Console())
        return PASSED
    from coldforge import training
    from coldforge.stages import devices
    from coldforge.stages.find import find_weights

    check_extras(options.config, {stage.group for stage, what in plan if what is None or what.todo != "done"})
    find_weights(options.weights, options.config.cold_start.model.size)  # refuses before the run's directory is made
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    devices.join(options.distributed)
    with training.open_run(options.run, stage="pipeline", config=options.config, may_differ=("*",)) as opened:
        return work(options, opened)


def within(options: Options) -> list[Stage]:
    """The stages up to `--until`.

    Raises:
        ValueError: `--from` comes after `--until`.
    """
    last = NAMES.index(options.until or NAMES[-1])
    if options.start is not None and NAMES.index(options.start) > last:
        raise ValueError(f"--from {options.start} comes after --until {options.until}; wanted it at or before")
    return [stage for stage in stages_of(options) if NAMES.index(stage.group) <= last]


def foreseen(stages: Sequence[Stage], options: Options) -> list[tuple[Stage, Decision | None]]:
    """What would be done with each stage; nothing is written."""
    if not (options.run / "manifest.json").exists():
        return [(stage, None) for stage in stages]
    from coldforge import training
    from coldforge.apps.pipeline.ledger import ENTRIES, Ledger

    ledger = Ledger(training.read_manifest(options.run).figures.get(ENTRIES, {}), options.run)
    return decided(stages, ledger, options.start)


def decided(
    stages: Sequence[Stage], ledger: "Ledger", start: StageName | None = None
) -> list[tuple[Stage, Decision | None]]:
    """What is to be done with each stage, where all from `start` on are asked for again."""
    begin = len(NAMES) if start is None else NAMES.index(start)
    return [(stage, ledger.decide(stage.work, again=NAMES.index(stage.group) >= begin)) for stage in stages]


def work(options: Options, run: "training.Run") -> int:
    """The stages, one after the other, in an open run."""
    from coldforge.apps.pipeline.ledger import Ledger
    from coldforge.stages import devices

    ledger, chosen = Ledger.of(run), within(options)
    notes = Console(stderr=True, quiet=not devices.first(), highlight=False)
    plan = decided(chosen, ledger, options.start)
    view.show_plan(plan, options, notes)
    code = PASSED
    for number, (stage, decision) in enumerate(plan, 1):
        assert decision is not None
        if decision.todo == "done":
            continue
        if out_of_time(options.max_hours):
            code = STOPPED
            notes.print(run.how_to_continue(), soft_wrap=True, markup=False)  # a stage that stops says it itself
            break
        view.heading(number, len(plan), stage, decision, notes)
        try:
            code = one(stage, decision, ledger, options)
        except Exception as error:
            tell(options, run, ledger, chosen, "failed", f"{type(error).__name__}: {error}")
            raise
        if code != PASSED:
            break
    if code != STOPPED:
        ledger.close()
    status, note = ENDS[code]
    tell(options, run, ledger, chosen, status, note)
    run.close(status, note)
    return code


def tell(
    options: Options, run: "training.Run", ledger: "Ledger", chosen: Sequence[Stage], status: str, note: str
) -> None:
    """The accuracy of every checkpoint that is of these settings, and the report; the first process tells."""
    from coldforge.apps.pipeline.outcome import checkpoints_of
    from coldforge.apps.pipeline.report import write_report
    from coldforge.stages import devices

    if not devices.first():
        return
    done = {stage.work.name for stage, what in decided(stages_of(options), ledger) if what and what.todo == "done"}
    found = checkpoints_of(options.run, done)
    view.show_results(found, Console())
    page = write_report(run, ledger, chosen, options, found, status, note)
    Console(stderr=True, highlight=False).print(
        f"{page}\ntensorboard --logdir {options.run}", soft_wrap=True, markup=False
    )


def one(stage: Stage, decision: "Decision", ledger: "Ledger", options: Options) -> int:
    """Runs a stage and writes down how it ended."""
    ledger.begin(stage.work, decision)
    try:
        code = stage.run(options.max_hours)
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        ledger.end(stage.work, "stopped" if stopped else "failed", None, f"{type(error).__name__}: {error}")
        raise
    status, note = ENDS[code]
    ledger.end(stage.work, status, code, note)
    return code


def out_of_time(max_hours: float | None) -> bool:
    """Whether the time box has no room for another stage: it counts from the start of the process."""
    if max_hours is None:
        return False
    from coldforge.stages import devices

    spent = time.time() - psutil.Process().create_time()
    return devices.everybodys(spent + margin(max_hours) >= 3600 * max_hours)


ENDS: "Mapping[int, tuple[Status, str]]" = {
    PASSED: ("finished", ""), FAILED: ("failed", "a gate has failed"), BROKE_OFF: ("failed", "training broke off"),
    STOPPED: ("stopped", "in time"), 1: ("failed", "nothing was kept"), WRONG: ("failed", "refused"),
}  # fmt: skip


if __name__ == "__main__":
    main()
