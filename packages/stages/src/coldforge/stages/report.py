"""`report.html`: one page that says what a run was told, how it went, and whether it passed.

It needs nothing besides itself: curves, drawn by matplotlib, stand in it as SVG, and there is no script. What a model
wrote is escaped.
"""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from coldforge import training
from coldforge.sft import GateResult, Graded, examples
from coldforge.stages.gate import Labels, in_words, table_rows
from coldforge.training.files import replace_file

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .7rem;text-align:left;border-bottom:1px solid #ddd}
td{vertical-align:top}pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#f4f4f4;padding:.6rem;font-size:13px}
.scroll{overflow-x:auto}.curves{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,30rem),1fr));gap:1rem}
svg{width:100%;height:auto;display:block}.ok{color:#17692f}.fails{color:#b00020;font-weight:bold}.quiet{color:#666}
.verdict{display:inline-block;padding:.1rem .7rem;border-radius:1rem;color:#fff;font-size:1rem;vertical-align:middle}
.verdict.ok{background:#17692f}.verdict.fails{background:#b00020}summary{cursor:pointer;overflow-wrap:anywhere}
td.value{overflow-wrap:anywhere}.gate td,.gate th{white-space:nowrap}
"""
# Title → the curves in it, by name in metrics.jsonl, and whether the axis is logarithmic.
type Curves = Mapping[str, tuple[Mapping[str, str], bool]]


@dataclasses.dataclass(frozen=True)
class Story:
    """What a stage's page tells.

    Attributes:
        title: The stage's name.
        curves: See `Curves`.
        labels: Of the two models that the gate compares.
    """

    title: str
    curves: Curves
    labels: Labels


def write_report(
    run: training.Run, result: GateResult, base: Sequence[Graded], tuned: Sequence[Graded], story: Story, *, count: int
) -> None:
    """Writes the page of a run whose manifest is up to date. `count`: examples to show."""
    shown = examples(base, tuned, count)
    page = report_page(run.manifest, run.config, training.read_metrics(run.path), result, shown, story)
    with replace_file(run.report) as file:
        file.write(page.encode("utf-8", "replace"))


def report_page(
    manifest: training.Manifest, config: Mapping[str, Any], curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    result: GateResult, shown: Sequence[tuple[Graded, Graded]], story: Story,
) -> str:  # fmt: skip
    """The page as text."""
    title = f"{story.title}: {manifest.directory.name}"
    made_of = {"base": manifest.base, "data": manifest.dataset, "tokenizer": manifest.tokenizer}
    verdict, word = ("ok", "passed") if result.passed else ("fails", "failed")
    drawn = "".join(curve(name, *what, curves) for name, what in story.curves.items())
    body = [
        f'<h1>{escape(title)} <span class="verdict {verdict}">gate {word}</span></h1>',
        f'<p class="quiet">{escape(manifest.updated)} · <code>{escape(manifest.command)}</code></p>',
        f"<h2>Gate</h2>{_gate(result, story.labels)}",
        f'<h2>Curves</h2><div class="curves">{drawn}</div>',
        "<h2>Examples</h2>" + "".join(_example(old, new, story.labels) for old, new in shown),
        _findings(manifest.figures.get("findings", ())),
        f"<h2>Figures</h2>{_mapping({k: v for k, v in manifest.figures.items() if k != 'findings'})}",
        f"<h2>Made of</h2>{_mapping(made_of)}",
        f"<h2>Configuration</h2><details><summary>All options</summary>{_mapping(config)}</details>",
        f"<h2>Versions</h2><details><summary>All packages</summary>{_mapping(manifest.versions)}</details>",
    ]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<title>{escape(title)}</title><style>{STYLE}</style></head>\n'
        f"<body>{'\n'.join(body)}</body></html>\n"
    )


def _gate(result: GateResult, labels: Labels) -> str:
    rows = []
    for name, wanted, measured, before, passed in table_rows(result):
        mark = "" if passed is None else '<span class="ok">ok</span>' if passed else '<span class="fails">fails</span>'
        cells = [*map(escape, (name, wanted, measured, before)), mark]
        rows.append("".join(f"<td>{cell}</td>" for cell in cells))
    head = "".join(f"<th>{name}</th>" for name in ("", "wanted", f"{labels.tuned} (95 %)", labels.base, ""))
    table = f"<tr>{head}</tr>" + "".join(f"<tr>{row}</tr>" for row in rows)
    why = "".join(f"<li>{escape(check.name)}: {escape(check.why)}</li>" for check in result.checks)
    notes = "".join(f'<li class="quiet">{escape(note)}</li>' for note in result.notes)
    faults = f"<p>Faults of form, {labels.tuned}:</p>{_mapping(result.tuned.faults)}" if result.tuned.faults else ""
    return f'<div class="scroll gate"><table>{table}</table></div><ul>{why}{notes}</ul>{faults}'


def curve(title: str, names: Mapping[str, str], logarithmic: bool, curves: Mapping[str, Any]) -> str:
    """One plot; nothing where there are no points, or all of them are 0 (clipped tokens of on-policy updates, say)."""
    present = {name: label for name, label in names.items() if name in curves and np.isfinite(curves[name][1]).any()}
    if not any(np.nan_to_num(curves[name][1]).any() for name in present):
        return ""
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif", "font.size": 11}):
        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        axes = figure.subplots()
        for index, (name, label) in enumerate(present.items()):
            steps, values = curves[name]
            mark = "o-" if name.startswith("eval/") or len(steps) < 2 else "-"
            if any(np.array_equal(values, curves[other][1]) for other in list(present)[:index]):
                mark = "--"  # so that both are seen
            axes.plot(steps, values, mark, label=label, color=f"C{index}", linewidth=1.3, markersize=3)
        if logarithmic and all((curves[name][1][np.isfinite(curves[name][1])] > 0).all() for name in present):
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.set_title(title, loc="left")
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if len(names) > 1:
            axes.legend(framealpha=0.7, edgecolor="none")
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return f'<figure role="img" aria-label="{escape(title)}" style="margin:0">{svg[svg.index("<svg") :]}</figure>'


def _example(old: Graded, new: Graded, labels: Labels) -> str:
    parts = []
    for name, reply in ((labels.tuned, new), (labels.base, old)):
        parts.append(f"<p><b>{name}</b>: {escape(in_words(reply))}</p><pre>{escape(reply.text)}</pre>")
    wanted = f'<p class="quiet">wanted: {escape(new.wanted)}</p>'
    summary = f"{in_words(new).partition(',')[0]}: {new.prompt}"
    return f"<details><summary>{escape(summary)}</summary>{''.join(parts)}{wanted}</details>"


def _findings(found: Sequence[str]) -> str:
    rows = "".join(f"<li>{escape(finding)}</li>" for finding in found)
    return f"<h2>What the watchdog found</h2><ul>{rows}</ul>" if rows else ""


def _mapping(values: Mapping[str, Any]) -> str:
    """A nested mapping as a table of two columns."""
    rows = "".join(f'<tr><td>{escape(k)}</td><td class="value">{escape(v)}</td></tr>' for k, v in _flat(values))
    return f'<div class="scroll"><table>{rows}</table></div>'


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    flat: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat += _flat(value, f"{prefix}{key}.")
        else:
            flat.append((f"{prefix}{key}", f"{value:.6g}" if isinstance(value, float) else str(value)))
    return flat
