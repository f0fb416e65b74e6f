"""The program from its command line to its exit code, with the tiny model, in this process."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from coldforge import training
from coldforge.data import Batches, Tokenizer, open_dataset
from coldforge.data.rejection import SampleLogs, Selected

Program = Callable[..., list[str]]
Code = Callable[[list[str]], int]


@pytest.mark.whole
def test_a_policys_right_answers_become_a_data_set(finished: Path, tokenizer: Path) -> None:
    made = Selected.open(finished)
    dataset = made.dataset
    dataset.verify()
    dataset.check_tokenizer(Tokenizer.load(tokenizer))
    assert dataset.form.template == "Think, then answer."
    records = [*dataset.train, *dataset.heldout]
    reasoned = [record for record in records if record.shows_work]
    assert len(reasoned) > 10, "the policy knows some"
    for record in reasoned:
        assert record.answer == str(int(record.question.removeprefix("Say ").replace(" ", "")))
        assert 0 < record.meta["difficulty"] <= 1
        assert record.meta["samples"] == 12
    assert max(Counter(record.question for record in reasoned).values()) <= 4
    assert len({record.question for record in dataset.heldout}) == 4
    assert len(records) - len(reasoned) == round(len(reasoned) / 9)
    logs = SampleLogs(finished / "samples")
    assert logs.count == 240
    assert made.acceptance.total.samples == 240
    assert made.acceptance.total.kept == len(reasoned)
    assert sum(sample.verdict == "right" for _, sample in logs) == made.acceptance.total.right
    assert made.audit.sources["numbers.jsonl"].rows == 240
    batches = Batches(dataset.train, seq_len=128, rows=2, seed=0)
    assert next(batches).loss_weights.sum() > 0
    batches.close()


@pytest.mark.whole
def test_the_same_command_again_shows_what_is_there_and_other_options_are_refused(
    finished: Path, words: Program, mixed: tuple[str, ...], tmp_path: Path, exit_code: Code,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    copied = shutil.copytree(finished, tmp_path / "copy")
    manifest = (copied / "manifest.json").read_bytes()
    assert exit_code(words(copied, *mixed)) == 0
    out, err = capsys.readouterr()
    assert "was complete" in err
    assert max(map(len, out.splitlines()[:-1])) <= 80
    assert re.search(r"numbers\.jsonl +20 +240 +\d+\.\d %", out)
    assert re.search(r"wrong +\d+ +\d+\.\d % +the answer is", out)
    for more, said in (
        (("--seed", "1"), "sampling.seed was 0 and is 1. Choose another directory"),
        (("--sampling.samples", "8"), "sampling.samples was 12 and is 8"),
        (("--ask", "21"), "questions.count was 20 and is 21"),
        (("--keep.per-question", "1"), "keep.per_question was 4 and is 1. Choose another directory; or remove man"),
        (("--chat.share", "0.2"), "chat.share was 0.1 and is 0.2"),
    ):
        assert exit_code(words(copied, *mixed, *more)) == 2
        assert said in capsys.readouterr().err
    assert (copied / "manifest.json").read_bytes() == manifest
    (copied / "manifest.json").unlink()
    with pytest.raises(ValueError, match="is not finished; run the command again"):
        open_dataset(copied)
    assert exit_code(words(copied, *mixed, "--sampling.slots", "8", "--keep.per-question", "1")) == 0
    kept = [record for record in open_dataset(copied).train if record.shows_work]
    assert len({record.question for record in kept}) == len(kept) > 0


@pytest.mark.whole
def test_nothing_kept_is_exit_code_1_with_the_reasons(
    start_lora: Path, words: Program, tmp_path: Path, exit_code: Code, capsys: pytest.CaptureFixture[str]
) -> None:
    """A policy with an adapter, which knows nothing."""
    few = ("--from", str(start_lora), "--ask", "2", "--sampling.samples", "2")
    assert exit_code(words(tmp_path / "out", *few)) == 1
    out, err = capsys.readouterr()
    assert re.search(r"coldforge-reject: of 4 samples none was kept \(.*\); .*audit\.html shows some", err)
    assert re.search(r"Not kept\n.*(cut-off|broken-tags) +\d", out, re.DOTALL)
    assert (tmp_path / "out/audit.html").read_text().count("<details>") >= 1
    assert not (tmp_path / "out/manifest.json").exists()
    lines = (tmp_path / "out/samples/00000.jsonl").read_bytes()
    assert exit_code(words(tmp_path / "out", *few, "--keep.per-question", "2")) == 1
    assert (tmp_path / "out/samples/00000.jsonl").read_bytes() == lines, "nothing is sampled again"


def test_an_adapter_of_other_base_weights_is_refused(
    start_lora: Path, words: Program, tmp_path: Path, exit_code: Code, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = shutil.copytree(start_lora, tmp_path / "moved")
    manifest = json.loads((moved / "manifest.json").read_text())
    manifest["identity"]["base"] = "0" * 64
    (moved / "manifest.json").write_text(json.dumps(manifest))
    assert exit_code(words(tmp_path / "out", "--from", str(moved))) == 2
    assert "0000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--questions.sources",), "no questions are named"),
        (("--questions.sources", "no_such_task:20"), "no_such_task"),
        (("--questions.sources", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--questions.heldout", "1000"), "heldout is 1000 of 1000 questions"),
        (("--ask", "901"), "ask is 901; wanted 1 to 900"),
        (("--ask", "0"), "ask is 0"),
        (("--sampling.max-prompt-tokens", "10"), "of 1000 questions have more than sampling.max-prompt-tokens = 10"),
        (("--sampling.max-new-tokens", "4096"), "exceed the model's context of 1024"),
        (("--sampling.samples", "0"), "sampling.samples is 0"),
        (("--sampling.temperature", "0"), "sampling.temperature is 0.0; wanted above 0"),
        (("--sampling.slots", "0"), "slots must be positive"),
        (("--seed", "-1"), "seed is -1"),
        (("--chat.share", "0.5"), "the share of conversations is 0.5, and none are named"),
        (("--chat.share", "1"), "the share of conversations is 1.0; wanted 0 to below 1"),
        (("--chat.share", "0.5", "--chat.sources", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--keep.decontaminate", "exam.jsonl"), "there is no exam.jsonl"),
        (("--model.size", "270m"), "are no 270m: embed_dim 64 (wanted 640)"),
        (("--mesh.fsdp", "3"), "needs 3 devices"),
    ],
)
def test_what_is_wrong_is_named_before_anything_starts(
    more: tuple[str, ...], said: str, words: Program, tmp_path: Path, exit_code: Code,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert exit_code(words(tmp_path / "out", *more)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_options_that_cannot_be_meant_are_refused_by_the_command_line(
    words: Program, tmp_path: Path, exit_code: Code, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(words(tmp_path / "out", "--keep.per-question", "0")) == 2
    assert "per_question is 0" in "".join(capsys.readouterr())


def test_a_directory_of_something_else_is_left_alone(
    words: Program, tmp_path: Path, exit_code: Code, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert exit_code(words(tmp_path)) == 2
    assert "holds other files (notes.txt)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_failed_gate_is_refused(
    start: Path, words: Program, tmp_path: Path, exit_code: Code, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = tmp_path / "failed"
    failed.mkdir()
    manifest = json.loads((start / "manifest.json").read_text())
    manifest["gate"] = {"passed": False, "checks": [{"name": "format", "passed": False, "why": "none has it"}]}
    (failed / "manifest.json").write_text(json.dumps(manifest))
    (failed / "model").symlink_to(start / "model")
    assert exit_code(words(tmp_path / "out", "--from", str(failed))) == 2
    assert re.search("has failed its gate:\n  format: none has it", capsys.readouterr().err)
    assert exit_code(words(tmp_path / "out", "--from", str(failed), "--force", "--ask", "0")) == 2
    assert "ask is 0" in capsys.readouterr().err, "insisted: it goes on to what is wrong next"
    assert training.read_manifest(failed).stage == "grpo"
