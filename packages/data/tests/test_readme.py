"""The README's example runs as it stands there."""

import re
from pathlib import Path

import pytest


def test_the_example_runs(
    model_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    monkeypatch.chdir(model_path.parent)
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out == "It is 4 🙂\n"
