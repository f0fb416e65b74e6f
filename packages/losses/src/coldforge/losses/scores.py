"""Log-probabilities, entropy and logsumexp of tokens from hidden states, without ever holding their logits.

    scores = token_scores(hidden, embedding, targets, where=weights > 0)
    loss = -weighted_sum(scores.logprobs, weights).mean()

Logits of 262,144 tokens are what the memory of a language model's loss goes to: 4.3 GB in float32 for one row of 4,096.
`token_scores` makes them for a chunk of tokens and a block of the vocabulary at a time (`chunks.py`), only for tokens
that count, and collects the gradient of the hidden states on the way. Order of events: shapes are checked, the
context's mesh says how tokens and embedding are split (`shards.py`), each device does its share, and `jax.custom_vjp`
ties forward and backward passes together.

Left out: forward-mode and second derivatives, gradients with respect to the temperature, a sequence split over devices,
soft-capped or biased logits (Gemma3 has neither).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Bool, Float, Int

from coldforge.losses.chunks import Scalars, Vectors, Wanted, embedding_gradient, score_tokens
from coldforge.losses.shards import TOKENS, VOCAB, WHOLE, Placement, placement, platform, shared

TILES = {"cpu": (128, 2048), "tpu": (256, 8192)}  # tokens, vocabulary rows; other platforms as TPU
"""The logits that exist at a time, by platform; the README has what other sizes cost. Small chunks waste little on a
last one that is not full; a CPU wants logits that fit in its cache."""


class TokenScores(NamedTuple):
    """What the model says of each target token, in float32; 0 where a position does not count.

    Attributes:
      logprobs: log p(target).
      entropy: −Σ p log p over the vocabulary, in nats; None unless asked for.
      logsumexp: log Σ exp(logits), what a z-loss squares; None unless asked for.
    """

    logprobs: Float[Array, "batch seq"]
    entropy: Float[Array, "batch seq"] | None = None
    logsumexp: Float[Array, "batch seq"] | None = None


def token_scores(
    hidden: Float[Array, "batch seq embed"],
    embedding: Float[Array, "vocab embed"],
    targets: Int[Array, "batch seq"],
    where: Bool[Array, "batch seq"] | None = None,
    *,
    temperature: float | int | Float[Array, ""] = 1.0,
    entropy: bool = False,
    entropy_grad: bool = False,
    logsumexp: bool = False,
    chunk: int | None = None,
    block: int | None = None,
    batch_axes: Sequence[str] = ("data", "fsdp"),
    vocab_axis: str = "tensor",
    embed_axis: str | None = "fsdp",
) -> TokenScores:
    """Scores of `targets` under softmax(hidden · embeddingᵀ / temperature), and their gradients, by chunks.

    log p[t] = z[t, target] − log Σ_v exp z[t, v],  z = hidden · embeddingᵀ / temperature,  H[t] = −Σ_v p log p.

    Differentiable with respect to `hidden` (one product more; the logits are not computed again) and `embedding` (two
    more, computed only if it is differentiated). The values cost one product of `[counted, embed]` with
    `[embed, vocab]`. Sums and softmax are in float32 (float64 for float64), products in the embedding's dtype.

    On a mesh (`jax.set_mesh`, inside `jit`), each device works on its own rows of tokens and its own part of the
    vocabulary: over `vocab_axis` go a few numbers and two `embed` vectors per token. Of an embedding split over
    `embed_axis`, `block` rows are gathered at a time. Inside your own `shard_map` the arrays are taken as they are, and
    the embedding must be whole.

    Args:
      hidden: hidden states after the last norm. Position t is scored against `targets[:, t]`: shift by one first, with
        `next_tokens`.
      embedding: the output embedding (Gemma3: the input embedding too).
      targets: token ids; anything where a position does not count. A counted one outside the vocabulary scores nan.
      where: positions that count (default: all). Others score 0, have gradient 0, cost nothing, and may hold nan.
      temperature: divides the logits. Positive; may be traced, and has no gradient.
      entropy: also return the entropy: a value, for a metric.
      entropy_grad: return it with its gradient, which is one product more.
      logsumexp: also return the logsumexp, with its gradient, as a z-loss needs.
      chunk: counted tokens per device whose logits exist at a time, `chunk · block` float32 numbers (default: `TILES`).
      block: rows of the embedding whose logits exist at a time (default: `TILES`).
      batch_axes: mesh axes that split the batch.
      vocab_axis: mesh axis that splits the vocabulary.
      embed_axis: mesh axis that splits the embedding's columns; None where the mesh has one that does not.

    Returns:
      Float32 scores, `[batch, seq]` each.

    Raises:
      ValueError: for shapes that do not fit together, an empty batch, a chunk or block below 1, a temperature that is
        not positive.
    """
    ours = TILES.get(platform(), TILES["tpu"])
    chunk, block = ours[0] if chunk is None else chunk, ours[1] if block is None else block
    _check(hidden, embedding, targets, where, temperature, {"chunk": chunk, "block": block})
    if where is None:
        where = jnp.ones(targets.shape, bool)
    axes: dict[str, Any] = {"batch_axes": batch_axes, "vocab_axis": vocab_axis, "embed_axis": embed_axis}
    place = placement(hidden.shape[0], *embedding.shape, **axes)
    scaled = not (isinstance(temperature, float | int) and temperature == 1)
    wanted = Wanted(chunk, block, scaled, entropy or entropy_grad, entropy_grad, logsumexp)
    divisor = jnp.asarray(temperature, jnp.promote_types(embedding.dtype, jnp.float32))
    scalars = _scores((wanted, place), hidden, embedding, targets, where, jax.lax.stop_gradient(divisor))
    return TokenScores(scalars.logprobs, scalars.entropy, scalars.logsumexp if logsumexp else None)


def _check(hidden: Any, embedding: Any, targets: Any, where: Any, temperature: Any, tile: Mapping[str, int]) -> None:
    """Raises ValueError, with what was got, unless the arguments of `token_scores` fit together."""
    if hidden.ndim != 3 or embedding.ndim != 2 or hidden.shape[-1] != embedding.shape[-1]:
        raise ValueError(
            f"hidden must be [batch, seq, embed] and embedding [vocab, embed], got {hidden.shape} and "
            f"{embedding.shape}; an output projection stored as [embed, vocab] has to be transposed"
        )
    for name, array in {"targets": targets, "where": where}.items():
        if array is not None and array.shape != hidden.shape[:2]:
            raise ValueError(f"{name} must have hidden's [batch, seq] = {hidden.shape[:2]}, got {array.shape}")
    if 0 in hidden.shape[:2]:
        raise ValueError(f"there must be at least one token, got hidden of shape {hidden.shape}")
    for name, size in tile.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    if isinstance(temperature, float | int) and not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}; greedy choice has no log-probabilities")


# custom_vjp with symbolic zeros: the forward rule is told which arguments are differentiated, so that a frozen
# embedding costs nothing, and the backward rule which scores the loss did not use.


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scores(static, hidden, embedding, targets, counted, temperature) -> Scalars:  # type: ignore[no-untyped-def]
    return _forward(static, False, hidden, embedding, targets, counted, temperature)[0]


def _forward(static: tuple[Wanted, Placement], gradients: bool, *arrays: Array) -> tuple[Scalars, Vectors]:
    function = partial(score_tokens, *static, gradients)
    return shared(function, static[1], (TOKENS, VOCAB, TOKENS, TOKENS, WHOLE), TOKENS)(*arrays)


def _forward_rule(static: tuple[Wanted, Placement], *arguments: Any) -> tuple[Scalars, Any]:
    arrays = tuple(argument.value for argument in arguments)
    hidden, embedding = arguments[:2]
    scalars, vectors = _forward(static, hidden.perturbed, *arrays)
    for_embedding = (arrays, scalars) if embedding.perturbed else None
    return scalars, (vectors, arrays[3], for_embedding)


def _backward_rule(static: tuple[Wanted, Placement], residuals: Any, cotangents: Scalars) -> tuple[Any, ...]:
    wanted, place = static
    vectors, counted, for_embedding = residuals
    d_hidden = d_embedding = None
    if vectors.logprobs is not None:
        terms = [
            jnp.expand_dims(cotangent, -1) * vector
            for cotangent, vector in zip(cotangents, vectors, strict=True)
            if vector is not None and cotangent is not None and not isinstance(cotangent, SymbolicZero)
        ]
        total = sum(terms, jnp.zeros_like(vectors.logprobs))
        d_hidden = jnp.where(counted[..., None], total, 0).astype(vectors.logprobs.dtype)
    if for_embedding is not None:
        arrays, scalars = for_embedding
        known = jax.tree.map(
            lambda c, s: jnp.zeros_like(s) if isinstance(c, SymbolicZero) else c,
            cotangents, scalars, is_leaf=lambda x: isinstance(x, SymbolicZero),
        )  # fmt: skip
        function = partial(embedding_gradient, wanted, place)
        inputs = (TOKENS, VOCAB, TOKENS, TOKENS, WHOLE, TOKENS, TOKENS)
        d_embedding = shared(function, place, inputs, VOCAB)(*arrays, scalars, known).astype(arrays[1].dtype)
    return d_hidden, d_embedding, None, None, None


_scores.defvjp(_forward_rule, _backward_rule, symbolic_zeros=True)
