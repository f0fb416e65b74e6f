"""Where rows come from: files, the Hugging Face hub, and two packages that carry worked problems.

`read_rows` takes what a person would write, a path or a hub name; below it stand `read_files`, `read_file` and
`read_hub`. `gsm_symbolic` and `champ` are real problems that can be had without any download but the package's own.
Each can start at a later row, and then gets there as fast as its kind allows.

Everything streams: a file is read as its rows are asked for. A line that cannot be read is a row with a refusal, so
that it is counted and named; a file that cannot be read any further is an error, since what it held is lost. Left out:
writing; remote paths; shuffling.

| what | needs |
|---|---|
| .jsonl, .json, also .gz | – |
| .parquet, .arrow | the extra [arrow] |
| a hub name | the extra [hub] |
| `gsm_symbolic` | the extra [reasoning-gym] |
| `champ` | the extra [champ] |
"""

import codecs
import gzip
import importlib
import itertools
import json
import re
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from coldforge.data.answers import numeric_value
from coldforge.data.extras import needs
from coldforge.data.records import Refusal, Row

BESPOKE_STRATOS = "bespokelabs/Bespoke-Stratos-17k"
CHAMP_PLAIN_PROMPTS = ("0-Shot", "5-Shot")  # "No C w/o H" holds the very traces of "0-Shot"

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_SPACE = re.compile(r"[ \t\r\n]*")
_BATCH = 256  # rows of a parquet file in memory at a time: some 5 MB of Bespoke-Stratos
_PIECE = 1 << 20  # characters of a JSON array read at a time
_LAST_NUMBER = re.compile(r"[-−]?\d[\d,]*(?:\.\d+)?(?:/\d+)?")


def read_rows(where: str | Path, *, split: str = "train") -> Iterator[Row]:
    """Reads rows from a path, if there is something, or else from the hub.

    Args:
        where: A file, a directory, or a hub name such as `BESPOKE_STRATOS`.
        split: The split of a hub's data set. Files have none.

    Raises:
        FileNotFoundError: There is no such path, and it is no hub name either.
        Others: As `read_files` and `read_hub`.
    """
    if Path(where).exists():
        return read_files(where)
    if isinstance(where, str) and is_hub_name(where):
        return read_hub(where, split=split)
    raise FileNotFoundError(f"There is no {where}, and it is no name on the hub; wanted a path or owner/name.")


def is_hub_name(text: str) -> bool:
    """Says whether a text has the form of a hub name, owner/name."""
    return _HUB_NAME.fullmatch(text) is not None


def read_files(path: str | Path) -> Iterator[Row]:
    """Reads the rows of a file, or of all files of a known kind in a directory, by name.

    Args:
        path: `.jsonl` (one object a line; empty lines are passed over), `.json` (an array of objects, or the same as
            .jsonl), both also `.gz`; `.parquet`; `.arrow`. A file's name is its rows' source.

    Raises:
        FileNotFoundError: There is nothing, or the directory holds no such file.
        ValueError: A file is of another kind, or is damaged: the place is named.
        ModuleNotFoundError: The file needs an extra.
    """
    return (row for file in list_files(path) for row in read_file(file))


def list_files(path: str | Path) -> list[Path]:
    """Returns the files that `read_files` reads, in its order.

    Raises:
        FileNotFoundError, ValueError: As `read_files`.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.is_file() and _reader(file) is not None)
        if any(file.suffix == ".arrow" for file in found):  # written by `save_to_disk`: what is beside holds no rows
            found = [file for file in found if file.name not in _DATASETS_OWN]
    else:
        found = [path] if path.exists() else []
    if not found:
        raise FileNotFoundError(f"{path} is no file and no directory with files to read; wanted {', '.join(_READERS)}.")
    if unknown := [file for file in found if _reader(file) is None]:
        raise ValueError(f"{unknown[0]} is of no known kind; wanted {', '.join(_READERS)}.")
    return found


def read_file(path: Path, *, start: int = 0) -> Iterator[Row]:
    """Reads the rows of one file whose index is `start` or above.

    Raises:
        ValueError, ModuleNotFoundError: As `read_files`.
    """
    reader = _reader(path)
    if reader is None:
        raise ValueError(f"{path} is of no known kind; wanted {', '.join(_READERS)}.")
    return reader(path, start)


def is_row_file(path: Path) -> bool:
    """Says whether a file of this name would be read; whether there is one is not looked at."""
    return _reader(path) is not None


def _reader(path: Path) -> Callable[[Path, int], Iterator[Row]] | None:
    return _READERS.get(Path(path.name.removesuffix(".gz")).suffix)


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _read_lines(path: Path, start: int) -> Iterator[Row]:
    with naming(path), _open(path) as file:
        for index, line in enumerate(file):
            if index >= start and line.strip():
                yield Row(path.name, index, _parsed(line))


def _parsed(line: bytes) -> Mapping[str, Any] | Refusal:
    try:
        data = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return Refusal("bad-encoding", f"byte {error.start} of the line, {line[error.start]:#04x}, is not UTF-8.")
    except (json.JSONDecodeError, RecursionError) as error:
        return Refusal("not-json", f"the line is not JSON: {error}; it begins with {line[:40]!r}.")
    if not isinstance(data, dict):
        return Refusal("not-json", f"the line holds a {type(data).__name__}; wanted an object.")
    return data


def _read_json(path: Path, start: int) -> Iterator[Row]:
    """Reads an array piece by piece, so that memory holds one piece and one row; or hands over to `_read_lines`."""
    with naming(path), _open(path) as file:
        first = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if first != b"[":
        yield from _read_lines(path, start)
        return
    with naming(path), _open(path) as file:
        for index, data in enumerate(_array_items(codecs.getreader("utf-8-sig")(file))):
            if index < start:
                continue
            wrong = None if isinstance(data, dict) else f"the item is a {type(data).__name__}; wanted an object."
            yield Row(path.name, index, data if wrong is None else Refusal("not-json", wrong))


def _array_items(reader: codecs.StreamReader) -> Iterator[Any]:
    """Yields the items of a JSON array. What does not parse may go on in the next piece; at the end, it is an error."""
    decoder = json.JSONDecoder()
    text = reader.read(_PIECE)
    position = text.index("[") + 1
    for count in itertools.count():
        while True:
            start = _skip_space(text, position)
            if text.startswith("]", start):
                if rest := (text[start + 1 :] + reader.read(64)).strip():
                    raise ValueError(f"after the array's end there is more: {rest[:40]!r}")
                return
            problem = "the array does not end"
            try:
                data, end = decoder.raw_decode(text, start)
                end = _skip_space(text, end)
                if end < len(text):  # or else a number may go on
                    break
            except json.JSONDecodeError as error:
                problem = str(error)
            piece = reader.read(max(_PIECE, len(text) - position))
            if not piece:
                raise ValueError(f"item {count}: {problem}")
            text, position = text[position:] + piece, 0
        yield data
        if text[end] not in ",]":
            raise ValueError(f"item {count} is followed by {text[end : end + 40]!r}; wanted a comma")
        position = end + (text[end] == ",")


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _read_parquet(path: Path, start: int) -> Iterator[Row]:
    parquet = needs("pyarrow.parquet", "arrow", str(path))
    with naming(path), parquet.ParquetFile(path) as file:
        index, groups = 0, list(range(file.num_row_groups))
        while groups and index + (count := file.metadata.row_group(groups[0]).num_rows) <= start:
            index += count
            groups.pop(0)
        yield from _batch_rows(path, file.iter_batches(batch_size=_BATCH, row_groups=groups), index, start)


def _read_arrow(path: Path, start: int) -> Iterator[Row]:
    """Reads both of Arrow's forms: the stream that `datasets` writes, and the file."""
    arrow = needs("pyarrow", "arrow", str(path))
    with naming(path), arrow.memory_map(str(path)) as file:
        if file.read(6) == b"ARROW1":
            reader = arrow.ipc.open_file(file)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            file.seek(0)
            batches = arrow.ipc.open_stream(file)
        pieces = (batch.slice(begin, _BATCH) for batch in batches for begin in range(0, max(1, batch.num_rows), _BATCH))
        yield from _batch_rows(path, pieces, 0, start)


def _batch_rows(path: Path, batches: Iterator[Any], index: int, start: int) -> Iterator[Row]:
    """Yields the rows from `start` on. `index`: of the first row in the batches."""
    for batch in batches:
        skipped = min(max(0, start - index), batch.num_rows)
        for offset, data in enumerate(batch.slice(skipped).to_pylist(), index + skipped):
            yield Row(path.name, offset, data)
        index += batch.num_rows


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Makes the errors of a damaged file name it. Arrow's errors are ValueError and OSError."""
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read to its end; it is damaged or of another kind: {error}") from error


_READERS: dict[str, Callable[[Path, int], Iterator[Row]]] = {
    ".jsonl": _read_lines,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
}
_DATASETS_OWN = ("dataset_info.json", "state.json")


def read_hub(
    name: str, *, config: str | None = None, split: str = "train", revision: str | None = None, start: int = 0
) -> Iterator[Row]:
    """Reads a data set from the Hugging Face hub while it downloads, without a copy on disk.

    Args:
        name: `owner/name`; it is the rows' source.
        config: Which of its data sets, where it has several, as "main". None: the only one, or its default.
        split: Which split.
        revision: A commit, branch or tag. None: the newest.
        start: The first row to read.

    Raises:
        ModuleNotFoundError: `datasets` is not installed.
        Others: What `datasets.load_dataset` raises without a network, for an unknown name or split.
    """
    datasets = needs("datasets", "hub", f"{name} from the hub")
    names = [name] if config is None else [name, config]
    rows = datasets.load_dataset(*names, split=split, streaming=True, revision=revision)
    rows = rows.skip(start) if start else rows
    return (Row(name, index, data) for index, data in enumerate(rows, start))


def hub_revision(name: str, revision: str | None = None) -> str:
    """Returns the commit that a data set's branch or tag is at now; None: the newest.

    Raises:
        ModuleNotFoundError: `datasets` is not installed.
        Others: What `huggingface_hub` raises without a network or for an unknown name.
    """
    needs("datasets", "hub", f"{name} from the hub")
    return str(importlib.import_module("huggingface_hub").HfApi().dataset_info(name, revision=revision).sha)


def gsm_symbolic(size: int, *, seed: int = 0, difficulty: float = 1.0, start: int = 0) -> Iterator[Row]:
    """Makes grade-school word problems with worked answers, by reasoning-gym's 100 templates.

    Rows have `question`, `solution` (it ends in `#### answer`) and `answer`. Some 4 % of the solutions spell the number
    otherwise than the answer does, "36.0" for "36"; `convert` compares numbers.

    Args:
        size: How many rows. They are made as they are asked for, 0.2 ms each.
        seed: The same seed gives the same rows.
        difficulty: reasoning-gym's; 1.0 is the templates' own.
        start: The first row to make.

    Raises:
        ModuleNotFoundError: reasoning-gym is not installed.
        ValueError: `size` is less than 1.
    """
    if size < 1:
        raise ValueError(f"size is {size}; wanted at least 1.")
    with warnings.catch_warnings():  # a package that it imports compares with `is`
        warnings.simplefilter("ignore", SyntaxWarning)
        gym = needs("reasoning_gym", "reasoning-gym", "gsm_symbolic")
    items = gym.create_dataset("gsm_symbolic", size=size, seed=seed, difficulty=difficulty)
    return (Row("gsm_symbolic", index, _gsm_columns(items[index])) for index in range(start, size))


def _gsm_columns(item: Mapping[str, Any]) -> dict[str, Any]:
    return {"question": item["question"], "solution": item["metadata"]["answer_cot"], "answer": item["answer"]}


def champ(*, prompts: Sequence[str] | None = CHAMP_PLAIN_PROMPTS, start: int = 0) -> Iterator[Row]:
    """Reads CHAMP: what GPT-3.5, GPT-4, GPT-4 Turbo and PaLM 2 answered to competition problems, right and wrong.

    Rows have `question`, `solution`, `answer` (CHAMP's own), `author` and `prompt`. The solution is the model's, with
    the last number of the one-sentence summary that it was asked for after `####`, so that `convert` refuses what came
    to another result. Only the problems with a plain number as the answer are read (85 of 270), as nothing else can be
    compared here. The comparison is crude: a right number may come of wrong reasoning. Mind the vendors' terms.

    Args:
        prompts: CHAMP's names of the prompts to read. Most gave the models hints or a part of the solution, which the
            question does not hold; the default are two that did not. None: all 18.
        start: The first row to read.

    Raises:
        ModuleNotFoundError: champ-dataset is not installed.
    """
    problems = needs("champ_dataset", "champ", "CHAMP").load("v0").problems.values()
    traces = (
        _champ_trace(problem, conversation) | {"author": author, "prompt": prompt}
        for problem in problems
        if numeric_value(problem.answer) is not None
        for (author, prompt), conversation in ((name.split("|"), talk) for name, talk in problem.conversations.items())
        if prompts is None or prompt in prompts
    )
    return (Row("champ", index, data) for index, data in enumerate(traces) if index >= start)


def _champ_trace(problem: Any, conversation: Any) -> dict[str, Any]:
    """Returns question, solution and answer; the last two messages of a model are the solution and its summary."""
    texts = [message.text or "" for message in conversation.messages if message.role.startswith("Model.")][-2:]
    solution, summary = [*texts, "", ""][:2]
    numbers = _LAST_NUMBER.findall(summary)
    ending = f"\n#### {numbers[-1]}" if numbers and solution else ""
    return {"question": problem.text, "solution": solution + ending, "answer": problem.answer}
