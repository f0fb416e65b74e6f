"""The profiler traces the steps it was asked for, never the one that compiles, and leaves the results alone."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from coldforge.training.profile import Profiler


def traced_steps(directory):
    """Numbers of the steps in the one trace below `directory`."""
    [path] = directory.glob("plugins/profile/*/*.trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return sorted({int(e["args"]["step_num"]) for e in events if e.get("name") == "train" and "step_num" in e["args"]})


@jax.jit
def double(x):
    return 2 * x


def train(profiler, steps):
    with profiler:
        x = jnp.ones(4)
        for step in steps:
            x = profiler.run(step, double, x)
    return x


@pytest.mark.parametrize(("first", "steps", "run", "want"), [
    (3, 2, range(1, 8), [3, 4]),
    (1, 2, range(1, 5), [2, 3]),  # not the first step, which compiles
    (3, 2, range(101, 105), [102, 103]),  # a run that continues
    (3, 9, range(1, 5), [3, 4]),  # the run ends first
])  # fmt: skip
def test_steps_in_the_trace(tmp_path, first, steps, run, want):
    x = train(Profiler(tmp_path, first_step=first, steps=steps), run)
    assert x[0] == 2 ** len(run)
    assert traced_steps(tmp_path) == want


def test_nothing_is_written_unless_asked_for(tmp_path, monkeypatch):
    train(Profiler(tmp_path / "a", first_step=1, steps=0), range(1, 4))
    monkeypatch.setattr("jax.process_index", lambda: 1)
    train(Profiler(tmp_path / "b", first_step=1, steps=2), range(1, 4))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="steps to profile must be 0"):
        Profiler(tmp_path, first_step=1, steps=-1)


def test_a_run_that_fails_in_a_trace_ends_it(tmp_path):
    def steps():
        yield from (1, 2)
        raise RuntimeError("stop")

    for _ in range(2):  # a trace that stayed open would refuse the second
        with pytest.raises(RuntimeError, match="stop"):
            train(Profiler(tmp_path, first_step=1, steps=3), steps())
