"""The program from its command line to its exit code, with the tiny model, in this process."""

import dataclasses
import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from coldforge import modeling, training
from coldforge.apps.sft import ask, train
from coldforge.apps.sft.main import main
from coldforge.data import ReasoningFormat, Tokenizer
from coldforge.stages.find import form_of
from coldforge.stages.gate import read_replies
from coldforge.stages.model import model_config
from coldforge.stages.options import ModelConfig

pytestmark = pytest.mark.whole

# One step and a few short replies, whatever they are: for what happens around training.
SHORT = (
    "--loop.steps", "2", "--gate.prompts", "4", "--gate.min-prompts", "4", "--gate.max-new-tokens", "32",
    "--gate.format", "0", "--gate.ended", "0", "--gate.truncated", "1",
)  # fmt: skip


def exit_code(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    return left.value.code


@pytest.fixture
def sft(words: Callable[..., list[str]]) -> Callable[..., int]:
    return lambda run, *more: exit_code(words(run, *more))


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "copy")


def losses(run: Path) -> list[float]:
    return training.read_metrics(run)["train/loss"][1].tolist()


def test_a_whole_run_leaves_what_the_next_stage_needs(finished: Path, tokenizer: Path) -> None:
    manifest = training.read_manifest(finished)
    training.require_gate(manifest)
    assert (manifest.status, manifest.note) == ("finished", "gate passed")
    assert manifest.figures["steps"] == 50
    assert manifest.figures["skipped"] == []
    assert manifest.figures["best eval/loss"] == training.read_metrics(finished)["eval/loss"][1].min()
    assert 0 < manifest.figures["hours"] < 1
    assert manifest.figures["eval/loss"] == training.read_metrics(finished)["eval/loss"][1][-1]
    assert manifest.base["fingerprint"] == manifest.identity["base"]
    assert manifest.dataset["form"]["template"] == "Think, then answer."
    assert form_of(manifest) == ReasoningFormat(template="Think, then answer.")
    model = modeling.load(finished / "model")
    assert model.config.vocab_size == Tokenizer.load(finished / "model").vocab_size == 340
    checkpoint = json.loads((finished / "checkpoints/step_00000050/coldforge.json").read_text())
    assert checkpoint["data_state"]["batches"]["epoch"] >= 20
    found = losses(finished)
    assert len(found) == 50
    assert found[-1] < 0.2 < 6 < found[0]
    tuned = read_replies(finished / "gate/tuned.jsonl")
    assert sum(reply.well_formed and reply.ended for reply in tuned) >= 15


def test_the_same_command_again_asks_and_trains_nothing_anew(
    copied: Path, sft: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (copied / "metrics.jsonl").read_bytes()
    asked = []
    generate = ask.generate
    monkeypatch.setattr(ask, "generate", lambda *args: asked.append(args) or generate(*args))
    assert sft(copied) == 0
    assert (copied / "metrics.jsonl").read_bytes() == before
    assert len(asked) == 1, "the tuned model; the base's replies are kept"
    assert re.search(r"format +≥ 95 % +100\.0 % \(81–100\) +0\.0 % \(0–19\) +ok", capsys.readouterr().out)


def test_a_failed_gate_says_why_and_another_limit_needs_no_training(
    copied: Path, sft: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sft(copied, "--gate.max-new-tokens", "24", "--gate.prompts", "12", "--gate.min-prompts", "13") == 2
    assert "gate.min-prompts = 13 prompts, and there are 12" in capsys.readouterr().err
    replies = read_replies(copied / "gate/tuned.jsonl")
    broken = [dataclasses.replace(reply, text="<answer>", well_formed=False, fault="no tags") for reply in replies]
    with monkeypatch.context() as patch:
        patch.setattr(ask, "graded", lambda *args: broken)
        assert sft(copied) == 3
    out = capsys.readouterr().out
    assert "format: 0 of 16 replies; most often (16 times): no tags" in re.sub(r"\s+", " ", out)
    assert "gate: failed" in out
    manifest = training.read_manifest(copied)
    assert (manifest.status, manifest.note) == ("finished", "gate failed: format")
    with pytest.raises(training.GateError, match="format: 0 of 16 replies"):
        training.require_gate(manifest)
    assert sft(copied, "--regate") == 0
    training.require_gate(training.read_manifest(copied))


def test_an_adapter_is_trained_and_loads_on_the_base(tmp_path: Path, sft: Callable[..., int], tokenizer: Path) -> None:
    run = tmp_path / "run"
    assert sft(run, *SHORT, "--model.train", "lora", "--lora.rank", "4", "--lora.alpha", "8", "--output.merged") == 0
    manifest = training.read_manifest(run)
    config = model_config(ModelConfig(size="tiny"), 340)
    base = modeling.init_model(config, seed=0)
    lora = modeling.peft_config(manifest.adapter_path, config)
    assert (lora.rank, lora.alpha) == (4, 8.0)
    model = modeling.add_lora(base, lora, rngs=nnx.Rngs(0))
    modeling.load_peft(model, manifest.adapter_path)
    changed = [np.abs(leaf).max() for leaf in jax.tree.leaves(modeling.lora_state(model))]
    assert min(changed) > 0, "B is no longer zero anywhere"
    tokens = np.arange(4, 20)[None]
    np.testing.assert_allclose(model(tokens), modeling.load(run / "merged")(tokens), atol=1e-4)
    assert modeling.fingerprint(base) == manifest.identity["base"]


def test_a_batch_that_is_not_finite_is_kept_and_not_learnt(
    tmp_path: Path, sft: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(train.Batches):
        given = 0

        def __next__(self):
            batch = super().__next__()
            self.given += 1
            return batch if self.given != 2 else batch._replace(loss_weights=batch.loss_weights * np.float32(3e38))

    monkeypatch.setattr(train, "Batches", Broken)
    run = tmp_path / "run"
    assert sft(run, *SHORT, "--loop.steps", "4", "--loop.eval-every", "0") == 0
    kept, extra = training.load_batch(run / "bad_batches/step_2.npz")
    assert kept["tokens"].shape == (4, 2, 256)
    assert extra["step"] == 2
    assert len(extra["examples"]) == 8
    figures = training.read_manifest(run).figures
    assert figures["skipped"] == [2]
    assert "step 2: loss nan" in figures["findings"][0]
    rows = training.read_metrics(run)
    assert rows["train/applied"][1].tolist() == [1, 0, 1, 1]
    assert "step 2 was not applied; its batch is in" in capsys.readouterr().err
    stopped = tmp_path / "stopped"
    assert sft(stopped, *SHORT, "--loop.steps", "9", "--loop.on-nan", "stop") == 4
    assert "not finite" in capsys.readouterr().err
    assert training.read_manifest(stopped).status == "failed"


def test_a_time_box_ends_in_time_and_the_same_command_goes_on(
    tmp_path: Path, sft: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    close, run = training.LiveView.__exit__, tmp_path / "run"
    below: list[str] = []  # what is said while the view is open, which in a terminal it draws over

    def closing(view: training.LiveView, *error: object) -> None:
        below.append(capsys.readouterr().err)
        close(view, *error)

    with monkeypatch.context() as patch:
        patch.setattr(training.LiveView, "__exit__", closing)
        assert sft(run, *SHORT, "--max-hours", "0.0001") == 75, "this process is older than that"
    assert ["stopped after" in text for text in below] == [False]
    said = capsys.readouterr().err
    assert "stopped after step 1: the time box (max_hours) is used up. It is saved." in said
    assert "start the same command again" in said
    assert training.read_manifest(run).status == "stopped"
    assert sft(run, *SHORT) == 0
    assert "going on from step 1 of 2" in capsys.readouterr().err
    assert len(losses(run)) == 2


def test_texts_are_sampled_on_the_way_and_the_best_state_can_be_taken(tmp_path: Path, sft: Callable[..., int]) -> None:
    run = tmp_path / "run"
    more = ("--loop.steps", "4", "--loop.sample-every", "2", "--loop.samples", "1", "--loop.eval-every", "1")
    assert sft(run, *SHORT, *more, "--output.take", "best", "--optimizer.learning-rate", "30") == 0
    texts = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert [row["step"] for row in texts if row["tag"] == "samples/0"] == [2, 4]
    assert texts[0]["text"].startswith("What is ")
    held_out = training.read_metrics(run)["eval/loss"][1]
    best = json.loads((run / f"checkpoints/step_{held_out.argmin() + 1:08d}/coldforge.json").read_text())
    assert best["metrics"]["eval/loss"] == held_out.min()


def test_a_run_directory_belongs_to_one_configuration_and_one_base(
    copied: Path, sft: Callable[..., int], finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (copied / "manifest.json").read_text()
    assert sft(copied, "--optimizer.learning-rate", "0.5", "--lora.rank", "3") == 2
    said = capsys.readouterr().err
    assert "optimizer.learning_rate: the run has 0.01, asked for is 0.5" in said
    assert "lora.rank: the run has 64, asked for is 3" in said
    assert sft(copied, "--weights", str(finished / "model")) == 2
    assert re.search("base: .*it has '.*', here it is '", capsys.readouterr().err, re.DOTALL)
    assert (copied / "manifest.json").read_text() == before, "a refused start leaves the run as it was"
    assert sft(copied.parent, *SHORT) == 2
    assert "is not empty and not a run" in capsys.readouterr().err


def test_rows_that_the_mesh_cannot_split_are_refused(tmp_path: Path, sft: Callable[..., int]) -> None:
    assert sft(tmp_path / "run", "--mesh.fsdp", "3") == 2
    assert not (tmp_path / "run/checkpoints").exists()


def test_weights_of_another_size_are_refused(
    tmp_path: Path, finished: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("--gate.prompts", "8", "--gate.min-prompts", "8", "--run", str(tmp_path / "run"), "--data", str(data))
    assert exit_code(["gemma3-270m", "--weights", str(finished / "model"), *few]) == 2
    assert "are no 270m: embed_dim 64 (wanted 640), mlp_dim 128 (wanted 2048)" in capsys.readouterr().err


def test_a_signal_during_the_gate_is_heard_and_the_same_command_goes_on_with_the_gate(
    tmp_path: Path, sft: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generate = ask.generate

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return generate(*arguments)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(ask, "generate", interrupted)
        assert sft(run, *SHORT) == 75
    assert "stopped after step 2: SIGTERM" in capsys.readouterr().err
    before = (run / "metrics.jsonl").read_bytes()
    assert sft(run, *SHORT) == 0
    assert (run / "metrics.jsonl").read_bytes() == before
