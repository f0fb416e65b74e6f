"""What the tests share: a small vocabulary, a policy of a random model that half knows a task, questions, and chat."""

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from flax import nnx

from coldforge import modeling, training
from coldforge.apps.reject.main import main
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


def policy_run(path: Path, model: modeling.Gemma3, base: modeling.Gemma3, tokenizer: Tokenizer) -> Path:
    """A run as coldforge-grpo leaves it."""
    options = ModelConfig(size="tiny", train="full" if model.lora is None else "lora")
    with training.open_run(path, stage="grpo", config={"made": "for tests"}) as run:
        describe(run, base, None, tokenizer, model=options, lora=LoraOptions(), dataset={"form": form_entry(FORM)})
        save_model(run, model, None, tokenizer, SavingOptions())
        run.update(gate={"passed": True, "checks": []})
        run.close("finished")
    return path


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    """A policy of all parameters: the form is learnt, and some numbers come out right. Not to be written to."""
    loaded = Tokenizer.load(tokenizer)
    model = trained(loaded, 60)
    return policy_run(tmp_path_factory.mktemp("policies") / "full", model, model, loaded)


@pytest.fixture(scope="session")
def start_lora(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    """A policy that has learnt nothing, with an adapter on random weights."""
    loaded = Tokenizer.load(tokenizer)
    base = modeling.init_model(model_config(ModelConfig(size="tiny"), loaded.vocab_size), seed=0)
    model = modeling.add_lora(base, modeling.LoraConfig(rank=4, alpha=8.0), rngs=nnx.Rngs(1))
    return policy_run(tmp_path_factory.mktemp("policies") / "lora", model, base, loaded)


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions and answers, one a line."""
    path = tmp_path_factory.mktemp("questions") / "numbers.jsonl"
    rows = ({"question": example(index).question, "answer": str(index)} for index in range(1000))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conversations, one a line."""
    path = tmp_path_factory.mktemp("chat") / "chat.jsonl"
    turns = ([{"role": "user", "content": f"Say {i}"}, {"role": "assistant", "content": f"So {i} it is"}]
             for i in range(200))  # fmt: skip
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in turns))
    return path


@pytest.fixture(scope="session")
def words(start: Path, questions: Path) -> Callable[..., list[str]]:
    """The command line of the preset tiny, of a few short samples; later words win."""
    few = ("--ask", "20", "--sampling.samples", "12", "--sampling.max-new-tokens", "32", "--sampling.slots", "16",
           "--grading.processes", "1", "--keep.heldout-questions", "4")  # fmt: skip

    def line(out: Path, *more: str) -> list[str]:
        sources = ("--questions.sources", str(questions))
        return ["tiny", "--from", str(start), "--out", str(out), *sources, *few, *more]

    return line


@pytest.fixture(scope="session")
def mixed(chat: Path) -> tuple[str, ...]:
    """A tenth of the rows are conversations."""
    return ("--chat.sources", str(chat), "--chat.share", "0.1")


@pytest.fixture(scope="session")
def finished(words: Callable[..., list[str]], mixed: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set. Not to be written to: copy it."""
    path = tmp_path_factory.mktemp("made") / "data"
    assert left_with(words(path, *mixed)) == 0
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
    monkeypatch.setenv("COLUMNS", "80")


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
def command(words: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """The program's command line, to run in a process of its own."""
    return lambda out, *more: [
        sys.executable, "-c", "from coldforge.apps.reject.main import main; main()", *words(out, *more)
    ]  # fmt: skip
