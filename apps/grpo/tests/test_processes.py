"""The program in processes of its own: killed at work, told to stop, and two that train together."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from coldforge import modeling, training

# Rollouts of two updates, and a checkpoint after each.
STEPS = 8
SHORT = (
    "--loop.steps", str(STEPS), "--rollout.questions", "4", "--rollout.group-size", "4", "--rollout.slots", "8",
    "--rollout.max-new-tokens", "32", "--algorithm.minibatches", "2", "--policy.beta", "0.01", "--rows.rows", "2",
    "--questions.heldout", "8", "--loop.checkpoint-every", "1", "--loop.eval-every", "4", "--gate.accuracy-drop", "1",
    "--rewards.processes", "1",
)  # fmt: skip


class Session(NamedTuple):
    """A session, what happens to it (see disturbed.py), and with which exit code it ends."""

    run: Path
    code: int
    what: str = "nothing"
    count: int = 0
    signal: str = "SIGKILL"


@pytest.fixture(scope="session")
def variables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of all these processes, which share what is compiled."""
    home = tmp_path_factory.mktemp("home")
    compiled = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(home / "compiled")
    return os.environ | {
        "HOME": str(home), "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": compiled,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }  # fmt: skip


@pytest.fixture(scope="session")
def sessions(
    words: Callable[..., list[str]], variables: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., list[str]]:
    """Runs sessions one after the other; returns what each said."""
    directory = tmp_path_factory.mktemp("said")

    def run(*wanted: Session) -> list[str]:
        files = [directory / str(len(list(directory.iterdir())) + i) for i in range(len(wanted))]
        told: list[dict[str, Any]] = [
            {"what": one.what, "count": one.count, "signal": one.signal, "words": words(one.run, *SHORT),
             "said": str(file)}
            for one, file in zip(wanted, files, strict=True)
        ]  # fmt: skip
        done = subprocess.run(
            [sys.executable, str(Path(__file__).parent / "disturbed.py"), json.dumps(told)],
            capture_output=True, text=True, env=variables, timeout=500, check=True,
        )  # fmt: skip
        said = [file.read_text() for file in files]
        assert [int(code) for code in done.stdout.split()] == [one.code for one in wanted], "\n".join(said)
        return said

    return run


@pytest.fixture(scope="session")
def whole(sessions: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    run = tmp_path_factory.mktemp("processes") / "whole"
    sessions(Session(run, 0))
    return run


def curves(run: Path) -> dict[str, list[list[float]]]:
    """All that samples and updates decide, with the steps."""
    measured = ("time/", "memory/", "compiles/")
    return {
        name: [steps.tolist(), values.tolist()]
        for name, (steps, values) in training.read_metrics(run).items()
        if not name.startswith(measured) and "per_second" not in name
    }


def texts(run: Path) -> list[tuple[int, str, str]]:
    """Samples as they were logged."""
    rows = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    return [(row["step"], row["tag"], row["text"]) for row in rows]


def test_the_run_is_worth_comparing(whole: Path) -> None:
    found = curves(whole)
    assert found["train/grad_norm"][0] == list(range(1, STEPS + 1))
    assert found["reward/total"][0] == [1, 3, 5, 7], "two updates a rollout"
    assert len(set(found["train/grad_norm"][1])) == STEPS
    assert len({text for _, _, text in texts(whole)}) > 4


def test_a_run_that_is_killed_and_stopped_goes_on_to_the_same_end(
    sessions: Callable[..., list[str]], whole: Path, tmp_path: Path
) -> None:
    """Metrics, samples and the last model, to the bit."""
    run = tmp_path / "run"
    *_, stopped, last = sessions(
        Session(run, -9, "sample", 6),  # in the midst of the second rollout
        Session(run, -9, "judge", 7),  # while one of the next is judged
        Session(run, -9, "train", 2),  # in an update
        Session(run, 75, "train", 1, "SIGTERM"),
        Session(run, 0),
    )
    assert "SIGTERM. It is saved." in stopped
    assert f"--run {run}" in stopped[stopped.index("start the same command again") :]
    [step] = [step for step in range(1, STEPS) if f"stopped after step {step}: " in stopped]
    assert f"going on from step {step} of {STEPS}" in last
    assert curves(run) == curves(whole)
    assert texts(run) == texts(whole)
    assert [path.name for path in run.glob("rollouts/*")] == ["rollout_00000003.npz"], "what checkpoint 7 needs"
    fingerprints = [modeling.fingerprint(modeling.load(path / "model")) for path in (run, whole)]
    assert fingerprints[0] == fingerprints[1]


def test_two_processes_train_one_policy(
    command: Callable[..., list[str]], variables: dict[str, str], whole: Path, tmp_path: Path
) -> None:
    """From the command line to the gate: samples and losses are those of one process."""
    run = tmp_path / "run"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    together = ("--distributed.initialize", "--distributed.coordinator", f"localhost:{port}",
                "--distributed.processes", "2", "--distributed.process")  # fmt: skip
    processes = [
        subprocess.Popen(
            command(run, *SHORT, *together, str(rank)),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], said
    assert "gate: passed" in said[0][0]
    assert "gate" not in said[1][0]
    assert [row for row in texts(run) if row[0] == 1] == [row for row in texts(whole) if row[0] == 1]
    found, alone = curves(run), curves(whole)
    for name in ("reward/total", "rollout/length", "train/loss", "train/grad_norm", "policy/kl", "policy/entropy"):
        np.testing.assert_allclose(found[name][1][:2], alone[name][1][:2], rtol=1e-3, atol=1e-5, err_msg=name)
    assert training.read_manifest(run).gate["passed"]
