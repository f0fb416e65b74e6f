"""The model's files: what is not as it was shipped is named."""

import hashlib
import json

import pytest

from coldforge.nano import model_dir
from coldforge.nano.model import SUMS, DamagedError, checked


@pytest.fixture
def shipped(tmp_path):
    (tmp_path / "weights").write_bytes(b"1234")
    (tmp_path / SUMS).write_text(f"{hashlib.sha256(b'1234').hexdigest()}  weights\n", encoding="utf-8")
    return tmp_path


def test_the_model_is_whole_and_small():
    place = model_dir()
    listed = {line.split("  ")[1] for line in (place / SUMS).read_text(encoding="utf-8").splitlines()}
    assert listed == {"config.json", "model.safetensors", "tokenizer.model"}
    assert sum(path.stat().st_size for path in place.iterdir()) < 4_000_000
    recipe = json.loads((place / "recipe.json").read_text(encoding="utf-8"))
    assert f"{recipe['parameters']:,} parameters" in (place / "README.md").read_text(encoding="utf-8")


def test_it_is_a_gemma3():
    """Five local layers to one global, as the real ones; the embedding is the head."""
    config = json.loads((model_dir() / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["Gemma3ForCausalLM"]
    assert config["layer_types"] == ["sliding_attention"] * 5 + ["full_attention"]
    assert config["num_attention_heads"] > config["num_key_value_heads"]
    assert config["tie_word_embeddings"]


def test_whole_files_pass(shipped):
    assert checked(shipped) == shipped


def test_another_file_is_named(shipped):
    (shipped / "weights").write_bytes(b"1235")
    with pytest.raises(
        DamagedError, match=r"weights has the SHA-256 [0-9a-f]{64}; wanted 03ac67421.*Install coldforge"
    ):
        checked(shipped)


@pytest.mark.parametrize("name", ["weights", SUMS])
def test_a_missing_file_is_named(shipped, name):
    (shipped / name).unlink()
    with pytest.raises(DamagedError, match=f"has no {name}"):
        checked(shipped)
