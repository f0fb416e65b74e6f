"""The example in the README runs, on a run of the tiny preset; every option that it names is one."""

import re
from pathlib import Path

import pytest

from coldforge.apps.sft.main import parse

pytestmark = pytest.mark.whole

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_example(
    finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").symlink_to(finished)
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == ["finished 50 True", "True True", "64"]


def test_options_exist(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        parse(["tiny", "--help"])
    known = set(re.findall(r"--[\w.-]+", capsys.readouterr().out))
    named = {
        word
        for line in README.splitlines()
        if "coldforge-prepare" not in line
        for word in re.findall(r"--[\w.-]+\w", line)
    }
    assert named - known == {"--adapter", "--topology", "--extra"}
