"""Products of activations with weights: plain, int8 or nf4, with or without a LoRA adapter.

`Einsum` and `Linear` are the six projections of a layer. An adapter adds `lora_scale · (x A) B` to `x W`. How that is
computed is what a training step of a LoRA model spends much of its time on, so it is spelt out here:

  - apart (`low_rank`): two thin products and one addition to the output, which reads and writes all of it;
  - joined (`join`): one product of a copy of W that holds a half of the adapter. B's rows beneath W where the output
    is as wide as the input or wider, `[x, x A] [W; B]`; A's columns beside W where it is not, `x [W, A]`, of which the
    last `rank` numbers go through B. In the backward pass, where in and out change places, the form is the same, and
    the addition to the wide side is saved there too. It pays where many tokens use the copy, or a copy is made anyway.
    XLA:TPU's estimate for 4,096 tokens of 1B's MLP, 1,152 → 6,912: 534 k cycles without an adapter, 900 k apart, 614 k
    joined, and 159 k for the copy.

A and B are float32; products run in the activations' dtype.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from coldforge.modeling.sharding import current_platform


class Param(nnx.Param):
    """A parameter that knows the logical name of each of its dimensions (`sharding.RULES`)."""


def param(rngs: nnx.Rngs, shape: tuple[int, ...], axes: tuple[str, ...], dtype, scale: float) -> Param:
    """Normal random numbers of standard deviation `scale`, or zeros."""
    value = scale * jax.random.normal(rngs.params(), shape, jnp.float32) if scale else jnp.zeros(shape)
    return Param(value.astype(dtype), axes=axes)


class _Projection(nnx.Module):
    """One product `einsum(equation, x, weight)` in the dtype of `x`, plus an adapter's `lora_scale · (x A) B`.

    Attributes:
      contracted: leading dimensions of the weight that the product sums over (the last ones of `x`).
      lora_scale: alpha / rank, set by `add_lora` together with the parameters `…_lora_a` `[*contracted, rank]` and
        `…_lora_b` `[rank, *out]`; None without an adapter.
    """

    weight_name: str

    def __init__(
        self,
        equation: str,
        shape: tuple[int, ...],
        axes: tuple[str, ...],
        *,
        contracted: int = 1,
        dtype,
        rngs: nnx.Rngs,
    ):
        fan_in = math.prod(shape[:contracted])
        setattr(self, self.weight_name, param(rngs, shape, axes, dtype, fan_in**-0.5))
        self.equation = equation
        self.contracted = contracted
        self.lora_scale: float | None = None

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        weight = getattr(self, self.weight_name)
        if self.lora_scale is None:
            return self._product(x, weight)
        a, b = self.adapter()
        if self.joined:
            if is_beneath(a, b):
                return _beneath(x, [weight.get_value()], [a], [b], self.lora_scale)[0]
            return _beside(x, weight.get_value(), a, b, self.lora_scale)
        return self._product(x, weight) + self.lora_scale * low_rank(x, a, b)

    @property
    def joined(self) -> bool:
        """Whether the weight holds a half of the adapter (`join`)."""
        weight = getattr(self, self.weight_name)
        if self.lora_scale is None or not isinstance(weight, nnx.Variable):
            return False
        a, b = self.adapter()
        return weight.shape != a.shape[:-1] + b.shape[1:]

    def adapter(self) -> tuple[Array, Array]:
        """A and B."""
        a, b = (getattr(self, self.weight_name + suffix).get_value() for suffix in ("_lora_a", "_lora_b"))
        return a, b

    def _product(self, x: Array, weight) -> Array:
        if isinstance(weight, nnx.Variable):
            return jnp.einsum(self.equation, x, weight.get_value()).astype(x.dtype)
        values, scale = weight.array.qvalue.get_value(), weight.array.scale.get_value()
        if values.dtype == jnp.int8:  # a scale per output channel
            product = jnp.einsum(self.equation, x, values.astype(x.dtype))
            return product * scale.reshape(scale.shape[self.contracted :]).astype(x.dtype)
        import qwix  # 0.3 s: not for those who only load a model

        return jnp.einsum(self.equation, x, qwix.dequantize(weight.array).astype(x.dtype))


class Einsum(_Projection):
    """An attention projection; its parameter is called `w`."""

    weight_name = "w"


class Linear(_Projection):
    """An MLP projection; its parameter is called `kernel`."""

    weight_name = "kernel"


def project(x: Float[Array, "..."], *modules: _Projection) -> list[Float[Array, "..."]]:
    """What each of `modules` makes of the same `x`; joined ones (B beneath) share the products with A."""
    if all(module.joined and is_beneath(*module.adapter()) for module in modules):
        weights = [getattr(module, module.weight_name).get_value() for module in modules]
        halves = [module.adapter() for module in modules]
        return _beneath(x, weights, [a for a, _ in halves], [b for _, b in halves], modules[0].lora_scale)
    return [module(x) for module in modules]


@jax.custom_vjp
def low_rank(x: Array, a: Array, b: Array) -> Array:
    """`(x A) B`, `[..., *into] [*into, rank] [rank, *out]`, in the dtype of `x`.

    Its own backward pass because of the order of operands: JAX puts the large one first in both sums over tokens, and
    XLA:CPU transposes it together with all that is fused into it. Those copies were 21 % of a training step of 270M
    (2 x 512 tokens, float32).
    """
    return jnp.tensordot(jnp.tensordot(x, a.astype(x.dtype), a.ndim - 1), b.astype(x.dtype), 1)


def _low_rank_forward(x: Array, a: Array, b: Array) -> tuple[Array, tuple[Array, ...]]:
    narrow = jnp.tensordot(x, a.astype(x.dtype), a.ndim - 1)
    return jnp.tensordot(narrow, b.astype(x.dtype), 1), (x, narrow, a, b)


def _low_rank_backward(saved: tuple[Array, ...], g: Array) -> tuple[Array, Array, Array]:
    x, narrow, a, b = saved
    out = tuple(range(narrow.ndim - 1, g.ndim)), tuple(range(1, b.ndim))
    back = jnp.tensordot(g, b.astype(g.dtype), out)
    dx = jnp.tensordot(back, a.astype(g.dtype), ((-1,), (-1,)))
    return dx, jnp.moveaxis(_over_tokens(back, x, a.dtype), 0, -1), _over_tokens(narrow, g, b.dtype)


low_rank.defvjp(_low_rank_forward, _low_rank_backward)


def _over_tokens(narrow: Array, wide: Array, dtype) -> Array:
    """`[*rows, rank]` and `[*rows, *dims]` → `[rank, *dims]`, summed over the rows.

    On TPU the sum leaves the product in float32; XLA:CPU has no such product of bfloat16 numbers.
    """
    rows = tuple(range(narrow.ndim - 1))
    out = jnp.float32 if current_platform() == "tpu" else None
    return jnp.tensordot(narrow, wide, (rows, rows), preferred_element_type=out).astype(dtype)


def is_beneath(a: Array, b: Array) -> bool:
    """Whether a joined weight has B beneath W, not A beside it: a vector comes in, heads or a wider vector go out."""
    return a.ndim == 2 and (b.ndim > 2 or b.shape[-1] >= a.shape[0])


def join(weight: Array, a: Array, b: Array, scale: float) -> Array:
    """W with `scale · B` beneath it, `[into + rank, *out]`, or A beside it, `[*into, out + rank]`, in W's dtype."""
    if is_beneath(a, b):
        return jnp.concatenate([weight, (scale * b).astype(weight.dtype)])
    return jnp.concatenate([weight, a.astype(weight.dtype)], axis=-1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _beneath(x: Array, weights: list[Array], a: list[Array], b: list[Array], scale: float) -> list[Array]:
    """`x W + scale · (x A) B` for each of some weights with B beneath; W itself has no gradient."""
    return _beneath_forward(x, weights, a, b, scale)[0]


def _beneath_forward(
    x: Array, weights: list[Array], a: list[Array], b: list[Array], scale: float
) -> tuple[list[Array], tuple]:
    del b, scale  # they are in the weights
    # The barrier keeps XLA from computing x A again for every tile of the products.
    narrow = jax.lax.optimization_barrier(jnp.tensordot(x, jnp.concatenate(a, axis=-1).astype(x.dtype), 1))
    parts = jnp.split(narrow, len(a), axis=-1)
    out = [jnp.tensordot(jnp.concatenate([x, n], axis=-1), w, 1) for n, w in zip(parts, weights, strict=True)]
    return out, (x, parts, weights, a)


def _beneath_backward(scale: float, saved: tuple, g: list[Array]) -> tuple:
    x, parts, weights, a = saved
    width = x.shape[-1]
    both = [
        jnp.tensordot(one, w, (tuple(range(x.ndim - 1, one.ndim)), tuple(range(1, w.ndim))))
        for one, w in zip(g, weights, strict=True)
    ]
    back = jax.lax.optimization_barrier(jnp.concatenate([one[..., width:] for one in both], axis=-1))
    dx = sum(one[..., :width] for one in both)
    dx += jnp.tensordot(back, jnp.concatenate(a, axis=-1).astype(x.dtype), ((-1,), (-1,)))
    da = jnp.split(jnp.moveaxis(_over_tokens(back, x, a[0].dtype), 0, -1), len(a), axis=-1)
    db = [scale * _over_tokens(n, one, jnp.float32) for n, one in zip(parts, g, strict=True)]
    return dx, [None] * len(weights), da, db


_beneath.defvjp(_beneath_forward, _beneath_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _beside(x: Array, weight: Array, a: Array, b: Array, scale: float) -> Array:
    """`x W + scale · (x A) B` for a weight with A beside; W itself has no gradient."""
    return _beside_forward(x, weight, a, b, scale)[0]


def _beside_forward(x: Array, weight: Array, a: Array, b: Array, scale: float) -> tuple[Array, tuple]:
    out = b.shape[-1]
    # The barrier keeps XLA from making the products that x comes from inside this one. In the backward pass, where only
    # the sum over tokens needs x, they may be.
    both = jnp.tensordot(jax.lax.optimization_barrier(x), weight, a.ndim - 1)
    # Named, since without it the backward pass would make the wide product again for these few columns.
    narrow = checkpoint_name(jax.lax.optimization_barrier(both[..., out:]), "narrow")
    return both[..., :out] + jnp.tensordot(narrow, (scale * b).astype(x.dtype), 1), (x, narrow, weight, a, b)


def _beside_backward(scale: float, saved: tuple, g: Array) -> tuple[Array, None, Array, Array]:
    x, narrow, weight, a, b = saved
    back = jax.lax.optimization_barrier(jnp.tensordot(g, (scale * b).astype(g.dtype), ((-1,), (-1,))))
    dx = jnp.tensordot(jnp.concatenate([g, back], axis=-1), weight, ((-1,), (-1,)))
    da = jnp.moveaxis(_over_tokens(back, x, a.dtype), 0, -1)
    return dx, None, da, scale * _over_tokens(narrow, g, b.dtype)


_beside.defvjp(_beside_forward, _beside_backward)
