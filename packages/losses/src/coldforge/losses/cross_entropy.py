"""Cross-entropy of next tokens with a weight per token: what supervised fine-tuning minimises, and what it reports.

    targets, weights = next_tokens(batch.tokens, batch.loss_weights)
    result = cross_entropy(model(batch.tokens), embedding, targets, weights, labels=labels, num_labels=2)
    result.loss.mean()          # minimise this; over micro-batches add `result.loss` first
    result.segments.mean()      # [2]: reasoning and answer, as metrics

Everything it returns is a `WeightedSum`: sums that add up over micro-batches, devices and hosts.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from coldforge.losses.means import WeightedSum, segment_sums, weighted_sum
from coldforge.losses.scores import token_scores


class CrossEntropy(NamedTuple):
    """Sums over the tokens of a batch, `[]` each unless said otherwise.

    Attributes:
      loss: what to minimise: Σ w · (nll + z_loss · logsumexp²), weight Σ w. The only one with a gradient.
      nll: Σ w · nll, without the z-loss; exp of its mean is the perplexity.
      segments: one sum per label, `[num_labels]`, over tokens of a weight other than 0, each counted once;
        None without labels.
      entropy: Σ H over tokens of a weight other than 0, each counted once: the entropy in nats; None unless asked for.
    """

    loss: WeightedSum
    nll: WeightedSum
    segments: WeightedSum | None = None
    entropy: WeightedSum | None = None


def next_tokens(
    tokens: Int[Array, "batch seq"],
    loss_weights: Num[Array, "batch seq"],
    segment_ids: Int[Array, "batch seq"] | None = None,
) -> tuple[Int[Array, "batch seq"], Num[Array, "batch seq"]]:
    """What each position has to predict, and with which weight: everything shifted left by one.

    `next_tokens([[2, 7, 8]], [[0, 0, 1]])` is `[[7, 8, 0]], [[0, 1, 0]]`: the last position predicts nothing. A token's
    weight stays with the token, as the data package counts it.

    Args:
      tokens: token ids.
      loss_weights: the weight of each token *as a target*: 0 on prompts and padding.
      segment_ids: of packed rows, where given: a text's last token does not predict the next text's first.
    """

    def shift(x: Array) -> Array:
        return jnp.pad(x[:, 1:], ((0, 0), (0, 1)))

    weights = shift(loss_weights)
    if segment_ids is not None:
        weights = jnp.where(shift(segment_ids) == segment_ids, weights, 0)
    return shift(tokens), weights


def cross_entropy(
    hidden: Float[Array, "batch seq embed"],
    embedding: Float[Array, "vocab embed"],
    targets: Int[Array, "batch seq"],
    weights: Num[Array, "batch seq"],
    *,
    labels: Int[Array, "batch seq"] | None = None,
    num_labels: int = 0,
    z_loss: float | int = 0.0,
    entropy: bool = False,
    chunk: int | None = None,
    block: int | None = None,
    batch_axes: Sequence[str] = ("data", "fsdp"),
    vocab_axis: str = "tensor",
    embed_axis: str | None = "fsdp",
) -> CrossEntropy:
    """Weighted cross-entropy of `targets`, by chunks: Σ w · (−log p(target) + z_loss · logsumexp²).

    The z-loss (PaLM, arXiv:2204.02311, section 5, with z_loss = 1e-4) keeps the logsumexp near 0; 0 leaves it out.

    Args:
      hidden: hidden states after the last norm.
      embedding: the output embedding.
      targets: the token that each position is to predict (`next_tokens`).
      weights: of each position; 0 skips it, and costs nothing.
      labels: which segment a target belongs to (say 0 reasoning, 1 answer); any other number is none.
      num_labels: how many segments there are, if `labels` are given.
      z_loss: coefficient of the z-loss.
      entropy: also return the entropy of the predictions: a value, for a metric.
      chunk, block, batch_axes, vocab_axis, embed_axis: as in `token_scores`.

    Raises:
      ValueError: as `token_scores`; labels without their number; a negative z_loss.
    """
    if (labels is None) != (num_labels == 0):
        raise ValueError(f"labels and num_labels go together, got labels={labels is not None}, num_labels={num_labels}")
    if z_loss < 0:
        raise ValueError(f"z_loss must be 0 (off) or positive, got {z_loss}")
    counted = weights != 0
    scores = token_scores(
        hidden, embedding, targets, counted,
        entropy=entropy, logsumexp=z_loss > 0, chunk=chunk, block=block,
        batch_axes=batch_axes, vocab_axis=vocab_axis, embed_axis=embed_axis,
    )  # fmt: skip
    per_token = -scores.logprobs
    nll = jax.lax.stop_gradient(per_token)
    if scores.logsumexp is not None:
        per_token = per_token + z_loss * scores.logsumexp**2
    return CrossEntropy(
        loss=weighted_sum(per_token, weights),
        nll=weighted_sum(nll, weights),
        segments=None if labels is None else segment_sums(nll, counted, labels, num_labels),
        entropy=None if scores.entropy is None else weighted_sum(jax.lax.stop_gradient(scores.entropy), counted),
    )
