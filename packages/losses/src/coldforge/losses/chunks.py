"""The arithmetic of `token_scores` on one device's share: blocks of the vocabulary, and chunks of tokens.

Logits exist for `chunk` counted tokens and `block` rows of the embedding at a time, and everything is collected on the
way, as flash attention does with keys and values (online softmax; arXiv:1805.02867, arXiv:2205.14135):

  1. For each block of the vocabulary, for each chunk of counted tokens: logits in float32.
  2. From them, over all tokens v of the vocabulary but the target: their maximum m, s = Σ exp(z − m),
     Σ exp(z − m)·(z − m) for the entropy, and, if a gradient is wanted, u = Σ exp(z − m)·E[v], `embed` numbers. When a
     block raises the maximum, the sums so far are scaled.
  3. With the target's logit, all is known: log p = −log(1 + s·exp(m − z[target])), and its gradient with respect to the
     token's hidden state, (1 − p)·(E[target] − u/s). A token's scores depend on its own hidden state only, so whatever
     the loss makes of them, the backward pass is such vectors times the scores' cotangents.

So logits are computed once, where jax.checkpoint computes them twice: two products instead of three; and [chunk, vocab]
never exists either. The target stands apart because it decides: where p is near 1, 1 − p is exact (in bfloat16, Σ p·E
would lose it), and −log p is never negative.

Only counted tokens take part. They are sorted to the front, and the loop runs as often as they fill chunks: a batch of
which a third is counted costs a third.

The embedding's gradient needs the cotangents, and so the logits a second time. The loops are the same.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from coldforge.losses.shards import Placement, platform


class Wanted(NamedTuple):
    """What is computed besides log-probabilities, and how; static. `chunk` is in tokens per device."""

    chunk: int
    block: int
    scaled: bool
    entropy: bool
    entropy_grad: bool
    logsumexp: bool


class Scalars(NamedTuple):
    """Per token, in float32: `[batch, seq]`, or `[tokens]` inside. Entropy is None unless wanted."""

    logprobs: Array
    logsumexp: Array
    entropy: Array | None


class Vectors(NamedTuple):
    """Gradients of the scalars with respect to the hidden state: as `Scalars`, with `embed` numbers each."""

    logprobs: Array | None
    logsumexp: Array | None
    entropy: Array | None


class Others(NamedTuple):
    """Sums over the vocabulary without the target, each per token, in float32; z are the logits.

    Attributes:
      top: m, the largest z so far.
      total: Σ exp(z − m).
      product: Σ exp(z − m) · (z − m); None unless the entropy is wanted.
      vector: Σ exp(z − m) · E[v], `embed` numbers; None without gradients.
      product_vector: Σ exp(z − m) · (z − m) · E[v]; None unless the entropy's gradient is wanted.
    """

    top: Array
    total: Array
    product: Array | None
    vector: Array | None
    product_vector: Array | None


def score_tokens(
    wanted: Wanted, place: Placement, gradients: bool, hidden: Array, embedding: Array, targets: Array, counted: Array,
    temperature: Array,
) -> tuple[Scalars, Vectors]:  # fmt: skip
    """The scalars of one device's tokens, and their gradients' vectors if `gradients`; 0 where not counted.

    Args:
      wanted, place: what, and where this device stands.
      gradients: whether the vectors are wanted too.
      hidden: `[batch, seq, embed]`.
      embedding: this device's part, `[vocab, embed]`: of rows, of columns, or of both.
      targets, counted: `[batch, seq]`; targets count in the whole vocabulary, `counted` says which tokens matter.
      temperature: a scalar; used only if `wanted.scaled`.

    Returns:
      Scalars `[batch, seq]` and vectors `[batch, seq, embed]`.
    """
    batch, seq, embed = hidden.shape
    tokens, dtype = batch * seq, _sum_dtype(embedding)
    chunk = min(wanted.chunk, tokens)
    order, trips = compact(counted.reshape(tokens), chunk)
    h = _take(hidden.reshape(tokens, embed), order).astype(embedding.dtype)
    y = _take(targets.reshape(tokens), order) - place.first_row(embedding.shape[0])

    def zeros(*shape: int) -> Array:
        return jnp.zeros((order.shape[0], *shape), dtype)

    others = Others(
        top=zeros() + jnp.finfo(dtype).min / 2,
        total=zeros(),
        product=zeros() if wanted.entropy else None,
        vector=zeros(embed) if gradients else None,
        product_vector=zeros(embed) if gradients and wanted.entropy_grad else None,
    )

    def add_block(start: Array | int, block: Array, others: Others) -> Others:
        block = place.whole(block)

        def body(i: Array, others: Others) -> Others:
            part, h_part, y_part = jax.tree.map(lambda x: _chunk_of(x, i, chunk), (others, h, y))
            part = _with_block(wanted, part, h_part, y_part - start, block, temperature)
            return jax.tree.map(lambda x, new: jax.lax.dynamic_update_slice_in_dim(x, new, i * chunk, 0), others, part)

        return jax.lax.fori_loop(0, trips, body, others)

    others = over_blocks(add_block, embedding, wanted.block, others)
    others = _over_devices(others, place)
    target = place.vocab_sum(place.rows_of(embedding, y)).astype(dtype)  # a sum of one row and zeros
    valid = place.vocab_sum(((y >= 0) & (y < embedding.shape[0])).astype(jnp.int32)) > 0
    # A target that is no token has no log-probability: nan shows it, where 0 would train on it.
    z = jnp.where(valid, (h.astype(dtype) * target).sum(axis=1), jnp.nan)
    scalars, vectors = _with_target(wanted, others, z, target, temperature)
    vectors = jax.tree.map(lambda x: x.astype(hidden.dtype), vectors)
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


def over_blocks(step: Callable[[Array | int, Array, Any], Any], embedding: Array, block: int, carry: Any) -> Any:
    """`carry = step(first row, rows of the embedding, carry)` for each block; the last one may be smaller."""
    vocab = embedding.shape[0]
    size = min(block, vocab)

    def whole(i: Array, carry: Any) -> Any:
        return step(i * size, _chunk_of(embedding, i, size), carry)

    carry = jax.lax.fori_loop(0, vocab // size, whole, carry)
    rest = vocab % size
    return step(vocab - rest, embedding[vocab - rest :], carry) if rest else carry


def _chunk_of(x: Array, i: Array, size: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(x, i * size, size)


def _take(x: Array, index: Array) -> Array:
    """Rows of `x`; zeros where the index is none, so that nothing of an uncounted token is ever multiplied."""
    return x.at[index].get(mode="fill", fill_value=0, indices_are_sorted=True)


def _put_back(x: Array, counted: Array) -> Array:
    """Undoes `compact` for `[padded, ...]`: `[batch, seq, ...]` with zeros where a token is not counted."""
    place = jnp.maximum(jnp.cumsum(counted.reshape(-1), dtype=jnp.int32) - 1, 0).reshape(counted.shape)
    return jnp.where(counted.reshape(counted.shape + (1,) * (x.ndim - 1)), x[place], 0)


def _sum_dtype(embedding: Array) -> jnp.dtype:
    return jnp.promote_types(embedding.dtype, jnp.float32)


def _product(letters: str, x: Array, y: Array) -> Array:
    """A product in the embedding's dtype, which is never cast as a whole, summed in float32."""
    return jnp.einsum(letters, x, y, preferred_element_type=_sum_dtype(y))


def _over_vocab(x: Array) -> Array:
    """`[tokens, vocab]` summed over the vocabulary, in float32.

    On TPU a product with ones, which the matrix unit does beside the exponentials: 4.1 M cycles by XLA's estimate where
    a sum is 20.6 M (of 66.6 M for all of `score_tokens`; 4,096 tokens, vocabulary 262,144). HIGH splits `x` in parts of
    bfloat16 that together hold 16 bits or more of each number.
    """
    if platform() != "tpu":
        return x.sum(axis=1)
    return jnp.dot(x, jnp.ones((x.shape[1], 8), x.dtype), precision=jax.lax.Precision.HIGH)[:, 0]


def _with_block(wanted: Wanted, others: Others, h: Array, y: Array, block: Array, temperature: Array) -> Others:
    """The sums of a chunk of tokens with one more block of the vocabulary; `y` counts from the block's first row."""
    z = _product("td,vd->tv", h, block)
    if wanted.scaled:
        z = z / temperature
    is_target = jnp.arange(block.shape[0]) == y[:, None]
    top = jnp.maximum(others.top, jnp.where(is_target, -jnp.inf, z).max(axis=1))
    rise = others.top - top
    keep = jnp.exp(rise)
    d = z - top[:, None]
    e = jnp.where(is_target, 0, jnp.exp(d))
    total = keep * others.total + _over_vocab(e)
    product, vector, product_vector = others.product, others.vector, others.product_vector
    if product_vector is not None and vector is not None:
        product_vector = keep[:, None] * (product_vector + rise[:, None] * vector)
        product_vector += _product("tv,vd->td", (e * d).astype(block.dtype), block)
    if product is not None:
        product = keep * (product + rise * others.total) + _over_vocab(e * d)
    if vector is not None:
        vector = keep[:, None] * vector + _product("tv,vd->td", e.astype(block.dtype), block)
    return Others(top, total, product, vector, product_vector)


def _over_devices(others: Others, place: Placement) -> Others:
    """The sums over all parts of the vocabulary."""
    top = place.vocab_max(others.top)
    rise = others.top - top
    keep = jnp.exp(rise)
    product, vector, product_vector = others.product, others.vector, others.product_vector
    if product_vector is not None and vector is not None:
        product_vector = place.vocab_sum(keep[:, None] * (product_vector + rise[:, None] * vector))
    if product is not None:
        product = place.vocab_sum(keep * (product + rise * others.total))
    if vector is not None:
        vector = place.vocab_sum(keep[:, None] * vector)
    return Others(top, place.vocab_sum(keep * others.total), product, vector, product_vector)


def _with_target(
    wanted: Wanted, others: Others, z: Array, target: Array, temperature: Array
) -> tuple[Scalars, Vectors]:
    """Scalars and vectors of all tokens, from the sums over the others, the target's logit `z` and its row."""
    if wanted.scaled:
        z = z / temperature
    # A vocabulary of one token has no others; nan stays nan.
    total = jnp.where(others.total == 0, jnp.finfo(z.dtype).tiny, others.total)
    log_others = others.top + jnp.log(total)
    logprobs, logsumexp = -jax.nn.softplus(log_others - z), jnp.logaddexp(log_others, z)
    p, rest = jax.nn.sigmoid(z - log_others), jax.nn.sigmoid(log_others - z)
    shift, entropy = others.top - logsumexp, None
    if others.product is not None:
        entropy = -p * logprobs - rest * (others.product / total + shift)
    scalars = Scalars(logprobs, logsumexp, entropy)
    if others.vector is None:
        return scalars, Vectors(None, None, None)

    def column(x: Array) -> Array:
        return x[:, None] / temperature if wanted.scaled else x[:, None]

    mean, at_target = column(rest / total) * others.vector, column(p) * target  # Σ p·E over the others, and p·E[target]
    by_entropy = None
    if others.product_vector is not None and entropy is not None:
        by_entropy = -column(rest / total) * others.product_vector - (shift + entropy)[:, None] * mean
        by_entropy -= (logprobs + entropy)[:, None] * at_target
    return scalars, Vectors(
        logprobs=column(rest) * target - mean,
        logsumexp=at_target + mean if wanted.logsumexp else None,
        entropy=by_entropy,
    )


def embedding_gradient(
    wanted: Wanted, place: Placement, hidden: Array, embedding: Array, targets: Array, counted: Array,
    temperature: Array, scalars: Scalars, cotangents: Scalars,
) -> Array:  # fmt: skip
    """The gradient `[vocab, embed]` of one device's part of the embedding, in float32, summed over the batch.

    With `t` a token, `v` a vocabulary row, `a, b, c` the cotangents of log-probability, logsumexp and entropy H:
    dlogits[v, t] = a·(1[v = target] − p) + b·p − c·p·(log p + H), and the result is dlogits · hidden / temperature.
    """
    vocab, columns = embedding.shape
    tokens, embed = counted.size, hidden.shape[-1]
    chunk = min(wanted.chunk, tokens)
    order, trips = compact(counted.reshape(tokens), chunk)
    h = _take(hidden.reshape(tokens, embed), order).astype(embedding.dtype)
    first = place.first_row(vocab)
    per_token = jax.tree.map(lambda x: _take(x.reshape(tokens), order), (targets - first, scalars, cotangents))

    def one_block(start: Array | int, block: Array, result: Array) -> Array:
        rows, block = block.shape[0], place.whole(block)

        def body(i: Array, sums: Array) -> Array:
            h_part, (y, own, cotangent) = jax.tree.map(lambda x: _chunk_of(x, i, chunk), (h, per_token))
            z = _product("vd,td->vt", block, h_part)  # so that the product below has nothing to transpose
            if wanted.scaled:
                z = z / temperature
            logp = z - own.logsumexp
            p = jnp.exp(logp)
            is_target = jnp.arange(rows)[:, None] == y - start
            # The target's own 1 − p, where p may be 1 for all that float32 knows of it.
            dlogits = cotangent.logprobs * jnp.where(is_target, -jnp.expm1(own.logprobs), -p)
            if wanted.logsumexp:
                dlogits += cotangent.logsumexp * p
            if wanted.entropy_grad:
                dlogits -= cotangent.entropy * p * (logp + own.entropy)
            return sums + _product("vt,td->vd", dlogits.astype(block.dtype), h_part)

        sums = jax.lax.fori_loop(0, trips, body, jnp.zeros((rows, embed), result.dtype))
        return jax.lax.dynamic_update_slice_in_dim(result, place.batch_sum(sums), start, 0)

    result = over_blocks(one_block, embedding, wanted.block, jnp.zeros((vocab, columns), _sum_dtype(embedding)))
    return result / temperature if wanted.scaled else result
