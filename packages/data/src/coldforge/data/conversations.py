"""Rows that do not show their work: conversations, whose last reply is learnt as it is, as an answer without reasoning.

    found = conversation_of(row, form)                                # {"messages": [{"role": …, "content": …}, …]}
    record = record_of(found, tokenize_conversation(found, tokenizer))

What is mixed into the second fine-tuning (DeepSeek-R1, 2501.12948v2, B.3.3: writing, facts, translation), so that a
model that reasons still talks. The prompt is the conversation as it stands, without any instruction; its tokens and
those of earlier replies are prompt, the last reply and <end_of_turn> are answer. A reply with one of the form's tags is
refused: such rows are `convert`'s. As in `convert`, nothing is repaired.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from coldforge.data.chat import Message
from coldforge.data.convert import RefusedError, clean_text, turns_of
from coldforge.data.dataset import Record
from coldforge.data.format import ReasoningFormat
from coldforge.data.records import AnswerKind, Refusal, Row
from coldforge.data.tokenizer import Tokenizer
from coldforge.data.tokens import Part, Tokens


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation and the reply to be learnt. No text has white space around it, none but `system` is empty.

    Attributes:
        source, index: Where it comes from; see `Row`.
        turns: What user and assistant said in turn; the user's is the first and the last.
        reply: What comes next.
        system: The system message, or "".
    """

    source: str
    index: int
    turns: tuple[str, ...]
    reply: str
    system: str = ""

    @property
    def question(self) -> str:
        """All that was said before the reply: of one turn, what the user asks."""
        return "\n\n".join(self.turns)

    def prompt(self) -> list[Message]:
        """What the model is asked."""
        system: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        roles = ("user", "assistant")
        return [*system, *({"role": roles[i % 2], "content": turn} for i, turn in enumerate(self.turns))]


def conversation_of(row: Row, form: ReasoningFormat) -> Conversation | Refusal:
    """Makes a conversation of a row with `messages` (or `conversations`), or says why not.

    Returns:
        A conversation; or a refusal, whose reasons are, besides those of the source: "unknown-schema",
        "empty-conversation" (a turn says nothing), "wrong-roles", "bad-content", "bad-unicode", "tags-in-content".
    """
    if isinstance(row.data, Refusal):
        return row.data
    try:
        return _conversation(row.source, row.index, row.data, form)
    except RefusedError as refused:
        return refused.refusal


def _conversation(source: str, index: int, data: Mapping[str, Any], form: ReasoningFormat) -> Conversation:
    name = next((name for name in ("messages", "conversations") if data.get(name) is not None), None)
    if name is None:
        raise RefusedError("unknown-schema", f"the columns are {', '.join(map(str, data)) or 'none'}; wanted messages.")
    turns = [(role, clean_text("message", text)) for role, text in turns_of(name, data[name])]
    if not all(text for role, text in turns if role != "system"):
        raise RefusedError("empty-conversation", "a message is empty; wanted what user and assistant said.")
    system = turns.pop(0)[1] if turns and turns[0][0] == "system" else ""
    roles = [role for role, _ in turns]
    if roles != ["user", "assistant"] * (len(roles) // 2) or not roles:
        said = ", ".join(roles) or "none"
        raise RefusedError("wrong-roles", f"the roles are {said}; wanted user and assistant in turn, up to a reply.")
    *said_before, (_, reply) = turns
    if tag := next((tag for tag in form.tags if tag in reply), None):
        raise RefusedError("tags-in-content", f"the reply has {tag}, a tag of replies that show their work.")
    return Conversation(source, index, tuple(text for _, text in said_before), reply, system)


def tokenize_conversation(conversation: Conversation, tokenizer: Tokenizer) -> Tokens:
    """Encodes a conversation: all but the reply and the <end_of_turn> after it is prompt."""
    prompt = tokenizer.encode_chat(conversation.prompt())
    reply = [*tokenizer.encode(conversation.reply), tokenizer.end_of_turn_id]
    parts = np.repeat(np.array([Part.PROMPT, Part.ANSWER], np.uint8), [len(prompt), len(reply)])
    return Tokens(np.array(prompt + reply, np.int32), parts)


def record_of(conversation: Conversation, tokens: Tokens) -> Record:
    """Puts a conversation and its tokens together: a record without reasoning, whose answer is the reply."""
    texts = (conversation.question, conversation.system, "", conversation.reply)
    return Record(tokens.ids, tokens.parts, conversation.source, conversation.index, *texts, AnswerKind.TEXT)
