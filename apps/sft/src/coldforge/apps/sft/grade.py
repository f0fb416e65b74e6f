"""What a reply is worth: its form by `ReasoningFormat`, its answer by comparison with the right one.

The answer of a reply is looked for in this order: in the form, if the reply has it; behind the last tag that opens an
answer; where `coldforge.data` finds the answer of a worked solution (a box, ####, "the answer is"); else the last
number. Base and tuned model are read alike: a base that knows no tags and is graded by them would have no accuracy to
lose, and a fall would go unseen. Answers are first compared as numbers and as text; what remains, by computer algebra
in a process of its own (`equality`). Code and proofs are not graded.
"""

import re
from collections.abc import Sequence

from coldforge.apps.sft.equality import equal
from coldforge.data import AnswerKind, FormatError, ReasoningFormat, Refusal
from coldforge.data.answers import answers_agree, find_answer, numeric_value, unwrap
from coldforge.data.dataset import Record
from coldforge.sft import Graded

UNGRADED = (AnswerKind.CODE, AnswerKind.PROOF)
ALGEBRA = (AnswerKind.NUMBER, AnswerKind.EXPRESSION)
_NUMBER = re.compile(r"[-−]?\$?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?")


def grade(
    records: Sequence[Record], texts: Sequence[str], lengths: Sequence[int], ended: Sequence[bool],
    form: ReasoningFormat, *, timeout: float,
) -> list[Graded]:  # fmt: skip
    """Grades one reply to each record's question.

    Args:
        records: The questions and their answers.
        texts: The replies, without what ended them.
        lengths: Their tokens.
        ended: Whether the model ended them; the others were cut off.
        form: What a reply has to look like.
        timeout: Seconds that comparing two answers may take.
    """
    found = [answer_of(text, record.question, form) for record, text in zip(records, texts, strict=True)]
    correct = _correct(records, found, timeout)
    rows = zip(records, texts, lengths, ended, found, correct, strict=True)
    return [
        Graded(
            prompt=record.question, text=text, tokens=length, well_formed=not fault_of(text, form), ended=end,
            truncated=not end, correct=right, fault=fault_of(text, form), found=answer, wanted=record.answer,
        )
        for record, text, length, end, answer, right in rows
    ]  # fmt: skip


def fault_of(text: str, form: ReasoningFormat) -> str:
    """What is wrong with the form of a reply, in words that are the same for the same fault; "" if nothing is."""
    try:
        form.parse(text)
    except FormatError as error:
        return re.split("[:;]", str(error))[0]
    return ""


def answer_of(text: str, question: str, form: ReasoningFormat) -> str:
    """The answer in a reply of any form, "" if there is none; see the top of this file."""
    try:
        return form.parse(text).answer
    except FormatError:
        pass
    opening, closing = form.answer
    if opening in text:
        return text.rpartition(opening)[2].partition(closing)[0].strip()
    answer = find_answer(text, question)
    if not isinstance(answer, Refusal) and answer.kind not in UNGRADED:
        return answer.text
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else ""


def _correct(records: Sequence[Record], found: Sequence[str], timeout: float) -> list[bool | None]:
    """Whether each answer is right, None where that cannot be told by comparison."""
    correct: list[bool | None] = []
    open_ones: list[int] = []
    for index, (record, answer) in enumerate(zip(records, found, strict=True)):
        if record.kind in UNGRADED:
            correct.append(None)
        else:
            wanted, answer = record.answer.strip("()"), answer.strip("()")
            correct.append(answers_agree(answer, wanted))
            numbers = numeric_value(unwrap(answer)) is not None and numeric_value(unwrap(wanted)) is not None
            if not correct[-1] and not numbers and answer and record.kind in ALGEBRA:
                open_ones.append(index)
    verdicts = equal([(records[i].answer, found[i]) for i in open_ones], timeout=timeout)
    for index, verdict in zip(open_ones, verdicts, strict=True):
        correct[index] = verdict
    return correct
