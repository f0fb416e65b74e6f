"""A run that goes on with another's adapter, and a data set with conversations, as rejection sampling makes them."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from coldforge import modeling, training
from coldforge.apps.sft.inputs import choose_prompts, find_inputs
from coldforge.apps.sft.main import main, parse
from coldforge.data import Dataset, Record, Tokenizer, open_dataset, write_dataset
from coldforge.data.conversations import Conversation, record_of, tokenize_conversation
from coldforge.stages.gate import read_replies
from coldforge.stages.model import model_config
from coldforge.stages.options import ModelConfig

pytestmark = pytest.mark.whole

SHORT = (
    "--loop.steps", "2", "--gate.prompts", "4", "--gate.min-prompts", "4", "--gate.max-new-tokens", "32",
    "--gate.format", "0", "--gate.ended", "0", "--gate.truncated", "1", "--gate.accuracy-drop", "1",
)  # fmt: skip
LORA = ("--model.train", "lora", "--lora.rank", "4", "--lora.alpha", "8")


def exit_code(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    return left.value.code


@pytest.fixture(scope="module")
def chatting(data: Path, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The sums with how hard they are, and as many conversations."""
    sums, loaded = open_dataset(data), Tokenizer.load(tokenizer)
    said = [Conversation("chat", i, (f"What about {i}?",), f"Add {i} and it is well.") for i in range(40)]
    talk = [record_of(one, tokenize_conversation(one, loaded)) for one in said]
    graded = [dataclasses.replace(record, meta={"difficulty": 0.5}) for record in sums.train]
    return write_dataset(
        tmp_path_factory.mktemp("chat") / "data", [*graded, *talk[20:]], [*sums.heldout, *talk[:20]], tokenizer=loaded,
        form=sums.form,
    )  # fmt: skip


@pytest.fixture(scope="module")
def first(words: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an adapter. Not to be written to."""
    run = tmp_path_factory.mktemp("from") / "first"
    assert exit_code(words(run, *SHORT, *LORA)) == 0
    return run


def weights(run: Path) -> list[np.ndarray]:
    config = model_config(ModelConfig(size="tiny"), 340)
    base = modeling.init_model(config, seed=0)
    adapter = run / "adapter"
    model = modeling.add_lora(base, modeling.peft_config(adapter, config), rngs=nnx.Rngs(0))
    modeling.load_peft(model, adapter)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(modeling.lora_state(model))]


def test_the_gate_asks_no_conversations(chatting: Dataset) -> None:
    asked: list[Record] = choose_prompts(chatting.heldout, 128)
    assert len(asked) == 20
    assert all(record.shows_work for record in asked)
    assert sum(not record.shows_work for record in chatting.heldout) == 20


@pytest.mark.whole
def test_training_goes_on_with_the_adapter_of_another_run(
    first: Path, chatting: Dataset, words: Callable[..., list[str]], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """At a rate of next to nothing the adapter stays what it was; the gate's base is the untouched one."""
    run, still = tmp_path / "run", ("--optimizer.learning-rate", "1e-12")
    assert exit_code(words(run, *SHORT, *LORA, "--from", str(first), "--data", str(chatting.path), *still)) == 0
    manifest, before = training.read_manifest(run), training.read_manifest(first)
    for ours, theirs in zip(weights(run), weights(first), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-7)
    assert manifest.identity["base"] == before.identity["base"]
    assert before.identity["start"] == "base"
    assert len(manifest.identity["start"]) == 64
    assert manifest.dataset["from"] == str(first)
    base = modeling.init_model(model_config(ModelConfig(size="tiny"), 340), seed=0)
    assert manifest.identity["base"] == modeling.fingerprint(base)
    replies = [read_replies(next(path.glob("gate/base-*.jsonl"))) for path in (run, first)]
    texts = [{reply.prompt: reply.text for reply in found} for found in replies]
    shared = texts[0].keys() & texts[1].keys()
    assert all(texts[0][prompt] == texts[1][prompt] for prompt in shared)
    other = words(run, *SHORT, *LORA, "--data", str(chatting.path), *still)
    assert exit_code(other) == 2, "the run belongs to the adapter that it was begun with"
    assert re.search("start: it has '[0-9a-f]{64}', here it is 'base'", capsys.readouterr().err)


@pytest.mark.slow
def test_training_goes_on_with_a_whole_model(finished: Path, words: Callable[..., list[str]], tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert exit_code(words(run, *SHORT, "--from", str(finished), "--optimizer.learning-rate", "1e-12")) == 0
    manifest = training.read_manifest(run)
    assert training.read_metrics(run)["train/loss"][1][0] < 0.5, "it has learnt its data by heart"
    assert manifest.identity["base"] == training.read_manifest(finished).identity["base"]
    assert len(manifest.identity["start"]) == 64
    tokens = np.arange(4, 20)[None]
    ours, theirs = (modeling.load(path / "model")(tokens) for path in (run, finished))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.whole
@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--lora.rank", "8"), "has rank 4 (--lora.rank is 8)"),
        (("--model.train", "full"), "needs a model with adapters (--model.train lora)"),
        (("--from", "nowhere"), "is not a run"),
    ],
)
def test_what_does_not_fit_the_adapter_is_named_before_anything_starts(
    more: tuple[str, ...], said: str, first: Path, words: Callable[..., list[str]], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert exit_code(words(tmp_path / "run", *SHORT, *LORA, "--from", str(first), *more)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.whole
def test_another_base_another_tokenizer_and_a_failed_gate_are_refused(
    first: Path, finished: Path, words: Callable[..., list[str]], tmp_path: Path, other_tokenizer: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    moved = shutil.copytree(first, tmp_path / "moved")
    stored = json.loads((moved / "manifest.json").read_text())

    def changed(**fields: object) -> str:
        (moved / "manifest.json").write_text(json.dumps(stored | fields))
        assert exit_code(words(tmp_path / "run", *SHORT, *LORA, "--from", str(moved))) == 2
        return capsys.readouterr().err

    assert "0000" in changed(identity=stored["identity"] | {"base": "0" * 64})
    assert "has failed its gate" in changed(gate={"passed": False, "checks": []})
    assert "was trained with another tokenizer (1234" in changed(tokenizer={"sha256": "1234" * 16})
    whole = words(tmp_path / "whole", *SHORT, *LORA, "--from", str(finished))
    assert exit_code(whole) == 2
    assert "has trained all of the model: go on with it by --model.train full" in capsys.readouterr().err
    Tokenizer.load(other_tokenizer).save(moved / "adapter/tokenizer.model")
    fingerprint = Tokenizer.load(other_tokenizer).fingerprint
    (moved / "manifest.json").write_text(json.dumps(stored | {"tokenizer": {"sha256": fingerprint}}))
    own = ["tiny", "--data", whole[2], "--run", str(tmp_path / "run2"), *SHORT, *LORA, "--from", str(moved)]
    with pytest.raises(ValueError, match="was prepared with another tokenizer"):
        find_inputs(parse(own))
