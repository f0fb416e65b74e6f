"""A gate's replies kept, and its verdict shown: what `coldforge.sft.judge` finds, for people. Imports JAX.

write_replies(run.path / "gate" / "tuned.jsonl", replies)
show(judge(base, tuned, limits), base, tuned, Console())
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import jax
from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from coldforge.sft import GateResult, Graded, examples
from coldforge.training.files import replace_file

SHOWN = 3  # examples in the terminal
CUT = 400  # characters of each


@dataclasses.dataclass(frozen=True)
class Labels:
    """What people read for the two models that a gate compares.

    Attributes:
        tuned: The one that is judged.
        base: The one that it is held against.
    """

    tuned: str
    base: str


COLD_START = Labels("tuned", "base")


def write_replies(path: Path, replies: Sequence[Graded]) -> None:
    """One JSON object per reply; the first process writes."""
    if jax.process_index() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as file:
            rows = (json.dumps(dataclasses.asdict(reply), ensure_ascii=False) for reply in replies)
            file.writelines(row.encode() + b"\n" for row in rows)


def read_replies(path: Path) -> list[Graded]:
    """What `write_replies` wrote."""
    return [Graded(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]


def show(
    result: GateResult, base: Sequence[Graded], tuned: Sequence[Graded], console: Console, labels: Labels = COLD_START
) -> None:
    """The verdict as a table, with a few examples, for 80 columns."""
    table = Table(title="gate", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", "wanted", f"{labels.tuned} (95 %)", labels.base, ""):
        table.add_column(name)
    for name, wanted, measured, before, passed in table_rows(result):
        table.add_row(name, wanted, measured, before, _mark(passed))
    console.print(table)
    for check in result.checks:
        if not check.passed:
            console.print(Text.assemble((f"{check.name}: ", "bold red"), check.why))
    for note in result.notes:
        console.print(Text(f"note: {note}", "dim"))
    for old, new in examples(base, tuned, SHOWN):
        console.print(_example(old, new, labels))
    verdict = ("passed", "bold green") if result.passed else ("failed", "bold red")
    console.print(Text.assemble("gate: ", verdict))


def table_rows(result: GateResult) -> list[tuple[str, str, str, str, bool | None]]:
    """Rows of a table: what, the limit, the tuned model's figure, the base's, whether it holds (None: no limit)."""
    before, after = result.base, result.tuned
    others = {"prompts": "", "format": before.format.text, "ended": before.ended.text,
              "truncated": before.truncated.text, "accuracy": ""}  # fmt: skip
    rows: list[tuple[str, str, str, str, bool | None]] = [
        (check.name if check.name != "accuracy" else "accuracy change", check.limit, check.measured, others[check.name],
         check.passed)
        for check in result.checks
    ]  # fmt: skip
    rows.append(("right answers", "", after.accuracy.text, before.accuracy.text, None))
    rows.append(("right, in form", "", after.in_form.text, before.in_form.text, None))
    for name, field in (
        ("tokens a reply", "length"),
        ("of right ones", "length_right"),
        ("of wrong ones", "length_wrong"),
    ):
        lengths = [getattr(found, field) for found in (after, before)]
        shown, of_base = ("–" if length is None else f"{length:.0f}" for length in lengths)
        rows.append((name, "", shown, of_base, None))
    return rows


def in_words(reply: Graded) -> str:
    """What a reply is, as "wrong, </answer> occurs 0 times, cut off, 128 tokens"."""
    right = {True: "right", False: "wrong", None: "not graded"}[reply.correct]
    form, end = reply.fault or "well formed", "cut off" if reply.truncated else "ended"
    return f"{right}, {form}, {end}, {reply.tokens} tokens"


def _mark(passed: bool | None) -> Text:
    return Text("") if passed is None else Text("ok", "green") if passed else Text("fails", "bold red")


def _example(old: Graded, new: Graded, labels: Labels) -> Panel:
    text = Text()
    for name, reply in ((labels.tuned, new), (labels.base, old)):
        text.append(f"{name}: {in_words(reply)}\n", "bold")
        text.append(_short(reply.text) + "\n")
    text.append(f"wanted: {_short(new.wanted)}", "dim")
    return Panel(text, title=Text(_short(new.prompt.replace("\n", " "), 60)), title_align="left")


def _short(text: str, size: int = CUT) -> str:
    """At most `size` characters, without those that steer a terminal."""
    clean = "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text.strip())
    return clean if len(clean) <= size else f"{clean[: size // 2]} […] {clean[-size // 2 :]}"
