"""Judged samples on disk: one file of JSON lines for each process that samples, all of them read together.

    with SampleLog(directory, process) as log:
        log.append(question, first, [Sampled(…), …])      # samples first, first + 1, … of a question, judged
    logs = SampleLogs(directory)
    logs.has(question, first); logs.of(question)          # the samples of a question, by their numbers

A line is handed to the operating system at once and whole, so that a killed process loses none that it has appended; a
line that it has torn is cut when the file is opened again, and left out by readers until then. A power failure may take
what came after the last `sync`. Which process sampled what does not matter to readers, nor how many there were.
"""

import errno
import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

RIGHT = "right"
"""The verdict on a right answer, as `coldforge.rewards` calls it."""


class Sampled(NamedTuple):
    """One reply, judged.

    Attributes:
        text: Without the token that ended it.
        tokens: Its tokens, with that one.
        ended: Whether the model ended it; False: it was cut off.
        verdict: What became of its answer: `RIGHT`; or "wrong", "no answer", "timeout", "error".
        answer: The answer that was found; None: none.
        detail: Why the verdict is as it is, where there is something to say.
    """

    text: str
    tokens: int
    ended: bool
    verdict: str
    answer: str | None = None
    detail: str = ""


class _Place(NamedTuple):
    """Where a line lies, and the samples in it."""

    file: int
    start: int
    length: int
    samples: int


class SampleLog:
    """The file of one process, locked while it is open. Use it in a `with` statement.

    Raises:
        OSError: Another process has it open, or it cannot be written.
    """

    def __init__(self, directory: Path, process: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / f"{process:05d}.jsonl"
        self._file = self.path.open("a+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise OSError(errno.EBUSY, "another run is at work here; wait for it, or end it", str(self.path)) from error
        self._cut()

    def _cut(self) -> None:
        """Takes away a last line that a kill has torn."""
        end = os.fstat(self._file.fileno()).st_size
        torn = 0
        while torn < end:
            block = min(end - torn, 1 << 16)
            found = os.pread(self._file.fileno(), block, end - torn - block).rfind(b"\n")
            if found >= 0:
                torn += block - found - 1
                break
            torn += block
        if torn:
            os.ftruncate(self._file.fileno(), end - torn)

    def append(self, question: int, first: int, samples: Sequence[Sampled]) -> None:
        """Adds samples of a question, from the number `first` on.

        Raises:
            OSError: They do not fit on the disk; the file is as it was before.
        """
        values = {"question": question, "first": first, "samples": [one._asdict() for one in samples]}
        # A lone surrogate, which a model can make of broken bytes, is written as its escape.
        line = json.dumps(values, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        size = os.fstat(self._file.fileno()).st_size
        try:
            written = self._file.write(line)
            while written < len(line):  # a nearly full disk takes a part; the next write says why
                written += self._file.write(line[written:])
        except OSError as error:
            os.ftruncate(self._file.fileno(), size)
            raise OSError(error.errno, f"{error.strerror}; the same command goes on", str(self.path)) from error

    def sync(self) -> None:
        """Returns when all is on the disk."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class SampleLogs:
    """What all processes have written so far. Texts stay on disk; where they lie is held in memory.

    Raises:
        ValueError: A line is none of `SampleLog`'s; file and line are named.
    """

    def __init__(self, directory: Path) -> None:
        self._files = sorted(directory.glob("[0-9]*.jsonl"))
        self._places: dict[int, dict[int, _Place]] = {}
        for number, path in enumerate(self._files):
            for place, question, first, _ in self._lines(number, path):
                self._places.setdefault(question, {}).setdefault(first, place)

    def has(self, question: int, first: int) -> bool:
        """Whether samples of this question from this number on are there."""
        return first in self._places.get(question, {})

    @property
    def count(self) -> int:
        """How many samples there are."""
        return sum(place.samples for places in self._places.values() for place in places.values())

    def of(self, question: int) -> list[Sampled]:
        """The samples of a question, by their numbers.

        Raises:
            ValueError: Some are missing between others, or a line has changed since it was first read.
        """
        found: list[Sampled] = []
        for first, place in sorted(self._places.get(question, {}).items()):
            path = self._files[place.file]
            if first != len(found):
                raise ValueError(f"{path.parent} lacks samples {len(found)} to {first - 1} of question {question}.")
            with path.open("rb") as file:
                file.seek(place.start)
                _, _, samples = _parsed(file.read(place.length), f"{path}, byte {place.start}")
            found += samples
        return found

    def __iter__(self) -> Iterator[tuple[int, Sampled]]:
        """Every sample once, with its question, in the order of the files."""
        for number, path in enumerate(self._files):
            for place, question, first, samples in self._lines(number, path):
                if self._places.get(question, {}).get(first) == place:
                    yield from ((question, sample) for sample in samples)

    @staticmethod
    def _lines(number: int, path: Path) -> Iterator[tuple[_Place, int, int, list[Sampled]]]:
        start = 0
        with path.open("rb") as file:
            for index, line in enumerate(file):
                if not line.endswith(b"\n"):
                    return
                question, first, samples = _parsed(line, f"{path}, line {index + 1}")
                yield _Place(number, start, len(line), len(samples)), question, first, samples
                start += len(line)


def _parsed(line: bytes, where: str) -> tuple[int, int, list[Sampled]]:
    try:
        values: dict[str, Any] = json.loads(line)
        return values["question"], values["first"], [Sampled(**one) for one in values["samples"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{where} holds no samples ({error!r}): {line[:80]!r}") from error
