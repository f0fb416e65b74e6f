"""Shows that a pipeline comes to the same whatever happens to it on the way, and on whatever devices it runs.

    python tools/pipeline_proof.py kill WORK --kills 20     SIGKILL at random moments, then to the end
    python tools/pipeline_proof.py box WORK --hours 0.05    sessions with --max-hours, until it is done
    python tools/pipeline_proof.py processes WORK           two processes of jax.distributed
    python tools/pipeline_proof.py devices WORK             eight simulated devices
    python tools/pipeline_proof.py compare RUN RUN          what two runs came to, stage by stage

All but the last make the undisturbed run WORK/whole if it is not there, on one device, then the other one, and compare
both. `--words` are what `coldforge` is given (default: the preset nano). Exit code 1 if adapters differ; not after
`processes` and `devices`, which add up in another order, so that losses have to be looked at. Eight devices want
`--words "nano --rl-1.rows.rows 8 --rl-2.rows.rows 8"`, a row of a micro-batch for each.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from coldforge import training
from coldforge.apps.pipeline.ledger import ENTRIES
from coldforge.stages.find import adapter_hash
from coldforge.stages.program import STOPPED
from coldforge.stages.testing import as_group

STAGES = ("cold-start", "rl-1", "sft-2", "rl-2")


def start(run: Path, words: list[str], devices: int = 1) -> subprocess.Popen[bytes]:
    """Starts the pipeline in a process group of its own; what it says is added to RUN.log."""
    command = [sys.executable, "-m", "coldforge.apps.pipeline.main", *words, "--run", str(run)]
    run.parent.mkdir(parents=True, exist_ok=True)
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    with run.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=env)


def finish(run: Path, words: list[str]) -> int:
    """Runs it to its end; returns the exit code."""
    return start(run, words).wait()


def whole(work: Path, words: list[str]) -> Path:
    """The undisturbed run."""
    run, begun = work / "whole", time.monotonic()
    if (code := finish(run, words)) != 0:
        sys.exit(f"the undisturbed run ended with code {code}; see {run.with_suffix('.log')}")
    print(f"undisturbed: {time.monotonic() - begun:.0f} s", flush=True)
    return run


def stage_of(run: Path) -> str:
    """The stage that the ledger calls running."""
    entries = training.read_manifest(run).figures.get(ENTRIES, {}) if (run / "manifest.json").exists() else {}
    return next((name for name, entry in entries.items() if entry["status"] == "running"), "between stages")


def kill(run: Path, words: list[str], kills: int, mean: float, seed: int) -> None:
    """Kills it so many times, each after a random time around `mean` seconds, then lets it finish."""
    chance, done = random.Random(seed), 0
    while done < kills:
        process, wait = start(run, words), chance.uniform(0.1, 1.9) * mean
        try:
            code = process.wait(wait)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            done += 1
            print(f"kill {done} after {wait:.1f} s, in {stage_of(run)}", flush=True)
        else:
            print(f"done after {done} kills, code {code}; a smaller --mean has more", flush=True)
            return
    print(f"then to its end: code {finish(run, words)}", flush=True)


def box(run: Path, words: list[str], hours: float) -> None:
    """Sessions of so many hours until it does not stop in time any more."""
    for session in range(1, 100):
        begun = time.monotonic()
        code = finish(run, [*words, "--max-hours", str(hours)])
        print(f"session {session}: code {code} after {time.monotonic() - begun:.0f} s", flush=True)
        if code != STOPPED:
            return


def processes(run: Path, words: list[str], count: int) -> None:
    """Runs it as so many processes, as on as many hosts."""
    begun = time.monotonic()
    started = [start(run, each) for each in as_group([words] * count)]
    try:
        codes = [process.wait() for process in started]
    finally:
        for process in started:
            process.kill()
    ended(f"{count} processes", codes, time.monotonic() - begun)


def devices(run: Path, words: list[str], count: int) -> None:
    """Runs it on so many simulated devices."""
    begun = time.monotonic()
    ended(f"{count} devices", [start(run, words, count).wait()], time.monotonic() - begun)


def ended(what: str, codes: list[int], seconds: float) -> None:
    """Says how it ended; leaves with 1 unless all is done."""
    print(f"{what}: codes {codes} after {seconds:.0f} s", flush=True)
    if any(codes):
        sys.exit(1)


def compare(one: Path, other: Path) -> bool:
    """Prints what differs; says whether all adapters are the same to the bit."""
    same = True
    for stage in STAGES:
        first, second = (_adapter(run / stage) for run in (one, other))
        apart = _apart(*(training.read_metrics(run / stage)["train/loss"] for run in (one, other)))
        print(f"{stage}: adapter {'the same' if first == second else 'differs'} ({first[:12]}); {apart}")
        same &= first == second
    return same


def _adapter(stage: Path) -> str:
    place = training.read_manifest(stage).adapter_path
    if place is None:
        sys.exit(f"{stage} has no adapter")
    return adapter_hash(place)


def _apart(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> str:
    (steps, losses), (others, other_losses) = one, other
    if not np.array_equal(steps, others):
        return f"{len(steps)} losses against {len(others)}"
    return f"{len(steps)} losses, at most {np.abs(losses - other_losses).max():.3g} apart"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kill", "box", "processes", "devices", "compare"))
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--mean", type=float, default=45.0, help="seconds between kills")
    parser.add_argument("--hours", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--words", default="nano", help="what coldforge is given, in one string")
    args = parser.parse_args()
    words = args.words.split()
    if args.what == "compare":
        one, other = args.paths
    else:
        [work] = args.paths
        one, other = whole(work, words), work / args.what
        match args.what:
            case "kill":
                kill(other, words, args.kills, args.mean, args.seed)
            case "box":
                box(other, words, args.hours)
            case "processes":
                processes(other, words, count=2)
            case "devices":
                devices(other, words, count=8)
    same = compare(one, other)
    sys.exit(0 if same or args.what in ("processes", "devices") else 1)


if __name__ == "__main__":
    main()
