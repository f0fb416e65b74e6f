"""Evaluations that are there: compared, read, graded again; and tasks looked for in training data.

Imports no JAX, but to read a run's form.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from coldforge.apps.evaluate.options import task_specs
from coldforge.data import ReasoningFormat, open_dataset, read_rows
from coldforge.eval import (
    compare_all,
    find_samples,
    items_of,
    open_evaluation,
    open_task,
    overlap,
    regrade,
    sample_text,
    write_comparison,
)
from coldforge.stages.find import form_of
from coldforge.stages.options import Shown
from coldforge.stages.program import PASSED

CONTROLS = dict.fromkeys({*range(32), *range(127, 160)} - {ord("\n"), ord("\t")}, "\N{REPLACEMENT CHARACTER}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Hold evaluations against the first of them, question by question."""

    directories: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Of two evaluations or more."""
    out: Annotated[Path | None, Shown] = None
    """Write a page with tables, plots, and transcripts side by side where the models disagree."""
    common: bool = False
    """Compare the questions that both were asked, where one was asked more."""
    shown: int = 8
    """How many such transcripts of each task."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShowOptions:
    """Read the samples of an evaluation; also of one that is running."""

    directory: Annotated[Path, tyro.conf.Positional]
    """Of the evaluation."""
    only: tuple[Literal["right", "wrong", "truncated", "unparsable", "malformed", "unchecked"], ...] = ()
    """Samples to which all of this applies."""
    task: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """Of this task."""
    category: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """Of this part of a task."""
    question: Annotated[str | None, tyro.conf.arg(metavar="ID", help_behavior_hint="")] = None
    """Of this question; the beginning of its id will do."""
    count: int = 10
    """Show so many; 0: all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegradeOptions:
    """Grade the samples of an evaluation again, as when a verifier has been mended. The model is not needed."""

    directory: Annotated[Path, tyro.conf.Positional]
    """Of the evaluation."""
    tasks: tuple[str, ...]
    """Its tasks, as they were named then."""
    prompt: Annotated[str | None, tyro.conf.arg(metavar="STYLE", help_behavior_hint="")] = None
    """As it was then."""
    form: Annotated[Path | None, Shown] = None
    """The run or data set in whose form the questions were asked: the evaluated run itself, or what --form named."""
    limit: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """As it was then."""
    task_seed: int = 0
    """As it was then."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecontaminateOptions:
    """Report which questions of a task stand in training data: runs of 10 words, in questions and solutions."""

    task: Annotated[str, tyro.conf.Positional]
    """As --tasks names it."""
    data: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Training rows: files, directories, or data sets on the hub."""
    task_seed: int = 0
    """Of reasoning-gym's questions."""


def compare(options: CompareOptions) -> int:
    """Prints a comparison and writes its page, if wanted."""
    found = compare_all([open_evaluation(path) for path in options.directories], common=options.common)
    print(found.text)
    if options.out is not None:
        page = write_comparison(found, options.out, shown=options.shown)
        Console(stderr=True).print(str(page), soft_wrap=True, markup=False)
    return PASSED


def show(options: ShowOptions) -> int:
    """Prints samples; what could move a terminal's cursor is shown as a mark."""
    samples = find_samples(
        options.directory, kinds=options.only, task=options.task, category=options.category, question=options.question
    )
    shown = 0
    for sample, prompt in itertools.islice(samples, options.count or None):
        print(sample_text(sample, prompt).translate(CONTROLS))
        shown += 1
    if not shown:
        Console(stderr=True).print("there is no such sample")
    return PASSED


def again(options: RegradeOptions) -> int:
    """Grades again and prints the results."""
    form = None if options.form is None else read_form(options.form)
    tasks = [
        open_task(spec, prompt=options.prompt, limit=options.limit, seed=options.task_seed, form=form)
        for spec in task_specs(options.tasks)
    ]
    print(regrade(options.directory, tasks).text)
    return PASSED


def read_form(path: Path) -> ReasoningFormat:
    """The form in which a run's model replies, or a data set's rows are written.

    Raises:
        FileNotFoundError, ValueError, RunError: There is neither, or it does not say.
    """
    from coldforge import training

    is_run = (path / "config.yaml").is_file()
    return form_of(training.read_manifest(path)) if is_run else open_dataset(path).form


def decontaminate(options: DecontaminateOptions) -> int:
    """Prints what training data holds of a task."""
    if not options.data:
        raise ValueError("no training data is named; wanted files, directories or names on the hub behind the task")
    questions = open_task(options.task, seed=options.task_seed).questions
    rows = itertools.chain.from_iterable(read_rows(where) for where in options.data)
    print(overlap(items_of(questions), rows, name=f"{options.task} in {', '.join(options.data)}").text)
    return PASSED


COMMANDS: Mapping[str, tuple[Any, Callable[[Any], int]]] = {
    "compare": (CompareOptions, compare), "show": (ShowOptions, show), "regrade": (RegradeOptions, again),
    "decontaminate": (DecontaminateOptions, decontaminate),
}  # fmt: skip
