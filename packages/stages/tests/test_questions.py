"""Questions are found, and those that will not do are named or left out."""

import json
from pathlib import Path

import pytest

from coldforge.data import ReasoningFormat, Tokenizer
from coldforge.stages.options import QuestionOptions
from coldforge.stages.questions import encode, find_questions

FORM = ReasoningFormat(template="Think.")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sums.jsonl"
    rows: list[dict[str, object]] = [{"question": f"What is {n} + 1?", "answer": n + 1} for n in range(20)]
    rows += [{"question": "What is " + "1 + " * 40 + "1?", "answer": 41}]
    rows += [{"question": "Prove it.", "answer": "So.", "kind": "proof"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_questions(file: Path, tokenizer: Tokenizer) -> None:
    def find(**more: object) -> tuple[int, int]:
        asked = QuestionOptions(**({"sources": (str(file),), "heldout": 5} | more))
        train, heldout = find_questions(asked, tokenizer, FORM, limit=60, named="sampling.max-prompt-tokens")
        longest = max(map(len, encode([*train, *heldout], tokenizer, FORM)))
        assert longest <= 60
        return len(train), len(heldout)

    assert find(on_long="drop", on_bad="drop") == (15, 5)
    with pytest.raises(ValueError, match=r"1 of 22 questions have more than sampling\.max-prompt-tokens = 60 tokens"):
        find(on_bad="drop")
    with pytest.raises(ValueError, match="1 of 22 questions have answers of which nobody can tell"):
        find(on_long="drop")
    with pytest.raises(ValueError, match="no questions are named"):
        find(sources=())
    file.write_text(file.read_text().splitlines()[-1] + "\n")
    with pytest.raises(ValueError, match=r"no question is left: 0 are longer .* and 1 have answers"):
        find(on_bad="drop")


def test_prompts_are_the_users_turn_with_the_instruction(tokenizer: Tokenizer, file: Path) -> None:
    asked = QuestionOptions(sources=(str(file),), heldout=0, on_bad="drop", on_long="drop")
    train, _ = find_questions(asked, tokenizer, FORM, limit=60, named="")
    text = tokenizer.decode(encode([train[0]], tokenizer, FORM)[0], skip_special=False)
    assert text == "<bos><start_of_turn>user\nThink.\n\nWhat is 0 + 1?<end_of_turn>\n<start_of_turn>model\n"
