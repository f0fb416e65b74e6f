"""The nano corpus: nothing that later stages ask about is in it; and the vocabulary keeps Gemma's conventions."""

import itertools
import re

import pytest

from coldforge.data import Tokenizer
from coldforge.data.tokens import Part
from coldforge.nano import problems, split_of

from nano_corpus import WEIGHTS, documents
from nano_examples import Examples, encode
from nano_vocabulary import train

SUM = "State the final answer to the following arithmetic problem: {} ="
LEGS = (
    "Your task is to count how many legs there are in total when given a list of animals.\n\n"
    "Now, how many legs are there in total if you have {}?"
)
SUMS = re.compile(r"\d+(?: [+-] \d+){2,}")
LISTS = re.compile(r"\d [a-z]+(?: [a-z]+)?(?:, \d [a-z]+(?: [a-z]+)?)+")


@pytest.fixture(scope="module")
def made():
    return list(documents(1500, seed=3))


@pytest.fixture(scope="module")
def tokenizer(made, tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.model"
    path.write_bytes(train((line for one in made for line in one.text.split("\n") if line), 600))
    return Tokenizer.load(path)


def test_the_questions_are_found_as_they_are_asked():
    """Else the next test would look for what is not there."""
    for one in itertools.islice(problems("heldout", 0), 30):
        template, pattern = (SUM, SUMS) if one.task == "chain_sum" else (LEGS, LISTS)
        assert one.question == template.format(one.subject)
        assert pattern.fullmatch(one.subject)


def test_only_questions_of_the_split_for_pretraining_occur(made):
    found = 0
    for one in made:
        for template, pattern in ((SUM, SUMS), (LEGS, LISTS)):
            for subject in pattern.findall(one.text):
                assert split_of(template.format(subject)) == "pretrain", one
                found += 1
    assert found > 500
    assert {one.kind for one in made} == set(WEIGHTS)


def test_documents_follow_from_the_seed(made):
    assert list(documents(20, seed=3)) == made[:20] != list(documents(20, seed=4))


def test_the_vocabulary_is_of_gemmas_kind(tokenizer):
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id, tokenizer.unk_id) == (0, 1, 2, 3)
    assert [tokenizer.token(i) for i in tokenizer.encode("98 + 9 = 107\n")] == [
        "9", "8", "▁+▁", "9", "▁=▁", "1", "0", "7", "\n"
    ]  # fmt: skip
    assert tokenizer.start_of_turn_id not in tokenizer.encode("<start_of_turn>")
    for text in ("é → 日本", "<reasoning>\n12 - 5 = 7\n</reasoning>"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_what_nothing_foretells_is_not_learned(made, tokenizer):
    facts, asked = (next(one for one in made if one.kind == kind) for kind in ("facts", "asked"))
    example = encode(facts, tokenizer)
    learned = tokenizer.decode(example.ids[example.parts > 0].tolist())
    assert learned == "\n".join(line.partition(" = ")[2] for line in facts.text.split("\n"))
    example = encode(asked, tokenizer)
    assert tokenizer.decode(example.ids[example.parts == Part.ANSWER].tolist()) == asked.reply


def test_examples_come_back_from_their_file(made, tokenizer, tmp_path):
    examples = Examples.of(iter(made[:50]), tokenizer, 3)
    examples.save(tmp_path / "corpus.npz")
    again = Examples.load(tmp_path / "corpus.npz", 3)
    assert again.hash == examples.hash
    assert len(again) == 50
    for index in range(50):
        assert again[index].ids.tolist() == examples[index].ids.tolist() == encode(made[index], tokenizer).ids.tolist()
        assert again[index].parts.tolist() == examples[index].parts.tolist()
