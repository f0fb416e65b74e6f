"""The time box and signals, in this process and in others that are really signalled."""

import os
import signal
import subprocess
import sys
import time

import pytest

from coldforge.training import Stopper

pytestmark = pytest.mark.whole

HOUR = 3600


def seconds_after(start: float, **options) -> Stopper:
    """A stopper of a process that began so many seconds ago."""
    return Stopper(started=time.time() - start, **options)


def test_no_limit():
    with Stopper() as stopper:
        assert not stopper.should_stop()
        assert stopper.reason is None


def test_the_time_box_leaves_a_margin():
    assert not seconds_after(HOUR - 80, max_hours=1.0, margin=60.0).should_stop()
    stopper = seconds_after(HOUR - 59, max_hours=1.0, margin=60.0)
    assert stopper.should_stop()
    assert stopper.reason == "the time box (max_hours) is used up"
    stopper = seconds_after(HOUR - 80, max_hours=1.0, margin=60.0)
    stopper.margin = 90.0
    assert stopper.should_stop()


def test_what_is_left_of_the_time_box():
    assert Stopper().seconds_left is None
    assert seconds_after(HOUR - 80, max_hours=1.0).seconds_left == pytest.approx(80, abs=5)
    assert seconds_after(HOUR + 80, max_hours=1.0).seconds_left == 0


def test_a_step_that_would_end_too_late_is_not_begun(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stopper = seconds_after(0, max_hours=1.0, margin=60.0)
    steps = 0
    while not stopper.should_stop():
        now[0] += 100 if steps else 700  # the first one compiles
        steps += 1
    assert now[0] == 3500  # the next would end at 3600, and the margin begins at 3540


def test_the_clock_starts_with_the_process():
    with pytest.raises(ValueError, match=r"max_hours=0.01 is 36 s, of which 60 s are kept for saving"):
        Stopper(0.01)
    began = time.time() - time.clock_gettime(time.CLOCK_PROCESS_CPUTIME_ID)  # at least so long ago
    stopper = Stopper(1.0, margin=1.0)
    assert stopper._deadline - time.monotonic() <= began + HOUR - time.time() + 1


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "SIGINT (Ctrl-C)")])
def test_a_signal(number, reason, messages):
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    with Stopper() as stopper:
        assert not stopper.should_stop()
        os.kill(os.getpid(), number)
        deadline = time.monotonic() + 10
        while not stopper.should_stop():
            assert time.monotonic() < deadline
        assert stopper.reason == reason
        os.kill(os.getpid(), number)  # at once: a launcher that passes it on
        time.sleep(0.05)
        assert stopper.should_stop()
    assert {n: signal.getsignal(n) for n in before} == before
    assert messages() == [f"{number.name}: the step ends, then the run is saved; once more to leave at once"]


def test_signals_of_others_are_theirs():
    number = signal.SIGRTMIN + 3  # one that signal.Signals has no name for
    before = signal.signal(number, lambda *_: None)
    with Stopper() as stopper:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGTERM)
        deadline = time.monotonic() + 10
        while not stopper.should_stop():
            assert time.monotonic() < deadline
    assert stopper.reason == "SIGTERM"
    signal.signal(number, before)


SLEEPER = """
import ctypes, sys, time
from coldforge.training import Stopper
with Stopper() as stopper:
    print("ready", flush=True)
    while not stopper.should_stop():
        time.sleep(0.01)
    print(stopper.reason, flush=True)
    if sys.argv[1] == "hang":
        ctypes.CDLL(None).sleep(60)  # in C, as a compilation is: no Python handler would run
"""


def test_a_second_signal_leaves_at_once_even_from_c():
    command = [sys.executable, "-c", SLEEPER, "hang"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "SIGTERM\n"
        time.sleep(0.6)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 128 + signal.SIGINT
        assert time.monotonic() - began < 5
        assert "SIGINT again: left at once; the run goes on from its last checkpoint" in process.stderr.read()
