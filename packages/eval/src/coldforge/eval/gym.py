"""Suites of reasoning-gym's tasks with fixed seeds: evaluation that needs no download.

A suite is a list of tasks, asked as many questions each; its questions' categories are the tasks. Chosen are tasks that
are made in milliseconds, do not depend on the order of Python's sets, and have answers of a line or two. The seed is
not that of training: `coldforge.data.open_questions` makes other questions of its default, 0, than come from here.
"""

from coldforge.data.questions import open_questions
from coldforge.data.records import Question

SEED = 2025_11
"""Added to a task's seed, so that evaluation asks what training did not ask."""

COUNT = 20
"""Questions of each task of a suite, unless a spec says how many."""

SUITES: dict[str, tuple[str, ...]] = {
    "arithmetic": (
        "basic_arithmetic", "chain_sum", "decimal_arithmetic", "fraction_simplification", "gcd", "gsm_symbolic", "lcm",
        "leg_counting", "number_format", "products", "time_intervals",
    ),
    "algebra": ("complex_arithmetic", "polynomial_equations", "simple_equations", "simple_integration"),
    "logic": ("aiw", "circuit_logic", "knights_knaves", "propositional_logic", "syllogism"),
    "text": (
        "caesar_cipher", "letter_counting", "number_sorting", "spell_backward", "string_manipulation",
        "word_sequence_reversal", "word_sorting",
    ),
    "puzzles": ("countdown", "family_relationships", "maze", "mini_sudoku", "number_sequence", "puzzle24"),
}  # fmt: skip


def suite_questions(name: str, count: int, seed: int) -> tuple[Question, ...]:
    """Makes a suite's questions, task by task.

    Raises:
        ValueError: There is no such suite, or the count is less than 1.
        ModuleNotFoundError: reasoning-gym is not installed.
    """
    if name not in SUITES:
        raise ValueError(f"there is no suite {name!r}; there are {', '.join(SUITES)}.")
    if count < 1:
        raise ValueError(f"gym:{name}:{count} asks {count} questions of each task; wanted at least 1.")
    return gym_questions([f"{task}:{count}" for task in SUITES[name]], seed)


def gym_questions(specs: list[str], seed: int) -> tuple[Question, ...]:
    """Makes the questions of reasoning-gym tasks, as `coldforge.data.open_questions` reads their specs.

    A task that has few questions may make one twice; it is asked once.

    Raises:
        ValueError: A task or an option is unknown, or the seed is negative.
        ModuleNotFoundError: reasoning-gym is not installed.
    """
    if seed < 0:
        raise ValueError(f"the seed is {seed}; wanted 0 or more.")
    found: dict[str, Question] = {}
    for question in open_questions(specs, seed=SEED + seed):
        meta = {**question.meta, "category": question.meta["task"]}
        found.setdefault(
            question.id,
            Question(question.id, question.text, question.answer, question.kind, question.source, meta),
        )
    return tuple(found.values())
