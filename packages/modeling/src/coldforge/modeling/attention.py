"""Causal attention with grouped queries, packed segments and sliding windows, in memory that grows with seq, not seq².

`attend` is self-attention over a whole row (training, scoring, the first prefill chunk). On TPU it is the splash kernel
(Pallas: blocks that the mask empties are never computed). Elsewhere rows up to 2,048 tokens go to `short_rows`; longer:
  - a local layer cuts queries into blocks and gives each the block's own keys and the `window - 1` before it: cost and
    memory seq × window;
  - a global layer works on 512 queries at a time, over keys that end near its last query: memory 512 × seq at a time
    (also in the backward pass), cost 56 % of the full square.
`attend_cached` is attention of new tokens over a key/value cache.

Queries come already scaled; softmax is in float32. Order in a row is what "earlier" means: key j is seen by query i if
j <= i, i - j < window, and both have the same segment id, which is not 0 (padding). A query that sees no key (padding)
gets finite numbers without meaning.
"""

import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from coldforge.modeling import short_rows
from coldforge.modeling.cache import Quantized
from coldforge.modeling.sharding import current_platform
from coldforge.modeling.splash import attend_splash

Kernel = Literal["auto", "splash", "splash_interpret", "blocked"]

MASKED = -1e30  # finite, so that a row without any visible key gives a uniform softmax and not NaN
QUERY_BLOCK = 512  # global layers: queries at a time
LOCAL_BLOCK = 256  # local layers: a query block of 256 looks at 768 keys for a window of 512 (a block of 512 at 1,024)


def attend(
    q: Float[Array, "batch seq heads head_dim"],
    k: Float[Array, "batch seq kv_heads head_dim"],
    v: Float[Array, "batch seq kv_heads head_dim"],
    segment_ids: Int[Array, "batch seq"],
    *,
    window: int | None = None,
    local: Bool[Array, ""] | None = None,
    kernel: Kernel = "auto",
) -> Float[Array, "batch seq heads head_dim"]:
    """Causal self-attention within segments; `window=None` sees all earlier keys.

    Args:
      q, k, v, segment_ids: as above.
      window: keys that a query sees, itself included.
      local: where which kind of layer it is decided at run time (a scan over layers): whether `window` applies.
      kernel: "auto" takes splash attention when the trace is for TPU (see `sharding.current_platform`), "blocked"
        elsewhere; "splash_interpret" runs the TPU kernel's code in Python, for tests.

    Raises:
      ValueError: for another kernel.
    """
    if kernel not in get_args(Kernel):
        raise ValueError(f"the attention kernel must be one of {get_args(Kernel)}, got {kernel!r}")
    if kernel == "auto":
        kernel = "splash" if current_platform() == "tpu" else "blocked"
    if kernel != "blocked":
        interpret = kernel == "splash_interpret"
        return attend_splash(q, k, v, segment_ids, window=window, local=local, interpret=interpret)
    if local is not None:
        run = functools.partial(attend, q, k, v, segment_ids, kernel=kernel)
        return jax.lax.cond(local, lambda: run(window=window), lambda: run(window=None))
    seq = q.shape[1]
    if seq <= short_rows.LONGEST:
        return short_rows.attend_short(q, k, v, segment_ids, window)
    if window is not None and seq > window + LOCAL_BLOCK:
        return _banded(q, k, v, segment_ids, window)
    return _triangular(q, k, v, segment_ids, window)


def attend_cached(
    q: Float[Array, "batch new heads head_dim"],
    keys: list[Float[Array, "batch kv_heads _ head_dim"] | Quantized],
    values: list[Float[Array, "batch kv_heads _ head_dim"] | Quantized],
    masks: list[Bool[Array, "batch new _"]],
) -> Float[Array, "batch new heads head_dim"]:
    """Softmax attention over the concatenation of several key/value stores, without concatenating them.

    A store is, for example, a ring cache and the new chunk itself. `masks[i][b, t, s]` says whether query t of row b
    sees key s of store i.
    """

    def unpacked(store):  # what products take, and the factor of each place or None
        return (store.codes.astype(q.dtype), store.scale[:, :, None]) if isinstance(store, Quantized) else (store, None)

    batch, new, _, head_dim = q.shape
    kv_heads = unpacked(keys[0])[0].shape[1]
    # The queries of a key/value head as rows of one product: [batch, kv_heads, group * new, head_dim]. Spelt as einsums
    # over five dimensions XLA:CPU transposes the cache instead (10.4 against 0.8 ms for 128 rows x 256 slots).
    rows = q.reshape(batch, new, kv_heads, -1, head_dim).transpose(0, 2, 3, 1, 4).reshape(batch, kv_heads, -1, head_dim)

    def score(key, mask):
        key, scale = unpacked(key)
        scores = jnp.einsum("bkqh,bksh->bkqs", rows, key, preferred_element_type=jnp.float32)
        if scale is not None:
            scores = scores * scale
        by_head = scores.reshape(batch, kv_heads, -1, new, scores.shape[-1])
        return jnp.where(mask[:, None, None], by_head, MASKED).reshape(scores.shape)

    def mix(weights, value):
        value, scale = unpacked(value)
        if scale is not None:
            weights = weights * scale
        return jnp.einsum("bkqs,bksh->bkqh", weights.astype(value.dtype), value, preferred_element_type=jnp.float32)

    scores = [score(key, mask) for key, mask in zip(keys, masks, strict=True)]
    high = functools.reduce(jnp.maximum, [s.max(axis=-1, keepdims=True) for s in scores])
    weights = [jnp.exp(s - high) for s in scores]
    total = sum(w.sum(axis=-1, keepdims=True) for w in weights)
    parts = [mix(w / total, value) for w, value in zip(weights, values, strict=True)]
    out = functools.reduce(jnp.add, parts).astype(q.dtype).reshape(batch, kv_heads, -1, new, head_dim)
    return out.transpose(0, 3, 1, 2, 4).reshape(q.shape)


def _attend_block(q, k, v, q_segments, k_segments, q_index, k_index, window):
    """Dense attention of one block of queries over one range of keys; index arrays give places in the row."""
    distance = q_index[:, None] - k_index[None, :]
    mask = (q_segments[:, :, None] == k_segments[:, None, :]) & (k_segments[:, None, :] != 0) & (distance >= 0)
    if window is not None:
        mask &= distance < window
    return attend_cached(q, [k.swapaxes(1, 2)], [v.swapaxes(1, 2)], [mask])


def _banded(q, k, v, segment_ids, window):
    """Local attention: query block n sees the keys of blocks n - back ... n."""
    batch, seq = segment_ids.shape
    block = LOCAL_BLOCK if window >= LOCAL_BLOCK else max(window, 64)
    back = -(-(window - 1) // block)  # earlier blocks that a window can reach into
    count = -(-seq // block)

    def pad(x, before):
        return jnp.pad(x, ((0, 0), (before, count * block - seq)) + ((0, 0),) * (x.ndim - 2))

    def windows(x):  # [batch * count, (back + 1) * block, ...]
        x = pad(x, back * block)
        parts = [
            x[:, i * block : (i + count) * block].reshape(batch * count, block, *x.shape[2:]) for i in range(back + 1)
        ]
        return jnp.concatenate(parts, axis=1)

    def blocks(x):
        return pad(x, 0).reshape(batch * count, block, *x.shape[2:])

    q_index = back * block + jnp.arange(block)
    k_index = jnp.arange((back + 1) * block)
    # The scores, seq x window, are computed again in the backward pass: 50 MB a layer and row of 4,096 are not kept.
    attend = jax.checkpoint(functools.partial(_attend_block, q_index=q_index, k_index=k_index, window=window))
    out = attend(blocks(q), windows(k), windows(v), blocks(segment_ids), windows(segment_ids))
    return out.reshape(batch, count * block, *q.shape[2:])[:, :seq]


def _triangular(q, k, v, segment_ids, window, groups: int = 8):
    """Global attention: up to `groups` static ranges of queries, each over keys [0, end of the range), block by block.

    Eight ranges cost (8 + 1) / 16 = 56 % of the full square; the blocks are recomputed in the backward pass, so that no
    more than one block's scores live at a time. That takes a loop: XLA unrolls one of a single block and then runs all
    ranges at once, so a range has two blocks at least (at 4,096: 80 MiB forward and 220 backward, not 239 and 618).
    """
    seq = q.shape[1]
    count = -(-seq // QUERY_BLOCK)
    padded = count * QUERY_BLOCK
    q, k, v = (jnp.pad(x, ((0, 0), (0, padded - seq), (0, 0), (0, 0))) for x in (q, k, v))
    segment_ids = jnp.pad(segment_ids, ((0, 0), (0, padded - seq)))
    step = max(2, -(-count // groups))
    out = []
    for first in range(0, count, step):
        last = min(first + step, count)
        end = last * QUERY_BLOCK
        keys, values, k_segments = k[:, :end], v[:, :end], segment_ids[:, :end]

        @jax.checkpoint
        def one(start, keys=keys, values=values, k_segments=k_segments, end=end):
            take = functools.partial(jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=QUERY_BLOCK, axis=1)
            q_index = start + jnp.arange(QUERY_BLOCK)
            return _attend_block(take(q), keys, values, take(segment_ids), k_segments, q_index, jnp.arange(end), window)

        # [blocks, batch, QUERY_BLOCK, heads, head_dim]
        blocks = jax.lax.map(one, QUERY_BLOCK * jnp.arange(first, last))
        out.append(jnp.moveaxis(blocks, 0, 1).reshape(q.shape[0], -1, *q.shape[2:]))
    return jnp.concatenate(out, axis=1)[:, :seq]
