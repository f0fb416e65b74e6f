"""Rows come out of every kind of file as they were put in, in bounded memory, and damage is named."""

import gzip
import json
import random
import re
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest

from coldforge.data import Example, Refusal, Row, convert, read_rows, sources

ROWS = [{"question": f"What is {n}?", "solution": "é\u2028[]{}\n" * n, "answer": None} for n in range(700)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
TABLE = pa.Table.from_pylist(ROWS)


def write_arrow(path: Path, writer: Callable = pa.ipc.new_stream) -> None:
    with writer(path, TABLE.schema) as file:
        file.write_table(TABLE)


WRITERS: dict[str, Callable[[Path], object]] = {
    "a.jsonl": lambda path: path.write_text(LINES, encoding="utf-8"),
    "blank.jsonl": lambda path: path.write_text("\ufeff" + LINES.replace("\n", "\r\n"), encoding="utf-8"),
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES.encode())),
    "lines.json": lambda path: path.write_text(LINES, encoding="utf-8"),
    "array.json": lambda path: path.write_text(json.dumps(ROWS, indent=1), encoding="utf-8"),
    "array.json.gz": lambda path: path.write_bytes(gzip.compress(json.dumps(ROWS, ensure_ascii=False).encode())),
    "bom.json": lambda path: path.write_bytes(b"\xef\xbb\xbf \n" + json.dumps(ROWS).encode() + b"\n"),
    "a.parquet": lambda path: pyarrow.parquet.write_table(TABLE, path, row_group_size=300),
    "stream.arrow": write_arrow,
    "file.arrow": lambda path: write_arrow(path, pa.ipc.new_file),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("piece", [1 << 20, 50])
def test_every_kind_of_file(name: str, piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_PIECE", piece)
    WRITERS[name](tmp_path / name)
    expected = [Row(name, index, data) for index, data in enumerate(ROWS)]
    assert list(read_rows(tmp_path / name)) == expected
    for start in (1, 299, 300, 650, 700, 900):
        assert list(sources.read_file(tmp_path / name, start=start)) == expected[start:]


def test_a_directory_is_read_by_name(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.parquet"):
        WRITERS["a.parquet" if name == "a.parquet" else "a.jsonl"](tmp_path / name)
    (tmp_path / "README.md").write_text("no rows")
    assert [row.source for row in read_rows(str(tmp_path))] == ["a.parquet"] * 700 + ["b.jsonl"] * 700


def test_what_datasets_saved_is_read_without_its_own_files(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 2
    assert [row.data for row in read_rows(tmp_path)] == ROWS


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_memory_does_not_grow_with_the_file(kind: str, tmp_path: Path) -> None:
    draw = random.Random(0)
    rows = [{"text": "".join(draw.choices("abcdefghij", k=9000))} for _ in range(2000)]  # 18 MB
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=500)
    else:
        path.write_text(json.dumps(rows) if kind == "json" else "".join(json.dumps(row) + "\n" for row in rows))
    del rows
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_rows(path)) == 2000
        assert tracemalloc.get_traced_memory()[1] < 9e6
    finally:
        tracemalloc.stop()


def test_lines_that_cannot_be_read_are_rows_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n\n{"a": \n"caf\xe9"\n[1]\n' + b"[" * 200_000 + b'\n{"a": 2}\n')
    rows = list(read_rows(path))
    assert [row.index for row in rows] == [0, 2, 3, 4, 5, 6]
    reasons = [row.data.reason if isinstance(row.data, Refusal) else row.data for row in rows]
    assert reasons == [{"a": 1}, "not-json", "bad-encoding", "not-json", "not-json", {"a": 2}]
    assert [convert(row) for row in rows[1:3]] == [row.data for row in rows[1:3]]
    assert "byte 4 of the line, 0xe9, is not UTF-8" in str(rows[2].data)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('[{"a": 1}, {"a": ', "item 1: Expecting value"),
        ('[{"a": 1}', "item 0: the array does not end"),
        ('[{"a": 1} {"a": 2}]', "item 0 is followed by '{\"a\": 2}]'; wanted a comma"),
        ('[{"a": 1}] [2]', "after the array's end there is more: '[2]'"),
    ],
)
def test_a_damaged_array_is_an_error(content: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=re.escape("a.json cannot be read to its end") + ".*" + re.escape(complaint)):
        list(read_rows(tmp_path / "a.json"))


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.parquet", "stream.arrow", "file.arrow"])
def test_a_file_cut_short_is_an_error(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"{name} cannot be read to its end"):
        list(read_rows(tmp_path / name))


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no\.jsonl, and it is no name on the hub; wanted a path or owner/name"
    ):
        read_rows("no.jsonl")
    with pytest.raises(FileNotFoundError, match=r"no directory with files to read; wanted \.jsonl"):
        read_rows(tmp_path)
    (tmp_path / "a.csv").write_text("a,b")
    with pytest.raises(ValueError, match=r"a.csv is of no known kind; wanted \.jsonl, \.json, \.parquet, \.arrow"):
        read_rows(tmp_path / "a.csv")


def test_the_hub_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(*names: str, **options: object) -> datasets.IterableDataset:
        asked.append((names, options))
        return datasets.Dataset.from_list(ROWS).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rows = list(read_rows(sources.BESPOKE_STRATOS))
    assert asked == [(("bespokelabs/Bespoke-Stratos-17k",), {"split": "train", "streaming": True, "revision": None})]
    assert rows[690:] == list(sources.read_hub(sources.BESPOKE_STRATOS, revision="abc", start=690))
    assert asked[1][1]["revision"] == "abc"
    assert rows == [Row("bespokelabs/Bespoke-Stratos-17k", index, data) for index, data in enumerate(ROWS)]


@pytest.mark.parametrize(
    ("module", "call", "extra"),
    [
        ("datasets", lambda path: read_rows("owner/name"), "hub"),
        ("pyarrow.parquet", lambda path: list(read_rows(path)), "arrow"),
        ("reasoning_gym", lambda path: sources.gsm_symbolic(1), "reasoning-gym"),
        ("champ_dataset", lambda path: sources.champ(), "champ"),
    ],
)
def test_an_extra_that_is_missing_is_named(
    module: str, call: Callable[[Path], object], extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITERS["a.parquet"](tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, module.split(".")[0], None)
    with pytest.raises(ModuleNotFoundError, match=re.escape(f"pip install 'coldforge-data[{extra}]'")):
        call(tmp_path / "a.parquet")


@pytest.mark.filterwarnings("ignore::SyntaxWarning")  # of a module that reasoning-gym imports, when first compiled
def test_gsm_symbolic_is_worked_and_compared_by_number() -> None:
    rows = list(sources.gsm_symbolic(300, seed=7))
    examples = [convert(row) for row in rows]
    assert all(isinstance(example, Example) for example in examples)
    assert [example.answer for example in examples] == [row.data["answer"] for row in rows]
    assert not any("####" in example.reasoning for example in examples)
    spelled = sum(row.data["solution"].split("####")[-1].strip() != row.data["answer"] for row in rows)
    assert spelled > 0  # "36.0" for "36"
    assert list(sources.gsm_symbolic(3, seed=7)) == rows[:3]
    assert list(sources.gsm_symbolic(300, seed=7, start=297)) == rows[297:]
    with pytest.raises(ValueError, match="size is 0; wanted at least 1"):
        sources.gsm_symbolic(0)


def test_champ_keeps_the_traces_that_come_to_the_answer() -> None:
    rows = list(sources.champ())
    outcomes = Counter(type(convert(row)).__name__ for row in rows)
    assert list(sources.champ(start=100)) == rows[100:]
    assert {row.data["prompt"] for row in rows} == set(sources.CHAMP_PLAIN_PROMPTS)
    assert outcomes["Example"] > 100
    assert {found.reason for found in map(convert, rows) if isinstance(found, Refusal)} == {
        "answer-differs",
        "no-answer",
    }
    assert len(list(sources.champ(prompts=None))) == 85 * 72
