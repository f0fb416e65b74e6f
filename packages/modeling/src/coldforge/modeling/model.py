"""Gemma3, text only, as Flax nnx modules: embedding → layers of local and global attention → hidden states.

    hidden = model(tokens)                                   # [batch, seq, embed], one text per row
    hidden = model(tokens, segment_ids=ids)                  # several texts per row; 0 is padding
    hidden, cache = model(tokens, positions, cache=cache)    # new tokens over a key/value cache
    hidden, cache = model(tokens, positions, ids, cache=cache, rows=rows, prefix=one)   # texts with a common beginning
    logits = model.logits(hidden)                            # [batch, seq, vocab] in float32: only where you need them

The model returns hidden states, since logits of 262,144 tokens are what memory goes to: 4.3 GB for one row of 4,096.
Order in a layer (Gemma 3 report, section 2; checked against transformers): norm → q, k, v → norm of q and k → rotary →
attention → norm → add; norm → gated GELU MLP → norm → add. Norms, rotary, GELU and softmax run in float32, products in
the parameters' dtype. Module and parameter names are those that LoRA expressions for Gemma and Tunix models use.
Weights are stored with the contracted dimensions first, which is how both TPU and CPU read them without a transpose.
Values that rematerialisation policies (`blocks.KEPT`) may keep have names (`checkpoint_name`).
Left out: images, dropout (Gemma has none), soft-capping (Gemma 2).
"""

import functools
from typing import TYPE_CHECKING, NamedTuple, overload

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from coldforge.modeling.attention import Kernel, attend, attend_cached
from coldforge.modeling.cache import CachedLayer, KVCache, Quantized, plain, plan_shared, plan_steps
from coldforge.modeling.config import Gemma3Config, LayerType
from coldforge.modeling.projections import Einsum, Linear, param, project
from coldforge.modeling.sharding import constrain

if TYPE_CHECKING:
    from coldforge.modeling.lora import LoraConfig


type Stored = Array | Quantized  # keys or values of a layer in its cache


class Rotary(NamedTuple):
    """Cosine and sine of one kind of layer's rotary angles, float32 `[batch, seq, 1, head_dim / 2]`."""

    cos: Array
    sin: Array


class RMSNorm(nnx.Module):
    """`x / rms(x) * (1 + scale)` in float32, returned in the dtype of `x`."""

    def __init__(self, dim: int, eps: float, *, axis: str, dtype, rngs: nnx.Rngs):
        self.scale = param(rngs, (dim,), (axis,), dtype, 0.0)
        self.eps = eps

    def __call__(self, x: Float[Array, "*dims dim"]) -> Float[Array, "*dims dim"]:
        return rms_norm(x, self.scale[...], self.eps)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def rms_norm(x: Array, scale: Array, eps: float) -> Array:
    """As `RMSNorm`. Differentiated by hand, so that what is kept (one number per row) can be named: "norm"."""
    return _rms_norm_forward(x, scale, eps)[0]


def _rms_norm_forward(x: Array, scale: Array, eps: float) -> tuple[Array, tuple[Array, ...]]:
    wide = x.astype(jnp.float32)
    inverse = checkpoint_name(jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1) + eps), "norm")
    normed = wide * inverse[..., None]
    return (normed * (1.0 + scale.astype(jnp.float32))).astype(x.dtype), (x, inverse, scale)


def _rms_norm_backward(eps: float, saved: tuple[Array, ...], g: Array) -> tuple[Array, Array]:
    del eps
    x, inverse, scale = saved
    normed = x.astype(jnp.float32) * inverse[..., None]
    back = g.astype(jnp.float32) * (1.0 + scale.astype(jnp.float32))
    dx = inverse[..., None] * (back - normed * jnp.mean(back * normed, axis=-1, keepdims=True))
    d_scale = jnp.sum(g * normed, axis=tuple(range(x.ndim - 1)))
    return dx.astype(x.dtype), d_scale.astype(scale.dtype)


rms_norm.defvjp(_rms_norm_forward, _rms_norm_backward)


class Attention(nnx.Module):
    """Grouped-query attention with norms on queries and keys."""

    def __init__(self, config: Gemma3Config, kind: LayerType, *, kernel: Kernel, dtype, rngs: nnx.Rngs):
        d, n, k, h = config.embed_dim, config.num_heads, config.num_kv_heads, config.head_dim
        self.q_einsum = Einsum("btd,dnh->btnh", (d, n, h), ("embed", "heads", "head_dim"), dtype=dtype, rngs=rngs)
        self.kv_einsum = Einsum(
            "btd,dckh->btckh", (d, 2, k, h), ("embed", "kv", "kv_heads", "head_dim"), dtype=dtype, rngs=rngs
        )
        # Heads are called a: einsum contracts in alphabetical order, and (h, n) would transpose the weight every time
        # (13 of 118 ms a decode step of 270M on a CPU).
        self.attn_vec_einsum = Einsum(
            "btah,ahd->btd", (n, h, d), ("heads", "head_dim", "embed"), contracted=2, dtype=dtype, rngs=rngs
        )
        self._query_norm = RMSNorm(h, config.norm_eps, axis="head_dim", dtype=dtype, rngs=rngs)
        self._key_norm = RMSNorm(h, config.norm_eps, axis="head_dim", dtype=dtype, rngs=rngs)
        self.window = config.sliding_window if kind == "local" else None
        self.query_scale = config.query_scale
        self.kernel = kernel

    def __call__(
        self,
        x: Float[Array, "batch seq embed"],
        rotary: Rotary,
        segment_ids: Array,
        cached: CachedLayer | None = None,
        local: Bool[Array, ""] | None = None,
    ) -> tuple[Float[Array, "batch seq embed"], tuple[Stored, Stored] | None]:
        """The attention output and, with a cache, the layer's keys and values with the new ones in them.

        `local` decides at run time, in place of the module's own kind, whether the window applies.
        """
        q, kv = project(x, self.q_einsum, self.kv_einsum)
        q, kv = checkpoint_name(q, "query"), checkpoint_name(kv, "key_value")
        q, k, v = self._query_norm(q), self._key_norm(kv[:, :, 0]), kv[:, :, 1]
        q, k = rotate(q, rotary, scale=self.query_scale), rotate(k, rotary)
        if cached is None:
            out = attend(q, k, v, segment_ids, window=self.window, local=local, kernel=self.kernel)
            return checkpoint_name(self.attn_vec_einsum(out), "attention_out"), None
        keys, values, step, prefix = cached
        first_keys, first_values = prefix or (None, None)
        store = step.write(keys, k, first_keys), step.write(values, v, first_values)
        if step.seen_after is not None:
            out = attend_cached(q, [store[0]], [store[1]], [step.seen_after])
        elif step.seen_before is not None and step.seen_new is not None:
            masks = [step.seen_before, step.seen_new]
            if prefix is not None:
                keys, values = (jnp.broadcast_to(x, (q.shape[0], *x.shape[1:])) for x in prefix)
            out = attend_cached(q, [keys, k.swapaxes(1, 2)], [values, v.swapaxes(1, 2)], masks)
        else:
            out = attend(q, k, v, segment_ids, window=self.window, kernel=self.kernel)
        return self.attn_vec_einsum(out), store


class MLP(nnx.Module):
    """`down(gelu(gate(x)) * up(x))` with the tanh form of GELU."""

    def __init__(self, config: Gemma3Config, *, dtype, rngs: nnx.Rngs):
        d, f = config.embed_dim, config.mlp_dim
        self.gate_proj = Linear("btd,df->btf", (d, f), ("embed", "mlp"), dtype=dtype, rngs=rngs)
        self.up_proj = Linear("btd,df->btf", (d, f), ("embed", "mlp"), dtype=dtype, rngs=rngs)
        self.down_proj = Linear("btf,fd->btd", (f, d), ("mlp", "embed"), dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "batch seq embed"]) -> Float[Array, "batch seq embed"]:
        gate, up = project(x, self.gate_proj, self.up_proj)
        gate, up = checkpoint_name(gate, "gate"), checkpoint_name(up, "up")
        return checkpoint_name(self.down_proj(gated(gate, up)), "mlp_out")


def _gated(gate: Array, up: Array) -> Array:
    # In float32: bfloat16 would round GELU's constants too, and is four times slower on a CPU; on TPU it is free.
    return (nnx.gelu(gate.astype(jnp.float32), approximate=True) * up.astype(jnp.float32)).astype(gate.dtype)


@jax.custom_vjp
def gated(gate: Array, up: Array) -> Array:
    """`gelu(gate) * up`, with the tanh form of GELU in float32."""
    return _gated(gate, up)


def _gated_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    # Without the barrier XLA:TPU computes them again in each of the four products that use them.
    return jax.lax.optimization_barrier(jax.vjp(_gated, *saved)[1](g))


gated.defvjp(lambda gate, up: (_gated(gate, up), (gate, up)), _gated_backward)


class Layer(nnx.Module):
    """Attention and MLP, each between two norms, added to the residual stream."""

    def __init__(self, config: Gemma3Config, kind: LayerType, *, kernel: Kernel, dtype, rngs: nnx.Rngs):
        def norm():
            return RMSNorm(config.embed_dim, config.norm_eps, axis="embed", dtype=dtype, rngs=rngs)

        self.pre_attention_norm = norm()
        self.attn = Attention(config, kind, kernel=kernel, dtype=dtype, rngs=rngs)
        self.post_attention_norm = norm()
        self.pre_ffw_norm = norm()
        self.mlp = MLP(config, dtype=dtype, rngs=rngs)
        self.post_ffw_norm = norm()

    def __call__(
        self,
        x: Float[Array, "batch seq embed"],
        rotary: Rotary,
        segment_ids: Array,
        cached: CachedLayer | None = None,
        local: Bool[Array, ""] | None = None,
    ) -> tuple[Float[Array, "batch seq embed"], tuple[Stored, Stored] | None]:
        attended, store = self.attn(self.pre_attention_norm(x), rotary, segment_ids, cached, local)
        x = x + self.post_attention_norm(attended)
        return x + self.post_ffw_norm(self.mlp(self.pre_ffw_norm(x))), store


class Embedder(nnx.Module):
    """The embedding, which is also the head (tied)."""

    def __init__(self, config: Gemma3Config, *, dtype, rngs: nnx.Rngs):
        shape = (config.vocab_size, config.embed_dim)
        self.input_embedding = param(rngs, shape, ("vocab", "embed"), dtype, config.embed_dim**-0.5)

    def encode(self, tokens: Int[Array, "batch seq"]) -> Float[Array, "batch seq embed"]:
        table = self.input_embedding[...]
        # The factor is rounded to the activation's dtype, as Gemma was trained (bf16: 25.25 for 640, not 25.298).
        return table[tokens] * jnp.asarray(table.shape[1] ** 0.5, table.dtype)

    def decode(self, hidden: Float[Array, "*dims embed"]) -> Float[Array, "*dims vocab"]:
        return _logits(hidden, self.input_embedding[...])


@jax.custom_vjp
def _logits(hidden: Array, table: Array) -> Array:
    """`hidden · tableᵀ` in float32; its backward pass runs in the table's dtype, and never casts the table."""
    return jnp.einsum("...d,vd->...v", hidden, table, preferred_element_type=jnp.float32)


def _logits_forward(hidden: Array, table: Array) -> tuple[Array, tuple[Array, Array]]:
    return _logits(hidden, table), (hidden, table)


def _logits_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    hidden, table = saved
    g = g.astype(table.dtype)
    d_hidden = jnp.einsum("...v,vd->...d", g, table)
    return d_hidden.astype(hidden.dtype), jnp.einsum("...v,...d->vd", g, hidden.astype(table.dtype))


_logits.defvjp(_logits_forward, _logits_backward)


class Gemma3(nnx.Module):
    """A Gemma3 text model.

    Args:
      config: its sizes.
      rngs: for the random initial weights; `load` gives trained ones.
      dtype: of parameters and activations (float32 or bfloat16; float16 overflows: the residual stream reaches 1e5).
      kernel: attention kernel, see `attention.attend`.
    """

    def __init__(self, config: Gemma3Config, *, rngs: nnx.Rngs, dtype=jnp.float32, kernel: Kernel = "auto"):
        if jnp.dtype(dtype) not in (jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16)):
            raise ValueError(
                f"dtype must be float32 or bfloat16 (float16 overflows in Gemma3), got {jnp.dtype(dtype).name}"
            )
        self.config = config
        self.lora: LoraConfig | None = None  # set by `add_lora`
        self.embedder = Embedder(config, dtype=dtype, rngs=rngs)
        self.layers = nnx.List(
            [Layer(config, kind, kernel=kernel, dtype=dtype, rngs=rngs) for kind in config.layer_types]
        )
        self.final_norm = RMSNorm(config.embed_dim, config.norm_eps, axis="embed", dtype=dtype, rngs=rngs)

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of parameters and activations."""
        return self.embedder.input_embedding.get_value().dtype

    @overload
    def __call__(self, tokens, positions=None, segment_ids=None) -> Float[Array, "batch seq embed"]: ...
    @overload
    def __call__(
        self, tokens, positions=None, segment_ids=None, *, cache: KVCache, rows=None, prefix: KVCache | None = None
    ) -> tuple[Float[Array, "batch seq embed"], KVCache]: ...

    def __call__(
        self,
        tokens: Int[Array, "batch seq"],
        positions: Int[Array, "batch seq"] | None = None,
        segment_ids: Int[Array, "batch seq"] | None = None,
        *,
        cache: KVCache | None = None,
        rows: Int[Array, "batch seq"] | None = None,
        prefix: KVCache | None = None,
    ):
        """Hidden states after the last norm, `[batch, seq, embed]`; with `cache`, also the cache with `tokens` in it.

        Args:
          tokens: ids, `[batch, seq]`. An id outside the vocabulary is not seen here: check data where it enters.
          positions: for the rotary angles; default is the index within the segment.
          segment_ids: texts packed in a row, numbered from 1 in contiguous runs; 0 is padding. Default: one segment,
            all positions from 0 on.
          cache: see `cache.init_cache`. Then positions must be given (-1 is padding), and are also places in the cache.
          rows: with `cache`, which row of the cache each token goes to. Without `rows`, row b of `tokens` continues
            row b of the cache: its tokens attend to what is there and to each other; rows may stand at different
            positions. With `rows`, tokens are the beginnings of texts, packed by `segment_ids`: they attend within
            their segment only, and a row that gets position 0 forgets what it held.
          prefix: with `rows` and `segment_ids`, one text's cache of a single row, as long as `cache` and in the model's
            dtype. Tokens then are what follows it: they see it and their segment, positions go on from its own, and
            each row that they go to becomes a copy of it first.

        Raises:
          ValueError: for arguments that do not go together; the message says which.

        Packing example: texts [5, 6] and [7, 8, 9] in a row of 6:
          tokens       5 6 7 8 9 0
          segment_ids  1 1 2 2 2 0
          positions    0 1 0 1 2 0   (the default)
        """
        if tokens.ndim != 2:
            raise ValueError(f"tokens must be [batch, seq], got shape {tokens.shape}")
        if cache is None and rows is not None:
            raise ValueError("rows are rows of a cache: give the cache too")
        if cache is not None and positions is None:
            raise ValueError("with a cache, positions must be given (-1 for padding): they are the places in the cache")
        if cache is not None and rows is None and (segment_ids is not None or tokens.shape[0] != cache.rows):
            raise ValueError(
                f"tokens of {tokens.shape[0]} rows that continue a cache of {cache.rows} rows need as many rows and no "
                "segment_ids; to start texts in chosen rows, give rows"
            )
        if prefix is not None and (cache is None or rows is None or segment_ids is None):
            raise ValueError("with a prefix, cache, rows and segment_ids must be given: texts that continue it")
        if prefix is not None and cache is not None and (prefix.rows, prefix.length) != (1, cache.length):
            raise ValueError(
                f"a prefix is a cache of 1 row and of the cache's length {cache.length}, got {prefix.rows} rows of "
                f"length {prefix.length}"
            )
        config = self.config
        x, rotary, segment_ids = self.begin(tokens, positions, segment_ids)
        steps = {}
        if cache is not None and positions is not None and prefix is not None and rows is not None:
            steps = plan_shared(cache, prefix, positions, segment_ids, rows, config.sliding_window)
        elif cache is not None and positions is not None:
            steps = plan_steps(cache, positions, rows, config.sliding_window)
        stores = []
        for i, (layer, kind) in enumerate(zip(self.layers, config.layer_types, strict=True)):
            shared = None if prefix is None else (plain(prefix.keys[i]), plain(prefix.values[i]))
            cached = None if cache is None else CachedLayer(cache.keys[i], cache.values[i], steps[kind], shared)
            x, store = layer(x, rotary[kind], segment_ids, cached)
            x = constrain(x, ("batch", None, None))
            stores.append(store)
        hidden = self.final_norm(x)
        if cache is None:
            return hidden
        keys, values = zip(*stores, strict=True)
        return hidden, KVCache(
            keys=keys, values=values, positions={kind: step.positions for kind, step in steps.items()}
        )

    def begin(
        self,
        tokens: Int[Array, "batch seq"],
        positions: Int[Array, "batch seq"] | None,
        segment_ids: Int[Array, "batch seq"] | None,
    ) -> tuple[Float[Array, "batch seq embed"], dict[LayerType, Rotary], Int[Array, "batch seq"]]:
        """What the first layer takes: the residual stream, rotary angles by kind of layer, and segment ids."""
        if segment_ids is None:
            segment_ids = jnp.ones_like(tokens) if positions is None else jnp.where(positions >= 0, 1, 0)
        if positions is None:
            positions = segment_positions(segment_ids)
        config = self.config
        rotary: dict[LayerType, Rotary] = {
            "local": rotary_angles(positions, config.head_dim, config.local_rope_theta, 1.0),
            "global": rotary_angles(positions, config.head_dim, config.global_rope_theta, config.global_rope_factor),
        }
        return constrain(self.embedder.encode(tokens), ("batch", None, None)), rotary, segment_ids

    def logits(self, hidden: Float[Array, "*dims embed"]) -> Float[Array, "*dims vocab"]:
        """Next-token logits in float32. `[*, embed]` → `[*, vocab]`: select the positions you need first."""
        return self.embedder.decode(hidden)


def segment_positions(segment_ids: Int[Array, "batch seq"]) -> Int[Array, "batch seq"]:
    """Index of each token within its segment: `[1, 1, 2, 2, 2, 0]` → `[0, 1, 0, 1, 2, 0]`."""
    index = jnp.arange(segment_ids.shape[1])
    starts = jnp.concatenate(
        [jnp.ones_like(segment_ids[:, :1], bool), segment_ids[:, 1:] != segment_ids[:, :-1]], axis=1
    )
    return index - jax.lax.cummax(jnp.where(starts, index, 0), axis=1)


def rotary_angles(positions: Int[Array, "batch seq"], head_dim: int, theta: float, factor: float) -> Rotary:
    """Angles `position / factor * theta ** (-2 i / head_dim)` in float32 (RoFormer, arXiv 2104.09864, eq. 15)."""
    frequency = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim) / factor
    angle = positions[..., None, None].astype(jnp.float32) * frequency
    return Rotary(jnp.cos(angle), jnp.sin(angle))


def rotate(
    x: Float[Array, "batch seq heads head_dim"], rotary: Rotary, *, scale: float = 1.0
) -> Float[Array, "batch seq heads head_dim"]:
    """`scale` times `x` with dimension i rotated together with i + head_dim / 2, in float32."""
    first, second = jnp.split(scale * x.astype(jnp.float32), 2, axis=-1)
    rotated = [first * rotary.cos - second * rotary.sin, second * rotary.cos + first * rotary.sin]
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)
