"""Sessions that kill themselves in the middle of something, for test_resume.py: DIRECTORY, then WHAT COUNT of each.

Each is a process of its own, in DIRECTORY/WHAT; they are forked when all is imported and no device is in use yet, which
saves starting Python three times. Writes how each has ended.
"""

import os
import signal
import sys
from pathlib import Path

import conftest as toy


def session(directory: Path, what: str, count: int) -> None:
    seen = []

    def disturb(now: str) -> None:
        seen.append(now)
        if now == what and seen.count(what) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    toy.session(directory, disturb=disturb)


def main(directory: Path, kills: list[str]) -> None:
    children = []
    for what, count in zip(kills[::2], kills[1::2], strict=True):
        child = os.fork()
        if child == 0:
            session(directory / what, what, int(count))
            os._exit(0)
        children.append(child)
    for child in children:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
