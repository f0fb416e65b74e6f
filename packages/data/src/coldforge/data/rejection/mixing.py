"""Conversations that are mixed in: which rows can be used, and which of them are drawn.

As many are drawn as make up the wanted share of the result, by lot among all rows that can be used: those whose hash
with the seed is lowest, so that neither their order nor that of the files matters. Rows are read twice and never held.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coldforge.data.audit import Audit
from coldforge.data.conversations import Conversation, conversation_of, record_of, tokenize_conversation
from coldforge.data.dataset import Record
from coldforge.data.duplicates import ExactDuplicates, exact_key
from coldforge.data.format import ReasoningFormat
from coldforge.data.prepare.plan import Source, find_sources
from coldforge.data.records import Refusal, Row
from coldforge.data.tokenizer import Tokenizer
from coldforge.data.tokens import Tokens

type Taken = Callable[[Record], None]


@dataclass(frozen=True)
class Chat:
    """Where conversations come from, and how many are wanted. Made by `find_chat`.

    Attributes:
        sources: Their files or data sets.
        share: Of the result's rows, from 0 to below 1.
    """

    sources: Sequence[Source]
    share: float

    @property
    def identity(self) -> dict[str, Any]:
        """What decides which rows these are, as JSON holds it."""
        return {"share": self.share} | {source.name: dict(source.identity) for source in self.sources}

    def wanted(self, rows: int) -> int:
        """How many conversations go with so many other rows.

        >>> Chat((), 0.25).wanted(600)
        200
        """
        return round(rows * self.share / (1 - self.share))


def find_chat(names: Sequence[str], share: float, form: ReasoningFormat) -> Chat | None:
    """Finds conversations, and looks for a first one that can be used; None where none are wanted.

    Args:
        names: As `prepare` takes sources: paths, or names on the hub.
        share: Of the result's rows.
        form: Whose tags no reply may have.

    Raises:
        ValueError: The share is out of its range, or there is one without the other; or a source holds nothing of use.
        Others: As `find_sources`.
    """
    if not 0 <= share < 1:
        raise ValueError(f"the share of conversations is {share}; wanted 0 to below 1, as it is that of the result.")
    if bool(names) != (share > 0):
        has = f"the share of conversations is {share:g}" if share else f"conversations are named ({', '.join(names)})"
        lacks = "none are named" if share else "their share is 0"
        raise ValueError(f"{has}, and {lacks}; wanted both or neither.")
    if not names:
        return None
    sources = find_sources(names)
    for source in sources:
        first: Refusal | None = None
        for row in source.read(0):
            found = conversation_of(row, form)
            if isinstance(found, Conversation):
                break
            first = first or found
        else:
            why = f"the first row, {first.reason}: {first.detail}" if first else "it is empty."
            raise ValueError(f"{source.name} has no conversation that could be used; {why}")
    return Chat(sources, share)


@dataclass(frozen=True)
class Mixer:
    """Draws conversations and accounts for all of them.

    Attributes:
        chat: Where from.
        tokenizer, form: Of the data set.
        max_tokens: Longer ones are dropped.
        seed: Of the lot.
        names: What their sources are called in the account.
    """

    chat: Chat
    tokenizer: Tokenizer
    form: ReasoningFormat
    max_tokens: int
    seed: int
    names: Mapping[str, str]

    def draw(self, rows: int, audit: Audit, take: Taken) -> None:
        """Draws what goes with so many other rows, and hands each to `take`, in the order of the sources.

        Raises:
            ValueError: There are not as many.
        """
        wanted = self.chat.wanted(rows)
        usable = self._usable(audit)
        if len(usable) < wanted:
            most = len(usable) / (rows + len(usable))
            raise ValueError(
                f"a share of {self.chat.share:g} beside {rows:,} rows wants {wanted:,} conversations, and there are "
                f"{len(usable):,} of use. Bring more, or lower the share to {most:.4f} at most."
            )
        drawn = set(sorted(usable, key=lambda key: (usable[key], key))[:wanted])
        for number, source in enumerate(self.chat.sources):
            for row in source.read(0):
                key = (number, row.index)
                if key in drawn:
                    record = record_of(*self._read(self._named(row, source)))
                    audit.keep(record, len(record))
                    take(record)
                elif key in usable:
                    refusal = Refusal("not-needed", f"wanted are {wanted:,} conversations.")
                    audit.drop(self._named(row, source), refusal)

    def _usable(self, audit: Audit) -> dict[tuple[int, int], bytes]:
        """Number of the source and index → its lot; the others are dropped."""
        found = dict[tuple[int, int], bytes]()
        with ExactDuplicates() as duplicates:
            for number, source in enumerate(self.chat.sources):
                for row in source.read(0):
                    named = self._named(row, source)
                    refusal = self._refused(named, duplicates)
                    if refusal is None:
                        lot = f"{self.seed} {row.index} {source.name}".encode()
                        found[number, row.index] = hashlib.blake2b(lot, digest_size=8).digest()
                    else:
                        audit.drop(named, refusal)
        return found

    def _refused(self, row: Row, duplicates: ExactDuplicates) -> Refusal | None:
        conversation = conversation_of(row, self.form)
        if isinstance(conversation, Refusal):
            return conversation
        tokens = tokenize_conversation(conversation, self.tokenizer)
        if len(tokens) > self.max_tokens:
            return Refusal("too-long", f"{len(tokens):,} tokens; allowed are {self.max_tokens:,}.")
        text = "\0".join((conversation.system, conversation.question, conversation.reply))
        return duplicates.check(exact_key(text), row.source, row.index)

    def _read(self, row: Row) -> tuple[Conversation, Tokens]:
        found = conversation_of(row, self.form)
        if isinstance(found, Refusal):
            raise ValueError(f"{row.source}, row {row.index}, has changed while it was read: {found.detail}")
        return found, tokenize_conversation(found, self.tokenizer)

    def _named(self, row: Row, source: Source) -> Row:
        return Row(self.names[source.name], row.index, row.data)
