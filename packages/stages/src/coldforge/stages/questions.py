"""Questions that a policy is asked: found, short enough and gradable, and encoded as it was taught. Without JAX."""

from collections.abc import Sequence
from itertools import batched

import numpy as np

from coldforge.data import ReasoningFormat, Tokenizer
from coldforge.data.questions import Question, Questions, open_questions, split_questions
from coldforge.rewards.grader import UNGRADED
from coldforge.stages.options import QuestionOptions

PIECE = 1024  # questions that are encoded together


def find_questions(
    asked: QuestionOptions, tokenizer: Tokenizer, form: ReasoningFormat, *, limit: int, named: str
) -> tuple[Questions, Questions]:
    """The questions to ask and those held out, all of them short enough and gradable.

    Args:
        asked: Which.
        tokenizer, form: How prompts are made of them.
        limit: Tokens of the longest prompt.
        named: What the option of that limit is called, as "rollout.max-prompt-tokens".

    Raises:
        ValueError: There are none, too long ones, or ones that nobody can grade; what
            `coldforge.data.questions.open_questions` raises.
    """
    found = open_questions(asked.sources, split=asked.split, seed=asked.seed, on_bad=asked.on_bad)
    long, ungraded = unfit(found, tokenizer, form, limit)
    if long and asked.on_long == "refuse":
        first = found[long[0]]
        raise ValueError(
            f"{len(long)} of {len(found)} questions have more than {named} = {limit} tokens with their instruction, "
            f"the first of them from {first.source}: {first.text[:80]!r}. Raise the limit, or pass "
            "--questions.on-long drop"
        )
    if ungraded and asked.on_bad == "refuse":
        first = found[ungraded[0]]
        raise ValueError(
            f"{len(ungraded)} of {len(found)} questions have answers of which nobody can tell whether they are right, "
            f"the first of them from {first.source}, of kind {first.kind}: {first.text[:80]!r}. Leave them out, or "
            "pass --questions.on-bad drop"
        )
    if long or ungraded:
        found = found.select(np.setdiff1d(np.arange(len(found)), [*long, *ungraded]))
        if not len(found):
            raise ValueError(
                f"no question is left: {len(long)} are longer than {named} = {limit} tokens, and {len(ungraded)} have "
                "answers that cannot be compared"
            )
    return split_questions(found, asked.heldout)


def unfit(
    questions: Sequence[Question], tokenizer: Tokenizer, form: ReasoningFormat, limit: int
) -> tuple[list[int], list[int]]:
    """Which questions have prompts of more than `limit` tokens, and which have answers that cannot be compared."""
    long: list[int] = []
    ungraded: list[int] = []
    for lot in batched(range(len(questions)), PIECE):
        asked = [questions[i] for i in lot]
        long += [i for i, ids in zip(lot, encode(asked, tokenizer, form), strict=True) if len(ids) > limit]
        ungraded += [i for i, one in zip(lot, asked, strict=True) if "scorer" not in one.meta and one.kind in UNGRADED]
    return long, ungraded


def encode(questions: Sequence[Question], tokenizer: Tokenizer, form: ReasoningFormat) -> list[np.ndarray]:
    """Prompts as the cold start was trained on them: instruction and question in the user's turn. int32 `[tokens]`."""
    return [
        np.array(tokenizer.encode_chat([{"role": "user", "content": form.ask(question.text)}]), np.int32)
        for question in questions
    ]
