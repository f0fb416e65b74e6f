"""`report.html`: the story of a run on one page, which needs nothing besides itself.

In this order: what came of it (accuracy of every checkpoint, with intervals and paired differences); the stages, with
time, memory and gate; the curves; the same questions answered by every checkpoint; what became of rows and samples;
what the watchdogs found; configuration and versions. A run that has stopped or failed gets its page too, with what
there is.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from coldforge import training
from coldforge.apps.grpo.story import CURVES as RL_CURVES
from coldforge.apps.pipeline.config import Options
from coldforge.apps.pipeline.ledger import Ledger
from coldforge.apps.pipeline.outcome import Checkpoint, differences, task_of
from coldforge.apps.pipeline.stages import Stage
from coldforge.apps.sft.story import CURVES as SFT_CURVES
from coldforge.eval.pages import asked, flat, shown_sample
from coldforge.eval.plots import Row, whiskers
from coldforge.eval.records import question_seed
from coldforge.stages.report import Curves, curve
from coldforge.training.compare import plain
from coldforge.training.files import replace_file

SHOWN = 8  # questions that are shown with the replies of every checkpoint
CURVES: Mapping[str, Curves] = {
    "sft": {name: SFT_CURVES[name] for name in ("Loss, nats a token",)},
    "grpo": {
        name: RL_CURVES[name]
        for name in ("Reward, mean of a rollout", "Right answers", "Form", "Tokens of a sample", "KL, nats a token")
    },
}


def write_report(
    run: training.Run, ledger: Ledger, stages: Sequence[Stage], options: Options, found: Sequence[Checkpoint],
    status: str, note: str,
) -> Path:  # fmt: skip
    """Writes the page from what lies in the run; returns its path.

    Args:
        run: The pipeline's.
        ledger: With the stages decided: an entry of other settings is not shown as this run's.
        stages: Those that were asked for.
        options: The command line.
        found: What the checkpoints came to.
        status, note: How the session ended.
    """
    current = [stage for stage in stages if ledger.current(stage.work) is not None]
    values = {
        "title": run.path.name,
        "status": status,
        "note": note,
        "manifest": run.manifest,
        "minutes": sum(entry["seconds"] for entry in ledger.entries.values()) / 60,
        "first": found[0] if found else None,
        "task": found[0].result if found else None,
        "accuracy": whiskers("accuracy", "Right answers", _rows(found)).svg if found else "",
        "checkpoints": [_checkpoint(each) for each in found],
        "differences": differences(found),
        "stages": [_stage(stage, ledger.current(stage.work), run.path) for stage in stages],
        "curves": [drawn for stage in current if (drawn := _curves(stage, run.path))["plots"]],
        "questions": list(_questions(found)),
        "audits": list(_audits(run.path)),
        "findings": [(stage.title, text) for stage in current for text in _findings(run.path / stage.work.name)],
        "configuration": list(flat(plain(options.config))),
        "versions": list(run.manifest.versions.items()),
    }
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("coldforge.apps.pipeline", "templates"), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    page = environment.get_template("report.html.j2").render(values)
    with replace_file(run.report) as file:
        file.write(page.encode("utf-8", "backslashreplace"))
    return run.report


def _rows(found: Sequence[Checkpoint]) -> list[Row]:
    return [Row(each.label, [each.result.metrics.accuracy], 0.0) for each in found]


def _checkpoint(each: Checkpoint) -> dict[str, Any]:
    metrics = each.result.metrics
    return {
        "label": each.label, "accuracy": metrics.accuracy.text,
        "form": "–" if metrics.well_formed is None else metrics.well_formed.text,
        "truncated": f"{100 * metrics.truncated.value:.1f} %",
        "tokens": f"{metrics.lengths['all'].mean.value:.0f}", "gain": each.before,
        "page": f"{each.evaluation.directory.parent.name}/{each.evaluation.directory.name}/report.html",
    }  # fmt: skip


def _stage(stage: Stage, entry: Mapping[str, Any] | None, run: Path) -> dict[str, Any]:
    name = stage.work.name
    manifest = None if entry is None else _manifest(run / name)
    gate = {} if manifest is None else manifest.gate or {}
    checks = [check for check in gate.get("checks", ()) if not check.get("passed")]
    pages = [
        page
        for page in (f"{name}/report.html", f"{name}/audit.html", f"{name}/rows/audit.html")
        if entry is not None and (run / page).exists()
    ]
    return {
        "title": stage.title, "entry": entry, "gate": gate.get("passed"), "page": pages[0] if pages else None,
        "failed": [f"{check['name']}: {check['why']}" for check in checks],
        "note": "" if entry is None else entry["note"],
    }  # fmt: skip


def _curves(stage: Stage, run: Path) -> dict[str, Any]:
    """The plots of a training stage; none of another one, or before its first step."""
    manifest = _manifest(run / stage.work.name)
    kinds = CURVES.get(manifest.stage, {}) if manifest is not None else {}
    if not kinds or not (run / stage.work.name / "metrics.jsonl").exists():
        return {"title": stage.title, "plots": []}
    curves = training.read_metrics(run / stage.work.name)
    drawn = [curve(f"{title}", *what, curves) for title, what in kinds.items()]
    return {"title": stage.title, "plots": [plot for plot in drawn if plot]}


def _questions(found: Sequence[Checkpoint]) -> Iterator[dict[str, Any]]:
    """A few questions with every checkpoint's first reply: those that the last one gained or lost come first."""
    if not found:
        return
    rows = [each.evaluation.tallies[task_of(each.evaluation)].rows for each in found]

    def change(question: str) -> tuple[float, int]:
        before, after = (
            sum(each.correct for each in some[question]) / len(some[question]) for some in (rows[0], rows[-1])
        )
        return (-abs(after - before), question_seed(0, question))

    ranked = sorted(rows[0], key=change)
    lost = [question for question in ranked if not rows[-1][question][0].correct][: SHOWN // 4]
    won = [question for question in ranked if question not in lost][: SHOWN - len(lost)]
    for question in [*won, *lost]:
        first = found[0].evaluation
        replies = [
            {"label": each.label} | shown_sample(each.evaluation.sample(some[question][0].place))
            for each, some in zip(found, rows, strict=True)
        ]
        gold = first.sample(rows[0][question][0].place).gold
        yield asked(first, first.tallies[task_of(first)], question) | {"replies": replies, "gold": gold}


def _audits(run: Path) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """What was left out of rows, questions and samples, as the stages have counted it."""
    overlap = run / "data" / "overlap.json"
    if overlap.exists():
        yield "Questions on both sides", list(flat(json.loads(overlap.read_text("utf-8"))))
    for title, folder in (
        ("Rows of the cold start", run / "data" / "rows"),
        ("Samples of rejection sampling", run / "reject"),
    ):
        manifest = folder / "manifest.json"
        if manifest.exists():
            yield title, list(_counts(json.loads(manifest.read_text("utf-8"))))


def _counts(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The numbers of a data set's audit: kept, and dropped by reason, for each source."""
    for source, account in manifest["audit"].items():
        yield f"{source}: kept", f"{account['kept']:,}"
        for reason, count in account["dropped"].items():
            yield f"{source}: {reason}", f"{count:,}"


def _findings(folder: Path) -> Sequence[str]:
    manifest = _manifest(folder)
    return () if manifest is None else manifest.figures.get("findings", ())


def _manifest(folder: Path) -> training.Manifest | None:
    """A run's manifest; None for what is no run of training."""
    file = folder / "manifest.json"
    if not file.exists() or "stage" not in json.loads(file.read_text("utf-8")):
        return None
    return training.read_manifest(folder)
