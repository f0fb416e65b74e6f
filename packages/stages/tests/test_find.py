"""Weights, tokenizer and form are found, or what is missing is named."""

import dataclasses
import hashlib
import shutil
import sys
from pathlib import Path

import pytest

from coldforge import training
from coldforge.data import AnswerKind, Example, ReasoningFormat, Record, Tokenizer, tokenize, write_dataset
from coldforge.stages.find import (
    find_policy,
    find_tokenizer,
    find_weights,
    form_entry,
    form_of,
    require_tokenizer,
)

FORM = ReasoningFormat(("<think>", "</think>"), ("<answer>", "</answer>"), "Think in {reasoning[0]}, please.")


def test_weights(tmp_path: Path) -> None:
    assert find_weights(None, "tiny") is None
    assert find_weights(tmp_path, "1b") == tmp_path
    with pytest.raises(FileNotFoundError, match="nothing at nowhere; --weights takes a path"):
        find_weights(Path("nowhere"), "1b")
    with pytest.raises(FileNotFoundError, match="a 1b needs weights: --weights PATH"):
        find_weights(None, "1b")


def test_the_nano_model_comes_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    place = find_weights(None, "nano")
    assert place is not None
    assert (place / "model.safetensors").is_file()
    assert find_tokenizer(None, place).vocab_size == 768
    monkeypatch.setitem(sys.modules, "coldforge.nano", None)
    with pytest.raises(ModuleNotFoundError, match="nano model is not installed: pip install coldforge-nano"):
        find_weights(None, "nano")


def test_tokenizer(vocabulary: Path, tmp_path: Path) -> None:
    assert find_tokenizer(vocabulary, None).vocab_size == 300
    assert find_tokenizer(None, vocabulary.parent).vocab_size == 300
    assert find_tokenizer(vocabulary, tmp_path).vocab_size == 300, "the one that is named comes first"
    with pytest.raises(FileNotFoundError, match=r"random weights has no tokenizer: .* --tokenizer PATH"):
        find_tokenizer(None, None)
    with pytest.raises(FileNotFoundError, match="With --tokenizer PATH it may lie elsewhere"):
        find_tokenizer(None, tmp_path)
    with pytest.raises(FileNotFoundError) as named:
        find_tokenizer(tmp_path / "nowhere", vocabulary.parent)
    assert "elsewhere" not in str(named.value)


def manifest(directory: Path, **dataset: object) -> training.Manifest:
    """That of a run with this data set, as read from its file."""
    with training.open_run(directory, stage="sft", config={}, command="") as run:
        run.update(dataset=dataset)
        run.close("finished", "")
    return training.read_manifest(directory)


def test_the_form_comes_back_from_the_manifest(tmp_path: Path) -> None:
    read = manifest(tmp_path / "run", path="nowhere", form=form_entry(FORM))
    assert form_of(read) == FORM
    assert form_of(read).instruction == "Think in <think>, please."


def test_the_form_of_an_older_run_comes_from_its_data_set(tmp_path: Path, tokenizer: Tokenizer) -> None:
    example = Example("sums", 0, "What is 1 + 2?", "Add 1 and 2.", "3", AnswerKind.NUMBER)
    one = Record.of(example, tokenize(example, tokenizer, FORM))
    other = dataclasses.replace(one, index=1)
    write_dataset(tmp_path / "data", [one], [other], tokenizer=tokenizer, form=FORM)
    read = manifest(tmp_path / "run", path=str(tmp_path / "data"))
    assert form_of(read) == FORM
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(ValueError, match=r"the sft run in .*run .*cannot be opened: .* Bring it back to .*data"):
        form_of(read)


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        ({}, "does not say which form its model replies in, and names no data set"),
        ({"form": {"reasoning": ["<think>", "</think>"]}}, "the form in the manifest .* cannot be read"),
        ({"form": "<think>"}, "the form in the manifest .* cannot be read"),
        ({"form": form_entry(FORM) | {"answer": ["<think>", "</think>"]}}, "cannot be told apart"),
    ],
)
def test_a_form_that_cannot_be_read_is_named(tmp_path: Path, dataset: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        form_of(manifest(tmp_path / "run", **dataset))


def run_of(directory: Path, tokenizer: Tokenizer, *, stage: str = "sft", passed: bool = True) -> Path:
    """A run that has trained all of a model: its directory, without the weights."""
    with training.open_run(directory, stage=stage, config={}, command="") as run:
        run.update(tokenizer={"sha256": tokenizer.fingerprint}, gate={"passed": passed, "checks": []})
        run.close("finished", "")
    (directory / "model").mkdir()
    tokenizer.save(directory / "model" / "tokenizer.model")
    return directory


def test_a_policy_that_was_trained_as_a_whole(tmp_path: Path, tokenizer: Tokenizer) -> None:
    run = run_of(tmp_path / "run", tokenizer)
    found = find_policy(run, weights=None, size="tiny", tokenizer=None)
    assert (found.weights, found.adapter) == (run / "model", None)
    before = found.identity
    (run / "model/model.safetensors").write_bytes(b"weights")
    assert before["tokenizer"] == found.identity["tokenizer"] == tokenizer.fingerprint
    assert before["model"] != found.identity["model"]
    shutil.rmtree(run / "model")
    with pytest.raises(FileNotFoundError, match="holds neither an adapter nor a model"):
        find_policy(run, weights=None, size="tiny", tokenizer=None)


def test_a_policy_with_an_adapter(tmp_path: Path, tokenizer: Tokenizer) -> None:
    run = run_of(tmp_path / "run", tokenizer, stage="grpo")
    (run / "model").rename(run / "adapter")
    (run / "adapter/adapter_model.safetensors").write_bytes(b"weights")
    with training.open_run(run, stage="grpo", config={}, command="") as opened:
        opened.update(adapter=run / "adapter")
        opened.close("finished", "")
    found = find_policy(run, weights=None, size="tiny", tokenizer=None)
    assert (found.weights, found.adapter) == (None, run / "adapter")
    assert found.identity["adapter"] == hashlib.sha256(b"weights").hexdigest()
    assert find_policy(run, weights=tmp_path, size="1b", tokenizer=None).weights == tmp_path
    with pytest.raises(FileNotFoundError, match="a 1b needs weights"):
        find_policy(run, weights=None, size="1b", tokenizer=None)


def test_a_policy_that_will_not_do_is_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    other = run_of(tmp_path / "other", tokenizer, stage="evaluate")
    with pytest.raises(ValueError, match="is a run of stage 'evaluate'; wanted one of coldforge-sft or coldforge-grpo"):
        find_policy(other, weights=None, size="tiny", tokenizer=None)
    failed = run_of(tmp_path / "failed", tokenizer, passed=False)
    with pytest.raises(training.GateError, match="has failed its gate"):
        find_policy(failed, weights=None, size="tiny", tokenizer=None)
    assert find_policy(failed, weights=None, size="tiny", tokenizer=None, force=True).manifest.stage == "sft"
    read = training.read_manifest(failed)
    with pytest.raises(ValueError, match=r"trained with another tokenizer \(0123"):
        require_tokenizer(dataclasses.replace(read, tokenizer={"sha256": "0123456789ab"}), tokenizer)
