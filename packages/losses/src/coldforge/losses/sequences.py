"""Sums over each sequence of packed rows, given back to every token of it.

A row holds several sequences one after another; `segment_ids` says which, and neighbours of the same id belong
together. Only changes of the id matter, not the numbers.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def sequence_sums(
    values: Float[Array, "rows seq"], segment_ids: Int[Array, "rows seq"] | None
) -> Float[Array, "rows seq"]:
    """At every token, the sum of `values` over the token's sequence; None means that a row is one sequence.

    `sequence_sums([[1., 2., 4., 8.]], [[1, 1, 2, 2]])` is `[[3., 3., 12., 12.]]`. Padding (0) is a sequence of its own.
    """
    if segment_ids is None:
        return jnp.broadcast_to(values.sum(-1, keepdims=True), values.shape)
    changes = segment_ids[:, 1:] != segment_ids[:, :-1]
    runs = jnp.pad(jnp.cumsum(changes, -1), ((0, 0), (1, 0)))  # 0, 0, 1, 1, 1, 2 …: below seq, whatever the ids are

    # Sums by scatter: differences of one running sum over the row would lose the digits of what came before.
    def of_row(row: Array, run: Array) -> Array:
        return jax.ops.segment_sum(row, run, row.shape[0], indices_are_sorted=True)[run]

    return jax.vmap(of_row)(values, runs)


def sequence_means(
    values: Float[Array, "rows seq"], mask: Bool[Array, "rows seq"], segment_ids: Int[Array, "rows seq"] | None
) -> Float[Array, "rows seq"]:
    """At every token, the mean of `values` over the tokens of its sequence that `mask` counts; 0 if it counts none."""
    count = sequence_sums(mask.astype(values.dtype), segment_ids)
    return sequence_sums(jnp.where(mask, values, 0), segment_ids) / jnp.maximum(count, 1)
