r"""Rewards by rule: functions from judged replies to numbers, one for each reply.

    accuracy = Accuracy(gate=True)          # 1 for a right answer in a well-formed reply
    accuracy(grader.judge(responses))       # [1.0, 0.0, …]

Each is a frozen object, so that a run can write down what it was rewarded for. Lengths are in tokens, never in
characters. `each` makes such a reward of a function of one reply. Language consistency is in `language`, composition in
`compose`.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coldforge.rewards.replies import Form, Judged, Verdict

type Reward = Callable[[Sequence[Judged]], Sequence[float]]


class ByReply:
    """A reward that looks at one reply at a time."""

    def of(self, reply: Judged) -> float:
        """One reply's."""
        raise NotImplementedError

    def __call__(self, replies: Sequence[Judged]) -> list[float]:
        return [self.of(reply) for reply in replies]


@dataclass(frozen=True)
class each(ByReply):  # noqa: N801 - used as a decorator
    """Makes a reward of a function of one reply.

    >>> @each
    ... def brief(reply):
    ...     return float(reply.tokens < 100)
    >>> brief([Judged("12", tokens=2, ended=True)])
    [1.0]
    """

    function: Callable[[Judged], float]

    def of(self, reply: Judged) -> float:
        """One reply's."""
        return self.function(reply)


@dataclass(frozen=True)
class Accuracy(ByReply):
    """What the answer is worth: 1 for a right one, or what the task's own scorer says; 0 where a check failed.

    Attributes:
        gate: Whether a right answer counts only in a well-formed reply. Without it, form and accuracy add up, and a
            long wrong reply in good form stands above a wrong one out of form.
        wrong: For a wrong answer that is worth nothing.
        no_answer: For a reply in which none was found.
    """

    gate: bool = False
    wrong: float = 0.0
    no_answer: float = 0.0

    def of(self, reply: Judged) -> float:
        """One reply's.

        Raises:
            ValueError: The reply was not judged, as there is no right answer: it cannot be said to be wrong.
        """
        if reply.verdict is None:
            raise ValueError(
                "there is no verdict on this reply; accuracy needs a right answer (gold), or a scorer in meta."
            )
        if reply.verdict is Verdict.NO_ANSWER:
            return self.no_answer
        if self.gate and not reply.well_formed:
            return self.wrong
        return self.wrong if reply.verdict is Verdict.WRONG and not reply.credit else reply.credit


@dataclass(frozen=True)
class FormatStrict(ByReply):
    """1 for a reply that is well formed (and not cut off, unless the grader lets that pass), else `otherwise`."""

    otherwise: float = 0.0

    def of(self, reply: Judged) -> float:
        """One reply's."""
        return 1.0 if reply.well_formed else self.otherwise


@dataclass(frozen=True)
class FormatParts(ByReply):
    """How much of the form a reply has, for models that have yet to find it: the share of eight points.

    One for each of the four tags that occurs exactly once. If all do and stand in order: one for that, one if there is
    text in both sections, one if there is none outside of them, one if the model ended the reply. All eight are what
    `FormatStrict` asks.

    Attributes:
        form: The tags.
    """

    form: Form

    def of(self, reply: Judged) -> float:
        """One reply's."""
        text = reply.text
        tags = (*self.form.reasoning, *self.form.answer)
        points = sum(text.count(tag) == 1 for tag in tags)
        starts = [text.find(tag) for tag in tags]
        ends = [start + len(tag) for start, tag in zip(starts, tags, strict=True)]
        if points == len(tags) and all(end <= start for end, start in zip(ends, starts[1:], strict=False)):
            outside = text[: starts[0]] + text[ends[1] : starts[2]] + text[ends[3] :]
            inside = text[ends[0] : starts[1]].strip() and text[ends[2] : starts[3]].strip()
            points += 1 + bool(inside) + (not outside.strip()) + reply.ended
        return points / (len(tags) + 4)


@dataclass(frozen=True)
class Repetition(ByReply):
    """Punishes replies that go round in circles: 0 to -1.

    The share of runs of `n` words that occurred before in the reply; up to `allowed` it costs nothing, from there the
    cost rises evenly to -1 for nothing new. Signs count as words, and words of more than 20 letters as several, so that
    "!!!!" and "haha…" are seen; where words are not set apart (Chinese, Japanese, Thai), characters are.

    Attributes:
        n: Words in a run. Worked solutions repeat short runs ("so the number of"): runs of 8 rarely.
        allowed: Share of runs.
    """

    n: int = 8
    allowed: float = 0.1

    def __post_init__(self) -> None:
        """Raises ValueError for settings that make no sense."""
        if self.n < 1 or not 0 <= self.allowed < 1:
            raise ValueError(f"n = {self.n}, allowed = {self.allowed}; wanted at least 1 and a share below 1.")

    def of(self, reply: Judged) -> float:
        """One reply's."""
        return -max(0.0, (repeated_share(reply.text, self.n) - self.allowed) / (1 - self.allowed))


_TOKEN = re.compile(
    r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]|[^\W\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]{1,20}|[^\w\s]"
)


def repeated_share(text: str, n: int) -> float:
    """Returns the share of runs of n words that occurred before in the text; 0 for a text of fewer words."""
    words = _TOKEN.findall(text.lower())
    total = len(words) - n + 1
    if total < 1:
        return 0.0
    return 1 - len(set(zip(*(words[i : i + total] for i in range(n)), strict=True))) / total


@dataclass(frozen=True)
class Length(ByReply):
    """1 for a reply of `low` to `high` tokens; falls evenly to 0 at no tokens and at 2 · `high`.

    Attributes:
        low, high: Tokens.
    """

    low: int
    high: int

    def __post_init__(self) -> None:
        """Raises ValueError unless 0 <= low <= high and high > 0."""
        if not 0 <= self.low <= self.high or self.high == 0:
            raise ValueError(f"low = {self.low}, high = {self.high}; wanted 0 <= low <= high tokens.")

    def of(self, reply: Judged) -> float:
        """One reply's."""
        if reply.tokens < self.low:
            return reply.tokens / self.low
        return max(0.0, min(1.0, 2 - reply.tokens / self.high))


@dataclass(frozen=True)
class CosineLength(ByReply):
    """Right replies are worth more the shorter they are, wrong ones the longer (they went on trying), along a cosine.

    Yeo et al., Demystifying Long Chain-of-Thought Reasoning (2502.03373): value = end + (start - end)/2 · (1 + cos(π ·
    tokens/limit)). A reply without verdict counts as wrong. It takes the place of `Accuracy`, not a place beside it.

    Attributes:
        limit: Tokens of the longest reply; longer ones, and those that were cut off, are worth `exceeded`.
        right, wrong: The value at 0 tokens and at `limit`.
        exceeded: As said.
    """

    limit: int
    right: tuple[float, float] = (2.0, 1.0)
    wrong: tuple[float, float] = (-10.0, 0.0)
    exceeded: float = -10.0

    def __post_init__(self) -> None:
        """Raises ValueError for a limit that is none."""
        if self.limit < 1:
            raise ValueError(f"limit = {self.limit}; wanted tokens.")

    def of(self, reply: Judged) -> float:
        """One reply's."""
        if reply.tokens > self.limit or not reply.ended:
            return self.exceeded
        start, end = self.right if reply.correct else self.wrong
        return end + (start - end) / 2 * (1 + math.cos(math.pi * reply.tokens / self.limit))


@dataclass(frozen=True)
class SoftOverlong(ByReply):
    """Punishes replies near the limit, so that it is no cliff: 0 to -1, in tokens (DAPO, 2503.14476, eq. 13).

    0 up to limit - cache tokens; from there ((limit - cache) - tokens)/cache; -1 beyond the limit.

    Attributes:
        limit: L_max, the most tokens that a reply may have.
        cache: L_cache, how many of them are dear. The paper has 16,384 + 4,096 = 20,480 and 4,096.
    """

    limit: int
    cache: int

    def __post_init__(self) -> None:
        """Raises ValueError unless 0 < cache <= limit."""
        if not 0 < self.cache <= self.limit:
            raise ValueError(f"limit = {self.limit}, cache = {self.cache}; wanted 0 < cache <= limit tokens.")

    def of(self, reply: Judged) -> float:
        """One reply's."""
        return min(0.0, max(-1.0, (self.limit - self.cache - reply.tokens) / self.cache))
