"""Eight devices: the samples and the update of one device; test_processes.py has two processes."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from coldforge import modeling, training

pytestmark = pytest.mark.slow  # the default run has two processes (test_processes.py)

ONE_ROLLOUT = (
    "--loop.steps", "1", "--algorithm.minibatches", "1", "--rows.rows", "8", "--loop.texts", "16", "--policy.beta", "0",
    "--loop.eval-every", "0",
)  # fmt: skip


@pytest.fixture(scope="module")
def alone(sessions: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One rollout and its update, on one device."""
    run = tmp_path_factory.mktemp("meshes") / "alone"
    sessions({"run": run, "more": ONE_ROLLOUT})
    return run


def samples(run: Path) -> dict[str, str]:
    """All samples of the rollout."""
    rows = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    return {row["tag"]: row["text"] for row in rows if row["tag"].startswith("samples/")}


def logits(path: Path) -> np.ndarray:
    return np.asarray(modeling.load(path / "model")(np.arange(4, 84).reshape(2, 40)))


@pytest.mark.parametrize(
    "mesh",
    [
        ("--mesh.data", "2", "--mesh.fsdp", "2", "--mesh.tensor", "2"),
        ("--mesh.data", "8", "--mesh.shard-optimizer"),
        ("--mesh.fsdp", "8"),
    ],
    ids=["all axes", "data", "fsdp"],
)
def test_samples_and_update_are_those_of_one_device(
    mesh: tuple[str, ...], sessions: Callable[..., list[str]], alone: Path, start: Path, tmp_path: Path
) -> None:
    sessions({"run": tmp_path / "eight", "more": (*ONE_ROLLOUT, *mesh)}, devices=8)
    wanted_samples = samples(alone)
    assert len(wanted_samples) == 16
    assert len(set(wanted_samples.values())) > 8
    assert samples(tmp_path / "eight") == wanted_samples
    found, wanted = (training.read_metrics(run) for run in (tmp_path / "eight", alone))
    for name in wanted:
        if name.startswith(("reward/", "rollout/", "train/", "policy/", "eval/")) and "per_second" not in name:
            np.testing.assert_allclose(found[name][1], wanted[name][1], rtol=1e-3, atol=1e-5, err_msg=name)
    assert found["compiles/train"][1].tolist() == [1]
    before, after = logits(start), logits(alone)
    assert np.abs(after - before).max() > 1e-2, "the update has changed something"
    np.testing.assert_allclose(logits(tmp_path / "eight"), after, atol=1e-3)
