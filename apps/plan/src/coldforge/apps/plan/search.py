"""The search at work: one process per compile, a line in the terminal per result, a recommendation at the end.

A compile is a process of its own, since one cannot be stopped otherwise and XLA keeps memory that it once had; the
process is this program, asked for one plan as JSON. They run one after the other: XLA:TPU's compiler uses every core.
"""

import contextlib
import dataclasses
import json
import math
import os
import shlex
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from coldforge.apps.plan.cache import Cache, cache_key, cache_path
from coldforge.apps.plan.candidates import REMATS, Candidate, Search, candidates, flags, weights_bytes
from coldforge.apps.plan.chips import Slice
from coldforge.apps.plan.plan import Failure, Outcome, Plan
from coldforge.apps.plan.report import show_search
from coldforge.apps.plan.target import require_compiler
from coldforge.apps.sft.config import SftConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """How long a search may take, and where it keeps what it finds.

    Attributes:
        compiles: Candidates to compile, those in the cache not counted.
        minutes: For each of them.
        cache: The file; None for the user's cache directory.
    """

    compiles: int = 12
    minutes: float = 20.0
    cache: Path | None = None


def search(
    preset: str, config: SftConfig, base: SftConfig, slice_: Slice, limits: Limits, *, counted: float, as_json: bool
) -> int:
    """Searches, prints what it found, and returns the exit code: 0 if something fits.

    Args:
        preset: Its name.
        config: It, with what was overridden.
        base: It, as it is.
        slice_: To plan for.
        limits: Of the search.
        counted: As in `plan.plan_sft`.
        as_json: Print plans as JSON in place of a table.
    """
    notes = Console(stderr=True, highlight=False)
    store = Cache(limits.cache or cache_path())
    versions = {"jax": version("jax"), "libtpu": require_compiler()}
    left = limits.compiles

    def compile_(candidate: Candidate) -> Outcome | None:
        nonlocal left
        ours = candidate.apply(config)
        key = cache_key(ours, slice_.name, counted, versions)
        known = store.get(key, limits.minutes)
        if known is not None:
            return known
        if left == 0:
            return None
        left -= 1
        with notes.status(f"compiling {_words(candidate)}"):
            outcome = run_process(command(preset, ours, base, slice_, counted), 60 * limits.minutes)
        store.put(key, outcome, limits.minutes)
        return outcome

    model, weights = _model(config)
    order = candidates(config, math.prod(slice_.shape), model.num_heads)
    found = Search(config, slice_.chip.memory, weights, compile_)
    for candidate, outcome in found.run(order):
        notes.print(f"{_words(candidate)}: {_brief(outcome)}")
    if as_json:
        plans = [one for one in sorted(found.outcomes.values(), key=_rank) if isinstance(one, Plan)]
        print(json.dumps([one.to_dict() for one in plans]))
    else:
        _show(found, preset, base, Console(), cache=store.path)
    return 0 if found.best else 1


def command(preset: str, config: SftConfig, base: SftConfig, slice_: Slice, counted: float) -> list[str]:
    """What plans one candidate."""
    program = [sys.executable, "-m", "coldforge.apps.plan.main", "sft", preset, "--topology", slice_.name, "--json"]
    return [*program, "--counted", str(counted), *flags(config, base)]


def run_process(words: list[str], seconds: float) -> Outcome:
    """Runs a command that prints a plan as JSON; it and its children are killed after so long.

    Raises:
        ValueError: It ended with exit code 2: the request was wrong, and the next would be too.
    """
    with subprocess.Popen(  # noqa: S603 (this program again)
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            out, err = process.communicate(timeout=seconds)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                return Failure(f"stopped after {seconds / 60:g} minutes")
            raise
    if process.returncode in (0, 1) and out.strip():
        return Plan.from_dict(json.loads(out))
    if process.returncode == 2:
        raise ValueError(err.strip().removeprefix("coldforge-plan: "))
    if process.returncode == 3:
        return Failure(err.strip().removeprefix("coldforge-plan: "))
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        return Failure(f"killed by {name}" + (": too little memory on this machine?" if name == "SIGKILL" else ""))
    raise RuntimeError(f"{shlex.join(words)} failed:\n{err.strip()[-2000:]}")


def _model(config: SftConfig) -> tuple[Any, float]:
    """The model's sizes, and the bytes of its weights on one device."""
    from coldforge.stages.model import model_config

    model = model_config(config.model)
    return model, weights_bytes(config, model.num_params, model.vocab_size * model.embed_dim)


def _words(candidate: Candidate) -> str:
    mesh = f"data {candidate.data} × fsdp {candidate.fsdp} × tensor {candidate.tensor}"
    return f"{mesh}, remat {REMATS[candidate.remat]}, {candidate.rows} rows × {candidate.accumulation}"


def _brief(outcome: Outcome) -> str:
    if isinstance(outcome, Failure):
        return outcome.reason
    if outcome.memory is None:
        assert outcome.refusal is not None
        return f"refused, wants {outcome.refusal.needed / 2**30:.1f} GiB"
    fits = "" if outcome.fits else ", does not fit"
    return f"{outcome.memory.total / 2**30:.2f} GiB{fits}, about {1e3 * outcome.seconds:.0f} ms"


def _rank(outcome: Outcome) -> tuple[bool, bool, float]:
    if isinstance(outcome, Failure):
        return (True, True, 0.0)
    return (False, not outcome.fits, outcome.seconds)


def _show(found: Search, preset: str, base: SftConfig, console: Console, *, cache: Path) -> None:
    tried = found.outcomes
    show_search([cells(c, tried[c]) for c in sorted(tried, key=lambda c: _rank(tried[c]))], console)
    reasons: dict[str, int] = {}
    for reason in found.implied.values():
        reasons[reason] = reasons.get(reason, 0) + 1
    for reason, times in reasons.items():
        console.print(f"{times} not compiled: {reason}.", style="dim", highlight=False)
    if found.waiting:
        console.print(
            f"{len(found.waiting)} not compiled yet: the same command goes on with them.", style="dim", highlight=False
        )
    console.print(f"Results are kept in {cache}.", style="dim", highlight=False)
    if found.best is None:
        console.print("\nNothing that was tried fits.", style="bold red")
        return
    candidate, _ = found.best
    words = ["coldforge-sft", preset, "--data", "DATA", "--run", "RUN", *flags(candidate.apply(found.config), base)]
    console.print("\nThe fastest that fits:", style="bold")
    console.print(f"  {shlex.join(words)}", highlight=False, soft_wrap=True)


def cells(candidate: Candidate, outcome: Outcome) -> tuple[list[str], str]:
    """A line of the table of results, and its style."""
    mesh = f"data {candidate.data} × fsdp {candidate.fsdp} × tensor {candidate.tensor}"
    rows = f"{candidate.rows} × {candidate.accumulation}"
    first = [mesh, REMATS[candidate.remat], rows]
    if isinstance(outcome, Failure):
        return [*first, "", outcome.reason.splitlines()[0][:40], "", "", ""], "dim"
    took = f"{outcome.trace_seconds + outcome.compile_seconds:.0f} s"
    if outcome.memory is None or outcome.cost is None:
        assert outcome.refusal is not None
        return [*first, f"{outcome.refusal.needed / 2**30:.1f}", "refused", "", "", took], "dim"
    tokens = math.prod(outcome.options["batches"][name] for name in ("rows", "accumulation", "seq_len"))
    floor = outcome.cost.floor_products / outcome.slice.chip.flops / outcome.estimated["xla"]
    found = [f"{outcome.memory.total / 2**30:.1f}", f"{1e3 * outcome.seconds:.0f}", f"{tokens / outcome.seconds:,.0f}"]
    return [*first, *found, f"{100 * floor:.0f} %", took], "" if outcome.fits else "dim"
