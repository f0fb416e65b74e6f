"""The account of a data set in the terminal: what each source gave, lengths, answers, what was dropped and why.

The tables are made for 80 columns: names and details are cut to what there is. audit.html has histograms and the text
of samples besides.
"""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from coldforge.data import Audit, Dataset
from coldforge.data.audit import LENGTH_LIMITS

_WIDEST, _LEAST = 24, 8  # characters of a name that are shown if there is room, and in any case
_GAP = 3  # columns between two columns, and around all


def show_audit(audit: Audit, out: Console) -> None:
    """Prints what became of the rows."""
    accounts = audit.sources.items()
    show(
        ["source", "rows", "kept", "share", "p50", "p90", "p99", "longest"],
        [
            [name, number(one.rows), number(one.kept), share(one.kept, one.rows)]
            + [number(one.percentile(percent)) for percent in (50, 90, 99, 100)]
            for name, one in accounts
        ],
        "Rows, and tokens of those that came to be tokenized",
        out,
    )
    show(
        ["source", *(f"≤ {limit // 1024}k" for limit in LENGTH_LIMITS)],
        [[name, *(share(one.share_up_to(limit)) for limit in LENGTH_LIMITS)] for name, one in accounts if one.lengths],
        "Share of rows by tokens",
        out,
    )
    kinds = sorted({kind for _, one in accounts for kind in one.kinds})
    answers = [[name, *(number(one.kinds[kind]) for kind in kinds)] for name, one in accounts if one.kept]
    show(["source", *kinds], answers, "Answers of the rows kept", out)
    for name, one in accounts:
        dropped = [
            [reason, number(count), share(count, one.rows), f"row {first.index:,}: {first.detail}"]
            for reason, count in one.dropped.most_common()
            for first in one.samples[reason][:1]
        ]
        show(["reason", "rows", "share", "for example"], dropped, f"Dropped of {name}", out, last_is_text=True)


def show(
    head: Sequence[str], rows: Sequence[Sequence[str]], title: str, out: Console, *, last_is_text: bool = False
) -> None:
    """Prints a table, unless it has no rows. The first column is text, the others are numbers."""
    if not rows:
        return
    widths = [min(_WIDEST, max(map(len, column))) for column in zip(head, *rows, strict=True)]
    if last_is_text:  # it gets what the others leave
        widths[-1] = max(_WIDEST, out.width - sum(widths[:-1]) - _GAP * len(widths))
    widths[0] = max(_LEAST, widths[0] - max(0, sum(widths) + _GAP * len(widths) - out.width))
    table = Table(box=box.SIMPLE_HEAD)
    for place, (name, width) in enumerate(zip(head, widths, strict=True)):
        text = place == 0 or (last_is_text and place == len(head) - 1)
        table.add_column(Text(name), justify="left" if text else "right", no_wrap=True, max_width=width)
    for row in rows:
        table.add_row(*(cut(cell, width) for cell, width in zip(row, widths, strict=True)))
    out.print(Text(title, "bold"), table, sep="")


def cut(text: str, width: int) -> Text:
    """Returns a cell of one line: `cut("anything", 6)` is "anyth…"."""
    cell = Text(" ".join(text.split()))
    cell.truncate(width, overflow="ellipsis")
    return cell


def show_dataset(dataset: Dataset, out: Console) -> None:
    """Prints what is in the directory, and what it took to make it."""
    splits, run = dataset.manifest["splits"], dataset.manifest["run"]
    train, heldout = (f"{splits[name]['records']:,} rows, {splits[name]['tokens']:,} tokens" for name in splits)
    lines = [f"{dataset.path}: train {train}; heldout {heldout}."]
    if not splits["heldout"]["records"]:
        lines.append("No row is held out, so there is none to test a model with: see --heldout-rows.")
    processes = f"{run['processes']} process{'es' * (run['processes'] != 1)}"
    lines.append(
        f"{run['seconds']:,.1f} s with {processes}, {run['rows_per_second']:,.0f} rows/s; "
        f"{run['tokenizer_share']:.0%} of the processor time in the tokenizer."
    )
    for line in lines:
        out.print(line, markup=False, soft_wrap=True)


def number(value: int | None) -> str:
    """`number(1234)` is "1,234"; nothing is a dash."""
    return "–" if value is None else f"{value:,}"


def share(value: float | None, of: int = 1) -> str:
    """`share(1, 8)` is "12.5%"; a share of nothing is a dash."""
    return "–" if value is None or not of else f"{value / of:.1%}"
