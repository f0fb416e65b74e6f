"""Replies to held-out records, graded as every stage grades (`coldforge.stages.grade`). Code and proofs are not.

The grader is graded first, by `check_grader`: a wrong one would make a gate of nothing.
"""

from collections.abc import Sequence

from coldforge.data import AnswerKind, ReasoningFormat
from coldforge.data.answers import answers_agree
from coldforge.data.dataset import Record
from coldforge.rewards import MathPool, Response
from coldforge.sft import Graded
from coldforge.stages import grade as shared

# Shares about which the grader may err: of right replies, some are odd or run out of time; of wrong ones, some are
# another spelling of the right answer.
MISSED, MISTAKEN = 0.05, 0.5


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


def check_grader(records: Sequence[Record], form: ReasoningFormat, *, timeout: float) -> None:
    """Makes sure that the grader tells right from wrong, on replies of which that is known: the data's own.

    Each record's reply must be right, and well formed; with the answer of another record in its place it must be wrong.
    So a grader is found out that looks in the wrong place, as one did that took the first digits behind <answer>, and
    reported 100 % of extractions while all values were wrong.

    Args:
        records, form, timeout: As `grade` takes them.

    Raises:
        ValueError: It calls right replies wrong, or wrong ones right; with an example.
    """
    others = [
        next((one.answer for one in [*records[place + 1 :], *records[:place]] if _differ(one, record)), None)
        for place, record in enumerate(records)
    ]
    asked = [(record, record.answer) for record in records]
    asked += [(record, other) for record, other in zip(records, others, strict=True) if other is not None]
    chosen = [record for record, _ in asked]
    texts = [form.render(record.reasoning, answer) for record, answer in asked]
    found = grade(chosen, texts, [0] * len(texts), [True] * len(texts), form, timeout=timeout)
    halves = ((True, MISSED, found[: len(records)]), (False, MISTAKEN, found[len(records) :]))
    for right, tolerated, replies in halves:
        graded = [reply for reply in replies if reply.correct is not None]
        missed = [reply for reply in graded if reply.correct is not right or not reply.well_formed]
        if len(missed) > tolerated * len(graded):
            first = missed[0]
            which = "wrong that are right, the data's own" if right else "right that have another prompt's answer"
            raise ValueError(
                f"the grader calls {len(missed)} of {len(graded)} replies {which}: in one that ends in "
                f"{first.text[-40:]!r} it finds {first.found!r}, and {first.wanted!r} is right. No gate would mean "
                "anything: mend the grader (coldforge.rewards), or the answers and kinds of the data set"
            )


def _differ(one: Record, other: Record) -> bool:
    return one.kind == other.kind and not answers_agree(one.answer, other.answer)
