"""A process of the pool: takes checks from a socket one by one, runs each within its limits, sends back what came out.

    python -m coldforge.rewards.worker SOCKET          (the pool starts it; SOCKET is a file descriptor)

Limits, from the softest to the hardest: an exception after `seconds` of processor time (SIGPROF; Python code takes
note), the kernel's end of the process a second or two later (RLIMIT_CPU; for code that never comes back to Python, as
9**9**9**9), the end after `wall` seconds on the clock (for code that waits), all memory beyond `memory` refused
(RLIMIT_AS). Processor time counts, not the clock, so that a busy machine changes no verdict. A worker without its pool
ends: the socket is closed then. It answers in JSON: what a check makes of a model's words is never unpickled.
"""

import faulthandler
import json
import math
import os
import pickle
import resource
import signal
import sys
import time
from multiprocessing.connection import Connection
from pkgutil import resolve_name
from types import FrameType
from typing import Any


class OutOfTime(BaseException):
    """A check's time is over. No Exception: what it runs may catch those."""


def main() -> None:
    """Serves checks until the pool hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the run's to handle
    signal.signal(signal.SIGPROF, _raise)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    link = Connection(int(sys.argv[1]))
    setup = pickle.loads(link.recv_bytes())  # noqa: S301 - from our own parent
    sys.path[:] = setup["path"]
    resource.setrlimit(resource.RLIMIT_AS, (setup["memory"],) * 2)
    functions: dict[str, Any] = {}
    link.send_bytes(b"ready")
    while True:
        try:
            name, arguments = pickle.loads(link.recv_bytes())  # noqa: S301 - from our own parent
        except (EOFError, OSError):
            return
        try:
            functions[name] = functions.get(name) or resolve_name(name)
        except Exception as error:
            link.send_bytes(_fault("import", f"{name} cannot be imported: {type(error).__name__}: {error}").encode())
            continue
        answer = _run(functions[name], arguments, setup["seconds"], setup["wall"])
        try:
            link.send_bytes(answer)
        except OSError:
            return


def _run(function: Any, arguments: tuple[Any, ...], seconds: float, wall: float) -> bytes:
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    _, hardest = resource.getrlimit(resource.RLIMIT_CPU)
    limit = math.ceil(used + seconds) + 1
    limit = limit if hardest == resource.RLIM_INFINITY else min(limit, hardest)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, hardest))
    faulthandler.dump_traceback_later(wall, exit=True)  # a thread in C: it needs no lock of Python's
    try:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            start = time.monotonic()
            value = json.dumps(function(*arguments))
            answer = f'{{"value": {value}, "fault": "", "seconds": {time.monotonic() - start}}}'
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    except OutOfTime:
        answer = _fault("timeout", f"took more than {seconds:g} s of processor time")
    except MemoryError:
        raise  # what is left of this process is not to be trusted
    except Exception as error:
        answer = _fault("error", f"{type(error).__name__}: {error}"[:500])
    finally:
        faulthandler.cancel_dump_traceback_later()
        resource.setrlimit(resource.RLIMIT_CPU, (hardest, hardest))
    return answer.encode()


def _fault(kind: str, detail: str) -> str:
    return json.dumps({"fault": kind, "detail": detail})


def _raise(_number: int, _frame: FrameType | None) -> None:
    raise OutOfTime


if __name__ == "__main__":
    main()
    os._exit(0)  # threads that a check left behind must not keep it
