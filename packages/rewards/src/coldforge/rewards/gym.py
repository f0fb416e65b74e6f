"""Reasoning Gym's own scorers, for a process of the pool (the extra `reasoning-gym`; nothing else imports this).

A task there often has many right answers ("any path of length 5"), or gives part of the credit for an answer near the
right one.
"""

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any

with warnings.catch_warnings():  # a package that it imports compares with `is`
    warnings.simplefilter("ignore", SyntaxWarning)
    import reasoning_gym


def score(answer: str, task: str, entry: Mapping[str, Any]) -> float:
    """Returns what an answer is worth, 0 to 1.

    Args:
        answer: What was found in a reply.
        task: The data set's name, as "countdown".
        entry: The data set's item that was asked: "question", "answer", "metadata".
    """
    return float(_scorer(task)(answer, entry))


@functools.cache
def _scorer(task: str) -> Callable[[str, Mapping[str, Any]], float]:
    return reasoning_gym.get_score_answer_fn(task)
