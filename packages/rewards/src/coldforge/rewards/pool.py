r"""Checks in processes that can be ended: `Pool` for any function, `MathPool` for expressions.

    with MathPool(workers=2, seconds=5) as pool:
        pool.verify([(r"\frac{1}{2}", "0.5")])[0].value             # {"right": True, "unreadable": ""}

Computer algebra, and a task's own scorer, can hang, eat all memory or crash on what a model writes. Here that costs the
one check, which comes back with its `fault` and is counted in `stats`; a process that was ended is replaced by the next
check that needs one. Only a pool that cannot start at all (Math-Verify is not installed) raises.

Processes are started when they are first needed, as new interpreters (no fork: the caller may have threads and JAX; no
multiprocessing either, which would run the caller's main file once more in each). Each has a thread here that hands it
checks. `run` may be called from many threads at once. See `worker` for the limits.
"""

import json
import logging
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Pipe
from typing import IO, Any, NamedTuple, Self

_LOG = logging.getLogger(__name__)
STARTING = 120.0  # seconds for importing what a check needs: sympy takes two, on a busy machine many more
_LOGGED = 20  # faults that are logged; the others are only counted


class Outcome(NamedTuple):
    """What came of a check.

    Attributes:
        value: What the function returned (as JSON has it: tuples are lists); None if there is a fault.
        fault: "", "timeout", or "error" (it raised, or its process died).
        detail: What happened, for people.
    """

    value: Any
    fault: str = ""
    detail: str = ""


@dataclass(frozen=True)
class PoolStats:
    """Counts since the pool was made.

    Attributes:
        checks: Checks that were run; the same check asked for twice in one call is run once.
        timeouts, errors: Those that took too long; those that raised or whose process died.
        starts: Processes started, the first of each worker included.
        seconds: On the clock, of all workers together, in checks.
        slowest: The longest check's.
    """

    checks: int = 0
    timeouts: int = 0
    errors: int = 0
    starts: int = 0
    seconds: float = 0.0
    slowest: float = 0.0


@dataclass(frozen=True)
class _Setup:
    """What each process is told."""

    seconds: float
    wall: float
    memory: int


@dataclass
class _State:
    """What the pool's threads share. They do not know the pool, which so can be collected, and closed."""

    setup: _Setup
    tasks: "queue.SimpleQueue[tuple[Future[Outcome], bytes] | None]" = field(default_factory=queue.SimpleQueue)
    lock: threading.Lock = field(default_factory=threading.Lock)
    threads: list[threading.Thread] = field(default_factory=list)
    processes: "set[subprocess.Popen[bytes]]" = field(default_factory=set)
    stats: PoolStats = PoolStats()
    closed: bool = False
    owner: int = field(default_factory=os.getpid)


class Pool:
    """Runs functions on arguments, in processes of their own with limits. Close it, or use it in a `with`."""

    def __init__(
        self, *, workers: int | None = None, seconds: float = 5.0, wall: float | None = None, memory: int = 4 << 30
    ) -> None:
        """Starts nothing yet.

        Args:
            workers: Processes at most. None: as many as there are cores for us, but four at most.
            seconds: Of processor time, for one check.
            wall: Seconds on the clock, for a check that waits. None: 6 · seconds.
            memory: Bytes that a process may map.

        Raises:
            ValueError: A number is not positive.
        """
        workers = min(4, len(os.sched_getaffinity(0))) if workers is None else workers
        wall = 6 * seconds if wall is None else wall
        if min(workers, seconds, wall, memory) <= 0:
            raise ValueError(
                f"workers = {workers}, seconds = {seconds}, wall = {wall}, memory = {memory}: wanted above 0."
            )
        self._state = _State(_Setup(seconds, wall, memory))
        self.workers = workers
        self._finalizer = weakref.finalize(self, _close, self._state)

    @property
    def stats(self) -> PoolStats:
        """Counts up to now."""
        return self._state.stats

    def run(self, function: str | Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Outcome]:
        """Runs a function on each tuple of arguments.

        Args:
            function: As "package.module:function", or itself: of a module that another process can import, which it
                does without a limit of time. It takes what can be pickled and returns what JSON can express.
            calls: Its arguments.

        Returns:
            The outcomes, in order.

        Raises:
            ValueError: The function cannot be named.
            RuntimeError: It cannot be imported; a process cannot be started; the pool is closed, or was made before a
                fork.
        """
        name = function_name(function)
        if self._state.owner != os.getpid():
            raise RuntimeError("this pool was made before its process forked; make one in each process.")
        futures: dict[bytes, Future[Outcome]] = {}
        payloads = [pickle.dumps((name, tuple(call))) for call in calls]
        with self._state.lock:
            if self._state.closed:
                raise RuntimeError("the pool is closed; make a new one.")
            for payload in payloads:
                if payload not in futures:
                    futures[payload] = Future()
                    self._state.tasks.put((futures[payload], payload))
            self._more_threads(len(futures))
        try:
            return [futures[payload].result() for payload in payloads]
        finally:
            for future in futures.values():
                future.cancel()

    def _more_threads(self, wanted: int) -> None:
        threads = self._state.threads
        for number in range(len(threads), min(self.workers, wanted)):
            thread = threading.Thread(target=_serve, args=(self._state,), name=f"checks-{number}", daemon=True)
            threads.append(thread)
            thread.start()

    def close(self) -> None:
        """Ends the processes, and checks that are still running; calls that wait for these raise RuntimeError."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()


class MathPool(Pool):
    """A pool that compares expressions by Math-Verify. It runs other functions too, as a task's own scorer."""

    def verify(self, pairs: Sequence[tuple[str, str]]) -> list[Outcome]:
        """Compares each (right expression, found expression), both in LaTeX as `algebra.latex_of` writes it."""
        return self.run("coldforge.rewards.verifier:verify", pairs)


def function_name(function: str | Callable[..., Any]) -> str:
    """Returns "package.module:function".

    Raises:
        ValueError: A new process could not import it by that name, as it is of the main file, a lambda or a local one.
    """
    if isinstance(function, str):
        if not all(part.isidentifier() for part in function.replace(":", ".").split(".")) or function.count(":") != 1:
            raise ValueError(f"{function!r} names no function; wanted 'package.module:function'.")
        return function
    module, name = function.__module__, function.__qualname__
    if module == "__main__" or "<" in name:
        raise ValueError(f"{module}:{name} cannot be imported by another process; put the function into a module.")
    return f"{module}:{name}"


class _Worker:
    """A process, the link to it, and what it says on standard error."""

    def __init__(self, state: _State) -> None:
        self.state = state
        self.link, theirs = Pipe()
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        with theirs:
            self.process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", "coldforge.rewards.worker", str(theirs.fileno())],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.errors, pass_fds=[theirs.fileno()],
                start_new_session=True, env=_environment(),
            )  # fmt: skip
        with state.lock:
            state.processes.add(self.process)
            state.stats = replace(state.stats, starts=state.stats.starts + 1)
            closed = state.closed
        if closed:  # meanwhile, and without this process
            self.end()
            raise RuntimeError("the pool is closed; make a new one.")
        setup = state.setup
        try:
            told = {**asdict(setup), "path": sys.path}
            self.link.send_bytes(pickle.dumps(told))
            ready = self.link.poll(STARTING) and self.link.recv_bytes()
        except (OSError, EOFError):
            ready = b""
        if not ready:
            said = self.end()
            raise RuntimeError(f"a process for checks cannot be started: {said or 'it does not answer'}")

    def ask(self, payload: bytes) -> tuple[Outcome, float | None] | None:
        """The outcome of a check, and its seconds if it knows; None: the process died of it, or was ended."""
        try:
            self.link.send_bytes(payload)
            if not self.link.poll(STARTING + self.state.setup.wall):  # it imports the function first
                return None
            answer = json.loads(self.link.recv_bytes())
        except (OSError, EOFError):
            return None
        if answer["fault"] == "import":
            raise RuntimeError(answer["detail"])
        return Outcome(answer.get("value"), answer["fault"], answer.get("detail", "")), answer.get("seconds")

    def end(self) -> str:
        """Ends the process; returns the end of what it said."""
        self.process.kill()
        self.process.wait()
        with self.state.lock:
            self.state.processes.discard(self.process)
        self.link.close()
        with self.errors:
            self.errors.seek(max(0, self.errors.seek(0, os.SEEK_END) - 1000))
            return self.errors.read().decode(errors="replace").strip()


def _environment() -> dict[str, str]:
    """A worker must find this package, use one core, and not take an accelerator if what it imports imports JAX."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return {
        **os.environ,
        "PYTHONPATH": path,
        "JAX_PLATFORMS": "cpu",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }


def _serve(state: _State) -> None:
    """A thread of the pool: runs checks one by one in a process of its own, until it is told to stop."""
    worker: _Worker | None = None
    while (task := state.tasks.get()) is not None:
        future, payload = task
        if not future.set_running_or_notify_cancel():
            continue
        try:
            if worker is not None and worker.process.poll() is not None:  # it was ended while it was idle
                worker.end()
                worker = None
            worker = worker or _Worker(state)
            start = time.monotonic()
            answer = worker.ask(payload)
        except BaseException as error:  # also what the pool cannot foresee: the caller waits for the future
            future.set_exception(error)
            continue
        took = time.monotonic() - start
        if answer is None:
            outcome = _death(worker, took)
            worker = None
        else:
            outcome, known = answer
            took = known or took  # without the import of the function
        _count(state, outcome, took, payload)
        future.set_result(outcome)
    if worker is not None:
        worker.end()


def _death(worker: _Worker, took: float) -> Outcome:
    try:
        code = worker.process.wait(1)  # the socket is closed a moment before the process is gone
    except subprocess.TimeoutExpired:
        code = None
    setup = worker.state.setup
    said = worker.end()
    last = said.splitlines()[-1] if said else ""
    if worker.state.closed:
        return Outcome(None, "error", "the pool was closed")
    if code == -signal.SIGXCPU or took >= setup.wall:
        return Outcome(
            None, "timeout", f"did not stop after {setup.seconds:g} s of processor time, {took:.1f} s on the clock"
        )
    return Outcome(None, "error", f"its process died (exit code {code}): {last}"[:500])


def _count(state: _State, outcome: Outcome, took: float, payload: bytes) -> None:
    with state.lock:
        stats = state.stats
        state.stats = replace(
            stats,
            checks=stats.checks + 1,
            timeouts=stats.timeouts + (outcome.fault == "timeout"),
            errors=stats.errors + (outcome.fault == "error"),
            seconds=stats.seconds + took,
            slowest=max(stats.slowest, took),
        )
        faults = state.stats.timeouts + state.stats.errors
    if outcome.fault and faults <= _LOGGED:
        name, arguments = pickle.loads(payload)  # noqa: S301 - our own
        more = "; faults from here on are only counted" if faults == _LOGGED else ""
        _LOG.warning("%s%.300r: %s: %s%s", name, arguments, outcome.fault, outcome.detail, more)


def _close(state: _State) -> None:
    if state.owner != os.getpid():  # a fork of the owner: the processes are not its own
        return
    with state.lock:
        if state.closed:
            return
        state.closed = True
        running = list(state.processes)
    for process in running:
        process.kill()
    while True:  # checks that wait are not begun
        try:
            task = state.tasks.get_nowait()
        except queue.Empty:
            break
        if task is not None and task[0].set_running_or_notify_cancel():
            task[0].set_exception(RuntimeError("the pool was closed"))
    for _ in state.threads:
        state.tasks.put(None)
    for thread in state.threads:
        if thread is not threading.current_thread():
            thread.join(timeout=10)
