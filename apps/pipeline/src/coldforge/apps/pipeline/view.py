"""What people see in the terminal: the plan, a heading for each stage, and the accuracy of every checkpoint."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from coldforge.apps.pipeline.config import Estimate, Options
from coldforge.apps.pipeline.stages import Stage
from coldforge.apps.pipeline.work import Decision

if TYPE_CHECKING:
    from coldforge.apps.pipeline.outcome import Checkpoint

WORDS = {"done": "done", "go on": "goes on", "begin": "", "again": "again", "remake": "its end again"}


def show_plan(plan: Sequence[tuple[Stage, Decision | None]], options: Options, console: Console) -> None:
    """The stages, what is to be done with each, and what it takes."""
    table = Table(title=str(options.run), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("stage", overflow="fold")
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("memory", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    estimates = options.config.estimates
    for stage, decision in plan:
        known = estimates.get(stage.work.name) or estimates.get(stage.group)
        table.add_row(stage.title, *(_takes(known)), "" if decision is None else WORDS[decision.todo])
    console.print(table)
    for stage, decision in plan:
        if decision is not None and decision.why:
            said = f"{stage.work.name} {WORDS[decision.todo]}: {'; '.join(decision.why)}"
            console.print(Text(said, "yellow"), soft_wrap=True)
    left = [stage for stage, decision in plan if decision is None or decision.todo != "done"]
    console.print(Text(budget(left, estimates, options.max_hours), "dim"))


def budget(left: Sequence[Stage], estimates: Mapping[str, Estimate], max_hours: float | None) -> str:
    """In words, what is left to do, and how far a session of `max_hours` gets."""
    minutes = [(stage, estimates.get(stage.work.name) or estimates.get(stage.group)) for stage in left]
    if not left:
        return "All stages are done."
    known = sum(each.minutes for _, each in minutes if each is not None)
    unknown = [stage.work.name for stage, each in minutes if each is None]
    count = "One stage is" if len(left) == 1 else f"{len(left)} stages are"
    takes = [f"about {_time(known)}"] if known else []
    takes += [f"{', '.join(unknown)}, whose time is not known"] if unknown else []
    said = f"{count} left: {' and '.join(takes)}"
    if max_hours is None:
        return f"{said}."
    box_minutes, spent = 60 * max_hours, 0.0
    for stage, each in minutes:
        spent += 0.0 if each is None else each.minutes
        if spent > box_minutes:
            sessions = max(2, -(-int(known) // max(1, int(box_minutes))))
            return (
                f"{said}. This session has {_time(box_minutes)} and will probably end in {stage.work.name}; the same "
                f"command goes on, about {sessions} sessions in all."
            )
    return f"{said}; this session has {_time(box_minutes)}."


def heading(number: int, count: int, stage: Stage, decision: "Decision", console: Console) -> None:
    """A line between stages."""
    word = WORDS[decision.todo]
    console.print(Rule(Text(f"{number}/{count}  {stage.title}{f' ({word})' if word else ''}", "bold"), align="left"))


def show_results(found: "Sequence[Checkpoint]", console: Console) -> None:
    """Accuracy of each checkpoint, paired with the one before; nothing where none is evaluated yet."""
    from coldforge.apps.pipeline.outcome import differences

    if not found:
        return
    task = found[0].result
    title = f"{task.questions:,} held-out questions, {task.samples} sample{'s' * (task.samples > 1)} each"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", "right (95 %)", "in form", "cut off", "tokens"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    for each in found:
        metrics = each.result.metrics
        form = "–" if metrics.well_formed is None else f"{100 * metrics.well_formed.value:.0f} %"
        length = metrics.lengths["all"].mean.value
        table.add_row(
            each.label, metrics.accuracy.text, form, f"{100 * metrics.truncated.value:.0f} %", f"{length:.0f}"
        )
    console.print(table)
    for name, pair in differences(found):
        console.print(Text(f"{name}: {pair.difference_text}", "" if pair.shown else "dim"), soft_wrap=True)


def _takes(known: Estimate | None) -> tuple[str, str]:
    if known is None:
        return "?", "?"
    about = "" if known.measured else "~"
    return f"{about}{_time(known.minutes)}", f"{about}{known.gb:.1f} GB"


def _time(minutes: float) -> str:
    return (
        f"{minutes * 60:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
    )
