"""What a reply is worth: its form by `ReasoningFormat`, its answer by `coldforge.rewards`.

An answer that is not between its tags is looked for elsewhere too, the last number at last. Base and tuned model are
read alike: a base that knows no tags and is graded by them would have no accuracy to lose, and a fall would go unseen.
Code and proofs are not graded.
"""

import re
from collections.abc import Sequence

from coldforge.data import AnswerKind, FormatError, ReasoningFormat
from coldforge.data.dataset import Record
from coldforge.rewards import Fallback, Grader, MathPool, Response
from coldforge.sft import Graded

FALLBACKS: tuple[Fallback, ...] = ("open tag", "boxed", "hashes", "phrase", "whole", "last number")


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
        timeout: Seconds of processor time that comparing two answers may take.
    """
    responses = [
        Response(text, length, end, record.question, record.answer, {"kind": _kind(record)})
        for record, text, length, end in zip(records, texts, lengths, ended, strict=True)
    ]
    with MathPool(seconds=timeout) as pool:
        judged = Grader(form, fallbacks=FALLBACKS, pool=pool).judge(responses)
    faults = [fault_of(text, form) for text in texts]
    return [
        Graded(
            prompt=reply.question, text=reply.text, tokens=reply.tokens, well_formed=not fault, ended=reply.ended,
            truncated=not reply.ended, correct=reply.correct, fault=fault, found=reply.answer or "",
            wanted=record.answer,
        )
        for record, reply, fault in zip(records, judged, faults, strict=True)
    ]  # fmt: skip


def _kind(record: Record) -> str:
    """Numbers are graded as what they look like, so that arithmetic that is not worked out is right too."""
    return "auto" if record.kind == AnswerKind.NUMBER else str(record.kind)


def fault_of(text: str, form: ReasoningFormat) -> str:
    """What is wrong with the form of a reply, in words that are the same for the same fault; "" if nothing is."""
    try:
        form.parse(text)
    except FormatError as error:
        return re.split("[:;]", str(error))[0]
    return ""
