"""Texts that end a reply: where it is cut, and how an engine is told that one was written. Imports no JAX."""

from collections.abc import Callable, Sequence

import numpy as np

from coldforge.data import Tokenizer


def until(tokenizer: Tokenizer, stops: tuple[str, ...]) -> Callable[[np.ndarray], int | None] | None:
    """What tells the engine that one of the texts has been written: how many tokens that took. None for no texts."""
    if not stops:
        return None

    def kept(tokens: np.ndarray) -> int | None:
        def said(count: int) -> bool:
            text = tokenizer.decode(tokens[:count], skip_special=False)
            return any(stop in text for stop in stops)

        if not said(len(tokens)):
            return None
        low, high = 0, len(tokens)  # not said by `low` tokens, said by `high`
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if said(middle) else (middle, high)
        return high

    return kept


def cut(text: str, stops: Sequence[str]) -> str:
    r"""The text before the first of the texts that end it: `cut("4\n\nQuestion: 5", ["Question:"])` is "4\n\n"."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text
