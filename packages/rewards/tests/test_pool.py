"""Checks that hang, crash or eat memory cost themselves, and nothing else."""

import gc
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from coldforge.rewards import MathPool, Pool

pytestmark = pytest.mark.whole

EVAL, EXEC = "builtins:eval", "builtins:exec"
DEAF = "import collections, itertools; collections.deque(itertools.count(), maxlen=0)"
STUBBORN = "while True:\n try:\n  while True: sum(range(10**6))\n except BaseException: pass"


@pytest.fixture(scope="module")
def short():
    with Pool(workers=2, seconds=0.5, wall=2, memory=1 << 30) as pool:
        yield pool


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def pids(pool):
    return [outcome.value for outcome in pool.run("os:getpid", [()])]


def gone(pid, seconds=20.0):
    end = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not alive(pid)


@pytest.mark.parametrize(
    ("function", "arguments", "fault", "detail"),
    [
        (EXEC, ("while True: pass",), "timeout", "took more than 0.5 s of processor time"),
        # C code that never looks for signals; and code that catches everything.
        (EXEC, (DEAF,), "timeout", "did not stop after 0.5 s of processor time"),
        (EXEC, (STUBBORN,), "timeout", "did not stop"),
        ("time:sleep", (60,), "timeout", "2.* s on the clock"),
        ("os:_exit", (3,), "error", r"its process died \(exit code 3\)"),
        ("os:abort", (), "error", r"its process died \(exit code -6\)"),
        ("builtins:bytearray", (2 << 30,), "error", "MemoryError"),
        ("math:sqrt", (-1,), "error", "ValueError: math domain error|ValueError: expected a nonnegative"),
        ("builtins:set", (), "error", "TypeError: Object of type set is not JSON serializable"),
        (EXEC, ("raise SystemExit(0)",), "error", "its process died"),
    ],
)
def test_a_bad_check_costs_itself(short, function, arguments, fault, detail, caplog):
    before = short.stats
    with caplog.at_level(logging.WARNING):
        [bad] = short.run(function, [arguments])
    assert (bad.fault, bad.value) == (fault, None)
    assert re.search(detail, bad.detail), bad.detail
    assert f"{function}{arguments!r}: {fault}" in caplog.text
    counted = {"timeout": short.stats.timeouts - before.timeouts, "error": short.stats.errors - before.errors}
    assert counted == {"timeout": fault == "timeout", "error": fault == "error"}
    assert [outcome.value for outcome in short.run(EVAL, [("2+2",), ("[(1, 2)]",)])] == [4, [[1, 2]]]


def test_neighbours_of_a_bad_check_are_not_touched(short):
    calls = [(f"{i}*{i}",) for i in range(20)]
    calls[7] = ("9**9**9 and 1",)
    outcomes = short.run(EVAL, calls)
    assert [outcome.value for outcome in outcomes] == [None if i == 7 else i * i for i in range(20)]
    assert [i for i, outcome in enumerate(outcomes) if outcome.fault] == [7]


def test_what_a_check_prints_does_not_disturb(short):
    [outcome] = short.run(EXEC, [("import os, sys; print('hello'); os.write(1, b'x'); sys.stderr.write('y' * 100)",)])
    assert outcome.fault == ""


def test_equal_calls_are_run_once(short):
    before = short.stats.checks
    assert [outcome.value for outcome in short.run(EVAL, [("1+1",)] * 50 + [("1+2",)])] == [2] * 50 + [3]
    assert short.stats.checks - before == 2
    assert short.run(EVAL, []) == []


def test_a_killed_worker_is_replaced(short):
    [pid] = pids(short)
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.2)
    starts = short.stats.starts
    assert [outcome.value for outcome in short.run(EVAL, [(f"{i}",) for i in range(10)])] == list(range(10))
    assert pids(short) != [pid]
    assert short.stats.starts >= starts


def test_nothing_starts_before_it_is_needed():
    threads = threading.active_count()
    with MathPool() as pool:
        assert pool.stats.starts == 0
        assert threading.active_count() == threads


def test_many_threads_share_a_pool(short):
    with ThreadPoolExecutor(8) as threads:
        found = list(
            threads.map(lambda i: [o.value for o in short.run(EVAL, [(f"{i}+{j}",) for j in range(10)])], range(16))
        )
    assert found == [[i + j for j in range(10)] for i in range(16)]


def test_closing_ends_processes_and_waiting_calls():
    pool = Pool(workers=1, seconds=30, wall=60)
    [pid] = pids(pool)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(pool.run, "time:sleep", [(30,), (31,)])
        time.sleep(0.3)
        start = time.monotonic()
        pool.close()
        with pytest.raises(RuntimeError, match="the pool was closed"):
            waiting.result()
    assert time.monotonic() - start < 5
    assert gone(pid)
    pool.close()
    with pytest.raises(RuntimeError, match="the pool is closed"):
        pool.run(EVAL, [("1",)])


def test_a_forgotten_pool_ends_its_processes():
    pool = Pool(workers=1)
    [pid] = pids(pool)
    del pool
    gc.collect()
    assert gone(pid)


def test_a_function_that_cannot_be_imported_is_the_callers_error(short):
    with pytest.raises(RuntimeError, match="no_such_module:f cannot be imported: ModuleNotFoundError"):
        short.run("no_such_module:f", [()])
    with pytest.raises(ValueError, match=r"'eval' names no function; wanted 'package.module:function'"):
        short.run("eval", [()])
    with pytest.raises(ValueError, match="cannot be imported by another process; put the function into a module"):
        short.run(lambda: 1, [()])
    assert short.run(textwrap.dedent, [(" a",)])[0].value == "a"  # a function itself


def test_a_process_that_cannot_start_is_the_callers_error(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Pool(workers=1) as pool, pytest.raises(RuntimeError, match="a process for checks cannot be started"):
        pool.run(EVAL, [("1",)])


@pytest.mark.parametrize("setting", ["workers", "seconds", "wall", "memory"])
def test_limits_are_above_zero(setting):
    with pytest.raises(ValueError, match=f"{setting} = 0"):
        Pool(**{setting: 0})


def test_a_program_that_dies_leaves_no_process(tmp_path):
    """Also: a main file without a guard, and threads, do no harm; a fork of the program is refused and ends nothing."""
    script = tmp_path / "main.py"
    script.write_text(
        textwrap.dedent("""
        import os, threading, time
        from coldforge.rewards import Pool
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        pool = Pool(workers=1, seconds=60, wall=60)
        print(pool.run("os:getpid", [()])[0].value, flush=True)
        if (child := os.fork()) == 0:
            try:
                pool.run("os:getpid", [()])
            except RuntimeError as error:
                print(error, flush=True)
            raise SystemExit
        os.waitpid(child, 0)
        print(pool.run("os:getpid", [()])[0].value, flush=True)
        threading.Thread(target=pool.run, args=("time:sleep", [(2,)])).start()
        time.sleep(60)
        """)
    )
    with subprocess.Popen([sys.executable, "-W", "ignore", script], stdout=subprocess.PIPE, text=True) as program:
        pid = int(program.stdout.readline())
        assert "made before its process forked" in program.stdout.readline()
        assert int(program.stdout.readline()) == pid
        time.sleep(0.3)
        assert alive(pid)
        program.kill()
    assert gone(pid)  # after the two seconds: it finds nobody to tell
