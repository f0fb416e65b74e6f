"""The arithmetic of `token_scores` on one device's share: chunks of tokens, and blocks of vocabulary.

Forward, for each chunk of `chunk` counted tokens:
  1. logits of the chunk against the whole vocabulary (or this device's part of it), in float32;
  2. from them one pass of sums: Σ exp(d), Σ exp(d)·d, d[target], where d = logits − max. Log-probability, logsumexp and
     entropy follow;
  3. if a gradient is wanted, at once the gradient of each of these scalars with respect to the token's hidden state: a
     vector of `embed` numbers per token. A token's scores depend on its own hidden state only, so whatever the loss
     makes of them, the backward pass is these vectors times the scores' cotangents. The logits are computed once, not
     twice as under jax.checkpoint: two products instead of three.

XLA:TPU's estimate for a row of 4,096 tokens on a v5e chip (vocabulary 262,144, embed 1,152, bfloat16, value and
gradient of the hidden states): 100 M cycles and 265 MiB of temporaries in chunks of 256, 72 M and 521 MiB in chunks of
512, where the same in chunks of 256 under jax.checkpoint is 158 M, and all logits at once 62 M and 4,096 MiB.

Only counted tokens take part. Their indices are sorted to the front, and the loop runs as often as they fill chunks:
a batch of which a third is counted costs a third. Nothing is scattered: the loop writes slices, and one gather puts the
results back in their places.

The embedding's gradient needs the cotangents, and so its logits a second time. It goes over blocks of `ways` times
fewer vocabulary rows and `ways` times more tokens: as many logits at a time, but the float32 sum of a whole embedding
(1.2 GB at 1B) is then read and written `ways` times less often.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from coldforge.losses.shards import Placement


class Wanted(NamedTuple):
    """What is computed besides log-probabilities; static. `chunk` is in tokens per device."""

    chunk: int
    entropy: bool
    entropy_grad: bool
    logsumexp: bool


class Scalars(NamedTuple):
    """Per token, in float32: `[batch, seq]`, or `[chunk]` inside the loop. Entropy is None unless wanted."""

    logprobs: Array
    logsumexp: Array
    entropy: Array | None


class Vectors(NamedTuple):
    """Gradients of the scalars with respect to the hidden state: as `Scalars`, with `embed` numbers each."""

    logprobs: Array | None
    logsumexp: Array | None
    entropy: Array | None


def score_tokens(
    wanted: Wanted, place: Placement, gradients: bool, hidden: Array, embedding: Array, targets: Array, counted: Array,
    temperature: Array,
) -> tuple[Scalars, Vectors]:  # fmt: skip
    """The scalars of one device's tokens, and their gradients' vectors if `gradients`; 0 where not counted."""
    batch, seq, embed = hidden.shape
    tokens = batch * seq
    chunk = min(wanted.chunk, tokens)
    rows, targets = hidden.reshape(tokens, embed), targets.reshape(tokens)
    order, trips = compact(counted.reshape(tokens), chunk)
    # Parts of a vector are summed over the vocabulary's devices after the loop: until then they keep their precision.
    vector_dtype = _sum_dtype(embedding) if place.vocab else hidden.dtype

    def body(i: Array, buffers: tuple[Scalars, Vectors]) -> tuple[Scalars, Vectors]:
        index = jax.lax.dynamic_slice_in_dim(order, i * chunk, chunk)
        h, y = _take(rows, index), _take(targets, index)
        scalars, vectors = _score_chunk(wanted, place, gradients, h, embedding, y, temperature)
        new = (scalars, jax.tree.map(lambda x: x.astype(vector_dtype), vectors))
        return jax.tree.map(lambda b, x: jax.lax.dynamic_update_slice_in_dim(b, x, i * chunk, 0), buffers, new)

    shapes = jax.eval_shape(
        lambda h: _score_chunk(wanted, Placement(), gradients, h, embedding, targets[:chunk], temperature), rows[:chunk]
    )

    def buffers(like: Scalars | Vectors, dtype: jnp.dtype) -> Any:
        return jax.tree.map(lambda s: jnp.zeros((order.shape[0], *s.shape[1:]), dtype), like)

    start = buffers(shapes[0], _sum_dtype(embedding)), buffers(shapes[1], vector_dtype)
    scalars, vectors = jax.lax.fori_loop(0, place.trips(trips), body, start)
    vectors = jax.tree.map(lambda x: place.vocab_sum(x).astype(hidden.dtype), vectors)
    return jax.tree.map(lambda x: _put_back(x, counted), (scalars, vectors))


def compact(counted: Array, chunk: int) -> tuple[Array, Array]:
    """The indices of counted tokens, in order, then numbers that are no index, up to a multiple of `chunk`.

    `compact([0, 1, 1, 0, 1], 2)` is `[1, 2, 4, 5+, 5+, 5+]` and 2: the number of chunks that hold a counted token.
    """
    tokens = counted.shape[0]
    number = jnp.arange(tokens, dtype=jnp.int32)
    order = jnp.sort(jnp.where(counted, number, tokens + number))
    order = jnp.pad(order, (0, -tokens % chunk), constant_values=2 * tokens)
    return order, (counted.sum(dtype=jnp.int32) + chunk - 1) // chunk


def _take(x: Array, index: Array) -> Array:
    """Rows of `x`; zeros where the index is none, so that nothing of an uncounted token is ever multiplied."""
    return x.at[index].get(mode="fill", fill_value=0, indices_are_sorted=True)


def _put_back(x: Array, counted: Array) -> Array:
    """Undoes `compact` for `[padded, ...]`: `[batch, seq, ...]` with zeros where a token is not counted."""
    place = jnp.maximum(jnp.cumsum(counted.reshape(-1), dtype=jnp.int32) - 1, 0).reshape(counted.shape)
    return jnp.where(counted.reshape(counted.shape + (1,) * (x.ndim - 1)), x[place], 0)


def _sum_dtype(embedding: Array) -> jnp.dtype:
    return jnp.promote_types(embedding.dtype, jnp.float32)


def _logits(h: Array, embedding: Array, temperature: Array) -> Array:
    """`[tokens, vocab]` in float32. The product runs in the embedding's dtype, which is never cast as a whole."""
    product = jnp.einsum(
        "td,vd->tv", h.astype(embedding.dtype), embedding, preferred_element_type=_sum_dtype(embedding)
    )
    return product / temperature


def _score_chunk(
    wanted: Wanted, place: Placement, gradients: bool, h: Array, embedding: Array, y: Array, temperature: Array
) -> tuple[Scalars, Vectors]:
    """Scalars `[chunk]` and vectors `[chunk, embed]` of one chunk; vectors are of this device's vocabulary only."""
    logits = _logits(h, embedding, temperature)
    rows = embedding.shape[0]
    is_target = jnp.arange(rows) == (y - place.first_row(rows))[:, None]
    top = place.vocab_max(logits.max(axis=1))
    d = logits - top[:, None]
    # A masked sum, not take_along_axis: XLA fuses it with the others, and it is right on a part of the vocabulary.
    sums = [jnp.exp(d).sum(axis=1), jnp.where(is_target, d, 0).sum(axis=1)]
    if wanted.entropy:
        sums.append((jnp.exp(d) * d).sum(axis=1))
    total, target, *product = place.vocab_sum(jnp.stack(sums))
    log_total = jnp.log(total)
    # A target that is no token has no log-probability: nan shows it, where 0 would train on it.
    logprobs = jnp.where((y >= 0) & (y < place.vocab_rows(rows)), target - log_total, jnp.nan)
    entropy = log_total - product[0] / total if wanted.entropy else None
    scalars = Scalars(logprobs, top + log_total, entropy)
    if not gradients:
        return scalars, Vectors(None, None, None)

    def vector(weights: Array) -> Array:
        product = jnp.einsum(
            "tv,vd->td", weights.astype(embedding.dtype), embedding, preferred_element_type=_sum_dtype(embedding)
        )
        return product / temperature

    logp = d - log_total[:, None]
    p = jnp.exp(logp)
    return scalars, Vectors(
        logprobs=vector(is_target - p),
        logsumexp=vector(p) if wanted.logsumexp else None,
        entropy=vector(-p * (logp + entropy[:, None])) if entropy is not None and wanted.entropy_grad else None,
    )


def embedding_gradient(
    wanted: Wanted, place: Placement, hidden: Array, embedding: Array, targets: Array, counted: Array,
    temperature: Array, scalars: Scalars, cotangents: Scalars,
) -> Array:  # fmt: skip
    """The gradient `[vocab, embed]` of one device's part of the embedding, in float32, summed over the batch.

    With `t` a token, `v` a vocabulary row, `a, b, c` the cotangents of log-probability, logsumexp and entropy H:
    dlogits[t, v] = a·(1[v = target] − p) + b·p − c·p·(log p + H), and the result is dlogitsᵀ · hidden / temperature.
    """
    vocab, embed = embedding.shape
    tokens = counted.size
    ways = next(w for w in (8, 4, 2, 1) if vocab % w == 0)
    tall, rows = min(wanted.chunk * ways, tokens), vocab // ways
    order, trips = compact(counted.reshape(tokens), tall)
    flat = hidden.reshape(tokens, embed)
    per_token = jax.tree.map(lambda x: x.reshape(tokens), (targets, scalars, cotangents))

    def one_block(start: Array, block: Array) -> Array:
        def body(i: Array, sums: Array) -> Array:
            index = jax.lax.dynamic_slice_in_dim(order, i * tall, tall)
            h = _take(flat, index).astype(embedding.dtype)
            y, own, cotangent = jax.tree.map(lambda x: _take(x, index)[:, None], per_token)
            logp = _logits(h, block, temperature) - own.logsumexp
            p = jnp.exp(logp)
            dlogits = cotangent.logprobs * ((start + jnp.arange(rows) == y) - p)
            if wanted.logsumexp:
                dlogits += cotangent.logsumexp * p
            if wanted.entropy_grad:
                dlogits -= cotangent.entropy * p * (logp + own.entropy)
            return sums + jnp.einsum("tv,td->vd", dlogits.astype(embedding.dtype), h, preferred_element_type=sums.dtype)

        return jax.lax.fori_loop(0, trips, body, jnp.zeros((rows, embed), _sum_dtype(embedding)))

    starts = place.first_row(vocab) + rows * jnp.arange(ways)
    _, blocks = jax.lax.scan(
        lambda _, block: (None, one_block(*block)), None, (starts, embedding.reshape(ways, rows, embed))
    )
    return place.batch_sum(blocks.reshape(vocab, embed)) / temperature
