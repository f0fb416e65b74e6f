"""What waiting prompts begin with alike (few-shot examples, an instruction), and whether it pays to prefill it once.

    prefix = choose_prefix(prompts, held, widest)      # None: prefill the prompts whole

A prefix lies in a cache of one row, in the model's dtype, so that what follows sees the very keys and values that it
would see within one prompt. There is one at a time: the next replaces it.
"""

import itertools
from collections.abc import Sequence

import numpy as np

SAVED = 512  # tokens that a new prefix must save: about a second of 270M on a CPU, for programs that are compiled


def choose_prefix(prompts: Sequence[np.ndarray], held: np.ndarray | None, widest: int) -> np.ndarray | None:
    """The beginning of the first prompts that is prefilled once for them: `held`, a new one, or None.

    It pays where it saves half of those prompts' tokens; a new one, which is a call of its own, must save `SAVED` too.
    Of two that pay, the one that saves more.

    Args:
      prompts: that wait, in order; as many as one call takes.
      held: the prefix that is there already.
      widest: the most tokens that may follow a prefix.
    """

    def saved(count: int, length: int, prefills: int) -> int:
        found = (count - prefills) * length
        fits = all(prompt.size - length <= widest for prompt in prompts[:count])
        return found if fits and 2 * found >= sum(prompt.size for prompt in prompts[:count]) else 0

    old = 0
    if held is not None:
        count = sum(1 for _ in itertools.takewhile(lambda prompt: begins(prompt, held), prompts))
        old = saved(count, held.size, 0)
    lengths = enumerate(common_lengths(prompts), start=2)
    new, length = max(((saved(count, length, 1), length) for count, length in lengths), default=(0, 0))
    if new >= SAVED and new > old:
        return prompts[0][:length]
    return held if old else None


def common_lengths(prompts: Sequence[np.ndarray]) -> list[int]:
    """How many tokens the first two, three, ... prompts begin with alike, short of the whole of any.

    `[[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 9], [7]]` gives `[3, 2, 0]`.
    """
    length, found = prompts[0].size - 1, []
    for prompt in prompts[1:]:
        length = min(length, prompt.size - 1)
        differ = np.flatnonzero(prompts[0][:length] != prompt[:length])
        length = int(differ[0]) if differ.size else length
        found.append(length)
    return found


def begins(prompt: np.ndarray, prefix: np.ndarray) -> bool:
    """Whether the prompt goes on from the prefix."""
    return prompt.size > prefix.size and np.array_equal(prompt[: prefix.size], prefix)
