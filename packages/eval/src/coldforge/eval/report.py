"""`report.html` of one evaluation: figures with intervals, warnings, plots, prompts and samples. See `pages`.

In this order: what was evaluated; a line for each task; for each task its figures, plots, categories, first prompt and
samples to read; settings and versions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coldforge.eval.intervals import Estimate
from coldforge.eval.pages import asked, clipped, flat, sampling_words, shown_sample, time_words, write_page
from coldforge.eval.plots import RIGHT, WRONG, Plot, Row, curves, file_name, length_histogram, whiskers, write_plots
from coldforge.eval.records import question_seed
from coldforge.eval.results import Evaluation, TaskResult, open_evaluation
from coldforge.eval.tally import Entry, Tally

REPORT = "report.html"
_FEW = 4  # samples up to which pass@k is no curve
_PER_KIND = 3  # samples shown of each kind
_MOST_CATEGORIES = 60  # in a plot


def write_report(directory: str | Path) -> Path:
    """Writes the report of a finished evaluation, with its plots as PNG files beside it; returns its path.

    Raises:
        FileNotFoundError, ValueError: As `open_evaluation` raises them.
    """
    evaluation = open_evaluation(directory)
    results, tasks = evaluation.results, list(evaluation.results.tasks.values())
    overview = [_overview(tasks)] if len(tasks) > 1 else []
    sections = [_section(evaluation, task, evaluation.tallies[task.name]) for task in tasks]
    page = evaluation.directory / REPORT
    write_plots([*overview, *(plot for section in sections for plot in section["plots"])], evaluation.directory)
    write_page(page, "evaluation.html.j2", {
        "title": results.name,
        "when": time_words(results.finished),
        "sampling": sampling_words(results.sampling),
        "total": sum(tally.samples for tally in evaluation.tallies.values()),
        "notes": results.notes,
        "overview": overview,
        "tasks": sections,
        "settings": {
            "Model": list(flat(results.model)),
            "Sampling": list(flat(results.sampling.to_dict())),
            "Software": list(flat(results.software)),
        },
    })  # fmt: skip
    return page


def _overview(tasks: Sequence[TaskResult]) -> Plot:
    rows = [Row(task.name, [task.metrics.accuracy], task.chance) for task in tasks]
    return whiskers("accuracy", "Accuracy", rows)


def _section(evaluation: Evaluation, task: TaskResult, tally: Tally) -> dict[str, Any]:
    return {
        "name": task.name,
        "version": task.version,
        "hash": task.content_hash,
        "questions": task.questions,
        "samples": task.samples,
        "accuracy": task.metrics.accuracy,
        "figures": _figures(task),
        "lengths": _lengths(task),
        "warnings": task.warnings,
        "plots": _plots(task, tally),
        "categories": list(task.categories.items()),
        "verdicts": list(task.metrics.verdicts.items()),
        "first_prompt": clipped(task.first_prompt),
        "shown": _samples(evaluation, tally),
        "made_of": list(flat(task.description)),
    }


def _figures(task: TaskResult) -> list[tuple[str, Estimate, str]]:
    """Name, estimate and a word on it."""
    metrics = task.metrics
    many = task.samples > 1
    found = [(f"avg@{task.samples}" if many else "accuracy", metrics.accuracy, "right, on average over questions")]
    found += [(f"pass@{k}", each, f"at least one of {k} samples is right") for k, each in metrics.pass_at.items()]
    if metrics.majority:
        tied = f"; {100 * metrics.ties:.0f} % of the votes tied" if metrics.ties else "; no vote tied"
        found.append((f"maj@{task.samples}", metrics.majority, f"the most frequent answer is right{tied}"))
    found += [(name, each, "as the task counts it") for name, each in metrics.measures.items()]
    if metrics.well_formed:
        found.append(("in form", metrics.well_formed, "the reply has the form that was asked for"))
    found.append(("cut off", metrics.truncated, "at the limit of new tokens"))
    found.append(("no answer", metrics.no_answer, "nothing was found to grade"))
    if metrics.unchecked.value:
        found.append(("not checked", metrics.unchecked, "the check took too long or failed; counts as not right"))
    return found


def _lengths(task: TaskResult) -> list[tuple[str, str, str, str, str]]:
    return [
        (name, each.mean.text.replace(" tokens", ""), f"{each.median:,.0f}", f"{each.p90:,.0f}", f"{each.longest:,.0f}")
        for name, each in task.metrics.lengths.items()
    ]


def _plots(task: TaskResult, tally: Tally) -> list[Plot]:
    name, entries = task.name, tally.entries()
    lengths = {
        "right": [entry.tokens for entry in entries if entry.correct],
        "wrong": [entry.tokens for entry in entries if not entry.correct],
    }
    plots = [
        length_histogram(file_name("lengths", name), f"{name}: length of samples", lengths, colours=(RIGHT, WRONG))
    ]
    if task.samples >= _FEW:
        points = {1: task.metrics.accuracy, **task.metrics.pass_at}
        plots.append(curves(file_name("pass", name), f"{name}: pass@k", {"pass@k": points}))
    if 1 < len(task.categories) <= _MOST_CATEGORIES:
        rows = [Row(category or "(none)", [each], task.chance) for category, each in task.categories.items()]
        rows.sort(key=lambda row: -row.estimates[0].value if row.estimates[0] else 0.0)
        plots.append(whiskers(file_name("categories", name), f"{name}: accuracy by category", rows))
    return plots


def _samples(evaluation: Evaluation, tally: Tally) -> list[tuple[str, list[dict[str, Any]]]]:
    """Samples to read, a few of each kind, each of another question: always the same ones, and not the first ones."""
    kinds: dict[str, list[tuple[int, str, Entry]]] = {
        name: [] for name in ("cut off", "no answer", "not checked", "wrong", "right")
    }
    for question, row in tally.rows.items():
        for kind, entry in {_kind(entry): entry for entry in row}.items():
            kinds[kind].append((question_seed(0, question), question, entry))
    shown = []
    for kind, found in kinds.items():
        samples = [_sample(evaluation, tally, *each[1:]) for each in sorted(found)[:_PER_KIND]]
        if samples:
            shown.append((kind, samples))
    return shown


def _kind(entry: Entry) -> str:
    if entry.correct:
        return "right"
    if not entry.ended:
        return "cut off"
    if not entry.answered:
        return "no answer"
    return "wrong" if entry.verdict == "wrong" else "not checked"


def _sample(evaluation: Evaluation, tally: Tally, question: str, entry: Entry) -> dict[str, Any]:
    return shown_sample(evaluation.sample(entry.place)) | asked(evaluation, tally, question)
