"""Tokens of examples: the ids a sampler would see, and the exact boundary between prompt, reasoning and answer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coldforge.data import Example, FormatError, ReasoningFormat, Tokenizer, loss_weights, tokenize

FORM = ReasoningFormat()
OTHER = ReasoningFormat(reasoning=("[[", "]]"), answer=("\\", "/"), template="")
pieces = ["\n", "\n\n", "  ", "\t", "<b>", "<start_of_turn>", "<end_of_turn>", "▁", "é", "12", "def ", "<", ">", "the "]
contents = st.lists(st.sampled_from(pieces) | st.text(max_size=4), max_size=8).map(lambda parts: "".join(parts).strip())


def example(question: str, reasoning: str, answer: str, system: str = "") -> Example:
    return Example("s", 0, question, reasoning, answer, "text", system)


@pytest.mark.parametrize("form", [FORM, OTHER])
@given(question=contents, reasoning=contents, answer=contents, system=contents)
def test_ids_and_parts(
    tok: Tokenizer, form: ReasoningFormat, question: str, reasoning: str, answer: str, system: str
) -> None:
    row = example(question, reasoning, answer, system)
    try:
        head, tail = form.render_parts(reasoning, answer)
    except FormatError:
        with pytest.raises(FormatError):
            tokenize(row, tok, form)
        return
    tokens = tokenize(row, tok, form)
    assert (tokens.ids.dtype, tokens.parts.dtype) == (np.int32, np.uint8)
    assert len(tokens) == len(tokens.ids) == len(tokens.parts)
    # The whole conversation, encoded at once, is the same ids and the newline after the turn.
    newline = tok.encode("\n")
    assert [*tokens.ids, *newline] == tok.encode_chat(row.messages(form), add_generation_prompt=False)
    # And each part says what it should.
    assert tokens.ids[tokens.parts == 0].tolist() == tok.encode_chat(row.prompt(form))
    decoded = [tok.decode(tokens.ids[tokens.parts == part], skip_special=False) for part in (1, 2)]
    assert decoded == [head.replace("▁", " "), tail.replace("▁", " ") + "<end_of_turn>"]
    assert sorted(tokens.parts) == tokens.parts.tolist()


def test_stopping_is_learned_with_the_answer(tok: Tokenizer) -> None:
    tokens = tokenize(example("2 + 2 = ?", "Two and two.", "4"), tok, FORM)
    weights = loss_weights(tokens.parts, reasoning=0.5, answer=2.0)
    assert weights.dtype == np.float32
    assert (tokens.ids[-1], weights[-1]) == (tok.end_of_turn_id, 2.0)
    assert (tokens.ids == tok.end_of_turn_id).sum() == 2  # the user's turn and the model's
    assert set(weights[: len(tok.encode_chat(example("2 + 2 = ?", "x", "x").prompt(FORM)))]) == {0.0}


@given(st.lists(st.integers(0, 2), min_size=1), st.floats(0, 10, width=32), st.floats(0.125, 10, width=32))
def test_weights_are_those_of_the_parts(parts: list[int], reasoning: float, answer: float) -> None:
    weights = loss_weights(np.array([parts, parts], np.uint8), reasoning=reasoning, answer=answer)
    assert weights.tolist() == [[(0.0, reasoning, answer)[part] for part in parts]] * 2


@pytest.mark.parametrize("weights", [(-1.0, 1.0), (1.0, float("nan")), (float("inf"), 1.0), (0.0, 0.0)])
def test_weights_that_teach_nothing_or_the_opposite_are_refused(weights: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"the weights are .* wanted finite ones from 0 up"):
        loss_weights(np.zeros(1, np.uint8), reasoning=weights[0], answer=weights[1])


def test_something_else_than_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="go from 0 to 3; wanted 0 to 2"):
        loss_weights(np.array([0, 3], np.uint8))
    assert loss_weights(np.zeros((0, 4), np.uint8)).shape == (0, 4)
