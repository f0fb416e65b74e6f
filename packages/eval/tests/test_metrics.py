"""Metrics: against brute force, in coverage, in time, and what is refused or pointed out."""

import itertools
import json
import math
import time
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coldforge.eval.intervals import share
from coldforge.eval.metrics import accuracy, by_category, lengths, maj_at_k, pass_at_k, rate, signal

BOOLS = st.lists(st.lists(st.booleans(), min_size=1, max_size=8), min_size=1, max_size=8)


def test_accuracy_counts_questions_alike():
    found = accuracy([[True, False, False, False], [True]])
    assert (found.value, found.n, found.samples) == (0.625, 2, 5)
    assert accuracy([]).n == 0


@given(BOOLS, st.integers(1, 8))
def test_pass_at_k_is_the_part_of_all_choices_of_k_that_have_a_right_one(correct, k):
    k = min(k, *map(len, correct))
    parts = [
        Fraction(sum(any(chosen) for chosen in itertools.combinations(some, k)), math.comb(len(some), k))
        for some in correct
    ]
    assert pass_at_k(correct, k).value == pytest.approx(float(sum(parts) / len(parts)), abs=1e-12)


def test_pass_at_1_is_the_accuracy_and_many_samples_do_not_overflow():
    correct = np.random.default_rng(0).random((50, 64)) < 0.2
    assert pass_at_k(correct.tolist(), 1).low == pytest.approx(accuracy(correct.tolist()).low, abs=1e-12)
    found = pass_at_k([[True] * 3 + [False] * 9997], 100)
    assert found.value == pytest.approx(1 - math.comb(9997, 100) / math.comb(10_000, 100), abs=1e-12)


def test_the_interval_of_pass_at_k_covers_the_chance_of_new_samples():
    """Eight samples of 20 questions, pass@4; the truth from the questions' own chances."""
    rng = np.random.default_rng(0)
    true = np.mean(1 - (1 - rng.beta(0.2, 0.8, 1_000_000)) ** 4)
    held = 0
    for _ in range(2000):
        correct = rng.random((20, 8)) < rng.beta(0.2, 0.8, 20)[:, None]
        found = pass_at_k(correct.tolist(), 4)
        held += found.low <= true <= found.high
    assert held / 2000 >= 0.94


def brute_majority(texts, rights) -> tuple[float, int]:
    """Every way of drawing a winner among the most frequent, all alike."""
    votes = Counter(text for text in texts if text is not None)
    if not votes:
        return 0.0, 0
    winners = [text for text, count in votes.items() if count == max(votes.values())]
    return sum(dict(zip(texts, rights, strict=True))[text] for text in winners) / len(winners), len(winners)


@given(st.lists(st.lists(st.sampled_from(["1", "2", "3", None]), min_size=1, max_size=9), min_size=1, max_size=6))
def test_maj_is_brute_force(answers):
    correct = [[text == "1" for text in some] for some in answers]
    found = maj_at_k(answers, correct)
    results = [brute_majority(*pair) for pair in zip(answers, correct, strict=True)]
    assert found.estimate.value == pytest.approx(np.mean([value for value, _ in results]))
    assert found.ties == pytest.approx(np.mean([winners > 1 for _, winners in results]))
    assert found.empty == pytest.approx(np.mean([winners == 0 for _, winners in results]))


def test_answers_that_are_the_same_vote_together():
    answers = [["1/2", "0.5", "3", "3", "3", ".5", "0.50"]]
    correct = [[True, True, False, False, False, True, True]]
    assert maj_at_k(answers, correct).estimate.value == 0
    same = maj_at_k(answers, correct, same=lambda a, b: Fraction(a) == Fraction(b))
    assert same.estimate.value == 1
    assert same.ties == 0


def test_each_new_text_is_compared_once():
    asked = []

    def same(a, b):
        asked.append((a, b))
        return False

    maj_at_k([["1", "2", "1", "2", "3"] * 20], [[False] * 100], same=same)
    assert asked == [("1", "2"), ("1", "3"), ("2", "3")]


def test_a_tie_is_worth_its_mean_and_said():
    found = maj_at_k([["1", "2", "2", "1"], ["1", "2", "3", "1"]], [[True, False, False, True]] * 2)
    assert (found.estimate.value, found.ties) == (0.75, 0.5)
    assert found.text.endswith(", 50 % tied")
    assert json.loads(json.dumps(found.to_dict()))["ties"] == 0.5


def test_the_same_answer_in_a_wrong_form_is_worth_its_part():
    """Two of three votes for "1" were right; the third had the answer, not the form."""
    assert maj_at_k([["1", "1", "1", "2"]], [[True, True, False, False]]).estimate.value == pytest.approx(2 / 3)


def test_maj_at_fewer_votes_takes_groups_in_order():
    answers = [["1", "1", "2", "2", "1", "2", "2"]]  # 1 1 2 | 2 1 2 | and one left over
    found = maj_at_k(answers, [[text == "1" for text in answers[0]]], k=3)
    assert found.estimate.value == 0.5
    assert found.k == 3


def test_rates_leave_out_what_is_not_known():
    found = rate([[True, None, False], [None, None], [True]])
    assert (found.value, found.n, found.samples) == (0.75, 2, 3)
    assert rate([[None]]).n == 0


def test_lengths_are_of_samples_by_right_and_wrong():
    found = lengths([[10, 20], [30, 100, 40]], [[True, False], [True, True, False]])
    assert found.all.value == 40
    assert found.right.value == pytest.approx(140 / 3)
    assert found.wrong.value == 30
    assert found.right.text.startswith("47 tokens (")
    nothing = lengths([[10], [20]], [[False], [False]])
    assert nothing.right.n == 0
    json.dumps(nothing.to_dict(), allow_nan=False)


def test_categories_come_in_their_order():
    found = by_category(["b", "a", "b"], [[True], [False], [False, False]])
    assert list(found) == ["b", "a"]
    assert found["b"] == accuracy([[True], [False, False]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: accuracy([[True], []]), "question 1 has no samples"),
        (lambda: pass_at_k([[True] * 4, [True] * 2], 4), "question 1 has 2 samples; pass@4 needs at least 4"),
        (lambda: pass_at_k([[True]], 0), "k is 0; wanted at least 1"),
        (lambda: maj_at_k([["1"], ["1"]], [[True], [True, False]]), "do not have the same numbers of samples"),
        (lambda: maj_at_k([["1"]], [[True]], k=2), "k is 2, the fewest samples of a question are 1"),
        (lambda: lengths([[1]], [[True, True]]), "wanted one length for each"),
        (lambda: by_category(["a"], [[True], [True]]), "1 categories for 2 questions"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("found", "chance", "words"),
    [
        (share([1, 0] * 15), 0.0, ["30 questions", "± 19 points"]),
        (share([1, 0, 0, 0] * 250), 0.25, ["25.0 % cannot be told from guessing (25 %): no signal"]),
        (share([1, 0, 0, 0, 0] * 200), 0.25, ["20.0 % is below what guessing gets"]),
        (share([0] * 500), 0.0, ["No answer is right"]),
        (share([1] * 500), 0.0, ["Every answer is right"]),
        (share([]), 0.25, ["There are no questions"]),
        (share([1, 0, 0] * 300), 0.25, []),
    ],
)
def test_signal(found, chance, words):
    warnings = signal(found, chance=chance)
    assert bool(warnings) == bool(words)
    for word in words:
        assert word in " ".join(warnings)


@pytest.mark.parametrize(("questions", "samples"), [(100_000, 1), (1562, 64)])
def test_100_000_samples_take_less_than_two_seconds(questions, samples):
    rng = np.random.default_rng(0)
    correct = (rng.random((questions, samples)) < 0.4).tolist()
    tokens = rng.integers(1, 1000, (questions, samples)).tolist()
    answers = [[str(number % 7) for number in some] for some in tokens]
    started = time.process_time()
    accuracy(correct)
    rate(correct)
    pass_at_k(correct, samples)
    maj_at_k(answers, correct)
    lengths(tokens, correct)
    by_category([place % 50 for place in range(questions)], correct)
    assert time.process_time() - started < 2
