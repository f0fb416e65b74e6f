"""Plots of evaluations, drawn by matplotlib: as SVG that stands in a page and follows its colours, and as PNG files.

Colours are Okabe and Ito's, which can be told apart by people who see fewer colours; models differ in their marks, too.
In SVG a colour is a variable of the page's style (`--ink`, `--c0` …), so that one drawing serves light and dark.
"""

import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from coldforge.eval.intervals import Estimate
from coldforge.eval.store import replacing

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
RIGHT, WRONG = "#009e73", "#d55e00"
MARKS = "os^Dv*"
_INK, _QUIET = "#1b1f24", "#6b7077"
_VARIABLES = {_INK: "--ink", _QUIET: "--quiet"} | {colour: f"--c{place}" for place, colour in enumerate(COLOURS)}
_STYLE: dict[Any, Any] = {  # parse_math: a dollar in a name is one
    "svg.fonttype": "none", "text.parse_math": False, "font.family": "sans-serif", "font.size": 11,
    "text.color": _INK, "axes.labelcolor": _INK, "xtick.color": _INK, "ytick.color": _INK,
    "axes.edgecolor": _QUIET, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "grid.color": _QUIET, "grid.alpha": 0.25, "legend.frameon": False,
}  # fmt: skip
_WIDTH = 5.6  # inches: 11 points are 10 pixels then on a phone of 390

_LETTERS = 54  # that fit into a line of text


class Plot(NamedTuple):
    """A drawing. `name` is its file's, `title` what it shows, for those who cannot see it, too."""

    name: str
    title: str
    svg: str
    png: bytes


class Row(NamedTuple):
    """A line of `whiskers`: a label, an estimate for each model (None: it has none), and what guessing gets."""

    label: str
    estimates: Sequence[Estimate | None]
    chance: float = 0.0


def whiskers(name: str, title: str, rows: Sequence[Row], models: Sequence[str] = ("",)) -> Plot:
    """Shares with their intervals, a line for each row, and in it one for each model."""
    many = len(models)
    with _style():
        figure, axes = _figure(1.2 + len(rows) * max(0.34, 0.2 * many + 0.1) + 0.22 * many, title)
        for place, model in enumerate(models):
            shown = [(y, row.estimates[place]) for y, row in enumerate(rows)]
            found = [(y, each) for y, each in shown if each is not None and each.n]
            if not found:
                continue
            values = 100 * np.asarray([[each.value, each.low, each.high] for _, each in found])
            heights = np.asarray([y for y, _ in found]) + (place - (many - 1) / 2) * 0.7 / many
            _whisker(axes, values, heights, place, model)
        for y, row in enumerate(rows):
            if row.chance:
                label = "guessing" if row is next(each for each in rows if each.chance) else ""
                axes.vlines(100 * row.chance, y - 0.4, y + 0.4, color=_QUIET, linestyle=":", linewidth=1.6, label=label)
        axes.set_xlim(0, 100)
        axes.set_xlabel("per cent, with 95 % intervals")
        _lines(axes, [row.label for row in rows])
        _legend(figure, axes, many > 1 or any(row.chance for row in rows))
    return _plot(figure, name, title)


def differences(name: str, title: str, rows: Sequence[tuple[str, float, float, float]], colour: int = 1) -> Plot:
    """Differences in points with their intervals: (label, difference, low, high), as shares."""
    with _style():
        figure, axes = _figure(1.1 + 0.34 * len(rows), title)
        values = 100 * np.asarray([row[1:] for row in rows])
        axes.axvline(0, color=_INK, linewidth=1)
        _whisker(axes, values, np.arange(len(rows), dtype=float), colour, "")
        reach = max(5.0, float(np.abs(values).max()) * 1.05)
        axes.set_xlim(-reach, reach)
        axes.set_xlabel("points, with 95 % intervals")
        _lines(axes, [row[0] for row in rows])
    return _plot(figure, name, title)


def length_histogram(
    name: str, title: str, groups: Mapping[str, Sequence[int]], *, filled: bool = True, colours: Sequence[str] = COLOURS
) -> Plot:
    """How long samples are, in tokens: a curve of steps for each group, as shares of its samples."""
    with _style():
        figure, axes = _figure(2.7 + 0.22 * len(groups), title)
        longest = max((max(some) for some in groups.values() if len(some)), default=1)
        edges = np.linspace(0, max(longest, 1) * 1.0001, min(40, max(longest, 2)) + 1)
        lines = ("-", "--", "-.", ":", "-", "--")
        for place, (label, some) in enumerate(groups.items()):
            if not len(some):
                continue
            counts, _ = np.histogram(some, edges)
            colour = colours[place % len(colours)]
            axes.stairs(
                100 * counts / len(some), edges, color=colour, linewidth=1.6, linestyle=lines[place % len(lines)],
                label=label,
            )  # fmt: skip
            if filled and place == 0:
                axes.stairs(100 * counts / len(some), edges, fill=True, color=colour, alpha=0.22)
        axes.set_xlim(0, edges[-1])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("tokens")
        axes.set_ylabel("% of the samples")
        axes.grid(axis="y")
        _legend(figure, axes, wanted=True)
    return _plot(figure, name, title)


def curves(name: str, title: str, lines: Mapping[str, Mapping[int, Estimate]]) -> Plot:
    """Shares by k, as pass@k: a line with its interval for each label."""
    with _style():
        figure, axes = _figure(2.7 + 0.22 * len(lines), title)
        for place, (label, points) in enumerate(lines.items()):
            ks = list(points)
            values = 100 * np.asarray([[each.value, each.low, each.high] for each in points.values()])
            mark = MARKS[place % len(MARKS)]
            colour = COLOURS[place % len(COLOURS)]
            axes.plot(ks, values[:, 0], mark + "-", color=colour, label=label, markersize=5, linewidth=1.6)
            axes.fill_between(ks, values[:, 1], values[:, 2], color=colour, alpha=0.15, linewidth=0)
        axes.set_xscale("log", base=2)
        ticks = sorted({k for points in lines.values() for k in points})
        axes.set_xticks(ticks, [str(k) for k in ticks])
        axes.set_ylim(0, 100)
        axes.set_xlabel("k samples (bands: 95 % intervals)")
        axes.set_ylabel("per cent")
        axes.grid()
        _legend(figure, axes, len(lines) > 1)
    return _plot(figure, name, title)


def write_plots(plots: Sequence[Plot], directory: Path) -> None:
    """Writes `plots/NAME.png`."""
    folder = directory / "plots"
    folder.mkdir(exist_ok=True)
    for plot in plots:
        with replacing(folder / f"{plot.name}.png") as file:
            file.write(plot.png)


def file_name(*parts: str) -> str:
    """A name that every file system takes: "lengths-chain_sum"."""
    return "-".join(re.sub(r"[^A-Za-z0-9_.]+", "_", part).strip("_.") for part in parts)


def _style(more: Mapping[str, Any] | None = None) -> "AbstractContextManager[None]":
    import matplotlib as mpl  # here: importing it takes a second, and most who import this package draw nothing

    return mpl.rc_context(_STYLE | dict(more or {}))


def _figure(height: float, title: str) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.subplots()
    figure.suptitle(textwrap.fill(title, _LETTERS), x=0.015, ha="left", fontsize=12)
    return figure, axes


def _whisker(axes: "Axes", values: np.ndarray, heights: np.ndarray, place: int, label: str) -> None:
    """`values`: [n, 3], value, low and high."""
    colour, mark = COLOURS[place % len(COLOURS)], MARKS[place % len(MARKS)]
    axes.hlines(heights, values[:, 1], values[:, 2], color=colour, linewidth=2)
    axes.plot(values[:, 0], heights, mark, color=colour, markersize=6, label=label or None, clip_on=False)


def _lines(axes: "Axes", labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), [textwrap.shorten(label, 28, placeholder=" …") for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)


def _legend(figure: "Figure", axes: "Axes", wanted: bool) -> None:
    labels = axes.get_legend_handles_labels()[1]
    if wanted and labels:
        in_one_line = sum(map(len, labels)) + 8 * len(labels) <= _LETTERS
        figure.legend(loc="outside lower left", ncols=len(labels) if in_one_line else 1, fontsize=10)


def _plot(figure: "Figure", name: str, title: str) -> Plot:
    with _style({"svg.hashsalt": name}):
        text, picture = io.StringIO(), io.BytesIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        figure.set_layout_engine("none")  # it is laid out: a second time would take as long as all else
        figure.savefig(picture, format="png", dpi=160, facecolor="white", metadata={"Software": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)
    return Plot(name, title, svg, picture.getvalue())
