"""The example in the README runs, on a run of the tiny preset; every option and preset that it names is one."""

import re
from pathlib import Path

import pytest

from coldforge.apps.grpo.main import parse
from coldforge.apps.grpo.presets import PRESETS

pytestmark = pytest.mark.whole

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
ELSEWHERE = {"--adapter", "--topology", "--extra"}  # of coldforge-chat, coldforge-plan and uv


def test_example(
    finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").symlink_to(finished)
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == ["finished 100 True", "True True", "64"]


def test_options_exist(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        parse(["tiny", "--help"])
    known = set(re.findall(r"--[\w.-]+", capsys.readouterr().out))
    named = set(re.findall(r"--[\w.-]*\w", README)) - {"--rewards.NAME"}
    assert named - known == ELSEWHERE


def test_the_table_of_presets_says_what_they_are() -> None:
    table = re.search(r"## Presets\n\n(.*?)\n\n", README, flags=re.DOTALL)
    assert table is not None
    rows = {
        name: cells for name, *cells in re.findall(r"\| `([\w-]+)` \|.*\| ([^|]+) \| (\d+) \| ([\d,]+) \|", table[1])
    }
    for name, preset in PRESETS.items():
        config = preset()
        rollout, algorithm = config.rollout, config.algorithm
        assert rows[name] == [
            f"{rollout.questions} × {rollout.group_size}", str(algorithm.minibatches * algorithm.inner_epochs),
            f"{rollout.max_new_tokens:,}",
        ], name  # fmt: skip
    assert rows.keys() == PRESETS.keys()
