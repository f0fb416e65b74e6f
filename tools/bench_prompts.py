"""Prompts for the sampler benchmark, as token ids from a seed, so that Coldforge and a peer get the same ones.

Ids, not text: neither side then needs a tokenizer, and lengths are exact. The ids are drawn evenly from the middle of
Gemma3's vocabulary, away from control tokens, bytes and the unused rows at its end; the text they spell is nonsense,
which costs a sampler as much as sense does, as long as no row may end early. Needs numpy only.
"""

import numpy as np

BOS = 2
FIRST_ID, LAST_ID = 1_000, 200_000
NO_EOS = (-1,)  # a stop id that no token equals: every row runs to its full length


def _prompt(rng: np.random.Generator, length: int) -> np.ndarray:
    ids = rng.integers(FIRST_ID, LAST_ID, length, dtype=np.int32)
    ids[0] = BOS
    return ids


def equal_prompts(count: int = 8, length: int = 64, seed: int = 0) -> list[np.ndarray]:
    """`count` prompts of `length` ids each, BOS included."""
    rng = np.random.default_rng(seed)
    return [_prompt(rng, length) for _ in range(count)]


def mixed_prompts(count: int = 32, shortest: int = 16, longest: int = 256, seed: int = 1) -> list[np.ndarray]:
    """`count` prompts whose lengths are drawn evenly from `shortest..longest`, BOS included."""
    rng = np.random.default_rng(seed)
    return [_prompt(rng, length) for length in rng.integers(shortest, longest + 1, count)]
