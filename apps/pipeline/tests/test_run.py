"""The program around the stages: what is skipped, what ends a run, what is left behind. The stages here are fakes."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from coldforge import training
from coldforge.apps.pipeline import checks
from coldforge.apps.pipeline import main as program
from coldforge.apps.pipeline.checks import check, check_extras
from coldforge.apps.pipeline.config import Options
from coldforge.apps.pipeline.presets import PRESETS
from coldforge.apps.pipeline.stages import Stage
from coldforge.apps.pipeline.work import Work

ORDER = ("data", "cold-start", "rl-1")
Run = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs three fake stages; returns the exit code and which of them were called."""

    def call(
        codes: dict[str, int | Exception] | None = None, *, steps: int = 1, **changes: object
    ) -> tuple[int, list[str]]:
        called: list[str] = []

        def stage(name: str, reads: tuple[str, ...]) -> Stage:
            def do(hours: float | None) -> int:
                called.append(name)
                (tmp_path / "run" / name).mkdir(exist_ok=True)
                code = (codes or {}).get(name, 0)
                if isinstance(code, Exception):
                    raise code
                return code

            settings = {"steps": steps if name == "cold-start" else 0}
            return Stage(Work(name, settings, reads), name, f"the stage {name}", do)

        stages = [stage(name, ORDER[:place]) for place, name in enumerate(ORDER)]
        monkeypatch.setattr(program, "stages_of", lambda _: stages)
        options = Options(run=tmp_path / "run", config=PRESETS["nano"](), **changes)  # type: ignore[arg-type]
        return program.run(options), called

    return call


def entries(tmp_path: Path) -> dict[str, dict[str, object]]:
    return dict(training.read_manifest(tmp_path / "run").figures["stages"])


def test_finished_stages_are_skipped(run: Run, tmp_path: Path) -> None:
    assert run() == (0, list(ORDER))
    assert run() == (0, [])
    manifest = training.read_manifest(tmp_path / "run")
    assert manifest.status == "finished"
    assert "<h2>Stages</h2>" in (tmp_path / "run" / "report.html").read_text()


def test_weights_that_are_not_there_leave_nothing_behind(tmp_path: Path) -> None:
    options = Options(run=tmp_path / "run", weights=tmp_path / "nowhere", config=PRESETS["nano"]())
    with pytest.raises(FileNotFoundError, match=r"there is nothing at .*nowhere"):
        program.run(options)
    assert not (tmp_path / "run").exists()


def test_a_failed_gate_ends_the_run_and_is_told_in_the_report(run: Run, tmp_path: Path) -> None:
    assert run({"cold-start": 3}) == (3, ["data", "cold-start"])
    assert training.read_manifest(tmp_path / "run").status == "failed"
    assert "a gate has failed" in (tmp_path / "run" / "report.html").read_text()
    assert "not begun" in (tmp_path / "run" / "report.html").read_text()
    assert '<span class="pill bad">failed</span>' in (tmp_path / "run" / "report.html").read_text()
    assert run() == (0, ["cold-start", "rl-1"])  # tried once more, say with another limit


def test_a_stage_that_stopped_in_time_goes_on(run: Run, tmp_path: Path) -> None:
    assert run({"rl-1": 75}) == (75, list(ORDER))
    assert entries(tmp_path)["rl-1"]["status"] == "stopped"
    assert '<span class="pill bad">stopped</span>' in (tmp_path / "run" / "report.html").read_text()
    assert run() == (0, ["rl-1"])
    assert entries(tmp_path)["rl-1"]["sessions"] == 2


def test_what_a_stage_raises_is_kept_and_raised(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such rows"):
        run({"data": ValueError("no such rows")})
    assert entries(tmp_path)["data"]["note"] == "ValueError: no such rows"
    assert training.read_manifest(tmp_path / "run").status == "failed"
    assert "ValueError: no such rows" in (tmp_path / "run" / "report.html").read_text()
    assert run() == (0, list(ORDER))


def test_a_changed_option_redoes_what_depends_on_it(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run()
    capsys.readouterr()
    assert run(steps=2) == (0, ["cold-start", "rl-1"])
    said = capsys.readouterr().err
    assert "cold-start again: steps was 1, is 2" in said
    assert "rl-1 again: cold-start is another" in said
    assert sorted(each.name for each in (tmp_path / "run" / "superseded").iterdir()) == ["cold-start-1", "rl-1-1"]


def test_from_does_a_stage_and_what_follows_again(run: Run) -> None:
    run()
    assert run(start="cold-start") == (0, ["cold-start", "rl-1"])
    assert run(start="cold-start") == (0, ["cold-start", "rl-1"])


def test_from_goes_on_where_a_session_has_ended_early(run: Run) -> None:
    run()
    assert run({"rl-1": 75}, start="cold-start") == (75, ["cold-start", "rl-1"])
    assert run(start="cold-start") == (0, ["rl-1"])
    assert run(start="rl-1") == (0, ["rl-1"])


def test_stages_that_another_ones_model_could_not_be_read_by_are_refused(tmp_path: Path) -> None:
    config = PRESETS["nano"]()
    full = dataclasses.replace(config.rl_2, model=dataclasses.replace(config.rl_2.model, train="full"))
    changed = dataclasses.replace(config, rl_2=full)
    options = Options(run=tmp_path / "run", weights=tmp_path / "nowhere", config=changed)
    with pytest.raises(
        ValueError, match=r"the same model\.train, and there are --cold-start\.model\.train lora, .*--rl-2"
    ):
        program.run(options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--rl-1.lora.rank", "8"),
            r"rl-1 goes on with the adapter of cold-start: --rl-1\.lora\.rank is 8, and --cold-",
        ),
        (("--sft-2.lora.alpha", "8"), r"--rl-2\.lora\.alpha is 32\.0, and --sft-2\.lora\.alpha is 8\.0; wanted the sa"),
        (("--rl-2.lora.quantize", "int8"), r"--rl-2\.lora\.quantize is int8, and --sft-2\.lora\.quantize is none"),
        (
            ("--sft-2-from", "rl-1", "--sft-2.lora.rank", "8", "--rl-2.lora.rank", "8"),
            r"sft-2 goes on with the adapter of rl-1: --sft-2\.lora\.rank is 8, and --rl-1\.lora\.rank is 32",
        ),
        (
            ("--rl-1.questions.sources", "a", "b"),
            r"--rl-1\.questions\.sources is a b, but .*; wanted --data\.questions",
        ),
        (("--reject.questions.sources", "a"), r"--reject\.questions\.sources is a, but .*; wanted --data\.questions"),
        (("--rl-2.questions.split", "test"), r"--rl-2\.questions\.split is test, but .*; wanted --data\.split"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(
    words: tuple[str, ...], more: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    line = ["nano", "--run", str(tmp_path / "run"), "--weights", "nowhere"]  # not refused, it ends there
    with pytest.raises(ValueError, match=said):
        program.run(program.parse([*line, *words, *more]))
    assert not (tmp_path / "run").exists()


def test_a_second_fine_tuning_of_the_base_may_have_another_adapter() -> None:
    words = ("--sft-2.lora.rank", "8", "--rl-2.lora.rank", "8", "--sft-2.lora.quantize", "int8")
    check(program.parse(["nano", *words, "--rl-2.lora.quantize", "int8"]).config)


@pytest.mark.parametrize("option", ["--data.rows", "--data.heldout", "--reject.keep.decontaminate"])
def test_a_missing_extra_leaves_nothing_behind(option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = ["nano", "--run", str(tmp_path / "run"), "--weights", "nowhere"]
    options = program.parse([*line, option, "owner/name"])
    monkeypatch.setattr(checks, "find_spec", lambda name: None if name == "datasets" else name)
    with pytest.raises(ModuleNotFoundError, match=r"owner/name from the hub needs datasets: .*-app-pipeline\[hub\]'"):
        program.run(options)
    assert not (tmp_path / "run").exists()


def test_the_hub_is_not_missed_where_nothing_is_read_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "find_spec", lambda _: None)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    for source in ("nano:10", "sums:10?min_terms=2&max_terms=3", "owner/name", "chain_sum:10", "rows/none.jsonl"):
        check_extras(program.parse(["nano", "--run", "run", "--data.rows", source]).config, {"data", "reject"})
    words = ["nano", "--run", "run", "--data.rows", "another/name", "--reject.keep.decontaminate", "one/more"]
    check_extras(program.parse(words).config, {"cold-start", "evaluation"})  # both are done, or not to be done


def test_a_dry_run_writes_nothing_and_tells_what_would_be_done(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run({"rl-1": 75})
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert run(steps=2, dry_run=True) == (0, [])
    assert "cold-start again: steps was 1, is 2" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_no_stage_begins_when_the_time_is_used_up(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(max_hours=1e-6) == (75, [])
    assert capsys.readouterr().err.count("start the same command again") == 1
    assert training.read_manifest(tmp_path / "run").status == "stopped"


def test_a_directory_of_something_else_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "letters.txt").write_text("x")
    with pytest.raises(training.RunError, match="not empty and not a run"):
        run()


def test_the_manifest_is_json(run: Run, tmp_path: Path) -> None:
    run()
    stored = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert stored["figures"]["stages"]["data"]["status"] == "finished"
