r"""Whether a data set teaches what it says, seen from its tokens: what no loss curve shows is found before training.

    check_rows(dataset, tokenizer)       # raises, with the fault, how many rows have it, and what to do

A record holds its texts beside its ids, so each row is held against itself: the ids of the prompt have to spell the
question in Gemma's template, those of the reply reasoning and answer in the data set's form, the last one is
<end_of_turn>, and what counts for the loss begins where the model's turn opens and ends with <end_of_turn>. Nothing is
guessed and no threshold is set: `prepare` and `rejection` write no other rows, and one that differs is refused.

Up to `ROWS` rows of each split are looked at, evenly spread: 1,024 of 2,300 tokens take 2.5 s of a busy processor.
Whether answers are right is not looked at.
"""

from collections import Counter
from collections.abc import Sequence
from enum import Enum

import numpy as np

from coldforge.data.chat import GENERATION_PROMPT, render_chat
from coldforge.data.dataset import Dataset, Record
from coldforge.data.format import FormatError, ReasoningFormat
from coldforge.data.tokenizer import Tokenizer
from coldforge.data.tokens import Part

ROWS = 1024


class RowFault(Enum):
    """What can be wrong with a row: in words, and what to do."""

    PROMPT_LEARNT = (
        "tokens of the prompt have a loss weight, so that the model would learn to ask, not to answer",
        "Mark the prompt as part 0 (coldforge.data.tokenize does), or prepare the rows again.",
    )
    NO_PROMPT = (
        "the model's turn is never opened as Gemma's template does it: they have no template, are cut within the "
        "prompt, or are another tokenizer's",
        "Prepare the rows again with the tokenizer of the model that is trained.",
    )
    CUT = (
        "the reply breaks off before its end, as rows do that are cut at a maximum length: the model would learn to "
        "leave its answers out",
        "Drop rows that are too long instead of cutting them, or allow more tokens (coldforge-prepare --max-tokens).",
    )
    NO_END = (
        "no <end_of_turn> follows the reply, so that the model would never learn to stop",
        "End each reply with <end_of_turn> (coldforge.data.tokenize does), or prepare the rows again.",
    )
    END_NOT_LEARNT = (
        "the <end_of_turn> behind the reply has no loss weight, so that the model would never learn to stop",
        "Mark the reply up to its <end_of_turn> as learnt (coldforge.data.tokenize does), or prepare the rows again.",
    )
    OTHER_TEXT = (
        "the tokens spell another text than the row's question, reasoning and answer in the data set's form: they are "
        "another tokenizer's, or of another template or form",
        "Prepare the rows again with the tokenizer of the model that is trained.",
    )


def check_rows(dataset: Dataset, tokenizer: Tokenizer, *, rows: int = ROWS) -> None:
    """Holds rows against what they say of themselves.

    Args:
        dataset: A data set whose ids should be this tokenizer's; see `Dataset.check_tokenizer`.
        tokenizer: The model's.
        rows: How many of each split to look at, evenly spread.

    Raises:
        ValueError: A row does not teach what it says: the commonest fault, in how many rows, the first of them, and
            what to do.
    """
    for split in (dataset.train, dataset.heldout):
        places = np.linspace(0, len(split) - 1, min(rows, len(split))).astype(int)
        faults: Counter[RowFault] = Counter()
        first: dict[RowFault, Record] = {}
        for place in places:
            record = split[int(place)]
            if (fault := fault_of(record, tokenizer, dataset.form)) is not None:
                faults[fault] += 1
                first.setdefault(fault, record)
        if faults:
            [(fault, count)] = faults.most_common(1)
            what, advice = fault.value
            record = first[fault]
            raise ValueError(
                f"{dataset.path}: in {count:,} of {len(places):,} {split.name} rows looked at, {what}. The first is "
                f"row {record.index} of {record.source}, whose tokens end in {_ending(record, tokenizer)!r}. {advice}"
            )


def fault_of(record: Record, tokenizer: Tokenizer, form: ReasoningFormat) -> RowFault | None:
    """What is wrong with a row; None if nothing is."""
    if max(record.ids, default=0) >= tokenizer.vocab_size:
        return RowFault.OTHER_TEXT
    begin = _reply(record.ids.tolist(), tokenizer)
    if begin is None:
        return RowFault.NO_PROMPT
    parts = record.parts
    if (parts[:begin] != Part.PROMPT).any():
        return RowFault.PROMPT_LEARNT
    ended = int(record.ids[-1]) == tokenizer.end_of_turn_id
    said = tokenizer.decode(record.ids[begin : len(record.ids) - ended].tolist(), skip_special=False)
    wanted = _wanted(record, form)
    if said != wanted:
        cut = wanted is not None and wanted.startswith(said.rstrip("\ufffd"))  # U+FFFD: within a character
        return RowFault.CUT if cut else RowFault.OTHER_TEXT
    if not ended:
        return RowFault.NO_END
    if parts[-1] != Part.ANSWER:
        return RowFault.END_NOT_LEARNT
    return None if _asks(record, begin, tokenizer, form) else RowFault.OTHER_TEXT


def _reply(ids: Sequence[int], tokenizer: Tokenizer) -> int | None:
    """Where the reply begins: behind the last opening of a model's turn, which no text can spell."""
    opening = [tokenizer.start_of_turn_id, *tokenizer.encode(GENERATION_PROMPT)]
    place = len(ids) - 1 - ids[::-1].index(opening[0]) if opening[0] in ids else -1
    end = place + len(opening)
    return end if place >= 0 and list(ids[place:end]) == opening and end < len(ids) else None


def _wanted(record: Record, form: ReasoningFormat) -> str | None:
    """What the reply should say; None where the form cannot hold it. U+2581 is a space to the tokenizer."""
    try:
        text = form.render(record.reasoning, record.answer) if record.shows_work else record.answer
    except FormatError:
        return None
    return text.replace("\u2581", " ")


def _asks(record: Record, begin: int, tokenizer: Tokenizer, form: ReasoningFormat) -> bool:
    """Whether the prompt asks the row's question. Of a conversation the turns are not kept apart, but in its tokens."""
    if not record.shows_work:
        return True
    wanted = render_chat(record.example.prompt(form), add_generation_prompt=True)
    said = tokenizer.decode(record.ids[:begin].tolist(), skip_special=False)
    return said == wanted.replace("\u2581", " ")


def _ending(record: Record, tokenizer: Tokenizer) -> str:
    ids = [token for token in record.ids[-12:].tolist() if token < tokenizer.vocab_size]
    return tokenizer.decode(ids, skip_special=False)
