r"""Rows of any schema seen in the wild → examples: a question, the reasoning, the canonical answer.

In this order: the exchange is found in the row (`system` + `conversations` with from/value; `messages` with
role/content; `question` + `solution`); its reply is cut into reasoning and solution by the tags that it carries; the
answer is found in the solution; what would break the project's format is refused.

What is changed on the way, and nothing else is:

- A request for a form of reply that we do not use goes: the question's "Return your final response within \boxed{}."
  and a system message that prescribes the tags which the reply carries. Other system messages stay.
- `<answer>` becomes the canonical answer. The solution's prose stays, at the end of the reasoning, or is dropped.
- White space around texts goes.

What is not in order is refused, with the reason; nothing is repaired. Left out: conversations of several questions.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from coldforge.data.answers import Answer, answer_kind, answers_agree, find_answer, is_prose, unwrap
from coldforge.data.format import EmptySectionError, FormatError, ReasoningFormat
from coldforge.data.records import AnswerKind, Example, Refusal, Row

STRATOS = ReasoningFormat(
    reasoning=("<|begin_of_thought|>", "<|end_of_thought|>"),
    answer=("<|begin_of_solution|>", "<|end_of_solution|>"),
)
"""The tags of Bespoke-Stratos-17k and Sky-T1."""

R1_ZERO = ReasoningFormat(reasoning=("<think>", "</think>"), answer=("<answer>", "</answer>"))
"""The tags of DeepSeek-R1-Zero. R1 itself writes `<think>…</think>` and then the solution, without tags."""

_ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
_BOX_REQUEST = re.compile(r"\AReturn your final response within \\boxed\{\}\.\s*")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Conversion:
    """How rows become examples.

    Attributes:
        form: The project's format. Rows that have it already are taken as they are, but for the prose of an answer.
        keep_prose: Whether a solution's prose stays, at the end of the reasoning.
        accept_worked: Whether a reply without any tags is taken as a worked solution, all of it reasoning. If not, it
            is refused, as it may as well be a reply whose tags were lost.
    """

    form: ReasoningFormat = field(default_factory=ReasoningFormat)
    keep_prose: bool = True
    accept_worked: bool = False


class _Exchange(NamedTuple):
    system: str
    question: str
    reply: str


class RefusedError(Exception):
    """A row is refused, on the way to `convert`'s answer. `refusal` says why."""

    def __init__(self, reason: str, detail: str) -> None:
        self.refusal = Refusal(reason, detail)
        super().__init__(detail)


def convert(row: Row, how: Conversion | None = None) -> Example | Refusal:
    """Makes an example of a row, or says why not.

    Args:
        row: A row of a source.
        how: None: as `Conversion()`.

    Returns:
        An example; or a refusal, whose reasons are, besides those of `answers.find_answer` and of the source:
        "unknown-schema", "empty-conversation", "wrong-roles", "several-turns", "two-conversations", "two-systems",
        "bad-content" (not a string), "bad-unicode", "empty-question", "no-reasoning", "broken-tags", "tags-in-content",
        "answer-differs" (from the row's own gold answer), "prose-answer" (with our tags around it).
    """
    how = Conversion() if how is None else how
    if isinstance(row.data, Refusal):
        return row.data
    try:
        if "conversations" in row.data or "messages" in row.data:
            return _from_exchange(row, _exchange(row.data), how)
        return _from_worked(row, how)
    except RefusedError as refused:
        return refused.refusal


def _exchange(data: Mapping[str, Any]) -> _Exchange:
    """Finds system message, question and reply in a row with `conversations` or `messages`."""
    found = {name: turns_of(name, data[name]) for name in ("conversations", "messages") if data.get(name) is not None}
    if not any(found.values()):
        raise RefusedError("empty-conversation", "there is no message; wanted a question and a reply.")
    turns, *others = [turns for turns in found.values() if turns]
    if others and [turn for turn in others[0] if turn[0] != "system"] != [
        turn for turn in turns if turn[0] != "system"
    ]:
        raise RefusedError("two-conversations", "`conversations` and `messages` differ; drop one of the columns.")
    system = clean_text("system", data.get("system") or "")
    if turns[0][0] == "system":
        if system and turns[0][1].strip() != system:
            raise RefusedError("two-systems", "the column `system` and the system message differ; drop one of them.")
        system, turns = turns[0][1].strip(), turns[1:]
    roles = [role for role, _ in turns]
    if roles != ["user", "assistant"] * (len(roles) // 2) or not roles:
        raise RefusedError("wrong-roles", f"the roles are {', '.join(roles) or 'system only'}; wanted user, assistant.")
    if len(roles) > 2:
        raise RefusedError("several-turns", f"there are {len(roles)} messages; wanted one question and one reply.")
    return _Exchange(system, clean_text("question", turns[0][1]), clean_text("reply", turns[1][1]))


def turns_of(column: str, turns: Any) -> list[tuple[str, str]]:
    """Returns (role, text) of each message, the roles as system, user and assistant.

    Raises:
        RefusedError: They are no messages.
    """
    if isinstance(turns, str) or not isinstance(turns, (list, tuple)):
        raise RefusedError("bad-content", f"`{column}` is of type {type(turns).__name__}; wanted a list of messages.")
    found = []
    for index, turn in enumerate(turns):
        keys = next((keys for keys in (("from", "value"), ("role", "content")) if _has(turn, keys)), None)
        if keys is None:
            raise RefusedError(
                "unknown-schema", f"message {index} is {turn!r:.80}; wanted from and value, or role and content."
            )
        role, text = turn[keys[0]], turn[keys[1]]
        if not isinstance(role, str) or role not in _ROLES:
            raise RefusedError("wrong-roles", f"message {index} has the role {role!r}; known are {', '.join(_ROLES)}.")
        if not isinstance(text, str):
            raise RefusedError("bad-content", f"message {index} is of type {type(text).__name__}; wanted a string.")
        found.append((_ROLES[role], text))
    return found


def _has(turn: Any, keys: tuple[str, str]) -> bool:
    return isinstance(turn, Mapping) and all(key in turn for key in keys)


def clean_text(name: str, text: Any) -> str:
    """Returns a text without the white space around it, once it is one.

    Raises:
        RefusedError: It is no string ("bad-content"), or damaged ("bad-unicode"). `name` says what it is of the row.
    """
    if not isinstance(text, str):
        raise RefusedError("bad-content", f"the {name} is of type {type(text).__name__}; wanted a string.")
    if match := _SURROGATE.search(text):
        raise RefusedError("bad-unicode", f"the {name} holds {match[0]!r}, half a character; wanted Unicode text.")
    if "\ufffd" in text:
        where = text.index("\ufffd")
        raise RefusedError(
            "bad-unicode", f"the {name} was damaged by decoding: {text[max(0, where - 20) : where + 20]!r}."
        )
    return text.strip()


def _from_exchange(row: Row, exchange: _Exchange, how: Conversion) -> Example:
    """Cuts a reply by the tags that it carries."""
    system, question, reply = exchange
    if not reply:
        raise RefusedError("empty-conversation", "the reply is empty; wanted reasoning and an answer.")
    style = next(
        (style for style in (STRATOS, how.form, R1_ZERO) if any(tag in reply for tag in style.reasoning)), None
    )
    if style is None and (tag := next((tag for tag in (*STRATOS.answer, *how.form.answer) if tag in reply), None)):
        raise RefusedError("no-reasoning", f"the reply has {tag} but no tags of reasoning; wanted both.")
    if style is None:
        if not how.accept_worked:
            raise RefusedError("no-reasoning", "the reply has no tags; wanted reasoning and an answer between tags.")
        return _from_solution(row, question, reply, how, system)
    if any(tag in system for tag in style.tags):
        system = ""
    reasoning, solution = _sections(reply, style)
    question = _BOX_REQUEST.sub("", question)
    if style == how.form:
        question = question.removeprefix(style.instruction).strip()
        answer = _own_answer(solution, question)
    else:
        answer = _answer(solution, question)
    return _example(row, system, question, _with_prose(reasoning, answer, how), answer, how)


def _sections(reply: str, style: ReasoningFormat) -> tuple[str, str]:
    """Returns reasoning and solution.

    R1's replies have no tags around the solution, and may lack the opening <think>, which its template puts into the
    prompt.
    """
    try:
        if style == R1_ZERO and not any(tag in reply for tag in style.answer):
            head, closing, solution = reply.removeprefix(style.reasoning[0]).partition(style.reasoning[1])
            if not closing or any(tag in head + solution for tag in style.reasoning):
                raise FormatError("<think> and </think> do not occur once each, in this order.")
            if not head.strip():
                raise EmptySectionError("reasoning")
            return head.strip(), solution.strip()
        return style.parse(reply)
    except EmptySectionError as error:
        raise RefusedError("no-reasoning" if error.section == "reasoning" else "empty-answer", str(error)) from error
    except FormatError as error:
        raise RefusedError("broken-tags", str(error)) from error


def _with_prose(reasoning: str, answer: Answer, how: Conversion) -> str:
    return f"{reasoning}\n\n{answer.prose}" if how.keep_prose and answer.prose else reasoning


def _from_worked(row: Row, how: Conversion) -> Example:
    """Takes a row with `question` and `solution`, or GSM8K's, whose `answer` is the solution and ends in ####."""
    data = row.data
    assert not isinstance(data, Refusal)
    question, solution, gold = data.get("question", data.get("problem")), data.get("solution"), data.get("answer")
    if solution is None and isinstance(gold, str) and "####" in gold:
        solution, gold = gold, None
    if question is None or solution is None:
        columns = ", ".join(map(str, data)) or "none"
        wanted = "conversations, messages, or question and solution"
        raise RefusedError("unknown-schema", f"the columns are {columns}; wanted {wanted}.")
    return _from_solution(row, clean_text("question", question), clean_text("solution", solution), how, gold=gold)


def _from_solution(
    row: Row, question: str, solution: str, how: Conversion, system: str = "", gold: object = None
) -> Example:
    """Makes the solution itself the reasoning."""
    question = _BOX_REQUEST.sub("", question)
    answer = _answer(solution, question)
    if gold is not None:
        gold = clean_text("answer", str(gold) if isinstance(gold, (int, float)) else gold)
        if not answers_agree(answer.text, gold):
            raise RefusedError(
                "answer-differs", f"the solution gives {answer.text!r:.60}, the column answer {gold!r:.60}."
            )
        answer = answer._replace(text=unwrap(gold))  # "36" where the solution says "36.0"
    if not answer.prose:
        raise RefusedError("no-reasoning", "the solution is nothing but the answer; wanted the way to it.")
    return _example(row, system, question, answer.prose, answer, how)


def _answer(solution: str, question: str) -> Answer:
    answer = find_answer(solution, question)
    if isinstance(answer, Refusal):
        raise RefusedError(*answer)
    return answer


def _own_answer(solution: str, question: str) -> Answer:
    """Takes a row's answer that has our tags as it is, unless it is more than an answer.

    A whole solution between the tags of an answer teaches a model to write prose there, which no grader can compare:
    59 % of right answers became 0 % in a run whose rows had been converted so. A value that it marks is taken out.
    """
    found = find_answer(solution, question)
    if isinstance(found, Answer):
        return found
    if found.reason != "no-answer":
        raise RefusedError(*found)
    if is_prose(solution):
        raise RefusedError("prose-answer", f"the answer is prose, no value that can be compared: {solution!r:.80}.")
    return Answer(solution, answer_kind(solution), "")


def _example(row: Row, system: str, question: str, reasoning: str, answer: Answer, how: Conversion) -> Example:
    """Makes the example, unless the format cannot hold it."""
    if not question:
        raise RefusedError("empty-question", "the question is empty; wanted what the user asks.")
    try:
        how.form.render_parts(reasoning, answer.text)
    except FormatError as error:
        raise RefusedError("tags-in-content", str(error)) from error
    return Example(row.source, row.index, question, reasoning, answer.text, AnswerKind(answer.kind), system)
