"""Stored samples are found by what became of them."""

import pytest

from coldforge.eval.records import Graded
from coldforge.eval.show import KINDS, find_samples, in_words, sample_text
from coldforge.eval.store import line_of


def sample(number, right=False, **values):
    given = {
        "task": "sums", "question": "abc", "category": "x", "text": "…12", "tokens": 1234, "ended": True,
        "extracted": "12", "gold": "14", "verdict": "right" if right else "wrong", "well_formed": True,
    }  # fmt: skip
    return Graded(number=number, correct=right, **given | values)


SAMPLES = [
    sample(0, prompt=({"role": "user", "content": "7 + 7?"},)),
    sample(1, right=True, extracted="14"),
    sample(2, ended=False, extracted=None, verdict="no answer", well_formed=False),
    sample(3, extracted=None, verdict="no answer", well_formed=None),
    sample(4, verdict="timeout", why="5 s"),
    sample(0, question="abd", category="y", prompt="raw"),
    sample(0, task="other", question="x", gold=None, extracted="z", right=True),
]


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "samples.jsonl").write_bytes(b"".join(map(line_of, SAMPLES)) + b'{"torn')
    return tmp_path


@pytest.mark.parametrize(
    ("filters", "places"),
    [
        ({}, range(7)),
        ({"kinds": ["wrong"]}, [0, 2, 3, 4, 5]),
        ({"kinds": ["right"]}, [1, 6]),
        ({"kinds": ["truncated"]}, [2]),
        ({"kinds": ["unparsable"]}, [2, 3]),
        ({"kinds": ["malformed"]}, [2]),
        ({"kinds": ["unchecked"]}, [4]),
        ({"kinds": ["wrong", "unparsable"], "task": "sums"}, [2, 3]),
        ({"task": "other"}, [6]),
        ({"category": "y"}, [5]),
        ({"question": "ab"}, [0, 1, 2, 3, 4, 5]),
        ({"question": "abd"}, [5]),
    ],
)
def test_filters(directory, filters, places):
    assert [each for each, _ in find_samples(directory, **filters)] == [SAMPLES[place] for place in places]


def test_each_comes_with_its_prompt(directory):
    prompts = [prompt for _, prompt in find_samples(directory, kinds=["wrong"])]
    assert prompts == [SAMPLES[0].prompt] * 4 + ["raw"]


def test_what_is_not_there_is_named(directory, tmp_path):
    with pytest.raises(ValueError, match=f"no kind 'bad'; there are {', '.join(KINDS)}"):
        find_samples(directory, kinds=["bad"])
    with pytest.raises(FileNotFoundError, match="wanted a directory of an evaluation"):
        find_samples(tmp_path / "none")


def test_words():
    assert [in_words(each) for each in SAMPLES] == [
        "wrong: 12, wanted 14; 1,234 tokens",
        "right: 14, wanted 14; 1,234 tokens",
        "wrong: no answer, wanted 14; 1,234 tokens, cut off, not in form",
        "wrong: no answer, wanted 14; 1,234 tokens",
        "timeout: 12, wanted 14; 1,234 tokens; 5 s",
        "wrong: 12, wanted 14; 1,234 tokens",
        "right: z; 1,234 tokens",
    ]
    text = sample_text(SAMPLES[0], SAMPLES[0].prompt)
    assert text.splitlines() == [
        "── sums abc #0 · x", "7 + 7?", "── reply", "…12", "── wrong: 12, wanted 14; 1,234 tokens",
    ]  # fmt: skip
