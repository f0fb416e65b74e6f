"""What replies to held-out questions are worth: their form by `ReasoningFormat`, their answers by `coldforge.rewards`.

An answer that is not between its tags is looked for elsewhere too, the last number at last. All models that a gate
compares are read alike: a base that knows no tags and is graded by them would have no accuracy to lose, and a fall
would go unseen.
"""

import re
from collections.abc import Sequence
from typing import Any

from coldforge.data import FormatError, Question, ReasoningFormat, Tokenizer
from coldforge.rewards import Fallback, Grader, MathPool, Response
from coldforge.sft import Graded

FALLBACKS: tuple[Fallback, ...] = ("open tag", "boxed", "hashes", "phrase", "whole", "last number")


def grade(responses: Sequence[Response], form: ReasoningFormat, pool: MathPool) -> list[Graded]:
    """Grades replies, in order.

    Args:
        responses: With question, right answer, and in `meta` the answer's kind or a task's own scorer.
        form: What a reply has to look like.
        pool: For answers that only computer algebra, or the scorer, can compare.
    """
    judged = Grader(form, fallbacks=FALLBACKS, pool=pool).judge(responses)
    faults = [fault_of(response.text, form) for response in responses]
    return [
        Graded(
            prompt=reply.question, text=reply.text, tokens=reply.tokens, well_formed=not fault, ended=reply.ended,
            truncated=not reply.ended, correct=reply.correct, fault=fault, found=reply.answer or "",
            wanted=reply.gold or "",
        )
        for reply, fault in zip(judged, faults, strict=True)
    ]  # fmt: skip


def fault_of(text: str, form: ReasoningFormat) -> str:
    """What is wrong with the form of a reply, in words that are the same for the same fault; "" if nothing is.

    A whole reply after which there is more is told from others: it has learnt the form, and not where to stop.
    """
    head, closing, rest = text.partition(form.answer[1])
    if rest.strip() and form.is_well_formed(head + closing):
        return f"it goes on after {closing}"
    try:
        form.parse(text)
    except FormatError as error:
        return re.split("[:;]", str(error))[0]
    return ""


def response_of(question: Question, sample: Any, tokenizer: Tokenizer) -> Response:
    """A sample of `coldforge.rollout` as graders take it: its text without the token that ended it."""
    ended = sample.finish_reason == "stop"
    text = tokenizer.decode(sample.tokens[: len(sample.tokens) - ended], skip_special=False)
    meta = {"kind": question.kind, **question.meta}
    return Response(text, len(sample.tokens), ended, question.text, question.answer, meta)
