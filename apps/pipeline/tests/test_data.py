"""Rows, questions and held-out questions: none on two sides."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from coldforge.apps.pipeline.config import DataOptions
from coldforge.apps.pipeline.data import Places, make_data
from coldforge.data import Tokenizer, open_dataset


def texts(path: Path) -> set[str]:
    return {json.loads(line)["question"] for line in path.read_text().splitlines()}


def made(data: DataOptions, tokenizer: Path, folder: Path) -> Places:
    return make_data(data, Tokenizer.load(tokenizer), "tokenizer.model", folder, 0)


def test_no_question_is_on_two_sides(data: DataOptions, tokenizer: Path, tmp_path: Path) -> None:
    places = made(data, tokenizer, tmp_path / "data")
    dataset = open_dataset(places.rows)
    rows = {record.question for split in (dataset.train, dataset.heldout) for record in split}
    questions, heldout = texts(places.questions), texts(places.heldout)
    assert len(rows) == 200
    assert not heldout & rows
    assert not heldout & questions
    assert len(heldout) == 20  # of 40 multiples of 5 those that are odd
    assert len(questions) == 334 - 7  # multiples of 15 below 200 that are odd are held out
    counts = json.loads(places.overlap.read_text())
    assert counts["heldout questions left out, among the rows or twice"] == 20
    assert counts["questions left out, held out or twice"] == 7


def test_what_is_made_is_not_made_again(data: DataOptions, tokenizer: Path, tmp_path: Path) -> None:
    places = made(data, tokenizer, tmp_path / "data")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    places.heldout.unlink()  # as a kill before its end leaves it
    made(data, tokenizer, tmp_path / "data")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"heldout": "rows"}, "all 200 held-out questions of .* are among the cold start's rows"),
        ({"questions": "heldout", "rows_of": "odd"}, "all 20 questions of .* are held out"),
    ],
)
def test_a_side_that_is_left_with_nothing_is_told(
    change: dict[str, str], said: str, data: DataOptions, sources: dict[str, str], tokenizer: Path, tmp_path: Path
) -> None:
    fields = {name: (sources[value],) for name, value in change.items() if name != "rows_of"}
    if "rows_of" in change:  # questions that are all held out, and none among the rows
        only = tmp_path / "only.jsonl"
        lines = Path(sources["heldout"]).read_text().splitlines(keepends=True)
        only.write_text("".join(line for line in lines if int(json.loads(line)["answer"]) % 2))
        fields = {"questions": (str(only),)}
    with pytest.raises(ValueError, match=said):
        made(dataclasses.replace(data, **fields), tokenizer, tmp_path / "data")


@pytest.mark.parametrize(
    "spec",
    ["nano:many", "nano:0", "nano:", "nano:20?min_terms=2", "sums:20", "sums:0?min_terms=2", "sums:20?min_terms=x"],
)
def test_rows_of_coldforge_nano_that_are_none_are_refused(
    spec: str, data: DataOptions, tokenizer: Path, tmp_path: Path
) -> None:
    said = re.escape(f"{spec!r} is no rows of coldforge-nano; wanted nano:COUNT, or sums:COUNT?min_terms=2")
    with pytest.raises(ValueError, match=said):
        made(dataclasses.replace(data, rows=(spec,)), tokenizer, tmp_path / "data")


def test_sums_are_worked_out_and_on_one_side_only(data: DataOptions, tokenizer: Path, tmp_path: Path) -> None:
    kind = "min_terms=2&max_terms=2&min_digits=2&max_digits=2"
    chosen = dataclasses.replace(
        data, rows=(f"sums:80?{kind}",), questions=(f"sums:40?{kind}",), heldout=(f"sums:20?{kind}",),
        prepare=dataclasses.replace(data.prepare, heldout_rows=10),
    )  # fmt: skip
    places = made(chosen, tokenizer, tmp_path / "data")
    dataset = open_dataset(places.rows)
    records = [*dataset.train, *dataset.heldout]
    asked, heldout = texts(places.questions), texts(places.heldout)
    assert (len(records), len(asked), len(heldout)) == (80, 40, 20)
    assert not asked & heldout
    assert not {record.question for record in records} & (asked | heldout)
    for record in records:
        first, sign, second = re.search(r"(\d+) ([+-]) (\d+) =", record.question).groups()  # type: ignore[union-attr]
        assert int(record.answer) == int(first) + int(sign + second)
        assert f"{first} {sign} {second} = {record.answer}" in record.reasoning
