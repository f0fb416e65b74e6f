"""Attention of rows up to 2,048 tokens where there is no kernel for it: blocks of queries, scores never stored.

A block of queries looks at the keys from the start of its window to its own end, so the causal half (and, in local
layers, what the window masks out) is hardly computed. As in flash attention (arXiv:2205.14135), the backward pass makes
the scores again from queries, keys and the logarithm of each softmax's sum: one product more, but no [seq, seq] array
is kept or read. On a CPU, which reads such arrays at memory's pace, that is faster too: value and gradient of 2 rows of
512 tokens (4 heads of 256, float32) took 25 ms of processor time where all scores at once took 65, and 2 rows of 1,024
took 121 where they took 269.

Blocks are unrolled, which is why longer rows are left to `attention`. A query that sees no key gets zeros.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

LONGEST = 2048
BLOCK = 128  # queries at a time, or as many as make 8 blocks; 64 to 256 are within 10 % of each other
MASKED = -1e30  # finite: its exponential is 0 beside any score, and minus itself it is no NaN


class Block(NamedTuple):
    """Queries `start` to `stop` see keys from `first`, at most, to `stop`."""

    start: int
    stop: int
    first: int


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def attend_short(
    q: Float[Array, "batch seq heads head_dim"],
    k: Float[Array, "batch seq kv_heads head_dim"],
    v: Float[Array, "batch seq kv_heads head_dim"],
    segment_ids: Int[Array, "batch seq"],
    window: int | None,
) -> Float[Array, "batch seq heads head_dim"]:
    """As `attention.attend`."""
    return _forward(q, k, v, segment_ids, window)[0]


def _forward(q: Array, k: Array, v: Array, segment_ids: Array, window: int | None) -> tuple[Array, tuple[Array, ...]]:
    keys, values = k.swapaxes(1, 2), v.swapaxes(1, 2)
    out, logs = [], []
    for block in _blocks(q.shape[1], window):
        scores = _scores(q, keys, segment_ids, block, window)
        top = jnp.maximum(scores.max(axis=-1, keepdims=True), MASKED / 2)
        weights = jnp.exp(scores - top)
        total = jnp.maximum(weights.sum(axis=-1, keepdims=True), jnp.finfo(jnp.float32).tiny)
        mixed = _product("bkqs,bksh->bkqh", weights.astype(v.dtype), values[:, :, block.first : block.stop])
        out.append(_from_rows((mixed / total).astype(q.dtype), q.shape[2]))
        logs.append(top + jnp.log(total))
    result = checkpoint_name(jnp.concatenate(out, axis=1), "attention")
    logs = [checkpoint_name(log, "attention") for log in logs]
    return result, (q, k, v, segment_ids, result, *logs)


def _backward(window: int | None, saved: tuple[Array, ...], g: Array) -> tuple[Array, Array, Array, None]:
    q, k, v, segment_ids, result, *logs = saved
    keys, values = k.swapaxes(1, 2), v.swapaxes(1, 2)
    d_queries = []
    d_keys, d_values = (jnp.zeros(x.shape, jnp.float32) for x in (keys, values))
    for block, log in zip(_blocks(q.shape[1], window), logs, strict=True):
        seen = slice(block.first, block.stop)
        rows, d_out, out = (_rows(x, block, keys.shape[1]) for x in (q, g, result))
        weights = jnp.exp(_scores(q, keys, segment_ids, block, window) - log)
        d_weights = _product("bkqh,bksh->bkqs", d_out, values[:, :, seen])
        mean = (d_out.astype(jnp.float32) * out.astype(jnp.float32)).sum(axis=-1, keepdims=True)
        d_scores = (weights * (d_weights - mean)).astype(q.dtype)
        d_rows = _product("bkqs,bksh->bkqh", d_scores, keys[:, :, seen])
        d_queries.append(_from_rows(d_rows.astype(q.dtype), q.shape[2]))
        d_keys = d_keys.at[:, :, seen].add(_product("bkqs,bkqh->bksh", d_scores, rows))
        d_values = d_values.at[:, :, seen].add(_product("bkqs,bkqh->bksh", weights.astype(v.dtype), d_out))
    d_k, d_v = (x.swapaxes(1, 2).astype(k.dtype) for x in (d_keys, d_values))
    return jnp.concatenate(d_queries, axis=1), d_k, d_v, None


attend_short.defvjp(_forward, _backward)


def _blocks(seq: int, window: int | None) -> Iterator[Block]:
    """`Block(0, 128, 0)`, `Block(128, 256, 0)`, …; keys start at a multiple of the block."""
    size = max(BLOCK, -(-seq // 8 // 64) * 64)
    for start in range(0, seq, size):
        first = 0 if window is None else max(0, start - window + 1) // size * size
        yield Block(start, min(start + size, seq), first)


def _scores(q: Array, keys: Array, segment_ids: Array, block: Block, window: int | None) -> Array:
    """`[batch, kv_heads, queries of the group, keys]` in float32, masked."""
    rows = _rows(q, block, keys.shape[1])
    scores = _product("bkqh,bksh->bkqs", rows, keys[:, :, block.first : block.stop])
    theirs, ours = segment_ids[:, None, block.first : block.stop], segment_ids[:, block.start : block.stop, None]
    distance = jnp.arange(block.start, block.stop)[:, None] - jnp.arange(block.first, block.stop)[None, :]
    mask = (ours == theirs) & (theirs != 0) & (distance >= 0)
    if window is not None:
        mask &= distance < window
    queries, seen = mask.shape[1:]
    by_head = scores.reshape(*scores.shape[:2], -1, queries, seen)
    return jnp.where(mask[:, None, None], by_head, MASKED).reshape(scores.shape)


def _rows(x: Array, block: Block, kv_heads: int) -> Array:
    """The queries of a block that share a key/value head as rows: `[batch, kv_heads, group * queries, head_dim]`."""
    x = x[:, block.start : block.stop]
    batch, queries, _, head_dim = x.shape
    by_head = x.reshape(batch, queries, kv_heads, -1, head_dim).transpose(0, 2, 3, 1, 4)
    return by_head.reshape(batch, kv_heads, -1, head_dim)


def _from_rows(x: Array, heads: int) -> Array:
    """Undoes `_rows`."""
    batch, kv_heads, _, head_dim = x.shape
    by_head = x.reshape(batch, kv_heads, heads // kv_heads, -1, head_dim).transpose(0, 3, 1, 2, 4)
    return by_head.reshape(batch, -1, heads, head_dim)


def _product(equation: str, a: Array, b: Array) -> Array:
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)
