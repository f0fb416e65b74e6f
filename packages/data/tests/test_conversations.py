"""Conversations: what is learnt of them, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from coldforge.data import ReasoningFormat, Record, Refusal, Row, Tokenizer
from coldforge.data.conversations import Conversation, conversation_of, record_of, tokenize_conversation

FORM = ReasoningFormat()


def said(*turns: tuple[str, str]) -> Row:
    return Row("chat.jsonl", 7, {"messages": [{"role": role, "content": content} for role, content in turns]})


def found(row: Row) -> Conversation:
    conversation = conversation_of(row, FORM)
    assert isinstance(conversation, Conversation), conversation
    return conversation


def test_only_the_last_reply_is_learnt(tok: Tokenizer) -> None:
    turns = [("system", "Be kind."), ("user", " Hi "), ("assistant", "Hello!"), ("user", "And now?"), ("model", "x")]
    turns[-1] = ("assistant", " Now I go.\n")
    row = said(*turns)
    tokens = tokenize_conversation(found(row), tok)
    messages = row.data["messages"]
    assert tokens.ids.tolist() == [*tok.encode_chat(messages[:-1]), *tok.encode("Now I go."), tok.end_of_turn_id]
    whole = tok.encode_chat(messages, add_generation_prompt=False)
    assert tokens.ids.tolist() == whole[: len(tokens)], "as the template has it, up to the end of the turn"
    learnt = np.flatnonzero(tokens.parts)
    assert (tokens.parts[learnt] == 2).all()
    assert tok.decode(tokens.ids[learnt], skip_special=False) == "Now I go.<end_of_turn>"
    assert learnt.tolist() == list(range(learnt[0], len(tokens)))


def test_a_record_of_it_comes_back_and_is_no_example(tok: Tokenizer) -> None:
    conversation = found(
        said(("user", "Hi"), ("assistant", "Hello!"), ("user", "How are you?"), ("assistant", "Fine."))
    )
    record = Record.unpack(record_of(conversation, tokenize_conversation(conversation, tok)).pack())
    assert (record.question, record.reasoning, record.answer) == ("Hi\n\nHello!\n\nHow are you?", "", "Fine.")
    assert not record.shows_work
    with pytest.raises(ValueError, match=r"row 7 of chat\.jsonl is a conversation, not an example"):
        _ = record.example


def test_other_columns_and_names_of_roles() -> None:
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]
    assert found(Row("c", 0, {"conversations": turns})) == Conversation("c", 0, ("Hi",), "Hello!")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (said(("user", "Hi")), "wrong-roles"),
        (said(("assistant", "Hi"), ("user", "Hi")), "wrong-roles"),
        (said(("user", "Hi"), ("user", "Hi"), ("assistant", "x")), "wrong-roles"),
        (said(("system", "Be kind.")), "wrong-roles"),
        (said(("user", "Hi"), ("narrator", "x")), "wrong-roles"),
        (said(), "wrong-roles"),
        (said(("user", "Hi"), ("assistant", " ")), "empty-conversation"),
        (said(("user", "Hi"), ("assistant", "<answer>4</answer>")), "tags-in-content"),
        (said(("user", "Hi"), ("assistant", "a\ufffdb")), "bad-unicode"),
        (replace(said(), data={"messages": "Hi"}), "bad-content"),
        (replace(said(), data={"messages": [{"role": "user"}]}), "unknown-schema"),
        (replace(said(), data={"text": "Hi"}), "unknown-schema"),
        (replace(said(), data=Refusal("bad-json", "no JSON")), "bad-json"),
    ],
)
def test_what_is_not_in_order_is_refused(row: Row, reason: str) -> None:
    refusal = conversation_of(row, FORM)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == reason
    assert refusal.detail.endswith((".", "JSON"))
