"""Sessions of the program, one after the other, disturbed. For test_processes.py: SESSIONS, a list in JSON.

Each has "what", "count", "signal", "words" (the program's command line) and "said" (a file for all that it says). When
`sample` (a piece is whole), `log` (a piece is to be written down), `torn` (half of it is) or `choose` (a question's
samples are to be chosen among) has happened `count` times in it, it sends itself the signal; with `nothing` it is left
in peace.

Each is a process of its own; they are forked when all is imported and no device is in use yet, which saves starting
Python over and over. Prints how each has ended.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from coldforge import rollout
from coldforge.apps.reject import progress, sample  # noqa: F401 - what the program imports when it runs
from coldforge.apps.reject.main import main
from coldforge.data.rejection import SampleLog, Selector


def disturb(what: str, count: int, number: int) -> None:
    """From now on this process sends itself a signal at that moment."""
    left = count

    def happened(now: str) -> bool:
        nonlocal left
        if now == what:
            left -= 1
            return left == 0
        return False

    def before(function: Callable[..., Any], now: str) -> Callable[..., Any]:
        def called(*given: Any, **named: Any) -> Any:
            if happened(now):
                os.kill(os.getpid(), number)
            return function(*given, **named)

        return called

    run, append = rollout.Engine.run, SampleLog.append

    def sampling(*given: Any) -> Iterator[Any]:
        for group in run(*given):
            if happened("sample"):
                os.kill(os.getpid(), number)
            yield group

    def tearing(log: SampleLog, *given: Any) -> None:
        if happened("torn"):
            with log.path.open("ab") as file:
                file.write(b'{"question": 0, "first": 0, "sam')
            os.kill(os.getpid(), number)
        append(log, *given)

    patched: Any = rollout.Engine, SampleLog, Selector
    patched[0].run = sampling
    patched[1].append = before(tearing, "log")
    patched[2].take = before(Selector.take, "choose")


def session(one: dict[str, Any]) -> None:
    """All of a child's life."""
    said = os.open(one["said"], os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 1)
    os.dup2(said, 2)
    disturb(one["what"], one["count"], signal.Signals[one["signal"]])
    sys.argv = ["coldforge-reject", *one["words"]]
    main(one["words"])


if __name__ == "__main__":
    for one in json.loads(sys.argv[1]):
        child = os.fork()
        if child == 0:
            session(one)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
