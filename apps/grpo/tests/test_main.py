"""The program from its command line to its exit code, with the tiny model, in this process."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from coldforge import modeling, training
from coldforge.apps.grpo.inputs import find_inputs
from coldforge.apps.grpo.judge import Judge
from coldforge.apps.grpo.main import parse
from coldforge.stages.gate import read_replies
from coldforge.stages.model import model_config
from coldforge.stages.options import ModelConfig

pytestmark = pytest.mark.whole

Program = Callable[..., list[str]]

# Two rollouts of a few short samples: for what happens around training.
SHORT = (
    "--loop.steps", "2", "--rollout.questions", "2", "--rollout.group-size", "4", "--rollout.max-new-tokens", "32",
    "--questions.heldout", "8", "--loop.checkpoint-every", "1", "--gate.accuracy-drop", "1",
)  # fmt: skip


def curve(run: Path, name: str) -> list[float]:
    return training.read_metrics(run)[name][1].tolist()


def test_the_policy_learns(finished: Path) -> None:
    """The reward rises, and held-out questions are answered right more often: paired, 95 % above 0."""
    rewards = np.array(curve(finished, "reward/total"))
    assert rewards[-20:].mean() > rewards[:10].mean() + 0.3
    manifest = training.read_manifest(finished)
    assert manifest.gate["passed"]
    assert manifest.gate["accuracy"]["n"] == 100
    assert manifest.gate["accuracy"]["interval"][0] > 0


def test_a_whole_run_leaves_what_the_next_stage_needs(finished: Path, start: Path) -> None:
    manifest = training.read_manifest(finished)
    training.require_gate(manifest)
    assert (manifest.stage, manifest.status, manifest.note) == ("grpo", "finished", "gate passed")
    assert manifest.dataset["from"] == str(start)
    assert manifest.dataset["train"]["count"] == 900
    assert manifest.figures["steps"] == 100
    assert manifest.figures["compiles/train"] == 1
    steps, shares = training.read_metrics(finished)["eval/correct"]
    assert steps.tolist() == [0, 50, 100]
    assert shares[0] == manifest.gate["base"]["accuracy"]["value"]
    assert max(curve(finished, "policy/gap_max")) < 1e-4, "the sampler's log-probabilities are the trainer's"
    assert modeling.load(finished / "model").config.vocab_size == 330
    replies = read_replies(finished / "heldout/after.jsonl")
    assert np.mean([reply.correct for reply in replies]) == manifest.gate["tuned"]["accuracy"]["value"]
    rows = [json.loads(line) for line in (finished / "samples.jsonl").read_text().splitlines()]
    assert {"samples/best", "samples/worst"} <= {row["tag"] for row in rows}
    assert (finished / "report.html").read_text().count("<svg") >= 4


def test_a_run_can_start_from_a_run_of_its_own_kind(
    finished: Path, words: Program, tmp_path: Path, exit_code: Callable[..., int]
) -> None:
    assert exit_code(words(tmp_path / "second", "--from", str(finished), *SHORT)) == 0


def test_the_same_command_again_samples_nothing_anew(
    finished: Path, words: Program, tmp_path: Path, exit_code: Callable[..., int]
) -> None:
    copied = shutil.copytree(finished, tmp_path / "copy")
    before = (copied / "metrics.jsonl").read_bytes()
    assert exit_code(words(copied)) == 0
    assert (copied / "metrics.jsonl").read_bytes() == before


def test_an_adapter_goes_on_with_the_cold_starts(
    start_lora: Path, words: Program, tmp_path: Path, exit_code: Callable[..., int]
) -> None:
    run = tmp_path / "run"
    tokenizer = str(start_lora / "adapter" / "tokenizer.model")
    lora = (
        "--from", str(start_lora), "--tokenizer", tokenizer, "--model.train", "lora", "--lora.rank", "4",
        "--lora.alpha", "8", "--policy.beta", "0.01", "--rewards.format-kind", "parts", "--rewards.repetition", "0.1",
    )  # fmt: skip
    assert exit_code(words(run, *SHORT, *lora)) == 0
    manifest = training.read_manifest(run)
    base = modeling.init_model(model_config(ModelConfig(size="tiny"), 330), seed=0)
    assert manifest.identity["base"] == modeling.fingerprint(base)
    assert modeling.peft_config(manifest.adapter_path, base.config).rank == 4
    assert curve(run, "policy/kl_k3")[0] == pytest.approx(0, abs=1e-6)
    assert set(training.read_metrics(run)) >= {"reward/accuracy", "reward/format", "reward/repetition"}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--questions.sources",), "no questions are named"),
        (("--questions.sources", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--rollout.max-prompt-tokens", "10"), "1000 of 1000 questions have more than rollout.max-prompt-tokens = 10"),
        (("--rows.seq-len", "100"), "a sample of 240 tokens, prompt included, does not fit into rows of 100"),
        (("--rollout.max-new-tokens", "4096"), "exceed the model's context of 1024"),
        (("--rewards.accuracy", "0", "--rewards.format", "0"), "all weights of rewards are 0"),
        (("--questions.heldout", "4"), "the gate asks at least gate.min-prompts = 8"),
        (("--rollout.group-size", "1"), "group_size must be at least 2"),
        (("--algorithm.minibatches", "3"), "do not split into 3 equal minibatches"),
        (("--rollout.temperature", "0"), "rollout.temperature is 0.0; wanted above 0"),
        (("--rollout.slots", "0"), "slots must be positive"),
        (("--rows.rows", "0"), "rows.rows is 0; wanted at least 1"),
        (("--rewards.overlong", "1", "--rewards.overlong-cache", "64"), "wanted 0 < cache <= limit tokens"),
        (("--rewards.timeout", "0"), "seconds = 0.0"),
        (("--optimizer.warmup", "2"), "warmup must be between 0 and 1"),
        (("--gate.format", "2"), "the gate's limit format is 2.0; wanted a share"),
        (("--watchdog.gap", "0"), "gap must be positive"),
        (("--questions.seed", "-1"), "seed is -1"),
        (("--loop.eval-temperature", "-1"), "temperature must be 0 (greedy) or a positive number"),
        (("--model.size", "270m"), "are no 270m: embed_dim 64 (wanted 640)"),
        (("--mesh.fsdp", "3"), "needs 3 devices"),
        (("--profile", "-1"), "profile is -1"),
        (("--rollout.weights", "int8"), "a copy of a frozen base, but model.train full has none"),
    ],
)
def test_what_is_wrong_is_named_before_anything_starts(
    more: tuple[str, ...], said: str, words: Program, tmp_path: Path, exit_code: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert exit_code(words(tmp_path / "run", *more)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists(), "a directory with a wrong configuration is of no use"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"question": "Prove it.", "answer": "So.", "kind": "proof"},
            "1 of 1001 questions have answers of which nobody",
        ),
        ({"question": "What?", "answer": ""}, "rows.jsonl"),
        ({"question": "Say " + "0 " * 300, "answer": "0"}, "--questions.on-long drop"),
    ],
)
def test_questions_that_will_not_do_are_named_or_dropped(
    row: dict[str, str], said: str, questions: Path, words: Program, tmp_path: Path,
    exit_code: Callable[..., int], capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = tmp_path / "rows.jsonl"
    path.write_text(questions.read_text() + json.dumps(row) + "\n")
    odd = ("--questions.sources", str(path))
    assert exit_code(words(tmp_path / "run", *odd)) == 2
    assert said in capsys.readouterr().err
    drop = ("--questions.on-bad", "drop", "--questions.on-long", "drop")
    found = find_inputs(parse(words(tmp_path / "run", *odd, *drop)))
    assert len(found.questions) == 900


def test_an_adapter_of_another_rank_is_refused(
    start_lora: Path, words: Program, tmp_path: Path, exit_code: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    for more, said in (
        (
            ("--model.train", "lora", "--lora.rank", "8"),
            "has rank 4 (--lora.rank is 8), alpha 8.0 (--lora.alpha is 64.0)",
        ),
        (("--model.train", "full"), "needs a model with adapters (--model.train lora)"),
    ):
        assert exit_code(words(tmp_path / "run", "--from", str(start_lora), *more)) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


def test_a_failed_gate_is_refused_unless_insisted(
    start: Path, words: Program, tmp_path: Path, exit_code: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    failed = shutil.copytree(start, tmp_path / "failed")
    manifest = json.loads((failed / "manifest.json").read_text())
    manifest["gate"]["passed"] = manifest["gate"]["checks"][0]["passed"] = False
    (failed / "manifest.json").write_text(json.dumps(manifest))
    assert exit_code(words(tmp_path / "run", "--from", str(failed), *SHORT)) == 2
    assert re.search("failed its gate:\n  format: none of 80 replies", capsys.readouterr().err)
    assert exit_code(words(tmp_path / "run", "--from", str(failed), "--force", *SHORT)) == 0


def test_an_adapter_of_other_base_weights_is_refused(
    start_lora: Path, words: Program, tmp_path: Path, exit_code: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    moved = shutil.copytree(start_lora, tmp_path / "moved")
    manifest = json.loads((moved / "manifest.json").read_text())
    manifest["identity"]["base"] = "0" * 64
    (moved / "manifest.json").write_text(json.dumps(manifest))
    lora = ("--model.train", "lora", "--lora.rank", "4", "--lora.alpha", "8")
    assert exit_code(words(tmp_path / "run", "--from", str(moved), *SHORT, *lora)) == 2
    assert "0000" in capsys.readouterr().err


def test_a_reward_that_fails_stops_the_run_with_the_sample_shown(
    words: Program, tmp_path: Path, exit_code: Callable[..., int], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    made = Judge.__init__

    def broken(self: Judge, *args: object) -> None:
        made(self, *args)
        part = self.rewards.parts[0]
        object.__setattr__(
            self.rewards, "parts", [part._replace(function=lambda replies: [float("nan")] * len(replies))]
        )

    monkeypatch.setattr(Judge, "__init__", broken)
    assert exit_code(words(tmp_path / "run", *SHORT)) == 2
    err = capsys.readouterr().err
    assert "the reward 'accuracy' returned nan" in err
    assert "--- question: Say" in err
    assert training.read_manifest(tmp_path / "run").status == "failed"
