"""`results.json`: what came out, in numbers with intervals; and two evaluations held against each other.

    evaluation = open_evaluation("runs/base")
    print(evaluation.results.text)
    print(compare_evaluations(evaluation, open_evaluation("runs/tuned"), "gsm8k").text)

A results file says of which model (any mapping that identifies it), of which version and content of each task, with
which sampling and software. Results of different tasks are not compared: what differs is named.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from coldforge.eval.compare import Comparison, compare
from coldforge.eval.intervals import Estimate
from coldforge.eval.metrics import signal
from coldforge.eval.records import Graded, Sampling
from coldforge.eval.settings import RESULTS, SCHEMA, describe, named_differences, read_json, samples_of, write_json
from coldforge.eval.store import SAMPLES, read_samples, sample_at
from coldforge.eval.tally import Metrics, Tally, category_accuracies, cautions, first_of, metrics_of
from coldforge.eval.task import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What a model got on one task.

    Attributes:
        name, version, content_hash: Which task.
        description: What it is made of: `Task.describe()`.
        questions: How many.
        samples: Of each question.
        chance: What guessing gets.
        first_prompt: The first question as the model was asked it.
        metrics: The figures.
        categories: The accuracy of each category; empty where there is one only.
        warnings: What a reader should know before believing the accuracy.
    """

    name: str
    version: str
    content_hash: str
    description: Mapping[str, Any]
    questions: int
    samples: int
    chance: float
    first_prompt: str
    metrics: Metrics
    categories: Mapping[str, Estimate]
    warnings: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {each.name: getattr(self, each.name) for each in dataclasses.fields(self)} | {
            "metrics": self.metrics.to_dict(),
            "categories": {name: each.to_dict() for name, each in self.categories.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Reads what `to_dict` gave."""
        return cls(
            **dict(values)
            | {
                "metrics": Metrics.from_dict(values["metrics"]),
                "categories": {name: Estimate.from_dict(each) for name, each in values["categories"].items()},
            }
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """What came out of an evaluation.

    Attributes:
        model: What tells the model from others; "name" is what it is called.
        sampling: How samples were drawn.
        software: Versions of what graded and counted, and of what the caller named.
        created, finished: When the evaluation began and ended.
        notes: What happened on the way.
        tasks: By name.
    """

    model: Mapping[str, Any]
    sampling: Sampling
    software: Mapping[str, str]
    created: str
    finished: str
    notes: Sequence[str]
    tasks: Mapping[str, TaskResult]

    @property
    def name(self) -> str:
        """What the model is called."""
        return str(self.model.get("name", "the model"))

    @property
    def text(self) -> str:
        """A line for each task, and what is to be said of it."""
        lines = []
        for task in self.tasks.values():
            metrics = task.metrics
            extra = [f"pass@{k} {each.text}" for k, each in list(metrics.pass_at.items())[-1:]]
            extra += [f"maj@{task.samples} {metrics.majority.text}"] if metrics.majority else []
            extra += [f"{name} {each.text}" for name, each in metrics.measures.items()]
            extra += [f"in form {100 * metrics.well_formed.value:.1f} %"] if metrics.well_formed else []
            extra.append(f"cut off {100 * metrics.truncated.value:.1f} %")
            extra.append(f"no answer {100 * metrics.no_answer.value:.1f} %")
            what = f"avg@{task.samples}" if task.samples > 1 else "accuracy"
            lines.append(
                f"{task.name}, {task.questions:,} questions: {what} {metrics.accuracy.text}; {', '.join(extra)}"
            )
            lines += [f"  ! {warning}" for warning in task.warnings]
        return "\n".join([*lines, *self.notes])

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return (
            {"schema": SCHEMA}
            | {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
            | {
                "sampling": self.sampling.to_dict(),
                "tasks": {name: task.to_dict() for name, task in self.tasks.items()},
            }
        )


def results_of(
    tasks: Sequence[Task], tallies: Mapping[str, Tally], *, model: Mapping[str, Any], sampling: Sampling,
    first_prompts: Mapping[str, str], software: Mapping[str, str], created: str, finished: str, notes: Sequence[str],
) -> Results:  # fmt: skip
    """Counts what the samples of each task come to."""
    found = {}
    for task in tasks:
        metrics = metrics_of(tallies[task.name])
        found[task.name] = TaskResult(
            name=task.name,
            version=task.version,
            content_hash=task.content_hash,
            description=describe(task),
            questions=len(task.questions),
            samples=samples_of(task, sampling),
            chance=task.chance,
            first_prompt=first_prompts[task.name],
            metrics=metrics,
            categories=category_accuracies(tallies[task.name]),
            warnings=[*signal(metrics.accuracy, chance=task.chance), *_part_of(task), *cautions(metrics)],
        )
    return Results(
        model=model, sampling=sampling, software=software, created=created, finished=finished, notes=notes, tasks=found
    )


def _part_of(task: Task) -> list[str]:
    n, all_ = len(task.questions), task.published
    return [] if all_ in (None, n) else [f"{n:,} questions; {all_:,} were published, and are what others report."]


def write_results(results: Results, directory: Path) -> None:
    """Writes `results.json`."""
    write_json(directory / RESULTS, results.to_dict())


def read_results(directory: str | Path) -> Results:
    """Reads `results.json`.

    Raises:
        FileNotFoundError: There is none: no evaluation, or one that has not ended.
        ValueError: It is of another schema (which is named), or damaged.
    """
    path = Path(directory) / RESULTS
    if not path.exists():
        begun = (path.parent / SAMPLES).exists()
        advice = "the evaluation has not ended: call it again" if begun else "wanted a directory of an evaluation"
        raise FileNotFoundError(f"there is no {path}; {advice}.")
    values = read_json(path)
    del values["schema"]
    try:
        tasks = {name: TaskResult.from_dict(task) for name, task in values["tasks"].items()}
        return Results(**values | {"sampling": Sampling(**values["sampling"]), "tasks": tasks})
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__} {error}") from error


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A directory with results, and its samples without their texts, which stay on disk.

    Attributes:
        directory: Where it lies.
        results: What came out.
        tallies: Task → samples; each entry's `place` is what `sample` takes.
    """

    directory: Path
    results: Results
    tallies: Mapping[str, Tally]

    @property
    def name(self) -> str:
        """What the model is called."""
        return self.results.name

    def sample(self, place: Any) -> Graded:
        """Reads a sample with its text."""
        return sample_at(self.directory / SAMPLES, place)


def open_evaluation(directory: str | Path) -> Evaluation:
    """Reads a finished evaluation.

    Raises:
        FileNotFoundError, ValueError: As `read_results` and `read_samples` raise them; or samples are missing.
    """
    directory = Path(directory)
    results = read_results(directory)
    tallies = {name: Tally(name) for name in results.tasks}
    for place, sample in read_samples(directory / SAMPLES):
        if sample.task not in tallies:
            raise ValueError(f"{directory / SAMPLES} holds a sample of {sample.task}, of which there are no results.")
        tallies[sample.task].add(sample, place)
    for name, task in results.tasks.items():
        if (found := tallies[name].samples) != (wanted := task.questions * task.samples):
            raise ValueError(f"{directory / SAMPLES} holds {found:,} samples of {name}; its results are of {wanted:,}.")
    return Evaluation(directory, results, tallies)


def compare_evaluations(a: Evaluation, b: Evaluation, task: str, *, common: bool = False) -> Comparison:
    """Compares two models on a task, paired by question.

    Args:
        a, b: The difference is b − a.
        task: The task's name.
        common: Compare the questions that both were asked, in the same words, where one was asked others, too.

    Raises:
        ValueError: One has no such task; or the tasks are not the same, and what differs is named.
    """
    names = names_of([a, b])
    first, second = (_task_of(each, task) for each in (a, b))
    if (first.version, first.content_hash) != (second.version, second.content_hash):
        _refuse_other_task(first, second, names, common)
        _refuse_other_questions(a, b, task, names)
    return compare(a.tallies[task].correct(), b.tallies[task].correct(), names=(names[0], names[1]), common=common)


def names_of(evaluations: Sequence[Evaluation]) -> list[str]:
    """What to call them: the models' names; where two are the same, with their directories'."""
    names = [each.name for each in evaluations]
    if len(set(names)) == len(names):
        return names
    longer = [f"{each.name} ({each.directory.resolve().name})" for each in evaluations]
    return longer if len(set(longer)) == len(names) else [f"{each.name} ({each.directory})" for each in evaluations]


def _task_of(evaluation: Evaluation, task: str) -> TaskResult:
    if task not in evaluation.results.tasks:
        raise ValueError(
            f"{evaluation.directory} has no results of {task!r}; there are {', '.join(evaluation.results.tasks)}."
        )
    return evaluation.results.tasks[task]


def _refuse_other_task(a: TaskResult, b: TaskResult, names: Sequence[str], common: bool) -> None:
    of_questions = ("content_hash", "source", "questions", "published", "categories")
    old, new = ({**task.description, "version": task.version} for task in (a, b))
    if common:
        old, new = ({name: each for name, each in some.items() if name not in of_questions} for some in (old, new))
    if found := named_differences(old, new):
        raise ValueError(
            f"{names[0]} and {names[1]} were not given the same {a.name}: {found}. Evaluate one of them again; replies "
            "to the same prompts can be graded again without the model (regrade)."
        )


def _refuse_other_questions(a: Evaluation, b: Evaluation, task: str, names: Sequence[str]) -> None:
    for question, row in a.tallies[task].rows.items():
        if other := b.tallies[task].rows.get(question):
            old, new = a.sample(first_of(row).place), b.sample(first_of(other).place)
            if (old.prompt, old.gold) != (new.prompt, new.gold):
                raise ValueError(f"question {question} of {task} is not the same for {names[0]} and {names[1]}.")
