"""A run killed at random moments and started again by the same command has the same losses, to the bit."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from coldforge.training import read_manifest

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


def kill_and_compare(tmp_path: Path, kills: int, steps: int, seed: int) -> tuple[int, int]:
    """How often a save and how often something else was hit."""
    whole, broken, rng = tmp_path / "whole", tmp_path / "broken", random.Random(seed)
    uninterrupted = Process(whole, steps)
    during_save = elsewhere = 0
    for index in range(kills):
        process = Process(broken, steps)
        goal = steps * (index + 1) // (kills + 1) + rng.randint(0, 3)

        def at_step(goal=goal) -> bool:
            log = broken / "losses"
            return log.exists() and log.read_bytes().count(b"\n") >= goal

        def in_a_save(goal=goal) -> bool:
            return at_step(goal) and any((broken / "checkpoints").glob(".step_*"))

        hit = process.kill_when(in_a_save if index % 2 == 0 else at_step)
        if hit and any((broken / "checkpoints").glob(".step_*")):
            during_save += 1
        elif hit:
            elsewhere += 1
    Process(broken, steps).wait()
    uninterrupted.wait()
    assert (broken / "losses").read_text() == (whole / "losses").read_text()
    assert len(set((whole / "losses").read_text().split()[1::2])) == steps  # no two losses are equal by themselves
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
