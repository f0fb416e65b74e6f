"""Rows: what the stages read, the same bytes from the same seed, and nothing half written."""

import json

import pytest

from coldforge.nano import split_of, write_cold_start, write_questions
from coldforge.nano.rows import QUICK


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_cold_start_rows_are_worked_or_quick(tmp_path):
    rows = read(write_cold_start(tmp_path / "new" / "cold.jsonl", 300))
    quick = 0
    for row in rows:
        assert row.keys() == {"question", "solution", "answer"}
        assert split_of(row["question"]) == "cold-start"
        *lines, last = row["solution"].split("\n")
        assert last == f"#### {row['answer']}"
        assert lines[-1].endswith(f" = {row['answer']}")
        quick += len(lines) == 1
    assert abs(quick / 300 - QUICK) < 0.1
    assert [len(row["solution"].split("\n")) == 2 for row in read(write_cold_start(tmp_path / "q", 40, quick=1))] == [
        True
    ] * 40
    assert not any(len(row["solution"].split("\n")) == 2 for row in read(write_cold_start(tmp_path / "w", 40, quick=0)))


@pytest.mark.parametrize("split", ["rl", "heldout"])
def test_questions_are_of_their_split(tmp_path, split):
    rows = read(write_questions(tmp_path / "rows.jsonl", 100, split=split))
    assert {split_of(row["question"]) for row in rows} == {split}
    assert {row["task"] for row in rows} == {"chain_sum", "leg_counting"}
    assert {row["terms"] for row in rows} == {2, 3, 4}
    assert all(row["answer"].isdigit() for row in rows)


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    for write in (write_cold_start, write_questions):
        first, again, other = (write(tmp_path / str(i), 50, seed=seed).read_bytes() for i, seed in enumerate((3, 3, 4)))
        assert first == again != other


def test_a_file_is_replaced_only_by_a_whole_one(tmp_path, monkeypatch):
    path = write_questions(tmp_path / "rows.jsonl", 5)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="the count is 0; wanted at least 1 row"):
        write_questions(path, 0)
    made = iter(range(3))

    def full(row, **how):
        if next(made) == 2:
            raise OSError("no space left")
        return "{}"

    monkeypatch.setattr("coldforge.nano.rows.json.dumps", full)
    with pytest.raises(OSError, match="no space left"):
        write_questions(path, 5, seed=1)
    assert path.read_bytes() == before


def test_a_share_is_one(tmp_path):
    with pytest.raises(ValueError, match=r"quick is 1\.5; wanted a share from 0 to 1"):
        write_cold_start(tmp_path / "rows.jsonl", 5, quick=1.5)
