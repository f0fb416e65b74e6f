"""The layers of a model in training: a scan over blocks of layers or one after the other, and what is computed again.

A block is what repeats: five local layers and a global one. Compiled once and run for every block, it takes a fraction
of the compile time of all layers; layers left over at the end are unrolled.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from coldforge.modeling.config import LayerType
from coldforge.modeling.model import Gemma3, Rotary
from coldforge.modeling.sharding import constrain, current_platform

Remat = Literal["none", "block", "full"]
Layers = Literal["auto", "scan", "unroll"]


def run_layers(
    model: Gemma3, x: Array, rotary: dict[LayerType, Rotary], segment_ids: Array, *, remat: Remat, layers: Layers
) -> Array:
    """The residual stream after all layers."""
    if remat not in get_args(Remat) or layers not in get_args(Layers):
        raise ValueError(
            f"remat must be one of {get_args(Remat)} and layers one of {get_args(Layers)}, got {remat!r}, {layers!r}"
        )
    if layers == "auto":
        layers = "scan" if current_platform() == "tpu" else "unroll"
    kinds = model.config.layer_types
    parts = [nnx.split(layer) for layer in model.layers]
    period, count = repeating(kinds, [_structure(part) for part in parts]) if layers == "scan" else (0, 0)

    def layer(index: int) -> Callable[[Any, Array], Array]:
        def run(state: Any, x: Array) -> Array:
            x, _ = nnx.merge(parts[index][0], state)(x, rotary[kinds[index]], segment_ids, None)
            return constrain(x, ("batch", None, None))

        if remat == "none":
            return run
        policy = None if remat == "full" else jax.checkpoint_policies.save_only_these_names(*SAVED)
        return jax.checkpoint(run, policy=policy, prevent_cse=index >= period * count)

    if count:
        stacked = [
            jax.tree.map(lambda *leaves: jnp.stack(leaves), *(parts[b * period + j][1] for b in range(count)))
            for j in range(period)
        ]

        def block(x: Array, states: list[Any]) -> tuple[Array, None]:
            for j, state in enumerate(states):
                x = layer(j)(state, x)
            return x, None

        x, _ = jax.lax.scan(block, x, stacked)
    for i in range(period * count, len(parts)):
        x = layer(i)(parts[i][1], x)
    return x


SAVED = ("query", "key", "value", "attention")


def repeating(kinds: tuple[LayerType, ...], structures: list[Any]) -> tuple[int, int]:
    """Length of a block and how many equal ones a model starts with; (0, 0) if it has no two.

    `("local", "global", "local", "global", "local")` is (2, 2), with one layer left over.
    """
    period = kinds.index("global") + 1 if "global" in kinds else 1
    described = list(zip(kinds, structures, strict=True))
    count = 1
    while described[:period] == described[count * period : (count + 1) * period]:
        count += 1
    return (period, count) if count > 1 else (0, 0)


def _structure(part: tuple[Any, Any]) -> Any:
    graph, state = part
    return graph, jax.tree.structure(state), [(x.shape, x.dtype) for x in jax.tree.leaves(state)]
