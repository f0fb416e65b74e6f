"""The frame of a stage's command: its line, its exit codes, and JAX that waits until it is needed."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
import tyro
from rich.console import Console

from coldforge import training
from coldforge.stages.options import AdamWOptions, LoraOptions, ModelConfig, StageOptions
from coldforge.stages.program import broken_off, margin, parse_preset, run_program


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerOptions(AdamWOptions):
    """An app's own."""

    momentum: float = 0.0
    """Its own field."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One app's configuration."""

    model: ModelConfig
    lora: LoraOptions = LoraOptions()
    optimizer: OptimizerOptions = OptimizerOptions()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(StageOptions):
    """An app's command line."""

    again: bool = False
    config: Annotated[Config, tyro.conf.arg(name="")]


def small() -> Config:
    """A small one.

    Hardware: any.
    """
    return Config(model=ModelConfig(size="270m"), optimizer=OptimizerOptions(learning_rate=3e-6))


def large() -> Config:
    """A large one.

    Hardware: many.
    """
    return Config(model=ModelConfig(size="27b"))


def parse(*words: str) -> Options:
    presets = {"small": small, "large": large}
    return parse_preset(presets, lambda preset: Options(run=tyro.MISSING, config=preset), "coldforge-x", list(words))


def test_a_preset_and_what_it_overrides() -> None:
    options = parse("small", "--run", "R", "--optimizer.b2", "0.99", "--lora.rank", "8", "--distributed.initialize")
    assert options.run == Path("R")
    assert options.config.model == small().model
    assert options.config.lora == LoraOptions(rank=8)
    assert options.config.optimizer == OptimizerOptions(learning_rate=3e-6, b2=0.99)
    assert options.distributed.initialize
    assert not options.again


@pytest.mark.parametrize("words", [[], ["small"], ["medium", "--run", "R"], ["small", "--run", "R", "--b2", "1"]])
def test_a_wrong_line_ends_the_program(words: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parse(*words)
    assert left.value.code == 2


def test_help_tells_the_chosen_preset_and_inherited_fields(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    listed = capsys.readouterr().out
    assert "A large one." in listed
    assert "Hardware" not in listed
    with pytest.raises(SystemExit):
        parse("small", "--help")
    told = capsys.readouterr().out
    assert "Hardware: any." in told
    assert "The highest rate, at the end of the warm-up." in told
    assert "Its own field." in told
    assert "Where everything goes." in told


def code(work: object) -> object:
    with pytest.raises(SystemExit) as left:
        run_program("coldforge-x", work)  # type: ignore[arg-type]
    return left.value.code


def raising(error: BaseException) -> object:
    def work() -> int:
        raise error

    return work


def test_exit_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    assert code(lambda: 3) == 3
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / "coldforge" / "jax")
    assert code(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == ""
    for error in (ValueError("odd"), FileNotFoundError("odd"), ModuleNotFoundError("odd"), training.RunError("odd")):
        assert code(raising(error)) == 2
        assert capsys.readouterr().err == "coldforge-x: odd\n"
    for unforeseen in (RuntimeError("XLA"), TypeError("a bug")):
        with pytest.raises(type(unforeseen)):
            run_program("coldforge-x", raising(unforeseen))  # type: ignore[arg-type]


def test_a_named_compilation_cache_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    code(lambda: 0)
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "elsewhere"


@pytest.mark.parametrize(
    ("reason", "exit_code", "status"),
    [("time is up", 75, "stopped"), ("SIGTERM", 75, "stopped"), ("watchdog", 4, "failed"), ("not finite", 4, "failed")],
)
def test_a_run_that_ends_early_says_how_to_go_on(
    tmp_path: Path, reason: str, exit_code: int, status: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with training.open_run(tmp_path / "run", stage="sft", config={}, command="coldforge-x small --run R") as run:
        assert broken_off(run, 7, reason, Console(stderr=True)) == exit_code
    manifest = training.read_manifest(tmp_path / "run")
    assert (manifest.status, manifest.note) == (status, reason)
    said = capsys.readouterr().err
    assert f"stopped after step 7: {reason}." in said
    assert "coldforge-x small --run R" in said


def test_a_small_time_box_keeps_a_tenth_for_saving() -> None:
    assert margin(None) == margin(8.7) == 60
    assert margin(0.1) == pytest.approx(36)


def test_jax_waits() -> None:
    script = "import sys; from coldforge.stages import find, options, program; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
