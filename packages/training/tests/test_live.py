"""The live view: all of it at each width, plain lines where there is no terminal, next to no cost for the loop."""

import io
import math
import re
import sys
import time

import pytest
from rich.console import Console

from coldforge.training.live import LiveView, clock_time
from coldforge.training.watchdog import Finding

FINDING = Finding(
    "clipped", 40, "clipped in 100 of 100 steps [x]", "a limit too low", "set max_grad_norm to 0.8", fatal=True
)
METRICS = {
    "train/loss": 1.25, "train/loss_reasoning": 1.5, "train/loss_answer": 0.4, "train/grad_norm": 0.5,
    "train/learning_rate": 1.7e-4, "train/tokens_per_second": 12310.0, "data/padding_share": 0.031,
    "memory/host_gib": 4.21, "train/applied": 1, "eval/loss": 1.3,
}  # fmt: skip


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def terminal(width=80):
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=24, highlight=False, _environ={})


def screen(console):
    """The lines written so far, without control codes."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue()).replace("\r", "\n")


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_terminal_shows_all_of_it(width):
    console, clock = terminal(width), Clock()
    with LiveView(200, title="runs/first", console=console, live=True, clock=clock, time_limit=100.0) as view:
        for step in range(1, 101):
            clock.now += 2
            view.update(step, METRICS, epoch=0.5)
        view.saved(100)
        with view.doing("evaluating"):
            view._live.refresh()
    text = screen(console)
    for part in (
        "runs/first", "evaluating…", "50 % 100/200", "elapsed 0:03:20", "to go 0:03:20", "time box 0:00:00 left",
        "epoch 0.50", "loss 1.2500", "reasoning 1.5000", "answer 0.4000", "held out 1.3000", "tok/s 12,310",
        "gradient 0.500", "rate 1.70e-04", "padding 3.1%", "memory 4.2 GiB", "saved at 100",
    ):  # fmt: skip
        assert part in text, part
    assert max(map(len, text.splitlines())) <= width
    assert console.file.getvalue().rindex("\x1b[?25h") > console.file.getvalue().rindex(
        "\x1b[?25l"
    )  # the cursor is back


def test_the_cursor_is_there_while_the_view_is():
    console = terminal()
    with LiveView(10, console=console, live=True):
        written = console.file.getvalue()
        assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")  # a killed process cannot bring it back


def test_before_the_first_step():
    console = terminal()
    with LiveView(10, title="runs/first", console=console, live=True):
        pass
    assert "runs/first  first step: compiling…" in screen(console)
    assert "0 % 0/10" in screen(console)


def test_findings_and_notes_stay_above():
    console = terminal()
    with LiveView(10, console=console, live=True) as view:
        view.finding(FINDING)
        view.note("saved [1]")
    text = screen(console)
    assert "watchdog, step 40: clipped in 100 of 100 steps [x]\n    likely cause: a limit too low" in re.sub(
        " +\n", "\n", text
    )
    assert "    what to do: set max_grad_norm to 0.8" in text
    assert "saved [1]" in text


def test_a_loss_that_is_not_finite_is_seen():
    console = terminal()
    with LiveView(10, console=console, live=True) as view:
        view.update(1, {"train/loss": 2.0, "train/applied": 1})
        view.update(2, {"train/loss": math.nan, "train/applied": 0})
    assert "loss 2.0000   last loss nan   skipped 1" in screen(console)


def test_device_memory_is_shown_against_its_limit():
    console = terminal()
    with LiveView(10, console=console, live=True) as view:
        view.update(1, {"memory/host_gib": 9.0, "memory/device_peak_gib": 3.21, "memory/device_limit_gib": 15.75})
    assert "memory 3.2 of 15.8 GiB" in screen(console)


def test_a_file_gets_plain_lines(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in some CI systems
    clock, file = Clock(), io.StringIO()
    with LiveView(100, title="t", console=Console(file=file), every=30.0, clock=clock) as view:
        for step in range(1, 51):
            clock.now += 2
            view.update(step, METRICS)
            if step == 20:
                view.finding(FINDING)
        with view.doing("evaluating"):
            pass
    lines = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue()).splitlines()
    steps = [re.search(r"\d\d:\d\d:\d\d step (\d+)/100 ", line) for line in lines]
    assert [int(m[1]) for m in steps if m] == [1, 16, 31, 46, 50]
    assert all("loss 1.2500, reasoning 1.5000" in line for line, m in zip(lines, steps, strict=True) if m)
    assert [line.split(" ", 1)[1] for line, m in zip(lines, steps, strict=True) if not m] == [f"WATCHDOG, {FINDING}"]


REWARDS = {
    "reward/total": 1.25, "rollout/correct": 0.4, "rollout/zero_variance": 0.5, "policy/entropy": 0.3,
    "train/loss": -1e-9, "eval/correct": 0.7,
}  # fmt: skip


def test_rewards_take_the_place_of_a_loss_that_says_nothing():
    console = terminal()
    with LiveView(10, console=console, live=True) as view:
        view.update(1, REWARDS | {"rewards/timeouts": 0.0, "rewards/errors": 0.0})
    text = screen(console)
    assert "reward 1.250   right 40.0%   no signal 50%   entropy 0.300   held out 70.0%" in text
    assert "loss" not in text
    assert "failed" not in text
    with LiveView(10, console=(second := terminal()), live=True) as view:
        view.update(1, REWARDS | {"rewards/timeouts": 2.0, "rewards/errors": 1.0})
    assert "failed checks 3" in screen(second)


def test_what_takes_long_says_how_far_it_is():
    console = terminal()
    with LiveView(10, title="t", console=console, live=True) as view:
        with view.doing("sampling"):
            view.progress(3, 16)
            view._live.refresh()
        view._live.refresh()
    assert "t  sampling 3 of 16…" in screen(console)
    assert screen(console).rstrip().splitlines()[-3].strip() == "t  first step: compiling…"


def test_a_log_gets_a_line_of_what_takes_long_now_and_then():
    clock, file = Clock(), io.StringIO()
    with LiveView(10, console=Console(file=file), every=30.0, clock=clock) as view:
        for step in (1, 2):
            with view.doing("sampling"):
                for done in range(1, 9):
                    clock.now += 10 * (step == 1)
                    view.progress(done, 8)
            view.update(step, REWARDS)
    lines = [line.split(" ", 1)[1] for line in file.getvalue().splitlines()]
    assert lines[:2] == ["step 0/10, sampling 3 of 8", "step 0/10, sampling 6 of 8"]
    assert [line[:9] for line in lines[2:]] == ["step 1/10", "step 2/10"], "a line when it ends"
    assert "reward 1.250" in lines[2]


def test_a_file_gets_no_control_codes(capfd):
    with LiveView(100) as view:
        view.update(1, METRICS)
        view.finding(FINDING)
    out, err = capfd.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 2
    assert "\x1b" not in err


def test_other_processes_show_nothing(monkeypatch):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    console = terminal()
    with LiveView(100, console=console) as view:
        view.update(1, METRICS)
        view.finding(FINDING)
        view.note("saved")
        view.saved(1)
    assert console.file.getvalue() == ""


def test_an_error_leaves_the_terminal_in_order():
    console = terminal()

    def fail():
        with LiveView(10, console=console, live=True):
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert "\x1b[?25h" in console.file.getvalue()
    with LiveView(10, console=console, live=True):  # rich allows one at a time
        pass


def test_prints_go_above_the_view_and_pipes_stay_pipes(capsys):
    console = terminal()
    with LiveView(10, console=console, live=True):
        print("to a pipe")
        print("a warning", file=sys.stderr)
    assert capsys.readouterr().out == "to a pipe\n"
    assert "a warning" in screen(console)


def test_update_costs_the_loop_little():
    with LiveView(10**6, console=terminal(), live=True) as view:
        start = time.perf_counter()
        for step in range(1, 2001):
            view.update(step, METRICS, epoch=0.1)
        seconds = time.perf_counter() - start
    assert seconds / 2000 < 1e-3  # 20 µs on an idle machine


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0:00:00"), (59.9, "0:00:59"), (3725.4, "1:02:05"), (360000.0, "100:00:00")]
)
def test_clock_time(seconds, text):
    assert clock_time(seconds) == text
