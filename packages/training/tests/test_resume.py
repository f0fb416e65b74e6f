"""A run killed at random moments and started again by the same command has the same curves and findings, to the bit."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from coldforge.training import read_manifest, read_metrics

pytestmark = pytest.mark.whole

SCRIPT = Path(__file__).parent / "killed_run.py"


class Process:
    """The script on a directory, with one device; what it says goes to a file."""

    def __init__(self, directory: Path, steps: int) -> None:
        self.log = directory.with_suffix(".log")
        with self.log.open("a") as log:
            command = [sys.executable, str(SCRIPT), str(directory), str(steps)]
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def wait(self) -> None:
        assert self.process.wait(timeout=300) == 0, self.log.read_text()

    def kill_when(self, moment) -> bool:
        """Whether it was alive to be killed when `moment()` was first true."""
        while not moment():
            if self.process.poll() is not None:
                assert self.process.returncode == 0, self.log.read_text()
                return False
            time.sleep(0.0005)
        self.process.kill()
        return self.process.wait(timeout=60) == -9


def points(run: Path) -> list[tuple[int, np.float32]]:
    """The loss's curve as TensorBoard shows it."""
    events = EventAccumulator(str(run / "tensorboard"), tensor_size_guidance={"scalars": 0})
    events.Reload()
    return [(e.step, make_ndarray(e.tensor_proto).item()) for e in events.Tensors("train/loss")]


def findings(run: Path) -> list[tuple[int, str]]:
    rows = map(json.loads, (run / "samples.jsonl").read_text().splitlines())
    return [(row["step"], row["text"]) for row in rows]


def kill_and_compare(tmp_path: Path, kills: int, steps: int, seed: int) -> tuple[int, int]:
    """How often a save and how often something else was hit."""
    whole, broken, rng = tmp_path / "whole", tmp_path / "broken", random.Random(seed)
    uninterrupted = Process(whole, steps)
    during_save = elsewhere = 0
    for index in range(kills):
        process = Process(broken, steps)
        goal = steps * (index + 1) // (kills + 1) + rng.randint(0, 3)

        def at_step(goal=goal) -> bool:
            log = broken / "metrics.jsonl"
            return log.exists() and log.read_bytes().count(b"\n") >= goal

        def in_a_save(goal=goal) -> bool:
            return at_step(goal) and any((broken / "checkpoints").glob(".step_*"))

        def between_saves(goal=goal) -> bool:
            return at_step(goal) and not any((broken / "checkpoints").glob(".step_*"))

        hit = process.kill_when(in_a_save if index % 2 == 0 else between_saves)
        if hit and any((broken / "checkpoints").glob(".step_*")):
            during_save += 1
        elif hit:
            elsewhere += 1
    Process(broken, steps).wait()
    uninterrupted.wait()
    curves, want = read_metrics(broken), read_metrics(whole)
    assert curves.keys() == want.keys()
    for name, (at, values) in want.items():
        assert (curves[name][0].tobytes(), curves[name][1].tobytes()) == (at.tobytes(), values.tobytes()), name
    losses = want["train/loss"]
    assert list(losses[0]) == list(range(1, steps + 1))
    assert len(set(losses[1])) == steps  # no two losses are equal by themselves
    assert points(broken) == list(enumerate(map(np.float32, losses[1]), 1))
    assert findings(broken) == findings(whole)
    assert len(findings(whole)) > 5
    assert read_manifest(broken).status == "finished"
    starts = [line for line in (tmp_path / "broken.log").read_text().splitlines() if line.startswith("from step")]
    assert len(starts) == kills + 1
    assert starts[-1] != "from step 0"
    return during_save, elsewhere


def test_killed_three_times(tmp_path):
    during_save, elsewhere = kill_and_compare(tmp_path, kills=3, steps=60, seed=0)
    assert during_save + elsewhere == 3


@pytest.mark.slow
def test_killed_twenty_times(tmp_path):
    during_save, elsewhere = kill_and_compare(tmp_path, kills=20, steps=200, seed=1)
    assert during_save >= 5
    assert elsewhere >= 3
