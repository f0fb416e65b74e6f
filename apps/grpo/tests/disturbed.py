"""Sessions of the program, one after the other, disturbed. For test_processes.py: SESSIONS, a list in JSON.

Each has "what", "count", "signal", "words" (the program's command line) and "said" (a file for all that it says). When
`sample` (a group is whole), `judge` (a group is to be judged) or `train` (an update is to be computed) has happened
`count` times in it, it sends itself the signal; with `nothing` it is left in peace.

Each is a process of its own; they are forked when all is imported and no device is in use yet, which saves starting
Python over and over. Prints how each has ended.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from coldforge import training
from coldforge.apps.grpo import ask, judge, start, train, verdict  # noqa: F401 - what the program imports when it runs
from coldforge.apps.grpo.main import main
from coldforge.stages import report  # noqa: F401


def disturb(what: str, count: int, number: int) -> None:
    """From now on this process sends itself a signal at that moment."""
    left = count

    def happened(now: str) -> None:
        nonlocal left
        if now == what:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), number)

    def before(function: Callable[..., Any], now: str) -> Callable[..., Any]:
        return lambda *given: (happened(now), function(*given))[1]

    sample = ask.Sampler.__call__

    def sampling(*given: Any) -> Iterator[Any]:
        for group in sample(*given):
            happened("sample")
            yield group

    patched: Any = ask.Sampler, judge.Judge, training.TrainStep
    patched[0].__call__ = sampling
    patched[1].__call__ = before(judge.Judge.__call__, "judge")
    patched[2].__call__ = before(training.TrainStep.__call__, "train")


def session(one: dict[str, Any]) -> None:
    """All of a child's life."""
    said = os.open(one["said"], os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 1)
    os.dup2(said, 2)
    disturb(one["what"], one["count"], signal.Signals[one["signal"]])
    sys.orig_argv = ["coldforge-grpo", *one["words"]]  # what the manifest calls the command
    main(one["words"])


if __name__ == "__main__":
    for one in json.loads(sys.argv[1]):
        child = os.fork()
        if child == 0:
            session(one)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
