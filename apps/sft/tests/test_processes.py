"""The program in processes of its own: killed, told to stop, on a full disk, and two that train together."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from coldforge import training
from coldforge.stages.testing import run_together

pytestmark = pytest.mark.whole

STEPS = 12
SHORT = (
    "--loop.steps", str(STEPS), "--loop.checkpoint-every", "3", "--loop.eval-every", "6", "--gate.prompts", "4",
    "--gate.min-prompts", "4", "--gate.max-new-tokens", "32", "--gate.format", "0", "--gate.ended", "0",
    "--gate.truncated", "1",
)  # fmt: skip
SLOW = "import time, coldforge.training.step as s; f = s.TrainStep.__call__; "
SLOW += "s.TrainStep.__call__ = lambda *a: (time.sleep(0.2), f(*a))[1]; "


@pytest.fixture
def start(
    command: Callable[..., list[str]], environment: dict[str, str]
) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts the program with its steps slowed down, so that something can happen between two of them."""
    started = []

    def begin(run: Path, *more: str) -> "subprocess.Popen[str]":
        python, flag, script, *arguments = command(run, *SHORT, *more)
        process = subprocess.Popen(
            [python, flag, SLOW + script, *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        )  # fmt: skip
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory, command: Callable[..., list[str]]
) -> dict[str, list[float]]:
    """The curves of a run that nothing happened to."""
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    subprocess.run(command(run, *SHORT), check=True, capture_output=True)
    return curves(run)


def curves(run: Path) -> dict[str, list[float]]:
    """All that training decides: to the bit, and of every step once."""
    found = training.read_metrics(run)
    assert found["train/loss"][0].tolist() == list(range(1, STEPS + 1))
    timeless = [name for name in found if name.startswith(("train/", "eval/")) and "second" not in name]
    return {name: found[name][1].tolist() for name in timeless}


def until_step(run: Path, step: int, process: "subprocess.Popen[str]") -> None:
    """Returns when this very process has logged the step."""
    began, log = time.time(), run / "metrics.jsonl"
    while time.time() < began + 120 and process.poll() is None:
        lines = log.read_bytes().splitlines(keepends=True) if log.is_file() else []
        rows = [json.loads(line) for line in lines[-3:] if line.endswith(b"\n")]
        if any(row["step"] >= step and row["time"] > began for row in rows):
            return
        time.sleep(0.02)
    process.kill()
    pytest.fail(f"it did not come to step {step}: {process.communicate()[0]}")


def test_a_run_killed_and_told_to_stop_goes_on_to_the_same_curve(
    tmp_path: Path, start: Callable[..., "subprocess.Popen[str]"], uninterrupted: dict[str, list[float]]
) -> None:
    run = tmp_path / "run"
    process = start(run)
    until_step(run, 4, process)
    time.sleep(random.uniform(0, 0.4))  # in the midst of a step, a checkpoint, a line
    process.kill()
    process.communicate()
    assert training.read_manifest(run).status == "running"

    process = start(run)
    until_step(run, 5, process)
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[0]
    assert process.returncode == 75, said
    assert "SIGTERM. It is saved." in said
    assert f"--run {run}" in said[said.index("start the same command again") :]
    manifest = training.read_manifest(run)
    assert (manifest.status, manifest.note) == ("stopped", "SIGTERM")
    stopped_at = manifest.figures["steps"]
    assert 5 < stopped_at < STEPS

    process = start(run)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert f"going on from step {stopped_at} of {STEPS}" in said
    assert curves(run) == uninterrupted


@pytest.mark.slow
def test_twenty_kills_in_a_row(
    tmp_path: Path, start: Callable[..., "subprocess.Popen[str]"], uninterrupted: dict[str, list[float]]
) -> None:
    """Every second one within training, the others at any moment: imports, loading, the gate."""
    run, moments = tmp_path / "run", random.Random(0)
    for kill in range(20):
        process = start(run)
        if kill % 2:
            have = sorted(int(path.name.removeprefix("step_")) for path in run.glob("checkpoints/step_*"))
            if have[-1:] != [STEPS]:
                until_step(run, 1 + (have[-1] if have else 0), process)
            time.sleep(moments.uniform(0, 1.0))
        else:
            time.sleep(moments.uniform(0, 15))
        process.kill()
        process.communicate()
    last_one = start(run)
    said = last_one.communicate()[0]
    assert last_one.returncode == 0, said
    assert curves(run) == uninterrupted


@pytest.mark.slow
def test_a_full_disk_names_the_file_and_loses_nothing(
    tmp_path: Path,
    command: Callable[..., list[str]],
    environment: dict[str, str],
    uninterrupted: dict[str, list[float]],
) -> None:
    """A limit on the size of files stands for the full disk: no checkpoint of a megabyte fits."""
    run = tmp_path / "run"
    limited = ("import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)); "
               "os.execv(sys.argv[1], sys.argv[1:])")  # fmt: skip
    broken = subprocess.run(
        [sys.executable, "-c", limited, *command(run, *SHORT)],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert broken.returncode == 2
    assert "the checkpoint of step 3 could not be written" in broken.stderr
    assert "start again with the same command" in broken.stderr
    assert "coldforge/apps/sft/main.py" not in broken.stderr, "no traceback of ours; Orbax's threads may leave theirs"
    assert "Complete checkpoints, untouched: none." in broken.stderr
    assert training.read_manifest(run).status == "failed"
    mended = subprocess.run(command(run, *SHORT), capture_output=True, text=True, env=environment, check=False)
    assert mended.returncode == 0, mended.stderr
    assert curves(run) == uninterrupted


def test_two_processes_train_one_model(
    tmp_path: Path,
    command: Callable[..., list[str]],
    environment: dict[str, str],
    uninterrupted: dict[str, list[float]],
) -> None:
    """From the command line to the gate; the losses of the first steps are those of one process."""
    run = tmp_path / "run"
    said = run_together([command(run, *SHORT)] * 2, env=environment, timeout=300)
    assert [one.code for one in said] == [0, 0], said
    assert "gate: passed" in said[0].out
    assert "gate" not in said[1].out
    found = curves(run)
    for name in ("train/loss", "train/loss_reasoning", "train/loss_answer", "train/learning_rate"):
        np.testing.assert_allclose(found[name][:3], uninterrupted[name][:3], rtol=0, atol=1e-5)
    assert training.read_manifest(run).gate["passed"]
