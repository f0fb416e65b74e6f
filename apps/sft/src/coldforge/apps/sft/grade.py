"""Replies to held-out records, graded as every stage grades (`coldforge.stages.grade`). Code and proofs are not."""

from collections.abc import Sequence

from coldforge.data import AnswerKind, ReasoningFormat
from coldforge.data.dataset import Record
from coldforge.rewards import MathPool, Response
from coldforge.sft import Graded
from coldforge.stages import grade as shared


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
        return shared.grade(responses, form, pool)


def _kind(record: Record) -> str:
    """Numbers are graded as what they look like, so that arithmetic that is not worked out is right too."""
    return "auto" if record.kind == AnswerKind.NUMBER else str(record.kind)
