"""What the tests share: eight devices, a small vocabulary, a random model with an adapter, and runs that hold them."""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import io
from pathlib import Path

import jax
import pytest
import sentencepiece
from flax import nnx

from coldforge import modeling, training
from coldforge.data import ReasoningFormat, Tokenizer
from coldforge.stages.find import form_entry
from coldforge.stages.model import model_config
from coldforge.stages.options import LoraOptions, ModelConfig, SavingOptions
from coldforge.stages.output import describe, save_model

FORM = ReasoningFormat(template="Think, then answer.")


def vocabulary(size: int, *, numbers: int = 1000) -> bytes:
    """A SentencePiece model like Gemma's, of `size` tokens."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(
            f"Say {' '.join(str(i))}. Question: {FORM.render(f'It is {i}', str(i))}" for i in range(numbers)
        ),
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
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(vocabulary(330))
    return Tokenizer.load(path)


@pytest.fixture(scope="session")
def other_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("other") / "tokenizer.model"
    path.write_bytes(vocabulary(320))
    return path


@pytest.fixture(scope="session")
def base(tokenizer: Tokenizer) -> modeling.Gemma3:
    return modeling.init_model(model_config(ModelConfig(size="tiny"), tokenizer.vocab_size), seed=0)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory, base: modeling.Gemma3, tokenizer: Tokenizer) -> Path:
    """The base as a Hugging Face directory with its tokenizer."""
    path = tmp_path_factory.mktemp("weights")
    modeling.save_hf(base, path)
    tokenizer.save(path / "tokenizer.model")
    return path


@pytest.fixture(scope="session")
def adapted(base: modeling.Gemma3) -> modeling.Gemma3:
    """The base with an adapter that changes what it says."""
    model = modeling.add_lora(base, modeling.LoraConfig(rank=4, alpha=8.0), rngs=nnx.Rngs(1))
    return modeling.with_params(model, jax.tree.map(lambda x: x + 0.05, modeling.lora_state(model)))


@pytest.fixture(scope="session")
def run(
    tmp_path_factory: pytest.TempPathFactory, adapted: modeling.Gemma3, base: modeling.Gemma3, weights: Path,
    tokenizer: Tokenizer,
) -> Path:  # fmt: skip
    """A run as coldforge-sft leaves it, with the adapter."""
    path = tmp_path_factory.mktemp("runs") / "sft"
    with training.open_run(path, stage="sft", config={"made": "for tests"}) as opened:
        describe(
            opened, base, weights, tokenizer, model=ModelConfig(size="tiny"), lora=LoraOptions(),
            dataset={"form": form_entry(FORM)},
        )  # fmt: skip
        save_model(opened, adapted, weights, tokenizer, SavingOptions())
        opened.update(gate={"passed": True, "checks": []})
        opened.close("finished")
    return path
