r"""Problems that a very small model can learn to work out: sums of several numbers, and legs of several animals.

Questions and answers are reasoning-gym's (tasks `chain_sum` and `leg_counting`). What is added are two ways to a
solution: worked, one small fact a line, and quick, the result in one go:

    98 + 93 - 77    worked: "98 + 93 = 191\n191 - 77 = 114"      quick: "98 + 93 - 77 = 114"

Sums alone, longer or shorter ones, are there for models that are not made for this family. Problems with a partial
result below 0 or above 199 are left out, so that there are few enough small facts for a model
of a million parameters to know them. `problems` gives those of a split, each text once, in an order that follows from
split and seed alone. Item i of reasoning-gym is drawn from `seed + i`, so that neighbouring seeds give almost the same
items: the seed is hashed first.
"""

import functools
import hashlib
import importlib
import itertools
import re
import types
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from coldforge.nano.splits import Split, split_of

TASKS: Mapping[str, Mapping[str, int]] = {
    "chain_sum": {"min_terms": 3, "max_terms": 4, "min_digits": 2, "max_digits": 2},
    "leg_counting": {"min_animals": 2, "max_animals": 3, "min_instances": 1, "max_instances": 9},
}
TURNS = ("chain_sum", "chain_sum", "leg_counting")
"""Whose turn it is: two sums, then animals."""

HIGHEST = 199
"""Of partial results; the lowest is 0."""

_ENDLESS = 2**40  # items of a task; made one at a time, when they are asked for
_NO_MORE = 20_000  # items in a row without a new one, of which one in five is of a split


@dataclass(frozen=True)
class Problem:
    """A question with its answer, and two ways to it.

    Attributes:
        task: Of reasoning-gym.
        question: Its text.
        answer: A whole number, in digits.
        steps: The worked way, a line for each step; the last one ends with the answer.
        quick: The quick way, in one line.
        terms: How many numbers, or animals, there are: the more, the harder.
        subject: What the question is about: the expression, or the list of animals.
    """

    task: str
    question: str
    answer: str
    steps: tuple[str, ...]
    quick: str
    terms: int
    subject: str

    @property
    def results(self) -> list[int]:
        """What the steps come to, one by one."""
        return [int(step.rpartition(" = ")[2]) for step in self.steps]


def problems(split: Split, seed: int, sums: Mapping[str, int] | None = None) -> Iterator[Problem]:
    """The problems of a split, no text twice.

    Args:
        split: Other splits have none of their texts (`split_of`).
        seed: 0 or more; another one gives another order, and other problems first.
        sums: Sums alone, with these options of `chain_sum`; None: the family of the embedded model, endless.

    Raises:
        ValueError: The seed is negative; a solution does not come to reasoning-gym's own answer; there are no more.
    """
    if seed < 0:
        raise ValueError(f"the seed is {seed}; wanted 0 or more.")
    tasks, turns = (TASKS, TURNS) if sums is None else ({"chain_sum": sums}, ("chain_sum",))
    items = {task: _items(task, tasks[task], seed) for task in turns}
    seen: set[str] = set()
    for count, task in enumerate(itertools.cycle(turns)):
        for item in itertools.islice(items[task], _NO_MORE):
            question = item["question"].strip()
            if split_of(question) != split or question in seen:
                continue
            seen.add(question)
            problem = _problem(task, question, item)
            if all(0 <= result <= HIGHEST for result in problem.results):
                yield problem
                break
        else:
            raise ValueError(
                f"there are no more than about {count} such problems for {split} ({task}, {dict(tasks[task])}); wanted "
                "fewer, or larger ones"
            )


def sum_steps(expression: str) -> list[str]:
    """The steps of a sum from left to right.

    >>> sum_steps("98 + 93 - 77")
    ['98 + 93 = 191', '191 - 77 = 114']

    Raises:
        ValueError: It is not a sum of at least two whole numbers.
    """
    if not re.fullmatch(r"\d+( [+-] \d+)+", expression):
        raise ValueError(f"{expression!r} is no sum; wanted whole numbers with ' + ' or ' - ' between them.")
    first, *rest = expression.split()
    total, lines = int(first), []
    for sign, term in zip(rest[::2], rest[1::2], strict=True):
        result = total + int(sign + term)
        lines.append(f"{total} {sign} {term} = {result}")
        total = result
    return lines


def leg_steps(animals: Mapping[str, int], legs: Mapping[str, int]) -> list[str]:
    """The steps of counting legs: a product for each animal, then their sum from left to right.

    >>> leg_steps({"crab": 4, "butterfly": 1, "cat": 2}, {"crab": 10, "butterfly": 6, "cat": 4})
    ['4 * 10 = 40', '1 * 6 = 6', '2 * 4 = 8', '40 + 6 = 46', '46 + 8 = 54']
    """
    lines = [f"{count} * {legs[animal]} = {count * legs[animal]}" for animal, count in animals.items()]
    return lines + sum_steps(" + ".join(str(count * legs[animal]) for animal, count in animals.items()))


@functools.cache
def animal_legs() -> Mapping[str, int]:
    """How many legs each of reasoning-gym's animals has."""
    return types.MappingProxyType(_gym("reasoning_gym.arithmetic.leg_counting").ANIMALS)


def _problem(task: str, question: str, item: Mapping[str, Any]) -> Problem:
    answer, meta = item["answer"], item["metadata"]
    if task == "chain_sum":
        subject, terms = meta["expression"], meta["num_terms"]
        steps, quick = sum_steps(subject), f"{subject} = {answer}"
    else:
        subject, terms = question.rpartition("if you have ")[2].rstrip("?"), meta["num_animals"]
        steps, quick = leg_steps(meta["animals"], animal_legs()), f"{subject} = {answer}"
    if steps[-1].rpartition(" = ")[2] != answer:
        raise ValueError(f"{question!r}: the steps end with {steps[-1]!r}, reasoning-gym's answer is {answer!r}.")
    return Problem(task, question, answer, tuple(steps), quick, terms, subject)


def _items(task: str, options: Mapping[str, int], seed: int) -> Iterator[Mapping[str, Any]]:
    spread = int.from_bytes(hashlib.blake2b(f"{task} {seed}".encode(), digest_size=6).digest(), "big")
    made = _gym("reasoning_gym").create_dataset(task, size=_ENDLESS, seed=spread, **options)
    return (made[index] for index in itertools.count())


def _gym(name: str) -> Any:
    with warnings.catch_warnings():  # a package that it imports compares with `is`
        warnings.simplefilter("ignore", SyntaxWarning)
        return importlib.import_module(name)
