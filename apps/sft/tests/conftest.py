"""What the tests share: a small vocabulary and a prepared data set of sums, of which a random model learns the form."""

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece

from coldforge.apps.sft.main import main
from coldforge.data import AnswerKind, Example, ReasoningFormat, Record, Tokenizer, tokenize, write_dataset

FORM = ReasoningFormat(template="Think, then answer.")


def example(index: int) -> Example:
    """A sum whose answer has to be read off, not computed."""
    a, b = index % 10, index // 10
    return Example("sums", index, f"What is {a} + {b}?", f"Add {a} and {b}.", str(a + b), AnswerKind.NUMBER)


def vocabulary(size: int) -> bytes:
    """A SentencePiece model like Gemma's, of `size` tokens."""
    model = io.BytesIO()
    texts = [example(index).messages(FORM) for index in range(100)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(turn["content"] for messages in texts for turn in messages),
        model_writer=model,
        vocab_size=size,
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
    return model.getvalue()


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer.model of 340 tokens."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(vocabulary(340))
    return path


@pytest.fixture(scope="session")
def other_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one, of 330."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(vocabulary(330))
    return path


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    """80 sums to train on, 20 held out."""
    path, loaded = tmp_path_factory.mktemp("data") / "sums", Tokenizer.load(tokenizer)
    records = [Record.of(example(index), tokenize(example(index), loaded, FORM)) for index in range(100)]
    write_dataset(path, [r for r in records if r.index % 5], [r for r in records if r.index % 5 == 0],
                  tokenizer=loaded, form=FORM)  # fmt: skip
    return path


@pytest.fixture(scope="session")
def words(data: Path, tokenizer: Path) -> Callable[..., list[str]]:
    def line(run: Path, *more: str) -> list[str]:
        return ["tiny", "--data", str(data), "--tokenizer", str(tokenizer), "--run", str(run), *more]

    return line


@pytest.fixture(scope="session")
def finished(words: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run of the preset, which passes its gate. Not to be written to: copy it."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.raises(SystemExit) as left:
        main(words(path))
    assert left.value.code == 0
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


@pytest.fixture(scope="session")
def command(data: Path, tokenizer: Path) -> Callable[..., list[str]]:
    """The program's command line, to run in a process of its own."""

    def words(run: Path, *more: str) -> list[str]:
        program = [sys.executable, "-c", "from coldforge.apps.sft.main import main; main()"]
        return [*program, "tiny", "--data", str(data), "--tokenizer", str(tokenizer), "--run", str(run), *more]

    return words
