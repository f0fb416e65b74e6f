"""Examples as token ids, and which part of the example each id belongs to: what a loss is weighed by.

`tokenize` gives ids and parts; `loss_weights` turns parts into weights. They are two steps, so that a prepared data set
serves any weights, and so that losses can be reported for reasoning and answer apart.

A sequence is what a sampler sees and then says: the prompt with Gemma's template up to the opening of the model's turn,
the reply, <end_of_turn>. The newline that the template puts after a finished turn is left out, since generation ends
before it. <end_of_turn> counts with the answer: where to stop is learned. Left out: packing and padding to a length
(padding is part 0, as prompts are).
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from coldforge.data.format import ReasoningFormat
from coldforge.data.records import Example
from coldforge.data.tokenizer import Tokenizer


class Part(IntEnum):
    """What a token belongs to. Prompts and padding are alike: nothing is learned there."""

    PROMPT = 0
    REASONING = 1
    ANSWER = 2


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """An example's tokens.

    Attributes:
        ids: int32, shape [length].
        parts: uint8, shape [length]; the `Part` of each id.
    """

    ids: npt.NDArray[np.int32]
    parts: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.ids)


def tokenize(example: Example, tokenizer: Tokenizer, form: ReasoningFormat) -> Tokens:
    r"""Encodes an example in a format.

    Reasoning and answer are encoded apart, as the boundary must not lie within a token. The ids are those of the whole
    text all the same: the answer's section begins after a newline, and no token of Gemma's joins newlines with other
    text. The reply is encoded apart from the prompt because a sampler continues the prompt's ids.

    For "2 + 2 = ?", "Two and two." and "4" the parts are those of

        <bos><start_of_turn>user\n…2 + 2 = ?<end_of_turn>\n<start_of_turn>model\n   PROMPT
        <reasoning>\nTwo and two.\n</reasoning>\n                                   REASONING
        <answer>4</answer><end_of_turn>                                             ANSWER

    Raises:
        FormatError: Reasoning or answer contains one of the format's tags.
    """
    prompt = tokenizer.encode_chat(example.prompt(form))
    head, tail = form.render_parts(example.reasoning, example.answer)
    reasoning, answer = tokenizer.encode_batch([head, tail], num_threads=1)
    answer = [*answer, tokenizer.end_of_turn_id]
    parts = np.repeat(np.array(list(Part), np.uint8), [len(prompt), len(reasoning), len(answer)])
    return Tokens(np.array(prompt + reasoning + answer, np.int32), parts)


def loss_weights(
    parts: npt.NDArray[np.uint8], *, reasoning: float = 1.0, answer: float = 1.0
) -> npt.NDArray[np.float32]:
    """Returns the weight with which each token counts as a target: 0 for prompts and padding.

    >>> loss_weights(np.array([0, 0, 1, 1, 2], np.uint8), answer=2.0).tolist()
    [0.0, 0.0, 1.0, 1.0, 2.0]

    Args:
        parts: `Part`s, of any shape.
        reasoning: α, the weight of tokens of the reasoning.
        answer: β, the weight of tokens of the answer and of <end_of_turn>.

    Returns:
        float32 in the shape of `parts`. The weight stands with the token that is predicted, not with the one before.

    Raises:
        ValueError: A weight is negative or not finite, or both are 0; or `parts` holds something else than parts.
    """
    if not (0 <= reasoning < float("inf") and 0 <= answer < float("inf") and reasoning + answer > 0):
        raise ValueError(f"the weights are {reasoning} and {answer}; wanted finite ones from 0 up, not both 0.")
    if parts.size and not 0 <= parts.min() <= parts.max() <= max(Part):
        raise ValueError(f"the parts go from {parts.min()} to {parts.max()}; wanted {min(Part):d} to {max(Part):d}.")
    return np.array([0.0, reasoning, answer], np.float32)[parts]
