"""The first example of the README runs, in ten lines of its own, and prints what is said; so do the docstrings."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

import coldforge.eval

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
MODULES = sorted(path.stem for path in Path(coldforge.eval.__file__).parent.glob("*.py") if path.stem != "__init__")


def test_the_first_example_prints_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = EXAMPLES[0]
    assert len([line for line in code.splitlines() if line.strip() and "import" not in line]) <= 10
    exec(compile(code, "README.md", "exec"), {})
    said = re.findall(r"print\(results.text\)  # (.*), …\n", code)[0]
    assert f"\n{said}" in capsys.readouterr().out
    assert (tmp_path / "out/report.html").exists()


def test_the_other_examples_run_too(tmp_path, monkeypatch, capsys, run, make_task):
    """On evaluations of a task of that name."""
    for name in ("base", "tuned"):
        run(tmp_path / "runs" / name, tasks=[make_task("gsm8k")], model={"name": name})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(coldforge.eval, "open_task", make_task)
    for code in EXAMPLES[1:]:
        exec(compile(code, "README.md", "exec"), {})
    out = capsys.readouterr().out
    assert "gsm8k\nbase " in out
    assert "── reply" in out
    assert (tmp_path / "runs/base-tuned/report.html").exists()


def test_names_are_in_order_and_there():
    names = coldforge.eval.__all__
    assert names == sorted(set(names), key=lambda name: (not name.isupper(), name[0].islower(), name))
    assert [name for name in names if not hasattr(coldforge.eval, name)] == []


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    assert doctest.testmod(importlib.import_module(f"coldforge.eval.{name}")).failed == 0
