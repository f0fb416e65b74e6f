"""The README's examples run as they stand there."""

import json
import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_tokenizers_example_runs(
    model_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(model_path.parent)
    exec(compile(EXAMPLES[0], "README.md", "exec"), {})
    assert capsys.readouterr().out == "It is 4 🙂\n"


def test_the_rows_example_runs(
    model_path: Path, stratos: list[tuple[dict, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(model_path.read_bytes())
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(columns) + "\n" for columns, _ in stratos))
    names: dict = {}
    exec(compile(EXAMPLES[1], "README.md", "exec"), names)
    account = names["audit"].sources["rows.jsonl"]
    refused = [outcome for _, outcome in stratos if isinstance(outcome, str)]
    assert account.rows == len(stratos)
    assert sorted(account.dropped.elements()) == sorted(refused)
    assert set(names["weights"].tolist()) == {0.0, 1.0, 2.0}
    assert "rows.jsonl" in (tmp_path / "audit.html").read_text(encoding="utf-8")


def test_the_data_sets_example_runs(
    model_path: Path,
    stratos: list[tuple[dict, object]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(model_path.read_bytes())
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(columns) + "\n" for columns, _ in stratos))
    [example] = [text for text in EXAMPLES if "prepare(" in text]
    exec(compile(example, "README.md", "exec"), {"__name__": "__main__"})
    assert re.fullmatch(r"\d+ \d+ [a-z]+ [0-9a-f]{8}\n", capsys.readouterr().out)


def test_the_samples_example_runs(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(model_path.read_bytes())
    rows = [{"question": f"What is {n} + 1?", "answer": n + 1} for n in range(30)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    [example] = [text for text in EXAMPLES if "write_selection(" in text]
    exec(compile(example, "README.md", "exec"), {})
    train, difficulty, kept = capsys.readouterr().out.split()
    assert (difficulty, kept) == ("0.5", "30")
    assert 24 <= int(train) <= 30


@pytest.mark.filterwarnings("ignore::SyntaxWarning")  # of a module that reasoning-gym imports, when first compiled
def test_the_questions_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"What is {n} + 1?", "answer": f"One more than {n}.\n#### {n + 1}"} for n in range(30)]
    (tmp_path / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    [example] = [text for text in EXAMPLES if "split_questions(" in text]
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    assert re.match(r"-?\d+ auto \S+ \[.*\]\n\{'count': ", capsys.readouterr().out)
    assert len(names["train"]) + len(names["heldout"]) == 230 - names["train"].dropped.get("duplicate", 0)
    assert names["prompt"].endswith(names["question"].text)
