"""The rows of a benchmark: from the hub, a file, or a folder that holds its splits.

`open_rows` finds them. A folder is read as the hub's repositories and `datasets` lay them out: `test-00000-of-00001.
parquet`, `data/test.jsonl`, `main/test-….parquet` below the configuration's name, `gsm8k-test.arrow`, or a folder
`test` as `save_to_disk` writes it. A folder's only file is taken for questions unless its name is another split's.
A file that is named is one split, whatever its name. Kinds are those of `coldforge.data`
(.jsonl, .json, .parquet, .arrow, also .gz) and .csv, which is what some repositories hold.
"""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from coldforge.data.records import Row
from coldforge.data.sources import is_row_file, list_files, naming, read_file, read_hub

SPLITS = ("train", "test", "dev", "validation", "val")
KINDS = ".jsonl, .json, .jsonl.gz, .parquet, .arrow, .csv"


class Rows(NamedTuple):
    """Rows, and where they come from.

    Attributes:
        where: For people: a path, or a hub's name with its split.
        rows: In order, read as they are asked for; `Row.source` is a file's name.
    """

    where: str
    rows: Iterator[Row]


def open_rows(
    path: str | Path | None, hub: str, *, config: str | None, split: str, revision: str | None = None,
    named: bool = False,
) -> Rows:  # fmt: skip
    """Opens the rows of a split.

    Args:
        path: A file, or a folder with files of several splits. None: the hub.
        hub: owner/name.
        config: Which of the hub's data sets, and the folder's name where a folder has several.
        split: Which split.
        revision: A commit, branch or tag of the hub.
        named: Whether a folder's files must have the split's name, as those of examples, which would come from the
            questions otherwise.

    Raises:
        FileNotFoundError: There is no such file, or the folder has none for the split; what it has is named.
        ValueError: A file is of an unknown kind, or is damaged.
        ModuleNotFoundError: An extra is missing; it is named.
        Others: What the hub raises without a network, or for an unknown name.
    """
    if path is None:
        name = hub if config is None else f"{hub}:{config}"
        rows = read_hub(hub, config=config, split=split, revision=revision)
        return Rows(f"{name} ({split}{f' at {revision}' if revision else ''})", rows)
    files = find_files(Path(path), split, config, named=named)
    return Rows(str(path), (row for file in files for row in read_table(file)))


def read_table(path: Path) -> Iterator[Row]:
    """Reads a file's rows.

    Raises:
        ValueError: It is of no known kind, or is damaged.
        ModuleNotFoundError: It needs an extra.
    """
    if not _is_table(path):
        raise ValueError(f"{path} is of no known kind; wanted {KINDS}.")
    return _read_csv(path) if path.suffix == ".csv" else read_file(path)


def _read_csv(path: Path) -> Iterator[Row]:
    with naming(path), path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        index = 0
        while True:
            try:
                data: dict[Any, Any] = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise ValueError(f"line {reader.line_num}: {error}") from error
            if None in data or None in data.values():
                raise ValueError(f"line {reader.line_num} has not as many fields as the first line has names")
            yield Row(path.name, index, data)
            index += 1


def _is_table(path: Path) -> bool:
    return path.suffix == ".csv" or is_row_file(path)


def find_files(path: Path, split: str, config: str | None, *, named: bool = False) -> list[Path]:
    """Returns the files of a split, in order; see `open_rows`.

    Raises:
        FileNotFoundError: There are none; what there is is named.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"there is no {path}; wanted a file ({KINDS}) or a folder with such files.")
    folders = [path / config] if config and (path / config).is_dir() else []
    folders += [path, *(folder / "data" for folder in (*folders, path))]
    for folder in folders:
        if (folder / split).is_dir():
            return list_files(folder / split)
        found = [file for file in _tables(folder) if _is_split(file, split)]
        configured = [file for file in found if config and config in file.stem]
        if found:
            return configured or found
    tables = [file for folder in folders for file in _tables(folder)]
    others = [other for other in SPLITS if other != split]
    if len(tables) == 1 and not named and not any(_is_split(tables[0], other) for other in others):
        return tables
    if not named and (configured := [file for file in tables if file.stem == config]):
        return configured  # GPQA has a file for each configuration
    there = ", ".join(file.name for file in tables) or "none"
    raise FileNotFoundError(
        f"{path} has no files of the split {split!r}, as {split}.jsonl or {split}-00000-of-00001.parquet; it has "
        f"{there}. Name the file itself."
    )


def _tables(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*") if file.is_file() and _is_table(file)) if folder.is_dir() else []


def _is_split(file: Path, split: str) -> bool:
    return re.fullmatch(rf"(?:.*[-_.])?{re.escape(split)}(?:[-_.]\d.*)?", file.name.split(".")[0]) is not None
