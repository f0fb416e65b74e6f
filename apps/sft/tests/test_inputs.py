"""What is wrong with what a run is given is found before JAX is imported, and named."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from coldforge.apps.sft.inputs import choose_prompts, find_inputs, prompt_ids
from coldforge.apps.sft.main import parse
from coldforge.data import AnswerKind, Record, Split, Tokenizer, open_dataset, tokenize, write_dataset

Find = Callable[..., object]


@pytest.fixture
def find(data: Path, tokenizer: Path, tmp_path: Path) -> Find:
    def with_options(*more: str) -> object:
        line = ["tiny", "--data", str(data), "--tokenizer", str(tokenizer), "--run", str(tmp_path / "run"), *more]
        return find_inputs(parse(line))

    return with_options


def test_what_fits_is_found(find: Find) -> None:
    inputs = find()
    assert len(inputs.prompts) == 16
    assert inputs.weights is None
    assert inputs.tokenizer.vocab_size == 340


def test_prompts_are_the_same_every_time_and_what_training_saw(data: Path, tokenizer: Path) -> None:
    heldout, loaded = open_dataset(data).heldout, Tokenizer.load(tokenizer)
    some = choose_prompts(heldout, 5)
    assert [one.index for one in some] == [one.index for one in choose_prompts(heldout, 5)]
    assert [one.index for one in choose_prompts(heldout, 9)][:5] == [one.index for one in some]
    assert len(choose_prompts(heldout, 1000)) == 20
    asked = loaded.decode(prompt_ids(some[0]), skip_special=False)
    assert asked.startswith("<bos><start_of_turn>user\nThink, then answer.\n\nWhat is ")
    assert asked.endswith("<end_of_turn>\n<start_of_turn>model\n")


@pytest.mark.parametrize(
    ("more", "error", "said"),
    [
        (["--data", "nowhere"], FileNotFoundError, "nowhere holds no data set"),
        (["--tokenizer", "nowhere"], FileNotFoundError, "There is no nowhere"),
        (["--weights", "nowhere"], FileNotFoundError, "nothing at nowhere"),
        (["--batches.seq-len", "51"], ValueError, r"\d+ of 80 train examples have more than .* 51 .*seq-len 5\d"),
        (
            ["--gate.min-prompts", "17"],
            ValueError,
            r"min-prompts = 17 prompts, and there are 16 \(gate.prompts is 16\): 16 prompts show .* ±24 points",
        ),
        (["--gate.max-new-tokens", "20"], ValueError, r"16 of 16 held-out replies .*Pass --gate.max-new-tokens 2\d"),
        (["--batches.answer-weight", "0"], ValueError, "neither answers nor <end_of_turn>"),
        (["--model.size", "1b"], FileNotFoundError, "a 1b needs weights: --weights PATH"),
    ],
)
def test_what_is_wrong_is_named(find: Find, more: list[str], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        find(*more)


def test_a_random_model_needs_a_tokenizer(data: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--tokenizer PATH"):
        find_inputs(parse(["tiny", "--data", str(data), "--run", "run"]))


def test_a_data_set_of_another_tokenizer_is_refused(find: Find, other_tokenizer: Path) -> None:
    with pytest.raises(ValueError, match=r"prepared with another tokenizer: .* 340 tokens.*this one has 330 tokens"):
        find("--tokenizer", str(other_tokenizer))


def test_rows_that_do_not_teach_what_they_say_are_refused_first(
    find: Find, data: Path, tokenizer: Path, tmp_path: Path
) -> None:
    """A prompt that is learnt would look like replies that are too long."""
    found = open_dataset(data)
    train, heldout = (
        [dataclasses.replace(one, parts=np.maximum(one.parts, np.uint8(1))) for one in split]
        for split in (found.train, found.heldout)
    )
    write_dataset(tmp_path / "bad", train, heldout, tokenizer=Tokenizer.load(tokenizer), form=found.form)
    with pytest.raises(ValueError, match="in 80 of 80 train rows looked at, tokens of the prompt have a loss weight"):
        find("--data", str(tmp_path / "bad"), "--gate.max-new-tokens", "20")


def test_answers_of_prose_are_refused_unless_they_are_meant(
    find: Find, data: Path, tokenizer: Path, tmp_path: Path
) -> None:
    found, loaded = open_dataset(data), Tokenizer.load(tokenizer)

    def told(record: Record) -> Record:
        answer = f"We add both of the numbers and so we come to the result {record.answer}."
        changed = dataclasses.replace(record.example, answer=answer, kind=AnswerKind.TEXT)
        return Record.of(changed, tokenize(changed, loaded, found.form))

    def split(of: Split, share: int) -> list[Record]:
        return [told(one) if number % 20 < share else one for number, one in enumerate(of)]

    write_dataset(tmp_path / "some", found.train, split(found.heldout, 8), tokenizer=loaded, form=found.form)
    find("--data", str(tmp_path / "some"))
    write_dataset(tmp_path / "most", found.train, split(found.heldout, 16), tokenizer=loaded, form=found.form)
    with pytest.raises(ValueError, match=r"the answers of \d+ of 16 held-out prompts are prose, as 'We add both of"):
        find("--data", str(tmp_path / "most"))
    find("--data", str(tmp_path / "most"), "--gate.prose", "1")


def test_help_and_refusals_do_not_import_jax(data: Path, tokenizer: Path) -> None:
    script = (
        "import sys; from coldforge.apps.sft.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as left: print(left.code, 'jax' in sys.modules)"
    )

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True)

    found = run("--help")
    assert found.stdout.endswith("0 False\n")
    assert "gemma3-27b" in found.stdout
    refused = run("tiny", "--data", str(data), "--tokenizer", str(tokenizer), "--run", "run", "--batches.seq-len", "9")
    assert refused.stdout == "2 False\n"
    assert refused.stderr.startswith(
        "coldforge-sft: 80 of 80 train examples have more than batches.seq-len = 9 tokens."
    )
