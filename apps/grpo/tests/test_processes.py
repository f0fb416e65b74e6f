"""The program in processes of its own: killed at work, told to stop, and two that train together."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from coldforge import modeling, training
from coldforge.stages.testing import run_together

pytestmark = pytest.mark.whole

STEPS = 8


@pytest.fixture(scope="session")
def whole(sessions: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    run = tmp_path_factory.mktemp("processes") / "whole"
    sessions({"run": run})
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
    stopped, second, *_ = sessions(
        {"run": run, "what": "train", "count": 3, "signal": "SIGTERM", "code": 75},  # between two updates of a rollout
        {"run": run, "what": "sample", "count": 6, "code": -9},  # in the midst of the last rollout
        {"run": run, "what": "judge", "count": 2, "code": -9},  # while it is judged
        {"run": run, "what": "train", "count": 1, "code": -9},  # in an update
        {"run": run},
    )
    assert "stopped after step 3: SIGTERM. It is saved." in stopped
    assert f"--run {run}" in stopped[stopped.index("start the same command again") :]
    assert f"going on from step 3 of {STEPS}" in second, "with samples from the disk"
    assert curves(run) == curves(whole)
    assert texts(run) == texts(whole)
    assert [path.name for path in run.glob("rollouts/*")] == ["rollout_00000003.npz"], "what checkpoint 7 needs"
    fingerprints = [modeling.fingerprint(modeling.load(path / "model")) for path in (run, whole)]
    assert fingerprints[0] == fingerprints[1]


def test_two_processes_train_one_policy(
    command: Callable[..., list[str]], short: tuple[str, ...], variables: dict[str, str], whole: Path, tmp_path: Path
) -> None:
    """From the command line to the gate: samples and losses of the first rollout are those of one process."""
    run = tmp_path / "run"
    said = run_together([command(run, *short, "--loop.steps", "2")] * 2, env=variables, timeout=300)
    assert [one.code for one in said] == [0, 0], said
    assert "gate: passed" in said[0].out
    assert "gate" not in said[1].out
    assert texts(run) == [row for row in texts(whole) if row[0] == 1]
    found, alone = curves(run), curves(whole)
    for name, count in {
        "reward/total": 1, "rollout/length": 1, "train/loss": 2, "train/grad_norm": 2, "policy/kl": 2,
        "policy/entropy": 2,
    }.items():  # fmt: skip
        assert len(found[name][1]) == count
        np.testing.assert_allclose(found[name][1], alone[name][1][:count], rtol=1e-3, atol=1e-5, err_msg=name)
    assert training.read_manifest(run).gate["passed"]
