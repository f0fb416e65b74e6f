"""Eight devices, and two processes of two: the run of one device, up to rounding, by one program each."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from coldforge.grpo import fit

pytestmark = pytest.mark.whole


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """What eight devices and both processes have found, by name, and where they have left their parameters."""
    out = tmp_path_factory.mktemp("devices")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, str(Path(__file__).parent / "on_devices.py"), out]
    whats = {"eight": (8,), "first": (2, port, "0"), "second": (2, port, "1")}
    processes = [
        subprocess.Popen(
            [*command, name, *which], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"},
        )
        for name, (devices, *which) in whats.items()
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=150)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0, 0], "\n".join(outputs)
    return {name: json.loads((out / f"{name}.json").read_text()) for name in whats}, out


@pytest.fixture(scope="module")
def alone(toy, tmp_path_factory):
    """The same run on one device, of rows and micro-batches of its own."""
    config, log = toy.ON_DEVICES, toy.Rows()
    parts = toy.make_parts(config, tmp_path_factory.mktemp("alone"), log=log, judge=toy.some_equal)
    return fit(toy.begin(parts, config), parts, config), log


@pytest.mark.parametrize("name", ["eight", "first", "second"])
def test_the_same_run(elsewhere, alone, name):
    reports, out = elsewhere
    result, log = alone
    with np.load(out / f"{name}.npz") as params:
        for one, values in result.state.params.items():
            np.testing.assert_allclose(params[one], values, atol=1e-5)
    rows = {int(step): row for step, row in reports[name]["rows"].items()}
    assert list(rows) == list(range(1, 7))
    for step, row in log.rows.items():
        for metric, value in row.items():
            if metric.startswith(("train/", "policy/", "rollout/", "reward/")) and "second" not in metric:
                assert rows[step][metric] == pytest.approx(value, rel=1e-3, abs=1e-5), (step, metric)
    assert {row["compiles/train"] for row in rows.values()} == {1.0}
    assert {row["compiles/score"] for row in rows.values()} == {1.0}


def test_the_first_process_judges_for_both(elsewhere, alone):
    reports, _ = elsewhere
    asked = sum(alone[1].curve("rollout/asked"))
    assert (reports["first"]["judged"], reports["second"]["judged"]) == (asked, 0)
    assert (reports["first"]["texts"], reports["second"]["texts"]) == (12, 0)
    curves = [
        {step: {k: v for k, v in row.items() if not k.startswith("time/") and "second" not in k}
         for step, row in reports[name]["rows"].items()} for name in ("first", "second")
    ]  # fmt: skip
    assert curves[0] == curves[1]


def test_two_processes_stop_and_go_on(elsewhere):
    reports, _ = elsewhere
    for name in ("first", "second"):
        again = reports[name]["again"]
        assert (again["reason"], again["end"], again["same"]) == ("enough", 6, True)
        assert 0 < again["stopped"] < 6
    assert reports["first"]["again"] == reports["second"]["again"]


def test_two_processes_fail_and_stop_together(elsewhere):
    reports, _ = elsewhere
    assert reports["first"]["broken"]["raised"] == "ZeroDivisionError: a rule with a bug"
    assert reports["second"]["broken"]["raised"].startswith("JudgeError: the first process could not judge")
    for name in ("first", "second"):
        assert (reports[name]["broken"]["hung"], reports[name]["broken"]["hung_step"]) == ("SIGTERM", 0)
