"""What the tests share: a Gemma3 of a few thousand parameters, with its own vocabulary, as a Hugging Face directory.

Its weights are random, and its answers are noise of any length; what is tested here is what happens around them.
"""

import io
import os
import sys
import textwrap
from pathlib import Path

import pytest
import sentencepiece

from coldforge.modeling import Gemma3Config, init_model, save_hf


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with config.json, model.safetensors and tokenizer.model."""
    path = tmp_path_factory.mktemp("models") / "gemma-3-tiny-it"
    vocabulary = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(Path(textwrap.__file__).read_text("utf-8").splitlines()),
        model_writer=vocabulary,
        vocab_size=420,
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
    config = Gemma3Config(
        vocab_size=420,
        embed_dim=16,
        mlp_dim=32,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        layer_types=("local", "global"),
        sliding_window=16,
        max_seq_len=192,
        query_scale=8**-0.5,
    )
    save_hf(init_model(config, seed=0), path)
    (path / "tokenizer.model").write_bytes(vocabulary.getvalue())
    return path


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the tests out of the user's cache directory, and the program's setting of a variable to one test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", os.environ.get("JAX_COMPILATION_CACHE_DIR", ""))


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables for a process of its own: of a plain terminal, with an empty cache directory."""
    inherited = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    if not inherited["JAX_COMPILATION_CACHE_DIR"]:
        del inherited["JAX_COMPILATION_CACHE_DIR"]
    return inherited | {"HOME": str(tmp_path), "TERM": "xterm-256color", "JAX_PLATFORMS": "cpu"}


@pytest.fixture
def command() -> list[str]:
    """What runs the program in a process of its own."""
    return [sys.executable, "-c", "from coldforge.apps.chat.main import main; main()"]
