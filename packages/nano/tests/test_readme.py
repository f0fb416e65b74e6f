"""The README's example and command run, and the docstrings' examples."""

import doctest
import re
from importlib import import_module
from pathlib import Path

import pytest

from coldforge.nano.__main__ import main


def test_example(tmp_path, monkeypatch, capsys):
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    question, steps, files, row = capsys.readouterr().out.splitlines()
    assert re.search(r" = → -?\d+$", question)
    assert steps.endswith(" rl")
    assert "'model.safetensors', " in files
    assert row.startswith('{"question": ')
    assert len((tmp_path / "heldout.jsonl").read_text(encoding="utf-8").splitlines()) == 100


def test_command(tmp_path, capsys):
    main([str(tmp_path / "rows"), "--cold-start", "20", "--rl", "30", "--heldout", "10"])
    files = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in (tmp_path / "rows").iterdir()}
    assert files == {"cold-start.jsonl": 20, "rl.jsonl": 30, "heldout.jsonl": 10}
    assert str(tmp_path / "rows" / "rl.jsonl") in capsys.readouterr().out


@pytest.mark.parametrize("name", ["problem", "rows", "splits"])
def test_docstrings(name):
    assert doctest.testmod(import_module(f"coldforge.nano.{name}")).failed == 0
