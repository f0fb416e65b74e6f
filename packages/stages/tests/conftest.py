"""What the tests share: a small vocabulary, and a base model of random weights."""

import io
import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

import pytest
import sentencepiece

from coldforge import modeling
from coldforge.data import Tokenizer
from coldforge.stages.model import load_base
from coldforge.stages.options import ModelConfig


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer.model of 300 tokens, like Gemma's."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(f"What is {a} + {b}? Add {a} and {b}." for a in range(10) for b in range(10)),
        model_writer=model,
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        user_defined_symbols=["<mask>", "<start_of_turn>", "<end_of_turn>", "\n"],
        minloglevel=2,
        **{f"{role}_id": index for index, role in enumerate(("pad", "eos", "bos", "unk"))},
        **{f"{role}_piece": f"<{role}>" for role in ("pad", "eos", "bos", "unk")},
    )
    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.model"
    path.write_bytes(model.getvalue())
    return path


@pytest.fixture(scope="session")
def tokenizer(vocabulary: Path) -> Tokenizer:
    return Tokenizer.load(vocabulary)


@pytest.fixture(scope="session")
def base() -> modeling.Gemma3:
    """The tiny model, with 300 tokens. Not to be written to."""
    return load_base(None, ModelConfig(size="tiny"), 300, None)
