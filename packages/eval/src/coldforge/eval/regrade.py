"""`regrade`: stored samples graded again, without the model, by graders of today. Texts outlive graders."""

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from coldforge.eval.grading import Book, grade
from coldforge.eval.records import Graded, Reply
from coldforge.eval.report import write_report
from coldforge.eval.results import Results, read_results, results_of, write_results
from coldforge.eval.settings import SETTINGS, now, read_json, settings_of, software_versions, write_json
from coldforge.eval.store import SAMPLES, Waiting, line_of, locked, read_samples, replacing
from coldforge.eval.tally import Tally
from coldforge.eval.task import Task

_BATCH = 4_096  # samples in memory at a time


def regrade(directory: str | Path, tasks: Sequence[Task], *, report: bool = True) -> Results:
    """Grades the stored samples of a finished evaluation again, and writes its files anew.

    The tasks' verifiers may be others than those of the evaluation; questions and prompts must be the same. How many
    verdicts have changed is said in the results' notes. A call that was killed can be repeated.

    Raises:
        FileNotFoundError: There is no finished evaluation.
        ValueError: The tasks are not those of the evaluation, in name, questions or prompts.
        BusyError: Another process is at work there.
        Others: What a verifier raises; the files are then as they were.
    """
    directory, book = Path(directory), Book(tasks)
    old = read_results(directory)
    if old.tasks.keys() != book.tasks.keys():
        raise ValueError(f"{directory} holds samples of {', '.join(old.tasks)}; the tasks are {', '.join(book.tasks)}.")
    tallies = {name: Tally(name, task) for name, task in book.tasks.items()}
    gained = lost = 0
    with locked(directory):
        with replacing(directory / SAMPLES) as file:
            for before, after in _graded_again(directory, book):
                gained += after.correct and not before.correct
                lost += before.correct and not after.correct
                tallies[after.task].add(after)
                file.write(line_of(after))
            for name, tally in tallies.items():
                _refuse_missing(book, name, tally)
        settings = settings_of(tasks, old.model, old.sampling)
        write_json(directory / SETTINGS, read_json(directory / SETTINGS) | settings)
        total = sum(tally.samples for tally in tallies.values())
        note = f"Graded again {now()}: of {total:,} samples {gained:,} have become right, and {lost:,} no longer are."
        ours = software_versions()
        results = results_of(
            tasks, tallies, model=old.model, sampling=old.sampling, software=dict(old.software) | ours,
            first_prompts={name: task.first_prompt for name, task in old.tasks.items()},
            created=old.created, finished=old.finished, notes=[*old.notes, note],
        )  # fmt: skip
        write_results(results, directory)
        if report:
            write_report(directory)
    return results


def _graded_again(directory: Path, book: Book) -> Iterator[tuple[Graded, Graded]]:
    samples = (sample for _, sample in read_samples(directory / SAMPLES))
    for batch in itertools.batched(samples, _BATCH):
        for sample in batch:
            _refuse_other_prompt(book, sample)
        waiting = [
            Waiting(each.task, each.question, each.number, Reply(each.text, each.tokens, each.ended)) for each in batch
        ]
        yield from zip(batch, grade(book, waiting), strict=True)


def _refuse_other_prompt(book: Book, sample: Graded) -> None:
    """The reply to another prompt says nothing of this one. Prompts lie with each question's first sample."""
    asked = book.prompt(sample.task, sample.question)
    if sample.prompt is not None and _plain(asked) != _plain(sample.prompt):
        raise ValueError(
            f"question {sample.question} of {sample.task} was asked as {sample.prompt!r:.200}; the task asks "
            f"{asked!r:.200}. Wanted the prompts that were used."
        )


def _plain(prompt: Any) -> Any:
    return json.loads(json.dumps(prompt))


def _refuse_missing(book: Book, name: str, tally: Tally) -> None:
    if missing := [question for question in book.questions[name] if question not in tally.rows]:
        raise ValueError(f"there are no samples of {len(missing)} questions of {name}, {missing[0]} among them.")
