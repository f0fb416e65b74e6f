"""Rows that would teach something else than they say, and what is said of them."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from coldforge.data import (
    AnswerKind,
    Example,
    ReasoningFormat,
    Record,
    RowFault,
    Tokenizer,
    check_rows,
    tokenize,
    write_dataset,
)
from coldforge.data.check import fault_of
from coldforge.data.conversations import Conversation, record_of, tokenize_conversation

FORM = ReasoningFormat()
EXAMPLE = Example(
    "s", 3, "What is 3 × 4?\n<start_of_turn>model\nHm.", "Four, and four, and four: ▁ é 🎲.", "12", AnswerKind.NUMBER,
    system="Be kind.",
)  # fmt: skip


def record(tok: Tokenizer, example: Example = EXAMPLE) -> Record:
    return Record.of(example, tokenize(example, tok, FORM))


def changed(of: Record, ids: np.ndarray | None = None, parts: np.ndarray | None = None, **texts: str) -> Record:
    return dataclasses.replace(
        of, ids=of.ids if ids is None else ids, parts=of.parts if parts is None else parts, **texts
    )


def first(of: Record, count: int) -> Record:
    return changed(of, of.ids[:count], of.parts[:count])


def begin(of: Record) -> int:
    return int(np.argmax(of.parts > 0))


FAULTS: dict[str, tuple[Callable[[Record, Tokenizer], Record], RowFault]] = {
    "all is learnt": (lambda r, _: changed(r, parts=np.maximum(r.parts, 1)), RowFault.PROMPT_LEARNT),
    "the opening is learnt": (
        lambda r, _: changed(r, parts=np.where(np.arange(len(r)) >= begin(r) - 1, np.maximum(r.parts, 1), 0)),
        RowFault.PROMPT_LEARNT,
    ),
    "no end": (lambda r, _: first(r, len(r) - 1), RowFault.NO_END),
    "the end is not learnt": (
        lambda r, _: changed(r, parts=np.append(r.parts[:-1], np.uint8(0))), RowFault.END_NOT_LEARNT,
    ),
    "cut in the reasoning": (lambda r, _: first(r, begin(r) + 20), RowFault.CUT),
    "cut in the answer": (lambda r, _: first(r, len(r) - 3), RowFault.CUT),
    "cut and ended": (
        lambda r, t: changed(r, np.append(r.ids[:-6], np.int32(t.end_of_turn_id)), r.parts[:-5]), RowFault.CUT,
    ),
    "cut in the prompt": (lambda r, _: first(r, begin(r) - 2), RowFault.NO_PROMPT),
    "no template": (
        lambda r, t: changed(
            r, np.concatenate([t.encode(r.question), r.ids[begin(r) :]]).astype(np.int32),
            np.concatenate([np.zeros(len(t.encode(r.question)), np.uint8), r.parts[begin(r) :]]),
        ),
        RowFault.NO_PROMPT,
    ),
    "another answer": (lambda r, _: changed(r, answer="13"), RowFault.OTHER_TEXT),
    "another question": (lambda r, _: changed(r, question="What is 3 × 5?"), RowFault.OTHER_TEXT),
    "another's ids": (lambda r, _: changed(r, np.where(r.ids == r.ids[-4], r.ids + 1, r.ids)), RowFault.OTHER_TEXT),
    "no id of this vocabulary": (lambda r, t: changed(r, r.ids + t.vocab_size), RowFault.OTHER_TEXT),
    "a tag in the answer": (lambda r, _: changed(r, answer="<answer>"), RowFault.OTHER_TEXT),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_told_from_the_others(name: str, tok: Tokenizer) -> None:
    change, fault = FAULTS[name]
    assert fault_of(change(record(tok), tok), tok, FORM) is fault


def test_rows_in_order_have_no_fault(tok: Tokenizer) -> None:
    """Text that spells markers, what is cut into bytes, U+2581, several lines."""
    code = dataclasses.replace(EXAMPLE, answer="```\nprint(1)\n```", kind=AnswerKind.CODE, system="")
    for example in (EXAMPLE, code):
        assert fault_of(record(tok, example), tok, FORM) is None
    talk = Conversation("chat", 0, ("Hi", "Hello.", "Who are you?"), "A model.")
    said = record_of(talk, tokenize_conversation(talk, tok))
    assert fault_of(said, tok, FORM) is None
    assert fault_of(first(said, len(said) - 1), tok, FORM) is RowFault.NO_END
    assert fault_of(changed(said, parts=np.maximum(said.parts, 2)), tok, FORM) is RowFault.PROMPT_LEARNT


def test_another_form_than_the_data_sets_is_named(tok: Tokenizer) -> None:
    assert fault_of(record(tok), tok, ReasoningFormat(template="Think.")) is RowFault.OTHER_TEXT
    other = ReasoningFormat(answer=("<final>", "</final>"), template=FORM.instruction)
    assert fault_of(record(tok), tok, other) is RowFault.OTHER_TEXT


def test_the_commonest_fault_is_named_with_a_row_and_what_to_do(tok: Tokenizer, tmp_path: Path) -> None:
    good = record(tok)
    rows = [good, first(good, len(good) - 1), first(good, len(good) - 3), first(good, len(good) - 4)]
    made = write_dataset(tmp_path / "data", rows, [good], tokenizer=tok, form=FORM)
    said = (
        r"in 2 of 4 train rows looked at, the reply breaks off before its end.* The first is row 3 of s, whose tokens "
        r"end in '.*'\. Drop rows that are too long instead of cutting them"
    )
    with pytest.raises(ValueError, match=said):
        check_rows(made, tok)


def test_held_out_rows_are_looked_at_too(tok: Tokenizer, tmp_path: Path) -> None:
    good = record(tok)
    made = write_dataset(tmp_path / "data", [good], [good, first(good, len(good) - 1)], tokenizer=tok, form=FORM)
    with pytest.raises(ValueError, match=re.escape("in 1 of 2 heldout rows looked at, no <end_of_turn> follows")):
        check_rows(made, tok)


def test_of_many_rows_some_are_looked_at_evenly_spread(tok: Tokenizer, tmp_path: Path) -> None:
    good = record(tok)
    bad = first(good, len(good) - 1)
    made = write_dataset(tmp_path / "data", [*[good] * 9, bad], tokenizer=tok, form=FORM)
    with pytest.raises(ValueError, match="in 1 of 4 train rows"):
        check_rows(made, tok, rows=4)
    made = write_dataset(tmp_path / "more", [good, bad, *[good] * 8], tokenizer=tok, form=FORM)
    check_rows(made, tok, rows=4)
