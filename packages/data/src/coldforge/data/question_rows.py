r"""Rows → questions: the question, and the one answer that replies will be compared with.

`question_of` looks for the text in `question`, `problem` or `prompt`, and for the answer in `answer`, or else
`solution`; `kind`, `choices` and `id` may stand beside them. What an answer is taken from:

| column | what | the answer |
|---|---|---|
| `answer` | a number | its digits |
| | a text with `####` or `\boxed{}` | what `find_answer` finds, as "72" in GSM8K's |
| | another text of one line, up to 200 characters | the text |
| | a longer one | what `find_answer` finds |
| `solution` | a worked solution | what `find_answer` finds |

With the `kind` "exact", "code" or "proof" the column's text is taken as it is. What is not in order is refused, never
repaired. `TableQuestions` reads all rows once and keeps what is needed of them: texts and answers, as UTF-8, without
the solutions. Left out: conversations; files larger than memory (100,000 rows of GSM8K's length are 30 MB).
"""

import hashlib
import json
import math
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from coldforge.data.answers import find_answer, unwrap
from coldforge.data.convert import RefusedError, clean_text
from coldforge.data.records import AnswerKind, Question, Refusal, Row, question_id

OnBad = Literal["refuse", "drop"]
"""What becomes of a row that is no question: an error, or it is left out and counted."""

KINDS = ("auto", "number", "expression", "choice", "text", "exact", "code", "proof")
TEXTS = ("question", "problem", "prompt")
ANSWERS = ("answer", "solution")

_CONVERSATIONS = ("messages", "conversations")
_AS_IT_IS = ("exact", "code", "proof")
_BARE = 200  # characters: a longer answer is a solution in which the answer is to be found
_LETTERS = "ABCDEFGHIJ"
_LETTER = re.compile(r"\(?([A-J])\)?[.)]?")


class TableQuestions:
    """The questions of a file or a data set, all read at once and kept compactly.

    Attributes:
        name: Their source.
        dropped: Reason → how many rows were left out.
        identity: What decides which questions these are.
    """

    def __init__(self, name: str, rows: Iterable[Row], where: str, on_bad: OnBad) -> None:
        """Reads the rows. `where`: what an error names.

        Raises:
            ValueError: A row is no question, and `on_bad` is "refuse"; or there is none left.
        """
        self.name, self.dropped = name, Counter[str]()
        self._bytes, self._ends = bytearray(), array("Q", [0])
        for row in rows:
            question = question_of(row, name)
            if isinstance(question, Refusal):
                if on_bad == "refuse":
                    raise ValueError(f"{where}, row {row.index} (from 0): {question.reason}: {question.detail}")
                self.dropped[question.reason] += 1
                continue
            kept = [question.text, question.answer, question.kind, question.meta]
            self._bytes += json.dumps(kept, ensure_ascii=False).encode()
            self._ends.append(len(self._bytes))
        if not len(self):
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items())
            raise ValueError(f"{where} holds no questions{': ' * bool(reasons)}{reasons}; wanted at least one.")
        self.identity: Mapping[str, Any] = {"rows": hashlib.sha256(self._bytes).hexdigest()}

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Question:
        kept = self._bytes[self._ends[index] : self._ends[index + 1]]
        text, answer, kind, meta = json.loads(kept)
        return Question(question_id(self.name, text), text, answer, kind, self.name, meta)


def question_of(row: Row, source: str) -> Question | Refusal:
    """Makes a question of a row, or says why not.

    Returns:
        A question; or a refusal, whose reasons are, besides those of `answers.find_answer` and of the source:
        "no-question", "no-answer", "empty-question", "empty-answer", "bad-content" (of a wrong type), "bad-unicode",
        "bad-kind", "bad-choices".
    """
    if isinstance(row.data, Refusal):
        return row.data
    try:
        return _question(row.data, source)
    except RefusedError as refused:
        return refused.refusal


def _question(data: Mapping[str, Any], source: str) -> Question:
    text = _text(data)
    kind = data.get("kind")
    if kind is None:
        kind = "auto"
    elif kind not in KINDS:
        raise RefusedError("bad-kind", f"`kind` is {kind!r:.60}; wanted {', '.join(KINDS)}.")
    choices = _choices(data.get("choices"))
    answer = _answer(data, text, kind)
    if choices:
        _check_choice(answer, choices)
    own = data.get("id")
    meta = ({} if own is None else {"id": str(own)}) | ({"choices": choices} if choices else {})
    return Question(question_id(source, text), text, answer, kind, source, meta)


def _text(data: Mapping[str, Any]) -> str:
    name = next((name for name in TEXTS if data.get(name) is not None), None)
    if name is None:
        talk = [name for name in _CONVERSATIONS if name in data]
        found = f"the row is a conversation (`{talk[0]}`)" if talk else f"the columns are {', '.join(map(str, data))}"
        raise RefusedError("no-question", f"{found}; wanted {', '.join(TEXTS)}, and {' or '.join(ANSWERS)}.")
    if isinstance(data[name], (list, tuple)):
        raise RefusedError("bad-content", f"`{name}` is a conversation; wanted the question's text alone.")
    text = clean_text(name, data[name])
    if not text:
        raise RefusedError("empty-question", f"`{name}` is empty; wanted what the user asks.")
    return text


def _answer(data: Mapping[str, Any], question: str, kind: str) -> str:
    name = next((name for name in ANSWERS if data.get(name) is not None), None)
    if name is None:
        raise RefusedError(
            "no-answer", f"the columns are {', '.join(map(str, data))}; wanted {' or '.join(ANSWERS)} with a value."
        )
    value = data[name]
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        value = str(value)
    text = clean_text(name, value)
    if kind not in _AS_IT_IS:
        text = _found(name, text, question)
    if not text:
        raise RefusedError("empty-answer", f"`{name}` is empty; wanted the right answer.")
    return text


def _found(name: str, text: str, question: str) -> str:
    """Finds the answer in a column's text."""
    marked = "####" in text or r"\boxed" in text
    if name == "answer" and not marked and "\n" not in text and len(text) <= _BARE:
        return unwrap(text)
    found = find_answer(text, question)
    if isinstance(found, Refusal):
        raise RefusedError(found.reason, f"`{name}`: {found.detail}")
    if found.kind in (AnswerKind.CODE, AnswerKind.PROOF):
        raise RefusedError(
            "no-answer", f"`{name}` is a {found.kind}, with no final answer; a column `kind` would say so."
        )
    return found.text


def _choices(choices: Any) -> list[str]:
    if choices is None:
        return []
    if not isinstance(choices, (list, tuple)) or not all(isinstance(text, str) and text.strip() for text in choices):
        raise RefusedError("bad-choices", f"`choices` is {choices!r:.80}; wanted a list of texts, A first.")
    if not 2 <= len(choices) <= len(_LETTERS):
        raise RefusedError("bad-choices", f"there are {len(choices)} choices; wanted 2 to {len(_LETTERS)}.")
    return [clean_text("choice", text) for text in choices]


def _check_choice(answer: str, choices: Sequence[str]) -> None:
    """An index for an answer, as some sets have it, is no answer that a reply could give."""
    parts = [_LETTER.fullmatch(part.strip()) for part in answer.split(",")]
    if all(part and part[1] in _LETTERS[: len(choices)] for part in parts):
        return
    if " ".join(answer.split()).casefold() not in [" ".join(text.split()).casefold() for text in choices]:
        last = _LETTERS[len(choices) - 1]
        raise RefusedError("bad-choices", f"the answer is {answer!r:.60}; wanted A to {last}, or a choice's words.")
