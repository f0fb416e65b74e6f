"""Means over masked tokens, in one place: a sum and its weight, which add up, and one division at the very end.

A batch is split over micro-batches, devices and hosts, and its parts hold different numbers of tokens. The mean over
all tokens is then the sum of the parts' sums over the sum of the parts' weights. The mean of the parts' means is
another number: it counts a token of a short part more. So a sum is a `WeightedSum` here, parts are added, and only what
is shown or differentiated last is divided:

    parts = [weighted_sum(loss, weights) for loss, weights in micro_batches]
    mean = sum(parts[1:], parts[0]).mean()

For gradients the same holds: differentiate each part's `total`, add the gradients, divide them once by the sum of all
weights (which depends on no parameter).

A position of weight 0 counts for nothing, whatever its value: NaN and infinity there reach neither sum nor gradient.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num


class WeightedSum(NamedTuple):
    """Σ weight · value and Σ weight: `WeightedSum(6.0, 2.0).mean()` is 3.0. Adding two adds both parts.

    Both have the same shape: `[]`, or `[groups]` for one sum per group. It is a pytree, so `jax.lax.psum`,
    `jax.tree.map` and the carry of a `jax.lax.scan` take it as it is.
    """

    total: Float[Array, "..."] | float
    weight: Float[Array, "..."] | float

    def __add__(self, other: "WeightedSum") -> "WeightedSum":  # type: ignore[override]
        if not isinstance(other, WeightedSum):  # a tuple's own + would concatenate
            return NotImplemented
        return WeightedSum(self.total + other.total, self.weight + other.weight)

    def mean(self) -> Array:
        """Total over weight, and 0 where the weight is 0: nothing was counted there. Shape of `total`."""
        empty = self.weight == 0
        return jnp.where(empty, 0, self.total / jnp.where(empty, 1, self.weight))


def weighted_sum(
    values: Float[Array, "*dims"],
    weights: Num[Array, "*#dims"] | Bool[Array, "*#dims"],
    axis: int | Sequence[int] | None = None,
) -> WeightedSum:
    """Σ weights · values and Σ weights, over `axis` (default: all of them), in float32 or wider.

    `weighted_sum([1., 2., nan], [1., 3., 0.])` is `WeightedSum(7.0, 4.0)`.

    Args:
      values: of any shape.
      weights: of the same shape or one that broadcasts to it; a boolean mask counts True as 1.
      axis: what to sum over.
    """
    dtype = jnp.promote_types(values.dtype, jnp.float32)
    weights = jnp.broadcast_to(weights, values.shape).astype(dtype)
    # The inner where keeps 0 · nan out of the sum, and 0 · inf out of its gradient.
    values = jnp.where(weights == 0, 0, values.astype(dtype))
    return WeightedSum((values * weights).sum(axis), weights.sum(axis))


def token_mean(
    values: Float[Array, "*dims"], weights: Num[Array, "*#dims"] | Bool[Array, "*#dims"]
) -> Float[Array, ""]:
    """The weighted mean over all tokens of all rows: Σ weights · values / Σ weights; 0 if nothing is counted.

    Right for one whole batch on any mesh under `jit`. For micro-batches add `weighted_sum`s and divide once.
    """
    return weighted_sum(values, weights).mean()


def masked_mean(
    values: Float[Array, "*dims"], mask: Bool[Array, "*#dims"], axis: int | Sequence[int] | None = None
) -> Float[Array, "..."]:
    """The mean of `values` where `mask` is True, over `axis` (default: all); 0 where the mask has no True.

    `masked_mean([[1., 3.], [5., nan]], [[True, True], [True, False]], axis=1)` is `[2., 5.]`.
    """
    return weighted_sum(values, mask, axis).mean()


def segment_sums(
    values: Float[Array, "*dims"],
    weights: Num[Array, "*dims"] | Bool[Array, "*dims"],
    labels: Int[Array, "*dims"],
    num_labels: int,
) -> WeightedSum:
    """One weighted sum per label: `[num_labels]` each, entry k over the positions with `labels == k`.

    `segment_sums([1., 2., 4.], [1., 1., 1.], [0, 1, 1], 2).mean()` is `[1., 3.]`. Labels outside `[0, num_labels)` are
    counted nowhere. Each label is one masked sum, which suits a handful of them (reasoning, answer).

    Raises:
      ValueError: if `num_labels` is less than 1.
    """
    if num_labels < 1:
        raise ValueError(f"num_labels must be at least 1, got {num_labels}")
    per_label = [weighted_sum(values, jnp.where(labels == k, weights, 0)) for k in range(num_labels)]
    return jax.tree.map(lambda *parts: jnp.stack(parts), *per_label)
