"""A run that is stopped or killed at any moment goes on to the same end, to the bit.

That is parameters, optimizer, reference, the log, what the watchdog remembers. The run has rollouts of two updates,
dynamic sampling, a reference that is refreshed within a rollout, and checkpoints within rollouts and between them.
"""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest

pytestmark = pytest.mark.whole

MEASURED = ("time", "train/tokens_per_second", "rollout/tokens_per_second")


def lines(directory, name):
    """The log without what a clock says."""
    rows = [json.loads(line) for line in (directory / name).read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in MEASURED and not k.startswith("time/")} for row in rows]


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def compare(directory, found, whole):
    wanted, where = whole
    assert equal(found.result.state, wanted.result.state)
    assert equal(found.reference, wanted.reference)
    assert lines(directory, "metrics.jsonl") == lines(where, "metrics.jsonl")
    assert lines(directory, "samples.jsonl") == lines(where, "samples.jsonl")
    assert found.watchdog == wanted.watchdog
    assert (found.result.reason, found.result.best) == ("done", wanted.result.best)


@pytest.fixture(scope="module")
def whole(toy, tmp_path_factory):
    """The run without a disturbance."""
    directory = tmp_path_factory.mktemp("whole")
    return toy.session(directory), directory


def test_the_run_itself_is_worth_comparing(toy, whole):
    """Each of its steps changes something, groups are replaced, and the watchdog has something to say."""
    session, directory = whole
    rows = lines(directory, "metrics.jsonl")
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert len(set(losses)) == toy.RESUMED.steps
    assert max(row.get("rollout/asked", 0) for row in rows) > 4
    tags = Counter(row["tag"] for row in lines(directory, "samples.jsonl"))
    assert tags["watchdog"] >= 3
    assert tags["samples/best"] == 4
    assert not equal(session.reference, session.result.state.params), "it is of step 6"
    assert not equal(session.reference, toy.make_params())


@pytest.mark.parametrize("step", range(1, 8))
def test_a_run_that_is_told_to_stop_after_a_step(toy, tmp_path, whole, step):
    done = Counter()

    def stop():
        return "SIGTERM" if done["train"] == step else None

    stopped = toy.session(tmp_path, disturb=lambda what: done.update([what]), stop=stop)
    assert (stopped.result.reason, stopped.result.step) == ("SIGTERM", step)
    found = toy.session(tmp_path)
    assert found.first == step
    compare(tmp_path, found, whole)


class BreakdownError(Exception):
    pass


@pytest.mark.parametrize(
    ("what", "count", "goes_on_from"),
    [
        ("sample", 2, 0),
        ("judge", 12, 2),
        ("train", 2, 0),
        ("train", 4, 2),
        ("save", 2, 2),
        ("evaluate", 2, 4),
        ("sample", 20, 4),
    ],
)
def test_a_run_that_breaks_off(toy, tmp_path, whole, what, count, goes_on_from):
    """Inside sampler, judge, update, checkpoint, evaluation."""
    seen = Counter()

    def disturb(now):
        seen[now] += 1
        if now == what and seen[now] == count:
            raise BreakdownError(what)

    with pytest.raises(BreakdownError):
        toy.session(tmp_path, disturb=disturb)
    found = toy.session(tmp_path)
    assert found.first == goes_on_from
    compare(tmp_path, found, whole)


KILLS = {"sample": 20, "judge": 12, "train": 6}


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Where runs have killed themselves."""
    directory = tmp_path_factory.mktemp("killed")
    what = [str(word) for pair in KILLS.items() for word in pair]
    command = [sys.executable, str(Path(__file__).parent / "killed_run.py"), directory, *what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["-9"] * 3, done.stderr
    return directory


@pytest.mark.parametrize("what", KILLS)
def test_a_run_that_is_killed(toy, killed, whole, what):
    """SIGKILL while it samples, while it judges, and in the second update of a rollout."""
    found = toy.session(killed / what)
    assert found.first in (0, 2, 4), "the newest that was complete"
    compare(killed / what, found, whole)
