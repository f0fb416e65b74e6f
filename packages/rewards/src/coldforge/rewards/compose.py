"""Rewards together: a weighted sum whose parts are reported one by one.

    rewards = Rewards([Weighted("accuracy", 1.0, Accuracy()), Weighted("format", 1.0, FormatStrict())], Grader(form))
    rewards.score(responses)                # [Score(total=2.0, parts={"accuracy": 1.0, "format": 1.0}, notes={…}), …]

A reward that raises, returns too few values, no number, NaN or infinity, or does not return, ends in a `RewardError`
that names the reward and shows the reply: a reward that is quietly taken for 0 teaches the opposite of what was meant.
"""

import math
import numbers
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from coldforge.rewards.grader import Grader
from coldforge.rewards.replies import Judged, Response, Score
from coldforge.rewards.rules import Reward


class RewardError(RuntimeError):
    """A reward failed. The message names it and shows the reply: `response`, None where it is not known which."""

    def __init__(self, reward: str, problem: str, response: Response | None, number: int | None = None) -> None:
        shown = "" if response is None else "\n" + _show(response, number)
        super().__init__(f"the reward {reward!r} {problem}{shown}")
        self.reward = reward
        self.response = response


class Weighted(NamedTuple):
    """A reward with its name and its weight in the total."""

    name: str
    weight: float
    function: Reward


@dataclass(frozen=True)
class Rewards:
    """Scores replies.

    Attributes:
        parts: The rewards. One of weight 0 is reported and does not count.
        grader: Finds answers and compares them.
        seconds: How long the grader, or one reward, may take for one call; a check within the grader has the pool's own
            limit, which costs one reply and not the run. None: for ever.
    """

    parts: Sequence[Weighted]
    grader: Grader
    seconds: float | None = 600.0

    def __post_init__(self) -> None:
        """Raises ValueError: no rewards, two of one name, a weight that is no number."""
        names = [part.name for part in self.parts]
        if not names:
            raise ValueError("there are no rewards; wanted at least one.")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two rewards are called {twice[0]!r}; each is reported under its name.")
        for part in self.parts:
            if not _is_number(part.weight):
                raise ValueError(f"the weight of {part.name!r} is {part.weight!r}; wanted a finite number.")

    def score(self, responses: Sequence[Response]) -> list[Score]:
        """Scores replies, in order. May be called from several threads at once.

        Raises:
            RewardError: A reward failed, or the grader.
        """
        if not responses:
            return []
        judged = self._call("grader", self.grader.judge, responses)
        values = {part.name: self._values(part, judged) for part in self.parts}
        return [
            Score(
                total=math.fsum(part.weight * values[part.name][i] for part in self.parts),
                parts={name: column[i] for name, column in values.items()},
                notes={
                    "answer": reply.answer,
                    "verdict": None if reply.verdict is None else str(reply.verdict),
                    "correct": reply.correct,
                    "well_formed": reply.well_formed,
                    "detail": reply.detail,
                },
            )
            for i, reply in enumerate(judged)
        ]

    def _values(self, part: Weighted, judged: Sequence[Judged]) -> list[float]:
        found = self._call(part.name, part.function, judged)
        try:
            values = list(found)
        except TypeError:
            raise RewardError(
                part.name, f"returned {found!r:.80}; wanted a number for each reply.", judged[0], 0
            ) from None
        if len(values) != len(judged):
            raise RewardError(
                part.name,
                f"returned {len(values)} values for {len(judged)} replies; wanted one for each.",
                judged[0],
                0,
            )
        for i, value in enumerate(values):
            if not _is_number(value):
                raise RewardError(part.name, f"returned {value!r:.80}; wanted a finite number.", judged[i], i)
        return [float(value) for value in values]

    def _call(self, name: str, function: Callable[[Any], Any], replies: Sequence[Any]) -> Any:
        outcome = _in_time(function, replies, self.seconds)
        if outcome is None:
            raise RewardError(
                name,
                f"did not return within {self.seconds:g} s on {len(replies)} replies, the first of them shown.",
                replies[0],
                0,
            )
        result, error = outcome
        if error is None:
            return result
        i = self._culprit(function, replies, error)
        problem = f"raised {type(error).__name__}: {error}"
        raise RewardError(name, problem, None if i is None else replies[i], i) from error

    def _culprit(self, function: Callable[[Any], Any], replies: Sequence[Any], error: BaseException) -> int | None:
        """Which reply alone gives the same kind of error."""
        for i, reply in enumerate(replies):
            outcome = _in_time(function, [reply], self.seconds)
            if outcome is None or (outcome[1] is not None and type(outcome[1]) is type(error)):
                return i
        return None


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and math.isfinite(float(value))


def _in_time(
    function: Callable[[Any], Any], replies: Sequence[Any], seconds: float | None
) -> tuple[Any, BaseException | None] | None:
    """What a function returned and raised; None: it takes too long.

    It is then left behind, in a thread that dies with the program.
    """
    outcome: list[tuple[Any, BaseException | None]] = []

    def call() -> None:
        try:
            outcome.append((function(replies), None))
        except BaseException as error:  # handed to the caller
            outcome.append((None, error))

    if seconds is None:
        call()
    else:
        thread = threading.Thread(target=call, name="reward", daemon=True)
        thread.start()
        thread.join(seconds)
    return outcome[0] if outcome else None


def _show(response: Response, number: int | None) -> str:
    """A reply for people: all of what it was, its middle left out if it is long."""
    text = response.text if len(response.text) <= 1200 else f"{response.text[:600]}\n[…]\n{response.text[-600:]}"
    where = "" if number is None else f" {number}"
    ended = "ended" if response.ended else "cut off"
    return (
        f"--- reply{where}: {response.tokens} tokens, {ended}; right answer: {response.gold!r:.200}; "
        f"meta: {', '.join(response.meta) or 'none'}\n--- question: {response.question[:600]}\n{text}\n---"
    )
