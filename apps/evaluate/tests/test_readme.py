"""The example in the README runs on what the program leaves; every option that the README names is one."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from coldforge.apps.evaluate.main import main
from coldforge.stages.testing import asked_for_help

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
ELSEWHERE = {"--extra", "--only", "--model_args"}  # of uv, of show, of lm-eval

_spec = importlib.util.spec_from_file_location("readme_server", Path(__file__).with_name("server.py"))
assert _spec is not None
assert _spec.loader is not None
server = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = server
_spec.loader.exec_module(server)


def test_example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"{i} + 4?", "answer": str(i + 4)} for i in range(30)]
    Path("sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def answer(body: dict[str, Any]) -> str:
        number = int(body["messages"][-1]["content"].split()[-3])
        right = number < (10 if body["model"] == "base" else 25)
        return f"<reasoning>r</reasoning><answer>{number + 4 if right else 'none'}</answer>"

    with server.serving(answer) as served:
        for name in ("base", "tuned"):
            words = ["--endpoint", served.url, "--model", name, "--tasks", "sums.jsonl", "--out", f"evals/{name}"]
            with pytest.raises(SystemExit) as left:
                main([*words, "--samples", "1"])
            assert left.value.code == 0
    capsys.readouterr()
    [code] = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    said = capsys.readouterr().out
    assert "sums, 30 questions: accuracy 33.3 %" in said
    assert "+50.0" in said
    assert len(re.findall(r"^\S+ none \d+ ", said, flags=re.MULTILINE)) == 5


def test_options_exist(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main(["--help"])
    known = set(re.findall(r"--[\w.-]+", capsys.readouterr().out))
    named = {word for word in re.findall(r"--[\w.-]*\w", README) if not README.count(f"`{word}.*`")}
    assert named - known == ELSEWHERE


def test_help_imports_neither_jax_nor_what_draws() -> None:
    """`coldforge-evaluate --help` took four seconds, of which these were the most."""
    page, imported = asked_for_help("coldforge.apps.evaluate.main")
    assert "usage: coldforge-evaluate" in page
    assert not imported & {"jax", "flax", "matplotlib", "reasoning_gym", "scipy.stats"}
