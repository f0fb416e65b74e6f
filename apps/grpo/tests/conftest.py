"""What the tests share: a small vocabulary, a cold start of a random model on a task it half learns, and questions."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from flax import nnx

from coldforge import modeling, training
from coldforge.apps.grpo.main import main
from coldforge.data import AnswerKind, Example, ReasoningFormat, Record, TokenBatch, Tokenizer, tokenize
from coldforge.sft import sft_loss
from coldforge.stages.find import form_entry
from coldforge.stages.model import model_config
from coldforge.stages.options import LoraOptions, ModelConfig, SavingOptions
from coldforge.stages.output import describe, save_model

FORM = ReasoningFormat(template="Think, then answer.")


def example(index: int) -> Example:
    """A number to be repeated: what a model of two layers can learn, and does not know beforehand."""
    digits = " ".join(f"{index:03d}")
    return Example("copies", index, f"Say {digits}", f"It is {digits}", str(index), AnswerKind.NUMBER)


def vocabulary(size: int) -> bytes:
    """A SentencePiece model like Gemma's, of `size` tokens."""
    model = io.BytesIO()
    texts = [example(index).messages(FORM) for index in range(0, 1000, 7)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(turn["content"] for messages in texts for turn in messages),
        model_writer=model,
        vocab_size=size,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        user_defined_symbols=["<mask>", "<start_of_turn>", "<end_of_turn>", "\n"],
        minloglevel=2,
        **{f"{role}_id": index for index, role in enumerate(("pad", "eos", "bos", "unk"))},
        **{f"{role}_piece": f"<{role}>" for role in ("pad", "eos", "bos", "unk")},
    )
    return model.getvalue()


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer.model of 330 tokens."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(vocabulary(330))
    return path


def trained(tokenizer: Tokenizer, steps: int) -> modeling.Gemma3:
    """The tiny model of the preset, all of it trained on copies."""
    model = modeling.init_model(model_config(ModelConfig(size="tiny"), tokenizer.vocab_size), seed=0)
    records = [Record.of(example(i), tokenize(example(i), tokenizer, FORM)) for i in range(0, 1000, 2)]
    view = modeling.trainable(model, full=True, remat="none")
    config = training.OptimizerConfig(learning_rate=1e-2, max_grad_norm=1.0)
    optimizer = training.make_optimizer(config, steps)
    step = training.make_train_step(
        sft_loss(view.apply), optimizer, training.make_schedule(config, steps), accumulation=1
    )
    state, random = training.init_state(view.params, optimizer, 0), np.random.default_rng(0)
    for _ in range(steps):
        chosen = [records[i] for i in random.choice(len(records), 32, replace=False)]
        state, _ = step(state, view.frozen, training.place_batch(rows_of(chosen)))
    return modeling.with_params(model, state.params)


def rows_of(records: list[Record]) -> TokenBatch:
    """A batch of one micro-batch, a text to a row."""
    arrays = [np.zeros((1, len(records), 64), dtype) for dtype in (np.int32, np.int32, np.int32, np.float32, np.uint8)]
    tokens, positions, segments, weights, parts = arrays
    for row, record in enumerate(records):
        n = len(record.ids)
        tokens[0, row, :n], positions[0, row, :n], segments[0, row, :n] = record.ids, np.arange(n), 1
        weights[0, row, :n], parts[0, row, :n] = record.parts > 0, record.parts
    return TokenBatch(*arrays)


def cold_run(
    path: Path, model: modeling.Gemma3, base: modeling.Gemma3, tokenizer: Tokenizer, *, passed: bool = True
) -> Path:
    """A run as coldforge-sft leaves it."""
    options = ModelConfig(size="tiny", train="full" if model.lora is None else "lora")
    with training.open_run(path, stage="sft", config={"made": "for tests"}) as run:
        describe(run, base, None, tokenizer, model=options, lora=LoraOptions(), dataset={"form": form_entry(FORM)})
        save_model(run, model, None, tokenizer, SavingOptions())
        checks = [{"name": "format", "passed": passed, "why": "none of 80 replies has the form"}]
        run.update(gate={"passed": passed, "checks": checks})
        run.close("finished")
    return path


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    """A cold start of all parameters: the form is learnt, and some numbers come out right. Not to be written to."""
    loaded = Tokenizer.load(tokenizer)
    model = trained(loaded, 60)
    return cold_run(tmp_path_factory.mktemp("cold") / "full", model, model, loaded)


@pytest.fixture(scope="session")
def start_lora(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    """A cold start that has learnt nothing, with an adapter on random weights."""
    loaded = Tokenizer.load(tokenizer)
    base = modeling.init_model(model_config(ModelConfig(size="tiny"), loaded.vocab_size), seed=0)
    model = modeling.add_lora(base, modeling.LoraConfig(rank=4, alpha=8.0), rngs=nnx.Rngs(1))
    return cold_run(tmp_path_factory.mktemp("cold") / "lora", model, base, loaded)


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions and answers, one a line."""
    path = tmp_path_factory.mktemp("questions") / "numbers.jsonl"
    rows = ({"question": example(index).question, "answer": str(index)} for index in range(1000))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def words(start: Path, questions: Path) -> Callable[..., list[str]]:
    """The command line of the preset tiny; later words win."""

    def line(run: Path, *more: str) -> list[str]:
        return ["tiny", "--from", str(start), "--run", str(run), "--questions.sources", str(questions), *more]

    return line


@pytest.fixture(scope="session")
def finished(words: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run of the preset. Not to be written to: copy it."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    assert left_with(words(path)) == 0
    return path


def left_with(arguments: list[str]) -> int:
    """The program, run in this process: its exit code."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    return left.value.code


@pytest.fixture(scope="session")
def exit_code() -> Callable[[list[str]], int]:
    return left_with


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the tests out of the user's cache directory, and the program's setting of a variable to one test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", os.environ.get("JAX_COMPILATION_CACHE_DIR", ""))


@pytest.fixture(scope="session")
def short() -> tuple[str, ...]:
    """Four rollouts of two updates each, small ones, and a checkpoint after each update."""
    return (
        "--loop.steps", "8", "--rollout.questions", "4", "--rollout.group-size", "4", "--rollout.slots", "8",
        "--rollout.max-new-tokens", "32", "--algorithm.minibatches", "2", "--policy.beta", "0.01", "--rows.rows", "2",
        "--questions.heldout", "8", "--loop.checkpoint-every", "1", "--loop.eval-every", "4",
        "--gate.accuracy-drop", "1", "--rewards.processes", "1",
    )  # fmt: skip


@pytest.fixture(scope="session")
def variables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of processes that share what is compiled."""
    home = tmp_path_factory.mktemp("home")
    compiled = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(home / "compiled")
    return os.environ | {
        "HOME": str(home), "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": compiled,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }  # fmt: skip


@pytest.fixture(scope="session")
def sessions(
    words: Callable[..., list[str]], short: tuple[str, ...], variables: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., list[str]]:  # fmt: skip
    """Runs sessions in processes of their own, one after the other; returns what each said.

    Each is a dict: "run", and where wanted "more" of the command line, the exit "code", and for disturbed.py "what",
    "count" and "signal".
    """
    directory = tmp_path_factory.mktemp("said")

    def run(*wanted: dict[str, Any], devices: int = 1) -> list[str]:
        told = [
            {
                "what": one.get("what", "nothing"), "count": one.get("count", 0),
                "signal": one.get("signal", "SIGKILL"), "words": words(one["run"], *short, *one.get("more", ())),
                "said": str(directory / f"{len(list(directory.iterdir()))}-{number}"),
            }
            for number, one in enumerate(wanted)
        ]  # fmt: skip
        done = subprocess.run(
            [sys.executable, str(Path(__file__).parent / "disturbed.py"), json.dumps(told)],
            capture_output=True, text=True, timeout=500, check=True,
            env=variables | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"},
        )  # fmt: skip
        said = [Path(one["said"]).read_text() for one in told]
        assert [int(code) for code in done.stdout.split()] == [one.get("code", 0) for one in wanted], "\n".join(said)
        return said

    return run


@pytest.fixture(scope="session")
def command(words: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """The program's command line, to run in a process of its own."""
    return lambda run, *more: [
        sys.executable, "-c", "from coldforge.apps.grpo.main import main; main()", *words(run, *more)
    ]  # fmt: skip
