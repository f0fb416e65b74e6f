r"""Rows as the stages read them, in JSONL: worked ones for a cold start, questions to practise on, questions held out.

    {"question": "…: 98 + 93 - 77 =", "solution": "98 + 93 = 191\n191 - 77 = 114\n#### 114", "answer": "114"}
    {"question": "…: 98 + 93 - 77 =", "answer": "114", "task": "chain_sum", "terms": 3}

The cold start's solutions are of two kinds, as people's are: some work the problem out, some write the result down in
one go, which is more than the model can do well. Both have the form. So the cold start teaches the form and some skill,
and which of the two ways pays is left to be found out by reinforcement learning.
"""

import itertools
import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path

from coldforge.nano.problem import Problem, problems
from coldforge.nano.splits import Split

Row = Mapping[str, str | int]

QUICK = 0.5
"""Share of the cold start's solutions that are quick."""


def write_cold_start(
    path: Path, count: int, *, seed: int = 0, quick: float = QUICK, sums: Mapping[str, int] | None = None
) -> Path:
    """Writes rows with question, solution and answer, of the split "cold-start".

    Args:
        path: Where to; its directory is made. A file that is there is replaced, when the new one is whole.
        count: How many rows.
        seed: The same seed writes the same bytes.
        quick: Share of the solutions that are quick, from 0 to 1.
        sums: As for `problems`.

    Returns:
        The path.

    Raises:
        ValueError: `count` is less than 1 or more than there are, the seed is negative, or `quick` is no share.
    """
    if not 0 <= quick <= 1:
        raise ValueError(f"quick is {quick}; wanted a share from 0 to 1.")
    chance = random.Random(f"cold start {seed}")  # noqa: S311 (no secret)
    rows = (_worked(problem, chance.random() < quick) for problem in problems("cold-start", seed, sums))
    return _write(path, rows, count)


def write_questions(
    path: Path, count: int, *, split: Split = "rl", seed: int = 0, sums: Mapping[str, int] | None = None
) -> Path:
    """Writes rows with question and answer, and with task and terms to tell easy ones from hard ones.

    Args:
        path: As for `write_cold_start`.
        count: How many rows.
        split: "rl" to practise on, "heldout" to be asked at the end.
        seed: The same seed writes the same bytes.
        sums: As for `problems`.

    Returns:
        The path.

    Raises:
        ValueError: `count` is less than 1 or more than there are, or the seed is negative.
    """
    return _write(path, map(_asked, problems(split, seed, sums)), count)


def _asked(problem: Problem) -> Row:
    return {
        "question": problem.question,
        "answer": problem.answer,
        "task": problem.task,
        "terms": problem.terms,
    }


def _worked(problem: Problem, quick: bool) -> Row:
    lines = [problem.quick] if quick else problem.steps
    solution = "\n".join([*lines, f"#### {problem.answer}"])
    return {"question": problem.question, "solution": solution, "answer": problem.answer}


def _write(path: Path, rows: Iterable[Row], count: int) -> Path:
    if count < 1:
        raise ValueError(f"the count is {count}; wanted at least 1 row.")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in itertools.islice(rows, count))
    partial.replace(path)
    return path
