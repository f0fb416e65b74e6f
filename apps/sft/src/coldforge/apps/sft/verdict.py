"""The gate held and shown: both models asked, replies judged, the verdict in the manifest and in the terminal."""

from collections.abc import Callable, Sequence

from flax import nnx
from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from coldforge import training
from coldforge.apps.sft.ask import ask, base_replies, write_replies
from coldforge.apps.sft.build import Built
from coldforge.apps.sft.config import GateOptions
from coldforge.apps.sft.inputs import Inputs
from coldforge.sft import GateLimits, GateResult, Graded, examples, judge

SHOWN = 3  # examples in the terminal
CUT = 400  # characters of each


class StoppedError(Exception):
    """The run was told to stop while the gate was asking."""


def hold_gate(
    built: Built, params: nnx.State, inputs: Inputs, run: training.Run, stopper: training.Stopper, notes: Console,
    *, again: bool,
) -> tuple[GateResult, list[Graded], list[Graded]]:  # fmt: skip
    """Asks base and tuned model, and judges: the verdict, the base's replies, the tuned model's.

    Raises:
        StoppedError: A signal came, or the time box is used up; the base's replies are kept if they were complete.
    """
    total = len(inputs.prompts)
    with notes.status("gate") as status:

        def ticker(who: str) -> Callable[[int], None]:
            def tick(count: int) -> None:
                status.update(f"gate: {who}, {count} of {total} replies")
                if stopper.should_stop():
                    raise StoppedError(stopper.reason)

            return tick

        status.update(
            f"gate: base model, {total} prompts"
        )  # first, as its replies are kept if it is stopped after them
        base = base_replies(built, inputs, run, again=again, tick=ticker("base model"))
        status.update(f"gate: tuned model, {total} prompts")
        tuned = ask(built.sampler(params), inputs, built.config, tick=ticker("tuned model"))
        write_replies(run.path / "gate" / "tuned.jsonl", tuned)
    result = judge(base, tuned, limits(built.config.gate))
    run.update(gate=result.to_dict())
    return result, base, tuned


def limits(gate: GateOptions) -> GateLimits:
    """The gate's limits among its options."""
    return GateLimits(
        format=gate.format, ended=gate.ended, truncated=gate.truncated, accuracy_drop=gate.accuracy_drop,
        min_prompts=gate.min_prompts,
    )  # fmt: skip


def show(result: GateResult, base: Sequence[Graded], tuned: Sequence[Graded], console: Console) -> None:
    """The verdict as a table, with a few examples, for 80 columns."""
    table = Table(title="gate", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", "wanted", "tuned (95 %)", "base"):
        table.add_column(name)
    table.add_column("")
    for name, wanted, measured, before, passed in table_rows(result):
        table.add_row(name, wanted, measured, before, _mark(passed))
    console.print(table)
    for check in result.checks:
        if not check.passed:
            console.print(Text.assemble((f"{check.name}: ", "bold red"), check.why))
    for note in result.notes:
        console.print(Text(f"note: {note}", "dim"))
    for old, new in examples(base, tuned, SHOWN):
        console.print(_example(old, new))
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


def _example(old: Graded, new: Graded) -> Panel:
    text = Text()
    for name, reply in (("tuned", new), ("base", old)):
        text.append(f"{name}: {in_words(reply)}\n", "bold")
        text.append(_short(reply.text) + "\n")
    text.append(f"wanted: {_short(new.wanted)}", "dim")
    return Panel(text, title=Text(_short(new.prompt.replace("\n", " "), 60)), title_align="left")


def _short(text: str, size: int = CUT) -> str:
    """At most `size` characters, without those that steer a terminal."""
    clean = "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text.strip())
    return clean if len(clean) <= size else f"{clean[: size // 2]} […] {clean[-size // 2 :]}"
