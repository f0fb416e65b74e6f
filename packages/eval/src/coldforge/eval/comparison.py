"""`compare_all` and `write_comparison`: two or more evaluations side by side, each held against the first.

    base, tuned = open_evaluation("runs/base"), open_evaluation("runs/tuned")
    found = compare_all([base, tuned])
    print(found.text)
    write_comparison(found, "runs/base-tuned")       # report.html, comparison.json, plots/*.png

Only tasks that all were given are compared, and they must be the same ones in version and content. p-values are
corrected for the number of comparisons, since of twenty that show nothing one would show something; intervals are not.
Left out: comparing each with each.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coldforge.eval.compare import Comparison, by_category, holm
from coldforge.eval.pages import asked, sampling_words, shown_sample, time_words, write_page
from coldforge.eval.plots import (
    Plot,
    Row,
    curves,
    differences,
    file_name,
    length_histogram,
    whiskers,
    write_plots,
)
from coldforge.eval.power import sentence
from coldforge.eval.records import question_seed
from coldforge.eval.report import REPORT
from coldforge.eval.results import Evaluation, compare_evaluations, names_of
from coldforge.eval.settings import GRADERS, SCHEMA, write_json
from coldforge.eval.tally import Entry, Tally

COMPARISON = "comparison.json"
_MOST_CATEGORIES = 60  # in a plot


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
    """Evaluations held against the first of them.

    Attributes:
        evaluations: As they were given.
        names: What they are called.
        tasks: Task → a comparison with the first for each of the others, p-values corrected over all of them.
        categories: Task → for each of the others, category → comparison, p-values corrected within; empty where a task
            has one category.
        notes: What a reader should know: what was not compared, what was not done alike.
    """

    evaluations: Sequence[Evaluation]
    names: Sequence[str]
    tasks: Mapping[str, Sequence[Comparison]]
    categories: Mapping[str, Sequence[Mapping[str, Comparison]]]
    notes: Sequence[str]

    @property
    def text(self) -> str:
        """All comparisons, for a terminal."""
        parts = [f"{task}\n{each.text}" for task, found in self.tasks.items() for each in found]
        return "\n\n".join([*parts, *(["\n".join(self.notes)] if self.notes else [])])

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "schema": SCHEMA,
            "models": [
                {"name": name, "directory": str(each.directory), "model": dict(each.results.model)}
                for name, each in zip(self.names, self.evaluations, strict=True)
            ],
            "tasks": {task: [each.to_dict() for each in found] for task, found in self.tasks.items()},
            "categories": {
                task: [{name: each.to_dict() for name, each in part.items()} for part in found]
                for task, found in self.categories.items()
            },
            "notes": list(self.notes),
        }


def compare_all(evaluations: Sequence[Evaluation], *, common: bool = False) -> Compared:
    """Holds evaluations against the first of them, on the tasks that all of them were given.

    Args:
        evaluations: Two or more.
        common: Compare the questions that both were asked where one was asked more.

    Raises:
        ValueError: There are fewer than two, they have no task in common, or a task is not the same one (what differs
            is named).
    """
    if len(evaluations) < 2:
        raise ValueError(f"there are {len(evaluations)} evaluations; wanted two or more to compare.")
    first, *others = evaluations
    names = names_of(evaluations)
    shared = [task for task in first.results.tasks if all(task in other.results.tasks for other in others)]
    if not shared:
        had = "; ".join(
            f"{name}: {', '.join(each.results.tasks)}" for name, each in zip(names, evaluations, strict=True)
        )
        raise ValueError(f"the evaluations have no task in common: {had}.")
    found = {task: [compare_evaluations(first, other, task, common=common) for other in others] for task in shared}
    flat = [each for some in found.values() for each in some]
    corrected = iter(holm([each.p_value for each in flat]))
    pairs = {
        task: [
            dataclasses.replace(each, p_value=next(corrected), names=(names[0], name))
            for each, name in zip(some, names[1:], strict=True)
        ]
        for task, some in found.items()
    }
    return Compared(
        evaluations=evaluations,
        names=names,
        tasks=pairs,
        categories={task: parts for task in shared if (parts := _by_category(evaluations, names, task, common))},
        notes=_notes(evaluations, names, shared, len(flat)),
    )


def _by_category(
    evaluations: Sequence[Evaluation], names: Sequence[str], task: str, common: bool
) -> list[dict[str, Comparison]]:
    first, *others = (each.tallies[task] for each in evaluations)
    if len(set(first.categories.values())) < 2:
        return []
    kinds = {question: kind for tally in (first, *others) for question, kind in tally.categories.items()}
    found = []
    for name, other in zip(names[1:], others, strict=True):
        parts = by_category(first.correct(), other.correct(), kinds.__getitem__, names=(names[0], name), common=common)
        found.append({kind: part for kind, part in sorted(parts.items()) if part.n})
    return found


def _notes(evaluations: Sequence[Evaluation], names: Sequence[str], shared: Sequence[str], count: int) -> list[str]:
    notes = []
    if count > 1:
        notes.append(f"p-values are corrected for {count} comparisons (Holm); intervals are not.")
    for name, each in zip(names, evaluations, strict=True):
        if left := [task for task in each.results.tasks if task not in shared]:
            notes.append(f"Not compared, as not all were given it: {', '.join(left)} ({name}).")
    how = [sampling_words(each.results.sampling) for each in evaluations]
    if len(set(how)) > 1:
        notes.append(
            "Not sampled alike: " + "; ".join(f"{name}: {words}" for name, words in zip(names, how, strict=True))
        )
    if graders := _other_graders(evaluations, names):
        notes.append(
            f"Not graded by the same software: {graders}. Verdicts may differ by that alone: grade the older ones "
            "again (`regrade`)."
        )
    for task in shared:
        counts = [each.results.tasks[task].samples for each in evaluations]
        if len(set(counts)) > 1:
            notes.append(f"Not as many samples of {task}: {', '.join(map(str, counts))}.")
    return notes


def _other_graders(evaluations: Sequence[Evaluation], names: Sequence[str]) -> str:
    """The packages that grade whose versions differ: "sympy 1.13 (base), 1.14 (tuned)"; "" for none.

    One that an evaluation had not, as an extra, has graded nothing there.
    """
    found = []
    for package in GRADERS:
        versions: dict[str, list[str]] = {}
        for name, each in zip(names, evaluations, strict=True):
            if version := each.results.software.get(package):
                versions.setdefault(version, []).append(name)
        if len(versions) > 1:
            found.append(
                f"{package} " + ", ".join(f"{version} ({', '.join(some)})" for version, some in versions.items())
            )
    return "; ".join(found)


def write_comparison(found: Compared, out: str | Path, *, shown: int = 8) -> Path:
    """Writes report.html, comparison.json and plots/*.png into a directory; returns the page's path.

    Args:
        found: As `compare_all` returns it.
        out: The directory; made if it is not there.
        shown: How many questions of each task to show on which the models disagree.

    Raises:
        ValueError: The directory is one of an evaluation, whose report this would replace.
    """
    directory = Path(out)
    if any(directory.resolve() == each.directory.resolve() for each in found.evaluations):
        raise ValueError(f"{directory} holds one of the evaluations; wanted a directory of its own for the comparison.")
    directory.mkdir(parents=True, exist_ok=True)
    overview = _overview(found)
    sections = [_section(found, task, shown) for task in found.tasks]
    write_plots([*overview, *(plot for section in sections for plot in section["plots"])], directory)
    write_json(directory / COMPARISON, found.to_dict())
    write_page(directory / REPORT, "comparison.html.j2", {
        "title": " · ".join(found.names),
        "models": [
            {"name": name, "directory": each.directory, "when": time_words(each.results.finished),
             "sampling": sampling_words(each.results.sampling)}
            for name, each in zip(found.names, found.evaluations, strict=True)
        ],
        "notes": found.notes,
        "overview": overview,
        "tasks": sections,
    })  # fmt: skip
    return directory / REPORT


def _overview(found: Compared) -> list[Plot]:
    rows = [
        Row(task, [some[0].a, *(each.b for each in some)], found.evaluations[0].results.tasks[task].chance)
        for task, some in found.tasks.items()
    ]
    plots = [whiskers("accuracy", "Accuracy", rows, found.names)]
    for place, name in enumerate(found.names[1:], 1):
        pairs = [(task, some[place - 1]) for task, some in found.tasks.items()]
        plots.append(_difference_plot(file_name("differences", str(place)), f"{name} − {found.names[0]}", pairs, place))
    return plots


def _difference_plot(name: str, title: str, pairs: Sequence[tuple[str, Comparison]], colour: int) -> Plot:
    return differences(name, title, [(label, each.difference, each.low, each.high) for label, each in pairs], colour)


def _section(found: Compared, task: str, shown: int) -> dict[str, Any]:
    comparisons = found.tasks[task]
    tallies = [each.tallies[task] for each in found.evaluations]
    return {
        "name": task,
        "version": found.evaluations[0].results.tasks[task].version,
        "rows": [(found.names[0], comparisons[0].a, None)]
        + [(name, each.b, each) for name, each in zip(found.names[1:], comparisons, strict=True)],
        "power": list(dict.fromkeys(sentence(each.n, each.detectable) for each in comparisons)),
        "left_out": max(each.left_out for each in comparisons),
        "plots": _plots(found, task, tallies),
        "categories": _category_rows(found, task),
        "warnings": [
            (name, warning)
            for name, each in zip(found.names, found.evaluations, strict=True)
            for warning in each.results.tasks[task].warnings
        ],
        "pairs": [_side_by_side(found, tallies, question) for question in _disagreements(tallies, shown)],
    }


def _plots(found: Compared, task: str, tallies: Sequence[Tally]) -> list[Plot]:
    lengths = {
        name: [entry.tokens for entry in tally.entries()] for name, tally in zip(found.names, tallies, strict=True)
    }
    plots = [
        length_histogram(file_name("lengths", task), f"{task}: length of samples", lengths, filled=len(tallies) == 2)
    ]
    points = {
        name: {1: each.results.tasks[task].metrics.accuracy, **each.results.tasks[task].metrics.pass_at}
        for name, each in zip(found.names, found.evaluations, strict=True)
    }
    if min(map(len, points.values())) > 1:
        plots.append(curves(file_name("pass", task), f"{task}: pass@k", points))
    for place, parts in enumerate(found.categories.get(task, ()), 1):
        if len(parts) <= _MOST_CATEGORIES:
            ranked = sorted(parts.items(), key=lambda part: -part[1].difference)
            title = f"{task}: {found.names[place]} − {found.names[0]} by category"
            pairs = [(kind or "(none)", each) for kind, each in ranked]
            plots.append(_difference_plot(file_name("categories", task, str(place)), title, pairs, place))
    return plots


def _category_rows(found: Compared, task: str) -> list[tuple[str, list[Comparison]]]:
    parts = found.categories.get(task, ())
    kinds = sorted({kind for part in parts for kind in part})
    return [(kind or "(none)", [part[kind] for part in parts if kind in part]) for kind in kinds]


def _share(row: Sequence[Entry]) -> float:
    return sum(entry.correct for entry in row) / len(row)


def _disagreements(tallies: Sequence[Tally], count: int) -> list[str]:
    """Questions that the first model and another do most differently: gains and losses in turn, always the same."""
    first, *others = tallies
    changes: dict[str, float] = {}
    for question, row in first.rows.items():
        found = [_share(other.rows[question]) - _share(row) for other in others if question in other.rows]
        if len(found) == len(others):
            changes[question] = max(found, key=abs)
    ranked = sorted(changes, key=lambda question: (-abs(changes[question]), question_seed(0, question)))
    gains = [question for question in ranked if changes[question] > 0]
    losses = [question for question in ranked if changes[question] < 0]
    turns = [question for turn in range(count) for some in (gains, losses) for question in some[turn : turn + 1]]
    return turns[:count]


def _side_by_side(found: Compared, tallies: Sequence[Tally], question: str) -> dict[str, Any]:
    """A sample of each model: a right one of those that do better than the models' mean, a wrong one of the others."""
    rows = [tally.rows[question] for tally in tallies]
    mean = sum(map(_share, rows)) / len(rows)
    replies = []
    for name, evaluation, row in zip(found.names, found.evaluations, rows, strict=True):
        better = _share(row) >= mean
        entry = next((each for each in row if each.correct == better), row[0])
        right = f"{sum(each.correct for each in row)}/{len(row)}" if len(row) > 1 else ""
        replies.append(shown_sample(evaluation.sample(entry.place)) | {"name": name, "right": right})
    return asked(found.evaluations[0], tallies[0], question) | {"replies": replies}
