"""When to stop before the end: a time box, SIGTERM (preemption), SIGINT (Ctrl-C); one answer for all processes.

    with Stopper(max_hours=8.5) as stopper:
        for step in range(first, last):
            ...                                  # one step, dispatched
            if stopper.should_stop():
                break                            # save, then say how to go on
    print(stopper.reason)

The first signal lets the step end and the state be saved; a second one leaves at once, also from within a compilation,
which is safe for what is on the disk. Signals are seen by a thread, for Python's own handlers wait while XLA compiles.

With several processes the answer is the maximum of all, computed on the devices. It is asked for in one call and read
in the next, when the step before has ended, so that nothing waits; all stop at the same step, one later.
"""

import itertools
import logging
import os
import signal
import statistics
import threading
import time
from collections import deque
from types import FrameType
from typing import Any

import jax
import numpy as np
import psutil
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_LOG = logging.getLogger(__name__)
_REASONS = ("", "the time box (max_hours) is used up", "SIGTERM", "SIGINT (Ctrl-C)")
_CODES = {signal.SIGTERM: 2, signal.SIGINT: 3}
_ONE_SIGNAL = 0.5  # seconds; a launcher may pass on the Ctrl-C that the terminal has sent to its child already


class Stopper:
    """Says when to stop. Signals count from `__enter__` to `__exit__`, in the main thread.

    Make it after `jax.distributed.initialize`, which handles SIGTERM in its own way.

    Attributes:
      reason: why to stop, in words; None while there is no reason. The same in all processes.
      margin: seconds to leave for saving and what follows it; may be changed at any time.

    Args:
      max_hours: how long the process may run, from `started`; None for as long as it takes.
      margin: as above.
      started: when the clock began, as `time.time()` counts; default the start of this process, imports included.

    Raises:
      ValueError: if the time box is not larger than the margin.
    """

    def __init__(self, max_hours: float | None = None, *, margin: float = 60.0, started: float | None = None) -> None:
        if max_hours is not None and max_hours * 3600 <= margin:
            raise ValueError(
                f"max_hours={max_hours} is {max_hours * 3600:.0f} s, of which {margin:.0f} s are kept for saving: "
                "nothing is left to train in"
            )
        self.reason: str | None = None
        self.margin = margin
        began = psutil.Process().create_time() if started is None else started
        ends = None if max_hours is None else began + max_hours * 3600
        self._deadline = None if ends is None else time.monotonic() + ends - time.time()
        self._ticks: deque[float] = deque(maxlen=6)
        self._signal = 0  # the code of the first signal
        self._vote = Vote() if jax.process_count() > 1 else None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Stopper":
        read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, _nothing) for number in _CODES}
        self._thread = threading.Thread(target=self._listen, args=(read,), name="signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._write)  # ends the thread
        self._thread.join()

    @property
    def seconds_left(self) -> float | None:
        """Of the time box, the margin included; None without one. For a view: `LiveView(..., time_limit=...)`."""
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)

    def should_stop(self) -> bool:
        """Whether to stop after the present step; `reason` says why. All processes call it, once a step."""
        if self.reason is None:
            self._ticks.append(time.monotonic())
            code = self._signal or int(self._out_of_time())
            code = code if self._vote is None else self._vote.cast(code)
            self.reason = _REASONS[code] or None
        return self.reason is not None

    def _out_of_time(self) -> bool:
        """Whether the next step, and with several processes the one after it, would end within the margin."""
        if self._deadline is None:
            return False
        ticks = list(self._ticks)
        steps = [b - a for a, b in itertools.pairwise(ticks)]
        ahead = (1 if self._vote is None else 2) * (statistics.median(steps) if steps else 0.0)
        return ticks[-1] + ahead + self.margin >= self._deadline

    def _listen(self, pipe: int) -> None:
        first = None
        while data := os.read(pipe, 1):
            if data[0] not in _CODES:  # somebody else's handler
                continue
            number = signal.Signals(data[0])
            if first is None:
                first, self._signal = time.monotonic(), _CODES[number]
                _LOG.warning("%s: the step ends, then the run is saved; once more to leave at once", number.name)
            elif time.monotonic() - first > _ONE_SIGNAL:
                _LOG.warning("%s again: left at once; the run goes on from its last checkpoint", number.name)
                os._exit(128 + number)
        os.close(pipe)


class Vote:
    """The maximum over all processes of what each said in the call before: an answer that is the same everywhere.

    All processes call `cast` alike, once a step; the first answer is 0. Nothing waits but for the step before.
    """

    def __init__(self) -> None:
        mesh = Mesh(np.array(jax.devices()), ("device",))
        self._split = NamedSharding(mesh, PartitionSpec("device"))
        self._max = jax.jit(lambda x: x.max(), out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._pending: jax.Array | None = None

    def cast(self, code: int) -> int:
        own = np.full(jax.local_device_count(), code, np.int32)
        asked, self._pending = self._pending, self._max(jax.make_array_from_process_local_data(self._split, own))
        return 0 if asked is None else int(jax.device_get(asked))


def _nothing(number: int, frame: FrameType | None) -> None:
    """A handler for Python; the thread reads the signal's number from the pipe."""
    del number, frame
