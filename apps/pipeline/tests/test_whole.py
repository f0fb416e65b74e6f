"""All stages from data to report, with the tiny model and next to no work in each."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from coldforge import training
from coldforge.apps.pipeline import main as program
from coldforge.apps.pipeline.config import Options, PipelineConfig
from coldforge.apps.pipeline.outcome import checkpoints_of
from coldforge.apps.pipeline.stages import CHECKPOINTS

pytestmark = pytest.mark.whole
README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(scope="module")
def options(short: PipelineConfig, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Options:
    return Options(run=tmp_path_factory.mktemp("whole") / "run", weights=weights, config=short)


def test_the_pipeline_runs_through_and_a_change_redoes_its_end(
    options: Options, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert program.run(options) == 0
    out = capsys.readouterr().out
    run = options.run
    found = checkpoints_of(run)
    assert [each.label for each in found] == list(CHECKPOINTS)
    assert "20 held-out questions, 1 sample each" in out
    assert "GRPO 2 − base: " in out
    for name in ("cold-start", "rl-1", "sft-2", "rl-2"):
        assert training.read_manifest(run / name).status == "finished"
    # Each stage begins where the one before has ended; the second fine-tuning at the base.
    adapters = {name: training.read_manifest(run / name).identity for name in ("rl-1", "sft-2", "rl-2")}
    assert "adapter" in adapters["rl-1"]
    assert "adapter" in adapters["rl-2"]
    page = (run / "report.html").read_text()
    for said in (
        "What came of it",
        "Curves",
        "The same questions, every checkpoint",
        "What became of rows and samples",
    ):
        assert said in page
    for folder in ("data/rows", "reject"):
        for source, account in json.loads((run / folder / "manifest.json").read_text())["audit"].items():
            assert f'{source}: kept</td><td class="n">{account["kept"]:,}' in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//|@import|url\(http""", page)  # nothing from a network

    # The README's example reads it.
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    monkeypatch.chdir(run.parent)
    exec(compile(example, "README.md", "exec"), {})
    assert "GRPO 1 − cold start" in capsys.readouterr().out

    before = {path: path.read_bytes() for path in (run / "rl-1").rglob("adapter_model.safetensors")}
    again = dataclasses.replace(options.config.rl_2, loop=dataclasses.replace(options.config.rl_2.loop, steps=1))
    changed = dataclasses.replace(options, config=dataclasses.replace(options.config, rl_2=again))
    assert program.run(changed) == 0
    said = capsys.readouterr().err
    assert "rl-2 again: config.loop.steps was 2, is 1" in said
    assert "evaluation/grpo-2 again: rl-2 is another" in said
    assert "sft-2 again" not in said
    assert {path: path.read_bytes() for path in (run / "rl-1").rglob("adapter_model.safetensors")} == before
    assert (run / "superseded" / "rl-2-1" / "manifest.json").exists()
