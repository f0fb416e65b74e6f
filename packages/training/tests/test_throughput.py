"""Rates leave out compilation and pauses, and every second is shown somewhere."""

import math

import pytest

from coldforge.training.throughput import Throughput


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


def test_the_first_step_has_no_rate(clock):
    throughput = Throughput(clock)
    clock.sleep(60)
    assert throughput.step(tokens=1000, trained_tokens=500) == {"time/first_step": 60}
    clock.sleep(2)
    assert throughput.step(tokens=1000, trained_tokens=500) == {
        "time/step": 2, "train/tokens_per_second": 500, "train/trained_tokens_per_second": 250,
    }  # fmt: skip


def test_waiting_belongs_to_the_step_and_is_shown(clock):
    throughput = Throughput(clock)
    throughput.step(tokens=0, trained_tokens=0)
    for _ in range(2):
        with throughput.waiting("data"):
            clock.sleep(0.5)
    clock.sleep(1)
    metrics = throughput.step(tokens=100, trained_tokens=10)
    assert metrics["time/data"] == 1
    assert metrics["train/tokens_per_second"] == 50
    clock.sleep(1)
    assert "time/data" not in throughput.step(tokens=100, trained_tokens=10)


def test_a_pause_is_shown_and_its_step_has_no_rate(clock):
    throughput = Throughput(clock)
    throughput.step(tokens=0, trained_tokens=0)
    clock.sleep(1)
    throughput.step(tokens=100, trained_tokens=10)
    with throughput.pause("checkpoint"):
        clock.sleep(30)
    clock.sleep(0.001)  # the device finished the step meanwhile
    assert throughput.step(tokens=100, trained_tokens=10) == {
        "time/checkpoint": 30, "time/step": pytest.approx(0.001),
    }  # fmt: skip
    clock.sleep(1)
    assert throughput.step(tokens=100, trained_tokens=10)["train/tokens_per_second"] == 100
    totals = throughput.totals()
    assert (totals.steps, totals.tokens, totals.trained_tokens, totals.seconds) == (2, 200, 20, 2)
    assert (totals.tokens_per_second, totals.trained_tokens_per_second) == (100, 10)
    assert totals.pauses == {"checkpoint": 30}
    assert totals.elapsed == pytest.approx(32.001)


def test_a_pause_that_fails_is_counted(clock):
    throughput = Throughput(clock)

    def save():
        with throughput.pause("checkpoint"):
            clock.sleep(1)
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        save()
    assert throughput.totals().pauses == {"checkpoint": 1}


def test_nothing_timed_has_no_rate(clock):
    assert math.isnan(Throughput(clock).totals().tokens_per_second)
