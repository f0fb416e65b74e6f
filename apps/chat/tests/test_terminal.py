"""A conversation in a terminal of its own: what a user types and sees."""

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.whole

PATIENCE = 120.0  # seconds for one answer, the compilation on a busy machine included


class Terminal:
    """The program behind a pseudo-terminal of its own, whose Ctrl-C and Ctrl-D reach it."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.ours, theirs = pty.openpty()
        python, flag, script, *arguments = command
        own = "import fcntl, signal, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        # Tests that run in the background hand on that Ctrl-C is ignored.
        own += "signal.signal(signal.SIGINT, signal.default_int_handler); "
        command = [python, flag, own + script, *arguments]
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        )
        os.close(theirs)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def until(self, pattern: str) -> str:
        """Reads until the screen has shown the pattern, and returns what came up to there."""
        limit = time.monotonic() + PATIENCE
        while not (match := re.search(pattern, self.seen)):
            assert select.select([self.ours], [], [], limit - time.monotonic())[0], f"no {pattern!r} in {self.seen!r}"
            try:
                self.seen += os.read(self.ours, 4096).decode(errors="replace")
            except OSError as error:  # the other side is closed
                raise AssertionError(f"it ended without {pattern!r}: {self.seen!r}") from error
        shown, self.seen = self.seen[: match.end()], self.seen[match.end() :]
        return shown


@pytest.fixture
def terminal(model: Path, command: list[str], environment: dict[str, str]) -> Iterator[Terminal]:
    made = Terminal([*command, "--model", str(model), "--max-new-tokens", "24", "--seed", "5"], environment)
    yield made
    made.process.kill()
    made.process.wait()
    os.close(made.ours)


def test_a_conversation(terminal: Terminal) -> None:
    assert "Ctrl-D leaves" in terminal.until("> ")
    terminal.type("Hi there\n")
    first = terminal.until(r"\d+ tokens, first after [\d.]+ s")
    terminal.until("> ")
    terminal.type("Hi there\n")
    terminal.until(r"\d+ tokens, ")
    terminal.until("> ")
    terminal.type("/reset\n")
    terminal.until("> ")
    terminal.type("Hi there\n")
    again = terminal.until(r"\d+ tokens, first after [\d.]+ s")
    assert answer(again) == answer(first) != ""
    terminal.until("> ")
    terminal.type("/quit\n")
    assert terminal.process.wait(PATIENCE) == 0


def test_ctrl_c_stops_an_answer_and_ctrl_d_ends(terminal: Terminal) -> None:
    terminal.until("> ")
    terminal.type("Hi")
    terminal.until("Hi")
    time.sleep(0.3)  # a Ctrl-C between showing a key and waiting for the next one waits for that
    terminal.type("\x03")  # at the prompt: away with the line
    terminal.until("> ")
    terminal.type("Hi there\n")
    terminal.until("thinking")  # the first answer's compilation takes a second
    terminal.type("\x03")
    terminal.until("0 tokens")
    terminal.until("> ")
    terminal.type("\x04")
    assert terminal.process.wait(PATIENCE) == 0


def answer(shown: str) -> str:
    """What a terminal shows of an answer: what comes after the spinner and before the speed, without escape codes."""
    return re.sub(r"\x1b\[[\d;?]*\w", "", shown.rpartition("thinking")[2]).rpartition("\n")[0].strip()
