"""What supervised fine-tuning minimises: weighted cross-entropy of next tokens, and sums for its metrics.

`sft_loss` ties a model's `apply` and `coldforge.losses` together into the function that a training step differentiates;
`means` turns the sums that come back into the numbers people read.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Int, Num, PyTree

from coldforge.losses import cross_entropy, next_tokens
from coldforge.training import LossFn, Sums

PARTS = ("reasoning", "answer")  # what `Batch.parts` calls 1 and 2

# (params, frozen, tokens, positions, segment_ids) → hidden states [batch, seq, embed], output embedding [vocab, embed]
Apply = Callable[[PyTree, PyTree, Array, Array, Array], tuple[Array, Array]]


@runtime_checkable
class Batch(Protocol):
    """A micro-batch of packed rows, `[rows, seq]` each; any pytree with these attributes.

    Attributes:
      tokens: ids.
      positions: of a token in its own text, from 0.
      segment_ids: which text of the row a token belongs to, from 1; 0 is padding.
      loss_weights: how much each token counts *as a target*; 0 on prompts and padding.
      parts: 0 prompt or padding, 1 reasoning, 2 answer.
    """

    tokens: Int[Array, "rows seq"]
    positions: Int[Array, "rows seq"]
    segment_ids: Int[Array, "rows seq"]
    loss_weights: Num[Array, "rows seq"]
    parts: Num[Array, "rows seq"]


def sft_loss(apply: Apply, *, z_loss: float = 0.0, entropy: bool = False, chunk: int | None = None) -> LossFn:
    """The loss of a micro-batch as sums: Σ w[t] · (−log p(token t | its text before t) + z_loss · logsumexp²).

    A text's first token is never a target, and packed texts do not see each other (`segment_ids`). Further sums, for
    `means`: per part `reasoning_nll`, `reasoning_tokens`, `answer_nll`, `answer_tokens`,
    over tokens of weight > 0, each counted once; `tokens` (no padding) and `positions` (all); with a z-loss also
    `nll`, the loss without it.

    Args:
      apply: a model as a pure function, say `coldforge.modeling.trainable(model).apply`.
      z_loss: coefficient of the z-loss (PaLM, arXiv:2204.02311, section 5), 0 for none.
      entropy: also sum the entropy of the predictions, in nats, over tokens of weight > 0: `entropy`.
      chunk: tokens of a device whose logits exist at a time; None: what `coldforge.losses` found best for the platform.
    """

    def loss(params: PyTree, frozen: PyTree, batch: Batch, key: Array) -> Sums:
        del key  # nothing here is random: Gemma3 has no dropout
        hidden, embedding = apply(params, frozen, batch.tokens, batch.positions, batch.segment_ids)
        targets, weights = next_tokens(batch.tokens, batch.loss_weights, batch.segment_ids)
        parts, _ = next_tokens(batch.parts.astype(jnp.int32), batch.loss_weights)
        found = cross_entropy(
            hidden, embedding, targets, weights,
            labels=parts - 1, num_labels=len(PARTS), z_loss=z_loss, entropy=entropy, chunk=chunk,
        )  # fmt: skip
        assert found.segments is not None
        sums = {
            "tokens": jnp.sum(batch.segment_ids > 0, dtype=jnp.int32),
            "positions": jnp.asarray(batch.tokens.size, jnp.int32),
        }
        totals, counts = (jnp.asarray(sums_of_parts) for sums_of_parts in found.segments)
        for index, part in enumerate(PARTS):
            sums |= {f"{part}_nll": totals[index], f"{part}_tokens": counts[index]}
        if z_loss > 0:
            sums["nll"] = jnp.asarray(found.nll.total)
        if found.entropy is not None:
            sums["entropy"] = jnp.asarray(found.entropy.total)
        return Sums(jnp.asarray(found.loss.total), jnp.asarray(found.loss.weight), sums)

    return loss


def means(sums: Mapping[str, Any], *, group: str = "train") -> dict[str, float]:
    """The numbers to log, from the sums of `sft_loss` over any number of micro-batches, fetched.

    Args:
      sums: with the names that `sft_loss` gives, and `weight`.
      group: first part of the names: "train" or "eval".

    Returns:
      `GROUP/loss_reasoning`, `GROUP/loss_answer` (nats per token, left out where a part has no tokens), `GROUP/nll` and
      `GROUP/entropy` if they were summed.
    """
    value = {name: float(total) for name, total in sums.items()}
    found = {f"{group}/nll": value["nll"] / value["weight"]} if value["weight"] and "nll" in value else {}
    for part in PARTS:
        if value[f"{part}_tokens"]:
            found[f"{group}/loss_{part}"] = value[f"{part}_nll"] / value[f"{part}_tokens"]
    counted = sum(value[f"{part}_tokens"] for part in PARTS)
    if "entropy" in value and counted:
        found[f"{group}/entropy"] = value["entropy"] / counted
    return found


def padding_share(sums: Mapping[str, Any]) -> float:
    """The share of a batch's positions that are padding."""
    return 1.0 - float(sums["tokens"]) / float(sums["positions"])


def trained_tokens(sums: Mapping[str, Any]) -> float:
    """How many tokens of a batch have a loss weight."""
    return float(sum(sums[f"{part}_tokens"] for part in PARTS))
