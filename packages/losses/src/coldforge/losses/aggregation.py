"""From a loss per token to one number: each token's weight, and the one denominator, decided where rows are packed.

    found = aggregation_weights(lengths, "sequence_mean")       # over all samples of the update, on the host
    weights[row, first:last] = found.weights[sample]            # when sample is put into a row
    loss = Σ over micro-batches of policy_loss(..., weights).loss / found.denominator

A mean of sequence means, a sum over a constant length: all are Σ w · loss / D with some w and D, and sums add up
however the samples are split over rows, micro-batches, devices and hosts. Means taken inside a micro-batch would not.
"""

from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

AggregationKind = Literal["token", "sequence_mean", "sequence_sum", "constant"]


class Aggregation(NamedTuple):
    """Weights and denominator of one update.

    Attributes:
      weights: what each token of a sample weighs, float64 `[samples]`; 0 for samples that are not trained.
      denominator: what the sum of all weighted losses is divided by. 0 if no sample counts.
    """

    weights: Float[np.ndarray, " samples"]
    denominator: float


def aggregation_weights(
    lengths: Int[np.ndarray, " samples"],
    kind: AggregationKind,
    *,
    length: int | None = None,
    trained: Bool[np.ndarray, " samples"] | None = None,
    counted: Bool[np.ndarray, " samples"] | None = None,
) -> Aggregation:
    """Weights and denominator of an update by the kind of its mean.

    |o_i| is the length of sample i; sums are over samples that count.

    - "token": w = 1, D = Σ |o_i|. DAPO (arXiv:2503.14476, section 3.3); TRL's "dapo", verl's "token-mean".
    - "sequence_mean": w = 1 / |o_i|, D = number of samples. GRPO (arXiv:2402.03300, eq. 3); TRL's "grpo", verl's
      "seq-mean-token-mean". A long sample's tokens weigh little, so long wrong answers are hardly discouraged.
    - "sequence_sum": w = 1, D = number of samples. The policy gradient itself: sums over sequences; verl's
      "seq-mean-token-sum".
    - "constant": w = 1 / length, D = number of samples. Dr. GRPO (arXiv:2503.20783, section 3.2), with the longest
      length that a sample may have; TRL's "dr_grpo", verl's "seq-mean-token-sum-norm".

    Overlong filtering (DAPO, section 3.4) is `trained=ended`: truncated samples weigh nothing. By default they leave
    the denominator too; `counted=np.ones(n, bool)` keeps them there, as TRL does for "grpo" and "dr_grpo". Groups
    without variance are `counted=signal[group_of_sample]` (`advantages.has_signal`): they add nothing to the policy's
    part of the sum, so in the denominator they only make the step smaller.

    Args:
      lengths: number of completion tokens of each sample; 0 for a place without a sample, which counts nowhere.
      kind: see above.
      length: for "constant" alone.
      trained: samples whose tokens weigh anything; default all.
      counted: samples in the denominator; default those that are trained.

    Raises:
      ValueError: for an unknown kind, negative lengths, masks of another shape, a length below 1 or where it has no
        meaning.
    """
    lengths = np.asarray(lengths)
    if kind not in get_args(AggregationKind):
        raise ValueError(f"kind must be one of {', '.join(get_args(AggregationKind))}, got {kind!r}")
    if (kind == "constant") != (length is not None) or (length is not None and length < 1):
        raise ValueError(f"'constant' needs a length of at least 1, and no other kind has one; got {kind!r}, {length}")
    if lengths.ndim != 1 or (lengths < 0).any():
        raise ValueError(f"lengths must be one number per sample, none negative, got {lengths}")
    exists = lengths > 0
    weigh = exists if trained is None else _mask("trained", trained, exists)
    count = weigh if counted is None else _mask("counted", counted, exists)
    if kind == "sequence_mean":
        per_token = 1 / np.maximum(lengths, 1)
    else:
        per_token = np.full(lengths.shape, 1.0 if length is None else 1 / length)
    denominator = lengths[count].sum() if kind == "token" else count.sum()
    return Aggregation(np.where(weigh, per_token, 0.0), float(denominator))


def _mask(name: str, mask: np.ndarray, exists: np.ndarray) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.shape != exists.shape or mask.dtype != bool:
        raise ValueError(f"{name} must be one bool per sample, got {mask.dtype} {mask.shape} for {exists.shape}")
    return mask & exists
