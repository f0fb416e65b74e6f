"""Two processes of two devices each: the losses of one device, one checkpoint of both, one answer to when to stop."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from coldforge.training import Checkpointer, place_batch

pytestmark = pytest.mark.whole


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The directory in which the processes have written, and what each reports."""
    out = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(Path(__file__).parent / "process_of_two.py"), str(port)]
    processes = [
        subprocess.Popen([*command, str(rank), out], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for rank in (0, 1)
    ]
    try:
        outputs = [process.communicate(timeout=150)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    return out, [json.loads((out / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone(small):
    """The same five steps on one device."""
    step, state, frozen = small.make_step(), small.make_state(), small.placed_frozen()
    found = []
    for index in range(5):
        state, metrics = step(state, frozen, place_batch(small.make_batch(index)))
        found.append({name: float(value) for name, value in metrics.items()})
    return found, state


def test_the_same_losses(together, alone):
    _, reports = together
    for report in reports:
        for got, want in zip(report["metrics"], alone[0], strict=True):
            assert got == pytest.approx(want, abs=1e-5, rel=1e-5)
        assert report["compiles"] == 1
    assert reports[0]["metrics"] == reports[1]["metrics"]


def test_rows_lie_where_they_are_looked_for(together):
    """Scores of a rollout's rows were taken for others' on TPU slices of several hosts."""
    _, reports = together
    for report in reports:
        assert report["whole"] == [0, 10, 20, 30, 40, 50, 60, 70]
        assert sorted(report["shares"]) == list(range(8))
        assert report["shares"] != list(range(8)), "else this mesh shows nothing"


def test_one_checkpoint_of_both(together, alone, small):
    out, reports = together
    assert [report["data_state"] for report in reports] == [{"position": 5}] * 2
    assert [report["latest"] for report in reports] == [reports[0]["stopped"] + 1] * 2
    for rank in (0, 1):  # restored by two processes
        with np.load(out / f"{rank}.npz") as params:
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), dict(params), alone[1].params)
    with Checkpointer(out / "checkpoints", identity={"base": "b"}) as checkpointer:  # and by one
        found = checkpointer.restore(5, alone[1]).state
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, alone[1])


def test_both_stop_at_the_same_step(together):
    """The second process is signalled in its eighth step; the votes are read one step later."""
    _, reports = together
    assert {report["reason"] for report in reports} == {"SIGTERM"}
    assert len({report["stopped"] for report in reports}) == 1
    assert 8 <= reports[0]["stopped"] < 49


def test_both_refuse_another_runs_directory(together):
    _, reports = together
    assert "rank: the run has 64, asked for is 32" in reports[0]["refused"]
    assert "the first process has refused the run directory" in reports[1]["refused"]
