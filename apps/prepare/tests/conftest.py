"""What the tests share: a small vocabulary of Gemma's kind, rows, and the program in this process."""

import io
import json
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece

from coldforge.apps.prepare import main as program

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The content of a tokenizer.model with 420 pieces."""
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
    return vocabulary.getvalue()


def stratos(question: str, trace: str, solution: str) -> dict:
    reply = f"<|begin_of_thought|>\n\n{trace}\n\n<|end_of_thought|>\n\n"
    reply += f"<|begin_of_solution|>\n\n{solution}\n\n<|end_of_solution|>"
    turns = [{"from": "user", "value": question}, {"from": "assistant", "value": reply}]
    return {"system": "Use <|begin_of_thought|>.", "conversations": turns}


@pytest.fixture
def here(model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with tokenizer.model and rows.jsonl: 60 rows, two of them without an answer, two long."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "tokenizer.model").write_bytes(model)
    rows = [stratos(f"What is {n} + 1?", f"{n} and one more.", f"It is \\boxed{{{n + 1}}}.") for n in range(56)]
    rows += [stratos(f"Tell me of {n}.", "It is long.", "A story that does not end at all.") for n in range(2)]
    rows += [
        stratos(f"What is {n}?", " ".join(f"See {n + k}." for k in range(900)), f"It is \\boxed{{{n}}}.")
        for n in range(2)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture
def run(here: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the program in `here`; returns exit code, output and errors."""

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            program.main(list(arguments))
        assert isinstance(ended.value.code, int)
        return ended.value.code, *capsys.readouterr()

    return call


@pytest.fixture
def command() -> list[str]:
    """What runs the program in a process of its own."""
    return [sys.executable, "-c", "from coldforge.apps.prepare.main import main; main()"]
