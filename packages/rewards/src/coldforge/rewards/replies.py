"""What is judged and what comes out: `Response`, `Judged`, `Score`, and the tags that a reply is read by.

`Form` is what this package asks of the object that knows the tags; `coldforge.data.ReasoningFormat` is one, and `Tags`
is one for users without that package. Standard library only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Protocol


class Verdict(StrEnum):
    """What became of an answer.

    RIGHT and WRONG are the outcome of a comparison. NO_ANSWER: there is nothing to compare. TIMEOUT: the check took
    longer than it may; ERROR: it raised or its process died. Both count as not right, and tell nothing of the answer.
    """

    RIGHT = "right"
    WRONG = "wrong"
    NO_ANSWER = "no answer"
    TIMEOUT = "timeout"
    ERROR = "error"


class Sections(Protocol):
    """What a form reads from a reply: its two sections without tags."""

    @property
    def reasoning(self) -> str: ...

    @property
    def answer(self) -> str: ...


class Form(Protocol):
    """The tags of a reply. `parse` raises ValueError for a text that is not well formed."""

    @property
    def reasoning(self) -> tuple[str, str]: ...

    @property
    def answer(self) -> tuple[str, str]: ...

    def is_well_formed(self, text: str) -> bool: ...

    def parse(self, text: str) -> Sections: ...


class Parts(NamedTuple):
    """A reply's two sections."""

    reasoning: str
    answer: str


@dataclass(frozen=True)
class Tags:
    """A form: `<reasoning>…</reasoning>`, then `<answer>…</answer>`, nothing else, both sections with text in them.

    >>> Tags().parse("<reasoning>3 × 4</reasoning> <answer>12</answer>").answer
    '12'
    """

    reasoning: tuple[str, str] = ("<reasoning>", "</reasoning>")
    answer: tuple[str, str] = ("<answer>", "</answer>")

    def parse(self, text: str) -> Parts:
        """Reads a reply.

        Raises:
            ValueError: A tag is missing or too many, the order is another, there is text outside, a section is empty.
        """
        rest, found = text, []
        for tag in (*self.reasoning, *self.answer):
            if (count := text.count(tag)) != 1:
                raise ValueError(f"{tag} occurs {count} times; wanted once.")
            before, _, rest = rest.partition(tag)
            found.append(before.strip())
        # A tag out of order takes the rest into the section before it: there is text outside then, or none inside.
        before, reasoning, between, answer = found
        if before or between or rest.strip() or not reasoning or not answer:
            raise ValueError("wanted reasoning and answer between their tags, both with text, and nothing around them.")
        return Parts(reasoning, answer)

    def is_well_formed(self, text: str) -> bool:
        """Says whether `parse` can read the text."""
        return sections_of(text, self) is not None


def sections_of(text: str, form: Form) -> Sections | None:
    """Reads a reply; None: it is not well formed."""
    try:
        return form.parse(text)
    except ValueError:
        return None


@dataclass(frozen=True)
class Response:
    """One reply to judge.

    Attributes:
        text: The reply, without the token that ended it.
        tokens: Its tokens, with the one that ended it.
        ended: Whether the model ended it; False: it was cut off.
        question: What was asked.
        gold: The right answer; None: there is none to compare with.
        meta: What else a reward or a task's own scorer needs, as reasoning-gym's entry.
    """

    text: str
    tokens: int
    ended: bool
    question: str = ""
    gold: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Judged(Response):
    """A response, and what the grader found in it. Reward functions are given these.

    Attributes:
        reasoning: The reasoning without tags; for a reply out of form, what stands before the answer.
        answer: The answer that was found; None: none.
        well_formed: Whether the reply has the form, and was not cut off.
        verdict: What became of the answer; None: not judged, as there is no right one.
        credit: What the answer is worth, 0 to 1: 1 for RIGHT, and between for a task's own scorer that says so.
        detail: Why the verdict is as it is, where there is something to say.
    """

    reasoning: str = ""
    answer: str | None = None
    well_formed: bool = False
    verdict: Verdict | None = None
    credit: float = 0.0
    detail: str = ""

    @property
    def correct(self) -> bool | None:
        """Whether the answer is right; None: not judged."""
        return None if self.verdict is None else self.verdict is Verdict.RIGHT


class Score(NamedTuple):
    """What a response is worth.

    Attributes:
        total: Σ weight · part.
        parts: Each reward by itself, without its weight.
        notes: "answer" (what was found), "verdict", "correct", "well_formed", "detail".
    """

    total: float
    parts: dict[str, float]
    notes: dict[str, Any]
