"""What every stage's program does around its work: command line, errors, exit codes, the end of a time box.

    def main(args: list[str] | None = None) -> None:
        options = parse_preset(PRESETS, lambda preset: Options(run=tyro.MISSING, config=preset), "coldforge-sft", args)
        run_program("coldforge-sft", lambda: run(options))

Exit codes: 0 the gate is passed; 2 something was given that is wrong; 3 the gate has failed; 4 training broke off (not
finite, or the watchdog); 75 it stopped in time (SIGTERM, Ctrl-C, --max-hours): the same command goes on; 130 Ctrl-C
before anything could be saved, or a second one, which leaves at once. Imports no JAX; what a package refuses, it raises
as one of `REFUSALS`.
"""

import inspect
import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NoReturn

import tyro
from rich.console import Console

from coldforge.data.embedded import cache_dir

if TYPE_CHECKING:
    from coldforge import training

PASSED, WRONG, FAILED, BROKE_OFF, STOPPED = 0, 2, 3, 4, 75
REFUSALS = (ValueError, OSError, ModuleNotFoundError, RuntimeError)  # how packages say that something given is wrong


def parse_preset[C, O](
    presets: Mapping[str, Callable[[], C]], options: Callable[[C], O], prog: str, args: list[str] | None = None
) -> O:
    """Reads the command line `PRESET [options]`; leaves the program (SystemExit) where it is wrong or asks for help.

    Args:
        presets: By name; a function's docstring is its help, the first line its place in the list.
        options: The whole command line around a preset's configuration, `tyro.MISSING` where it has to be given.
        prog: The program's name.
        args: Instead of the process's own.
    """
    words = sys.argv[1:] if args is None else args
    kinds = {}  # the list tells the first line of a docstring, a preset's own help all of it
    for name, preset in presets.items():
        said = inspect.getdoc(preset) or ""
        kinds[name] = (said if name in words[:1] else said.partition("\n")[0], options(preset()))
    return tyro.extras.overridable_config_cli(kinds, args=args, prog=prog)


def run_program(prog: str, work: Callable[[], int]) -> NoReturn:
    """Does the work and leaves the program with its exit code, or with WRONG and one message where it is refused.

    JAX is told to keep what it compiles in the user's cache directory, unless JAX_COMPILATION_CACHE_DIR names another;
    so `work` is what imports JAX first.
    """
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_dir() / "jax"))
    try:
        sys.exit(work())
    except KeyboardInterrupt:
        sys.exit(130)
    except REFUSALS as error:
        if isinstance(error, RuntimeError) and not type(error).__module__.startswith("coldforge."):
            raise  # XLA's, which nobody has foreseen
        print(f"{prog}: {error}", file=sys.stderr)
        sys.exit(WRONG)


def broken_off(run: "training.Run", step: int, reason: str, notes: Console) -> int:
    """Says how a run ended before its end, and how to go on; returns the exit code."""
    broke = reason in ("not finite", "watchdog")
    run.close("failed" if broke else "stopped", reason)
    notes.print(f"stopped after step {step}: {reason}. It is saved.", style="bold")
    notes.print(run.how_to_continue(), soft_wrap=True, markup=False)
    return BROKE_OFF if broke else STOPPED


def stopped(reason: str | None, kept: str, notes: Console) -> None:
    """Says that a program has stopped in time whose work lies in files as it is done, and how to go on.

    Args:
        reason: As `coldforge.training.Stopper` says it.
        kept: A sentence: what is there.
        notes: Where to.
    """
    from coldforge.training import command_line

    notes.print(f"stopped: {reason}. {kept}", style="bold", markup=False)
    notes.print(f"To go on, start the same command again:\n  {command_line()}", soft_wrap=True, markup=False)


def margin(max_hours: float | None) -> float:
    """Seconds of a time box that are kept for saving: a minute, or a tenth of a very small box."""
    return 60.0 if max_hours is None else min(60.0, 360.0 * max_hours)
