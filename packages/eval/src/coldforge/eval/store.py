"""The samples of an evaluation on disk: nothing that was generated is lost, whatever ends the program.

    replies.jsonl   every reply as soon as the model has given it; deleted when all are graded
    samples.jsonl   every graded sample; in the order in which they were graded, at the end in the tasks' order

`Store.open` reads both, cuts a line that a kill has torn, and says what is there: `kept` (graded) and `waiting`
(generated, not graded). Texts stay on disk: what is held in memory is where a line lies. A line is handed to the
operating system at once, so that a killed process loses nothing; a power failure may take the last seconds.
"""

import fcntl
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

from coldforge.eval.records import Graded, Prompt, Reply

SAMPLES = "samples.jsonl"
REPLIES = "replies.jsonl"
LOCK = ".lock"

type Key = tuple[str, str, int]
"""Task, question, number of a sample."""

_FIELDS = tuple(Graded.__dataclass_fields__)
_OPTIONAL = ("category", "why", "measures", "prompt")  # left out of a line where they are empty


class BusyError(RuntimeError):
    """Another process is at work in a directory."""


class Place(NamedTuple):
    """Where a line of a file lies: its first byte and its bytes."""

    start: int
    length: int


class Waiting(NamedTuple):
    """A reply that is not graded yet."""

    task: str
    question: str
    number: int
    reply: Reply


def line_of(sample: Graded) -> bytes:
    """Returns a sample as a line of samples.jsonl."""
    values = {name: getattr(sample, name) for name in _FIELDS}
    return json_line({name: value for name, value in values.items() if name not in _OPTIONAL or value})


def json_line(values: Mapping[str, Any]) -> bytes:
    """One line of JSON. A lone surrogate, which a model can make of broken bytes, is written as its escape."""
    return json.dumps(values, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def sample_of(line: bytes, where: str) -> Graded:
    """Reads a line of samples.jsonl; `where` names it in an error.

    Raises:
        ValueError: It is none.
    """
    try:
        values = json.loads(line)
        if "measures" in values:
            values["measures"] = {name: (hits, of) for name, (hits, of) in values["measures"].items()}
        if isinstance(prompt := values.get("prompt"), list):
            values["prompt"] = tuple(prompt)
        return Graded(**values)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{where} is no sample ({error}): {line[:80]!r}") from error


def read_samples(path: Path) -> Iterator[tuple[Place, Graded]]:
    """Reads a samples.jsonl, line by line: where each sample lies, and the sample.

    A last line that was torn by a kill is left out.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is no sample.
    """
    for number, start, line in _lines(path):
        yield Place(start, len(line)), sample_of(line, f"{path}, line {number}")


def sample_at(path: Path, place: Place) -> Graded:
    """Reads one sample.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: There is none at this place.
    """
    with path.open("rb") as file:
        file.seek(place.start)
        return sample_of(file.read(place.length), f"{path}, byte {place.start}")


def prompts_carried(samples: Iterable[Graded]) -> Iterator[tuple[Graded, Prompt]]:
    """Gives each sample its question's prompt, which stands with the question's first sample only."""
    prompts: dict[tuple[str, str], Prompt] = {}
    for sample in samples:
        if sample.prompt is not None:
            prompts[sample.task, sample.question] = sample.prompt
        yield sample, prompts.get((sample.task, sample.question), "")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write into; it becomes `path`, at once, when the block ends without an exception."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keeps a second process out of a directory, as long as the block runs; a kill lets go too.

    Raises:
        BusyError: Another process is at work there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOCK).open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(f"another process evaluates into {directory}; wait for it, or end it.") from error
        yield


class Store:
    """Replies and samples of one evaluation. Use it inside `locked`; made by `Store.open`.

    Attributes:
        kept: What is graded: key → where it lies in samples.jsonl.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.kept: dict[Key, Place] = {}
        self._replies = _Log(directory / REPLIES)
        self._samples = _Log(directory / SAMPLES)

    @classmethod
    @contextmanager
    def open(cls, directory: Path, take: Callable[[Graded], None]) -> Iterator[tuple[Self, list[Waiting]]]:
        """Reads what is there, and goes on from it.

        Args:
            directory: Must exist.
            take: Is given each graded sample.

        Returns:
            The store, and the replies that are still to be graded.

        Raises:
            ValueError: A line is no sample, or a sample is there twice.
        """
        path = directory / SAMPLES
        kept: dict[Key, Place] = {}
        for place, sample in read_samples(path) if path.exists() else ():
            key = (sample.task, sample.question, sample.number)
            if key in kept:
                raise ValueError(
                    f"{path} holds sample {_named(key)} twice, at the bytes {kept[key][0]} and {place[0]}."
                )
            kept[key] = place
            take(sample)
        waiting = [found for found in _read_replies(directory / REPLIES) if found[:3] not in kept]
        store = cls(directory)
        store.kept = kept
        try:
            yield store, waiting
        finally:
            store._replies.close()
            store._samples.close()

    def add_replies(self, task: str, question: str, first: int, replies: Sequence[Reply]) -> None:
        """Keeps replies that have just come."""
        lines = [
            json_line({"task": task, "question": question, "number": first + i, **reply._asdict()})
            for i, reply in enumerate(replies)
        ]
        self._replies.append(b"".join(lines))

    def add_samples(self, samples: Sequence[Graded]) -> None:
        """Keeps graded samples."""
        lines = [line_of(sample) for sample in samples]
        start = self._samples.append(b"".join(lines))
        for sample, line in zip(samples, lines, strict=True):
            self.kept[sample.task, sample.question, sample.number] = Place(start, len(line))
            start += len(line)

    def finish(self, order: Sequence[Key]) -> None:
        """Puts the samples into this order and forgets the replies. `order` names every sample once.

        Without this the file would depend on what was done first, and on where a kill came.
        """
        assert len(order) == len(self.kept)
        path = self._directory / SAMPLES
        wanted = [self.kept[key] for key in order]
        if any(later[0] < earlier[0] for earlier, later in itertools.pairwise(wanted)):
            with path.open("rb") as source, replacing(path) as file:
                for start, length in wanted:
                    source.seek(start)
                    file.write(source.read(length))
        self._replies.close()
        (self._directory / REPLIES).unlink()


def _named(key: Key) -> str:
    return f"{key[2]} of question {key[1]} of {key[0]}"


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Number (from 1), first byte and bytes of each whole line."""
    start = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            yield number, start, line
            start += len(line)


def _read_replies(path: Path) -> list[Waiting]:
    found = []
    for number, _, line in _lines(path) if path.exists() else ():
        try:
            values = json.loads(line)
            reply = Reply(values["text"], values["tokens"], values["ended"])
            found.append(Waiting(values["task"], values["question"], values["number"], reply))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}, line {number} is no reply ({error}): {line[:80]!r}") from error
    return found


class _Log:
    """A file that grows by whole lines. Opening it cuts a line that was torn."""

    def __init__(self, path: Path) -> None:
        whole = sum(len(line) for _, _, line in _lines(path)) if path.exists() else 0
        self._file = path.open("ab", buffering=0)
        self._file.truncate(whole)
        self._size = whole
        self._path = path

    def append(self, lines: bytes) -> int:
        """Adds lines; returns where they begin.

        Raises:
            OSError: The disk is full; the file is as it was before.
        """
        start, rest = self._size, memoryview(lines)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._file.truncate(start)
            advice = "make room, then start again with the same command: what is done stays done"
            raise OSError(error.errno, f"{error.strerror}; {advice}", str(self._path)) from error
        self._size += len(lines)
        return start

    def close(self) -> None:
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()
