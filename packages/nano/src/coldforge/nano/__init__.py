"""A Gemma3 of a few megabytes, and tasks that it can learn to reason about on two CPU cores. Needs no JAX."""

from coldforge.nano.problem import TASKS, Problem, problems
from coldforge.nano.rows import QUICK, write_cold_start, write_questions
from coldforge.nano.splits import SPLITS, Split, split_of

__all__ = [
    "QUICK",
    "SPLITS",
    "TASKS",
    "Problem",
    "Split",
    "problems",
    "split_of",
    "write_cold_start",
    "write_questions",
]
