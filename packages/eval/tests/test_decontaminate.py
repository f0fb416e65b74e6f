"""Decontamination: against brute force and data's own filter, in what it names, in memory, and what it refuses."""

import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coldforge.data.filters import Decontamination
from coldforge.data.ngrams import words
from coldforge.data.records import AnswerKind, Example, Question, Refusal, Row
from coldforge.eval.decontaminate import Item, items_of, overlap

pytestmark = pytest.mark.whole

SECRET = (
    "A train leaves the station at noon and travels north at sixty miles an hour until it meets "
    "another one that left two hours later on the same track from the other end"
)


def covered(text: str, training: list[str], n: int) -> list[bool]:
    """Which words of a text stand in a run that some training text has, by brute force."""
    seen = {tuple(some[i : i + n]) for some in map(words, training) for i in range(len(some) - n + 1)}
    own = words(text)
    marks = [False] * len(own)
    for i in range(len(own) - n + 1):
        if tuple(own[i : i + n]) in seen:
            marks[i : i + n] = [True] * n
    return marks


TEXTS = st.lists(st.sampled_from("abc"), min_size=3, max_size=12).map(" ".join)


@settings(max_examples=100)
@given(st.lists(TEXTS, min_size=1, max_size=5), st.lists(TEXTS, min_size=1, max_size=5))
def test_shares_passages_and_counts_are_brute_force(questions, training):
    found = overlap([Item(str(i), text) for i, text in enumerate(questions)], training, n=3)
    matches = {match.id: match for match in found.matches}
    for i, text in enumerate(questions):
        marks = covered(text, training, 3)
        if not any(marks):
            assert str(i) not in matches
            continue
        match = matches[str(i)]
        assert match.share == pytest.approx(sum(marks) / len(marks))
        assert match.rows == sum(any(covered(text, [row], 3)) for row in training)
        stretches = "".join("x" if mark else " " for mark in marks).split()
        assert len(match.passage.split()) == max(map(len, stretches))
        assert match.passage in text
        start = " ".join(match.passage.split()[:3])
        assert match.first == next(f"row {place}" for place, row in enumerate(training) if start in row)


def test_it_finds_what_datas_filter_drops_and_nothing_else():
    clean = " ".join(f"word{i}" for i in range(40))
    partly = f"{clean} Then, {' '.join(SECRET.split()[5:17])}. {clean[::-1]}"
    for text in (SECRET, SECRET.upper(), partly, clean, " ".join(SECRET.split()[:9]), f"Two plus two? {clean}"):
        example = Example("x", 0, text, "r", "a", AnswerKind.TEXT)
        dropped = Decontamination([SECRET, "Two plus two?"])(example) is not None
        found = overlap([Item("1", SECRET), Item("2", "Two plus two?")], [text])
        assert bool(found.matches) == dropped


def test_questions_and_solutions_are_told_apart_and_named_with_their_row():
    items = [
        Item("copied", SECRET, "The answer is 42."),
        Item("solved", "How long is the road?", f"Think. {SECRET}"),
        Item("clean", "What is the capital of the country that lies west of the one with the largest lake?"),
        Item("short", "Two plus two?"),
    ]
    rows = [
        Row("train.jsonl", 5, {"conversations": [{"from": "user", "value": "two + two"}, {"value": "plus"}], "n": 3}),
        Row("train.jsonl", 6, {"messages": ({"role": "user", "content": "TWO PLUS TWO!"},)}),
        Row("train.jsonl", 7, {"text": f"Once upon a time. {SECRET}. The answer is 42."}),
        Row("train.jsonl", 8, {"question": " ".join(SECRET.split()[4:20])}),
        Row("train.jsonl", 9, Refusal("bad-json", "cut off")),
    ]
    found = overlap(items, iter(rows), name="mine in train.jsonl")
    by_part = {(match.id, match.part): match for match in found.matches}
    assert by_part.keys() == {("copied", "question"), ("solved", "solution"), ("short", "question")}
    whole = by_part["copied", "question"]
    assert (whole.share, whole.rows, whole.first) == (1.0, 2, "train.jsonl, row 7")
    assert whole.passage == " ".join(words(SECRET))
    assert 0.9 < by_part["solved", "solution"].share < 1
    assert by_part["short", "question"].first == "train.jsonl, row 6"
    assert set(found.questions) == {"copied", "solved", "short"}
    assert (found.rows, found.unreadable, found.items) == (5, 1, 4)
    assert (
        "3 of 4 questions (75.0 %) share 10 words in a row with 5 training rows; 3 of them nearly whole" in found.text
    )
    assert "1 rows could not be read" in found.text
    assert "train.jsonl, row 7  a train leaves the station" in found.text


def test_a_quoted_passage_is_shown_as_such():
    filler = " ".join(f"w{i}" for i in range(100))
    found = overlap([Item("q", f"{filler} {SECRET} {filler}")], ["nothing here", f"… {SECRET}"])
    [match] = found.matches
    assert match.passage == " ".join(words(SECRET))
    assert match.share == pytest.approx(len(words(SECRET)) / (200 + len(words(SECRET))))
    assert found.whole == ()
    assert found.questions == ("q",)


def test_the_passage_is_found_in_the_row_that_has_its_beginning():
    own = SECRET.split()
    found = overlap([Item("q", SECRET)], [" ".join(own[12:28]), " ".join(own[:15])])
    assert [(match.first, match.rows) for match in found.matches] == [("row 1", 2)]


def test_an_instruction_that_questions_share_does_not_count():
    instruction = "Give the result as your final answer in a box and do not say anything else after it"
    items = [Item(str(i), f"Question number{i} about thing{i}. {instruction}") for i in range(40)]
    found = overlap(items, [instruction])
    assert found.matches == ()
    assert found.common > 0
    assert "runs that many of its texts share did not count" in found.text
    assert len(overlap(items[:10], [instruction]).matches) == 10  # too few to tell


def test_the_most_complete_come_first_and_the_rest_is_counted():
    items = [Item(f"q{i}", f"{SECRET} {' '.join(f'x{i}y{j}' for j in range(i))}") for i in range(30)]
    found = overlap(items, [SECRET], common=1.0)
    assert list(found.questions) == [f"q{i}" for i in range(30)]
    assert found.text.endswith("… and 10 more")


def test_stored_as_json():
    found = overlap([Item("q", SECRET)], [SECRET])
    stored = json.loads(json.dumps(found.to_dict()))
    assert stored["matches"][0]["id"] == "q"
    assert (stored["questions"], stored["whole"], stored["rows"]) == (1, 1, 1)


def test_solutions_come_from_the_questions_meta():
    questions = [
        Question("a", "How far?", "12", "number", "s", {"solution": "So far."}),
        Question("b", "How long?", "3", "number", "s"),
    ]
    assert items_of(questions) == [Item("a", "How far?", "So far."), Item("b", "How long?", "")]


def test_memory_does_not_grow_with_the_training_rows():
    """1,000 rows of 3 kB, of which every tenth has the question: 3 MB of text."""
    filler = " ".join(f"word{i}" for i in range(400))
    rows = ({"text": f"{number} {filler} {SECRET if number % 10 == 0 else ''}"} for number in range(1000))
    tracemalloc.start()
    found = overlap([Item("q", SECRET)], rows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.matches[0].rows == 100
    assert peak < 500_000


@pytest.mark.parametrize(
    ("items", "training", "message"),
    [
        ([], ["x"], "0 questions have no words"),
        ([Item("a", "?!")], ["x"], "1 questions have no words"),
        ([Item("a", "one"), Item("a", "two")], ["x"], "'a' occurs twice"),
        ([Item("a", "one")], [], "there are no training rows"),
    ],
)
def test_what_is_refused(items, training, message):
    with pytest.raises(ValueError, match=message):
        overlap(items, training)
