"""Choosing the next token: temperature, top-k, top-p, and one uniform number per token.

A vocabulary of 262,144 makes the usual ways dear: sorting it for top-p, or drawing 262,144 Gumbel numbers per row. Here
  - top-k and top-p find a threshold, among the 1,024 most likely tokens where these suffice, else by bisection over the
    bits of a float (exact, no sort of the vocabulary); both only when some row asks for it;
  - a draw inverts the cumulative distribution for one uniform number, first over blocks of 512 tokens, then inside one.
All parameters are arrays with one entry per row, so changing them, or mixing them in one batch, compiles nothing anew.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

BLOCK = 512  # tokens per block of the two-level search
CANDIDATES = 1024  # most likely tokens among which top-k and top-p look first


class RowParams(NamedTuple):
    """Sampling parameters of each row of a batch, `[batch]` each."""

    temperature: Float[Array | np.ndarray, " batch"]
    top_k: Int[Array | np.ndarray, " batch"]
    top_p: Float[Array | np.ndarray, " batch"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How to sample.

    Attributes:
      max_new_tokens: a sample ends after so many tokens (its reason is then "length").
      temperature: logits are divided by it; 0 takes the most likely token.
      top_k: sample among the k most likely tokens; 0 is off. Tokens as likely as the k-th are all kept.
      top_p: then among the smallest set of most likely tokens whose probability reaches top_p; 1 is off. Ties as above.
      seed: same seed, prompt and parameters, same samples, whatever else is in the batch.
      stop_ids: a sample ends with the first of these, which is part of it. Gemma's are <eos> 1 and <end_of_turn> 106.
    """

    max_new_tokens: int = 256
    temperature: float | int = 1.0
    top_k: int = 0
    top_p: float | int = 1.0
    seed: int = 0
    stop_ids: tuple[int, ...] = (1, 106)

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature must be 0 (greedy) or a positive number, got {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (off) or positive, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], where 1 is off, got {self.top_p}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in [0, 2**32), got {self.seed}")
        if any(i < 0 for i in self.stop_ids):
            raise ValueError(f"stop_ids must be token ids, got {self.stop_ids}")

    def rows(self, count: int) -> RowParams:
        """The same for each of `count` rows, on the host."""
        return RowParams(
            temperature=np.full(count, self.temperature, np.float32),
            top_k=np.full(count, self.top_k, np.int32),
            top_p=np.full(count, self.top_p, np.float32),
        )


def sample(
    logits: Float[Array, "batch vocab"], uniform: Float[Array, " batch"], params: RowParams
) -> tuple[Int[Array, " batch"], Float[Array, " batch"]]:
    """One token per row, and its log-probability under softmax(logits / temperature), before top-k and top-p.

    Args:
      logits: float32.
      uniform: numbers in [0, 1); the same numbers give the same tokens.
      params: per row. Rows of temperature 0 take the first most likely token and report temperature 1.
    """
    batch, vocab = logits.shape
    greedy = params.temperature == 0
    scale = jnp.where(greedy, 1.0, 1.0 / params.temperature)
    if vocab % BLOCK:
        logits = jnp.pad(logits, ((0, 0), (0, -vocab % BLOCK)), constant_values=-jnp.inf)
    blocks = logits.reshape(batch, -1, BLOCK)
    high = blocks.max(axis=-1)  # [batch, blocks]
    top = high.max(axis=-1)

    def weights(x):  # of logits [batch, ..., BLOCK]: 1 for the most likely token
        expand = (slice(None),) + (None,) * (x.ndim - 1)
        return jnp.exp((x - top[expand]) * scale[expand])

    mass = weights(blocks).sum(axis=-1)  # [batch, blocks]
    total = mass.sum(axis=-1)

    limited = ~greedy & ((params.top_k > 0) | (params.top_p < 1))

    def limit():
        floor = jnp.where(limited, _floor(logits, total, top, scale, params), -jnp.inf)
        kept = jnp.where(blocks >= floor[:, None, None], weights(blocks), 0.0).sum(axis=-1)
        return floor, jnp.where(limited[:, None], kept, mass)

    floor, mass = jax.lax.cond(jnp.any(limited), limit, lambda: (jnp.full((batch,), -jnp.inf), mass))
    block, rest = _invert(mass, uniform)
    block = jnp.where(greedy, jnp.argmax(high, axis=-1), block)
    inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]  # [batch, BLOCK]
    offset, _ = _invert(jnp.where(inside >= floor[:, None], weights(inside), 0.0), rest)
    offset = jnp.where(greedy, jnp.argmax(inside, axis=-1), offset)
    chosen = jnp.take_along_axis(inside, offset[:, None], axis=1)[:, 0]
    return block * BLOCK + offset, (chosen - top) * scale - jnp.log(total)


def _invert(weights: Float[Array, "batch n"], uniform: Float[Array, " batch"]):
    """The index at which the cumulative weight passes `uniform` of the total, and how far into that weight (in [0, 1)).

    An index of weight 0 is never returned: the target stays below the total, also after rounding.
    """
    cumulative = jnp.cumsum(weights, axis=-1)
    total = cumulative[:, -1]
    target = jnp.minimum(uniform, 1 - 2.0**-23) * total
    index = jnp.sum(cumulative <= target[:, None], axis=-1)
    index = jnp.minimum(index, weights.shape[1] - 1)
    weight = jnp.take_along_axis(weights, index[:, None], axis=-1)[:, 0]
    before = jnp.take_along_axis(cumulative, index[:, None], axis=-1)[:, 0] - weight
    return index, jnp.clip((target - before) / weight, 0.0, 1 - 2.0**-23)


def _floor(logits, total, top, scale, params: RowParams) -> Float[Array, " batch"]:
    """The lowest logit that top-k and then top-p keep.

    Args:
      logits: `[batch, vocab]`; total: the sum of all weights; top, scale: a weight is `exp((logit - top) * scale)`.
    """
    vocab = logits.shape[1]
    k = jnp.where(params.top_k > 0, jnp.minimum(params.top_k, vocab), vocab)
    best = jax.lax.top_k(logits, min(CANDIDATES, vocab))[0]  # sorted
    reached = jnp.cumsum(jnp.exp((best - top[:, None]) * scale[:, None]), axis=-1)
    # Exact if the candidates hold all k tokens, or (without top-k) the wanted mass.
    enough = jnp.where(params.top_k > 0, k <= best.shape[1], reached[:, -1] >= params.top_p * total)

    def from_candidates():
        last = jnp.minimum(k, best.shape[1])[:, None] - 1
        by_k = jnp.where(params.top_k > 0, jnp.take_along_axis(best, last, axis=1)[:, 0], -jnp.inf)
        # Ties with the k-th are kept, so they count too; candidates beyond are cut off by the mask.
        kept = jnp.where(best >= by_k[:, None], jnp.exp((best - top[:, None]) * scale[:, None]), 0.0)
        wanted = params.top_p * jnp.where(params.top_k > 0, kept.sum(axis=-1), total)
        count = jnp.sum(jnp.cumsum(kept, axis=-1) < wanted[:, None], axis=-1)
        by_p = jnp.take_along_axis(best, jnp.minimum(count, best.shape[1] - 1)[:, None], axis=1)[:, 0]
        return jnp.where(params.top_p < 1, jnp.maximum(by_k, by_p), by_k)

    limited = (params.temperature > 0) & ((params.top_k > 0) | (params.top_p < 1))
    return jax.lax.cond(
        jnp.all(enough | ~limited), from_candidates, lambda: _bisected_floor(logits, k, top, scale, params)
    )


def _bisected_floor(logits, k, top, scale, params: RowParams) -> Float[Array, " batch"]:
    """`_floor` for any k and any mass: no sort, 64 passes."""
    keys = _ordered_bits(logits)
    by_k = _highest(keys, lambda reach: jnp.sum(reach.astype(jnp.float32), axis=-1) >= k)  # exact up to 2**24 tokens
    mass = jnp.where(keys >= by_k[:, None], jnp.exp((logits - top[:, None]) * scale[:, None]), 0.0)
    wanted = params.top_p * mass.sum(axis=-1)
    by_p = _highest(keys, lambda reach: jnp.sum(jnp.where(reach, mass, 0.0), axis=-1) >= wanted)
    # top_p = 1 is off: rounding of a sum must not cut the tail
    return _from_ordered_bits(jnp.where(params.top_p < 1, jnp.maximum(by_k, by_p), by_k))


def _highest(keys: UInt32[Array, "batch vocab"], holds) -> UInt32[Array, " batch"]:
    """The highest threshold for which `holds(keys >= threshold)`, built from the highest bit down; 0 holds always."""

    def add_bit(i, threshold):
        candidate = threshold | (jnp.uint32(1) << (31 - i).astype(jnp.uint32))
        return jnp.where(holds(keys >= candidate[:, None]), candidate, threshold)

    return jax.lax.fori_loop(0, 32, add_bit, jnp.zeros(keys.shape[0], jnp.uint32))


def _ordered_bits(x: Float[Array, "..."]) -> UInt32[Array, "..."]:
    """Unsigned integers that compare as the floats do."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(0x80000000))


def _from_ordered_bits(keys: UInt32[Array, "..."]) -> Float[Array, "..."]:
    bits = jnp.where(keys >> 31 == 1, keys & jnp.uint32(0x7FFFFFFF), ~keys)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def is_stop(tokens: Int[Array, " batch"], stop_ids: Int[Array, " stops"]) -> Bool[Array, " batch"]:
    """Whether each token is one of `stop_ids`."""
    return jnp.any(tokens[:, None] == stop_ids[None, :], axis=-1)
