"""What was kept, in the terminal: by source, by how hard the questions are, and why the others were not.

The tables are made for 80 columns: names are cut to what there is. "right" and "clean" are shares of the samples,
"covered" is the share of questions of which something was kept. audit.html has lengths and samples besides.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from coldforge.data import Audit, Dataset
from coldforge.data.rejection import Acceptance, Selected, Tally

NAME, LEAST = 30, 8  # characters of a name that are shown if there is room, and in any case
GAP = 3  # columns between two columns, and around all
REASONS = 12
BAR = 10


def show(made: Selected, out: Console) -> None:
    """Prints all of it."""
    show_acceptance(made.acceptance, out)
    show_reasons(made.audit, out)
    show_dataset(made.dataset, out)


def show_acceptance(acceptance: Acceptance, out: Console) -> None:
    """Prints how much was kept, by source and by the share of right samples."""
    by_source = acceptance.by_source()
    if len(by_source) > 1:
        by_source = by_source | {"all": acceptance.total}
    _tallies("source", by_source, "Accepted, by source", out)
    found = {name: tally for name, tally in acceptance.by_difficulty().items() if tally.questions}
    _tallies("right", found, "Accepted, by how many samples of a question are right", out, bars=True)


def _tallies(head: str, tallies: Mapping[str, Tally], title: str, out: Console, *, bars: bool = False) -> None:
    """Prints counts and shares; with `bars` how the questions are spread, instead of how many samples that is."""
    names = [head, "questions", *["samples"] * (not bars), "right", "clean", "kept", "covered", *[""] * bars]
    questions = max((tally.questions for tally in tallies.values()), default=0)
    rows = [
        [
            name, f"{one.questions:,}", *[f"{one.samples:,}"] * (not bars), share(one.right, one.samples),
            share(one.clean, one.samples), f"{one.kept:,}", share(one.gave, one.questions),
            *["█" * -(-BAR * one.questions // questions)] * bars,
        ]
        for name, one in tallies.items()
    ]  # fmt: skip
    _print(names, rows, title, out)


def show_reasons(audit: Audit, out: Console) -> None:
    """Prints why samples and conversations were not kept, most often first, with one for example."""
    reasons, examples = Counter[str](), dict[str, str]()
    total = sum(account.rows for account in audit.sources.values())
    for account in audit.sources.values():
        reasons.update(account.dropped)
        for reason, samples in account.samples.items():
            examples.setdefault(reason, samples[0].detail)
    rows = [
        [reason, f"{count:,}", share(count, total), " ".join(examples[reason].split())]
        for reason, count in reasons.most_common(REASONS)
    ]
    _print(["not kept", "rows", "share", "for example"], rows, "Not kept", out, last_is_text=True)


def show_dataset(dataset: Dataset, out: Console) -> None:
    """Prints what is in the directory."""
    splits = dataset.manifest["splits"]
    train, heldout = (f"{splits[name]['records']:,} rows, {splits[name]['tokens']:,} tokens" for name in splits)
    out.print(f"{dataset.path}: train {train}; heldout {heldout}.", markup=False, soft_wrap=True)
    if not splits["heldout"]["records"]:
        out.print("No row is held out, so there is none to test a model with: see --keep.heldout-questions.")


def _print(
    head: Sequence[str], rows: Sequence[Sequence[str]], title: str, out: Console, *, last_is_text: bool = False
) -> None:
    """Prints a table whose numbers are never cut; names, and texts in the last column, get what they leave."""
    if not rows:
        return
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    widths[0] = min(widths[0], NAME)
    if last_is_text:
        widths[-1] = max(LEAST, out.width - sum(widths[:-1]) - GAP * len(widths))
    widths[0] = max(LEAST, widths[0] - max(0, sum(widths) + GAP * len(widths) - out.width))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, (name, width) in enumerate(zip(head, widths, strict=True)):
        text = place == 0 or (place == len(head) - 1 and (last_is_text or not name))
        justify: Literal["left", "right"] = "left" if text else "right"
        table.add_column(Text(name), justify=justify, no_wrap=True, overflow="ellipsis", width=width)
    for row in rows:
        table.add_row(*map(Text, row))
    out.print(Text(title, "bold"), table, sep="\n")


def share(part: int, of: int) -> str:
    """`share(1, 8)` is "12.5 %"; a share of nothing is a dash."""
    return f"{part / of:.1%}".replace("%", " %") if of else "–"
