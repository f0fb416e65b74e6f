"""Problems: reasoning-gym's own, worked rightly, and never in two splits."""

import itertools
import re

import pytest

from coldforge.nano import SPLITS, TASKS, problems, split_of
from coldforge.nano.problem import HIGHEST, TURNS, animal_legs, leg_steps, sum_steps

SOME = 400


@pytest.fixture(scope="module")
def by_split():
    return {split: list(itertools.islice(problems(split, 0), SOME)) for split in SPLITS}


def test_no_text_is_in_two_splits_whatever_the_seed(by_split):
    texts = {split: {one.question for one in some} for split, some in by_split.items()}
    for split in SPLITS:
        texts[split] |= {one.question for one in itertools.islice(problems(split, 7), SOME)}
        assert {split_of(text) for text in texts[split]} == {split}
    for first, second in itertools.combinations(SPLITS, 2):
        assert not texts[first] & texts[second]


def test_a_split_is_of_the_words_alone():
    text = "State the final answer to the following arithmetic problem: 98 + 93 - 77 ="
    assert split_of(text) == split_of(f"  {text.replace(' ', '  ')}\n")
    counts = dict.fromkeys(SPLITS, 0)
    for number in range(4000):
        counts[split_of(f"question {number}")] += 1
    for split, share in zip(SPLITS, (8, 3, 4, 1), strict=True):
        assert abs(counts[split] / 4000 - share / 16) < 0.04, split


def test_no_text_comes_twice_and_the_tasks_take_turns(by_split):
    for some in by_split.values():
        assert len({one.question for one in some}) == SOME
        assert [one.task for one in some[:6]] == [*TURNS, *TURNS]
        assert {one.task for one in some} == set(TASKS)


def test_steps_are_true_and_end_with_the_answer(by_split):
    for one in itertools.chain.from_iterable(by_split.values()):
        for step in one.steps:
            left, right = step.split(" = ")
            first, sign, second = re.fullmatch(r"(\d+) ([-+*]) (\d+)", left).groups()
            a, b = int(first), int(second)
            assert 0 <= int(right) <= HIGHEST
            assert int(right) == {"+": a + b, "-": a - b, "*": a * b}[sign]
        assert one.steps[-1].endswith(f" = {one.answer}")
        assert one.quick == f"{one.subject} = {one.answer}"
        assert one.subject in one.question


def test_answers_are_reasoning_gyms_own(by_split):
    import reasoning_gym

    scorers = {task: reasoning_gym.create_dataset(task, size=1, seed=0) for task in TASKS}
    for one in by_split["heldout"][:60]:
        entry = {"answer": one.answer, "question": one.question, "metadata": {}}
        assert scorers[one.task].score_answer(one.answer, entry) == 1.0
        assert scorers[one.task].score_answer(str(int(one.answer) + 1), entry) < 1.0


def test_the_same_seed_gives_the_same_problems():
    first, again, other = (list(itertools.islice(problems("rl", seed), 30)) for seed in (0, 0, 1))
    assert first == again
    assert not {one.question for one in first} & {one.question for one in other if one.terms > 3}
    with pytest.raises(ValueError, match="seed is -1; wanted 0 or more"):
        next(problems("rl", -1))


@pytest.mark.parametrize("text", ["7", "7 +", "7 * 8", "1.5 + 2", "seven + 8", ""])
def test_what_is_no_sum_is_refused(text):
    with pytest.raises(ValueError, match="is no sum; wanted whole numbers"):
        sum_steps(text)


def test_a_solution_that_does_not_come_to_the_answer_is_refused(monkeypatch):
    monkeypatch.setattr("coldforge.nano.problem.sum_steps", lambda expression: [f"{expression} = 1000"])
    with pytest.raises(ValueError, match=r"the steps end with '.* = 1000', reasoning-gym's answer is '-?\d+'"):
        next(problems("rl", 0))


def test_legs():
    assert animal_legs()["crab"] == 10
    assert leg_steps({"snake": 3, "cat": 2}, animal_legs()) == ["3 * 0 = 0", "2 * 4 = 8", "0 + 8 = 8"]


def test_sums_alone_of_another_length():
    short = {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 2}
    some = list(itertools.islice(problems("heldout", 0, short), SOME))
    assert {one.task for one in some} == {"chain_sum"}
    assert {one.terms for one in some} == {2, 3}
    assert len({one.question for one in some}) == SOME
    assert {split_of(one.question) for one in some} == {"heldout"}


def test_a_family_that_is_used_up_is_named():
    few = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    with pytest.raises(
        ValueError, match=r"no more than about \d+ such problems for heldout \(chain_sum, {'min_terms': 2"
    ):
        list(problems("heldout", 0, few))
