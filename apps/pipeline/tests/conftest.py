"""What the tests share: a small vocabulary, weights that half know a task, rows and questions, and a short pipeline."""

import io
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece

from coldforge import modeling, training
from coldforge.apps.grpo import presets as grpo
from coldforge.apps.grpo.config import GrpoGate, GrpoLoop
from coldforge.apps.pipeline.config import DataOptions, EvaluationOptions, PipelineConfig
from coldforge.apps.pipeline.presets import second_stage
from coldforge.apps.reject import presets as reject
from coldforge.apps.sft import presets as sft
from coldforge.apps.sft.config import GateOptions, LoopConfig
from coldforge.data import AnswerKind, Example, ReasoningFormat, Record, TokenBatch, Tokenizer, tokenize
from coldforge.data.prepare import Options as PrepareOptions
from coldforge.data.rejection import Selection
from coldforge.sft import sft_loss
from coldforge.stages.model import model_config
from coldforge.stages.options import LoraOptions, ModelConfig, QuestionOptions

FORM = ReasoningFormat(template="Think, then answer.")


def example(index: int) -> Example:
    """A number to be repeated: what a model of two layers can learn."""
    digits = " ".join(f"{index:03d}")
    return Example("copies", index, f"Say {digits}", f"It is {digits}", str(index), AnswerKind.NUMBER)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer.model of 330 tokens, like Gemma's."""
    model = io.BytesIO()
    texts = [example(index).messages(FORM) for index in range(0, 1000, 7)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(turn["content"] for messages in texts for turn in messages),
        model_writer=model,
        vocab_size=330,
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
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(model.getvalue())
    return path


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    """The tiny model, trained on copies for a while, as a Hugging Face directory with its tokenizer."""
    loaded, steps = Tokenizer.load(tokenizer), 60
    model = modeling.init_model(model_config(ModelConfig(size="tiny"), loaded.vocab_size), seed=0)
    records = [Record.of(example(i), tokenize(example(i), loaded, FORM)) for i in range(0, 1000, 2)]
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
    path = tmp_path_factory.mktemp("weights") / "hf"
    modeling.save_hf(modeling.with_params(model, state.params), path)
    loaded.save(path / "tokenizer.model")
    return path


def rows_of(records: list[Record]) -> TokenBatch:
    """A batch of one micro-batch, a text to a row."""
    arrays = [np.zeros((1, len(records), 64), dtype) for dtype in (np.int32, np.int32, np.int32, np.float32, np.uint8)]
    tokens, positions, segments, weights, parts = arrays
    for row, record in enumerate(records):
        n = len(record.ids)
        tokens[0, row, :n], positions[0, row, :n], segments[0, row, :n] = record.ids, np.arange(n), 1
        weights[0, row, :n], parts[0, row, :n] = record.parts > 0, record.parts
    return TokenBatch(*arrays)


def write(path: Path, rows: Iterable[dict[str, Any]]) -> str:
    """A JSONL file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def asked(index: int) -> dict[str, Any]:
    """A question as a row."""
    return {"question": example(index).question, "answer": str(index)}


def worked(index: int) -> dict[str, Any]:
    """The same with its reasoning."""
    return asked(index) | {"solution": f"{example(index).reasoning}\n#### {index}"}


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Rows of even numbers, questions of numbers that 3 divides, held out ones that 5 divides: they overlap."""
    folder = tmp_path_factory.mktemp("sources")
    return {
        "rows": write(folder / "rows.jsonl", map(worked, range(0, 400, 2))),
        "questions": write(folder / "questions.jsonl", map(asked, range(0, 1000, 3))),
        "heldout": write(folder / "heldout.jsonl", map(asked, range(0, 200, 5))),
    }


@pytest.fixture(scope="session")
def data(sources: dict[str, str]) -> DataOptions:
    """The first stage's options."""
    prepare = PrepareOptions(max_tokens=128, heldout_rows=16, instruction=FORM.template, mixed_language=None)
    return DataOptions(
        rows=(sources["rows"],), questions=(sources["questions"],), heldout=(sources["heldout"],), prepare=prepare,
        processes=1,
    )  # fmt: skip


@pytest.fixture(scope="session")
def short(data: DataOptions) -> PipelineConfig:
    """All stages with as little work as they can do, and gates that nobody fails."""
    model, lora = ModelConfig(size="tiny", remat="none"), LoraOptions(rank=4, alpha=4.0)
    easy = GateOptions(
        format=0.0, ended=0.0, truncated=1.0, accuracy_drop=1.0, min_prompts=1, prompts=8, max_new_tokens=32, rows=8
    )
    cold = replace(
        sft.tiny(), model=model, lora=lora, loop=LoopConfig(steps=3, eval_every=0, checkpoint_every=2), gate=easy
    )
    first = grpo.tiny()
    first = replace(
        first, model=model, lora=lora, questions=QuestionOptions(heldout=8),
        rollout=replace(first.rollout, questions=4, group_size=4, max_prompt_tokens=64, max_new_tokens=32, slots=16),
        loop=GrpoLoop(steps=2, eval_every=0, checkpoint_every=1),
        gate=GrpoGate(format=0.0, ended=0.0, truncated=1.0, accuracy_drop=1.0, min_prompts=1),
    )  # fmt: skip
    chosen = reject.tiny()
    chosen = replace(
        chosen, model=model, ask=24, questions=QuestionOptions(heldout=8),
        sampling=replace(chosen.sampling, samples=4, max_prompt_tokens=64, max_new_tokens=32, slots=16),
        keep=Selection(max_tokens=128, heldout_questions=2),
    )  # fmt: skip
    return PipelineConfig(
        data=data, cold_start=cold, rl_1=first, reject=chosen, sft_2=replace(cold, gate=replace(easy, prompts=2)),
        rl_2=second_stage(first), evaluation=EvaluationOptions(max_new_tokens=32, slots=16),
    )  # fmt: skip
