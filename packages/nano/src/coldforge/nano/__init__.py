"""A Gemma3 of 1.45 MB, and tasks that it can learn to reason about on two CPU cores. Needs no JAX."""

from coldforge.nano.model import DamagedError, model_dir
from coldforge.nano.problem import TASKS, Problem, problems
from coldforge.nano.rows import QUICK, write_cold_start, write_questions
from coldforge.nano.splits import SPLITS, Split, split_of

__all__ = [
    "QUICK",
    "SPLITS",
    "TASKS",
    "DamagedError",
    "Problem",
    "Split",
    "model_dir",
    "problems",
    "split_of",
    "write_cold_start",
    "write_questions",
]
