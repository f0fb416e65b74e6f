"""What travels from a source to the tokens: a raw `Row`, the `Example` made of it, or the `Refusal` that says why not.

Standard library only. `sources` gives rows, `convert` makes examples of them, `filters` and `duplicates` judge
examples, `tokens` encodes them, `audit` counts what happened. A `Question` is what reinforcement learning asks
(`questions`): there is no reply yet, only what it will be judged by.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from coldforge.data.chat import Message
from coldforge.data.format import ReasoningFormat


class Refusal(NamedTuple):
    """Why a row is not used.

    Attributes:
        reason: A short name that rows are counted by, as "no-answer".
        detail: What was found in this row, and what was wanted; for people.
    """

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a source as it was read.

    Attributes:
        source: What the row is counted under in an audit: a file's or a data set's name.
        index: Its position in the source, from 0; for lines of text, the line's number from 0.
        data: Column → value, or why the row could not be read.
    """

    source: str
    index: int
    data: Mapping[str, Any] | Refusal


class AnswerKind(StrEnum):
    """What an answer is, and so how it can be checked."""

    NUMBER = "number"
    EXPRESSION = "expression"
    CHOICE = "choice"
    TEXT = "text"
    CODE = "code"
    PROOF = "proof"


@dataclass(frozen=True, slots=True)
class Example:
    r"""A question and a reply that shows its work. No text has white space around it, none but `system` is empty.

    Attributes:
        source, index: Where it comes from; see `Row`.
        question: What the user asks, without any instruction on the reply's form.
        reasoning: How the answer is found.
        answer: The canonical answer, without tags: "12", "\frac{1}{2}"; for code and proofs, the whole of it.
        kind: What the answer is.
        system: The system message, or "".
    """

    source: str
    index: int
    question: str
    reasoning: str
    answer: str
    kind: AnswerKind
    system: str = ""

    def prompt(self, form: ReasoningFormat) -> list[Message]:
        """Returns what the model is asked: the system message if there is one, the instruction and the question."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": form.ask(self.question)}]

    def messages(self, form: ReasoningFormat) -> list[Message]:
        """Returns the conversation: `prompt` and the reply.

        Raises:
            FormatError: Reasoning or answer contains one of the tags.
        """
        return [*self.prompt(form), {"role": "assistant", "content": form.render(self.reasoning, self.answer)}]


@dataclass(frozen=True, slots=True)
class Question:
    """What a model is asked, and what its answer is compared with.

    As `coldforge.rewards` takes it: `Response(…, question=text, gold=answer, meta={**meta, "kind": kind})`.

    Attributes:
        id: 16 hexadecimal digits that follow from source and text alone.
        text: What the user asks, without any instruction on the reply's form.
        answer: The right answer, bare: "72"; None: only the task's own scorer can tell.
        kind: What the answer is: "auto" (to be seen from it), "number", "expression", "choice", "text", "exact"; for
            "code" and "proof" nothing is compared.
        source: What the question is counted under: a file's, a data set's or a task's name.
        meta: What a scorer needs besides, as JSON holds it: "choices" (the words of a multiple choice, A first), "id"
            (the row's own); of reasoning-gym "scorer", "task" and "entry".
    """

    id: str
    text: str
    answer: str | None
    kind: str
    source: str
    meta: Mapping[str, Any] = field(default_factory=dict)


def question_id(source: str, text: str) -> str:
    """Returns `Question.id`."""
    return hashlib.blake2b(f"{source}\0{text}".encode(), digest_size=8).hexdigest()
