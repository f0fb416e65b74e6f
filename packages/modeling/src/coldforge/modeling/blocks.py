"""The layers of a model in training: compiled once or each by itself, and what is computed again in the backward pass.

Unrolled, each layer is a part of the program of its own. Scanned, all layers with parameters of the same shapes are one
loop whose body is compiled once. Local and global layers differ in the attention mask and the rotary angles only, which
the body chooses by the layer's kind, so any pattern of kinds, of any length, is one loop.

What is trained is stacked for the loop (1B's adapter of rank 64 in float32: 0.2 GB), since its gradients come out of it
stacked. Frozen weights are not: a stack of 1B's would take 1.3 GB of each chip that holds all of them. The loop's body
picks its layer's weights by a switch over all layers, which copies one layer's, and where that pays joins them with
halves of their adapters on the way (`projections`). Weights that are split over `fsdp` are gathered layer by layer,
whole weights and not pieces of products: XLA would otherwise turn each product into a loop of small exchanges.
"""

import math
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from coldforge.modeling.config import LayerType
from coldforge.modeling.layout import Path
from coldforge.modeling.model import Gemma3, Layer, Rotary
from coldforge.modeling.projections import Einsum, Linear, join
from coldforge.modeling.sharding import constrain, current_platform, partition_spec

Layers = Literal["auto", "scan", "unroll"]
Remat = Literal["none", "block", "full"]

JOIN_FROM = 1.5

# What each policy keeps of a layer besides its input, by the names that the model gives (`checkpoint_name`).
KEPT: dict[Remat, tuple[str, ...]] = {
    # Attention with the logarithms of its softmax's sums, what the MLP puts out, the factors of norms. Computed again:
    # queries, keys and values, the attention's output projection, and two of the MLP's three products.
    "block": ("attention", "mlp_out", "narrow", "norm"),
    "full": (),
    # All products. Only elementwise functions are computed again.
    "none": ("attention", "mlp_out", "narrow", "norm", "query", "key_value", "attention_out", "gate", "up"),
}


def run_layers(
    model: Gemma3,
    trained: Any,
    x: Array,
    rotary: dict[LayerType, Rotary],
    segment_ids: Array,
    *,
    remat: Remat,
    layers: Layers,
) -> Array:
    """The residual stream after all layers.

    Args:
      model: whose layers.
      trained: the type of the variables that gradients are wanted for.
      x, rotary, segment_ids: as `Gemma3.begin` gives them.
      remat: what is computed again, see `KEPT`; "none" without a loop keeps whatever JAX does.
      layers: "auto" is "scan" on TPU.
    """
    if layers == "auto":
        layers = "scan" if current_platform() == "tpu" else "unroll"
    parts = [nnx.split(layer, trained, ...) for layer in model.layers]
    for run in _runs(parts) if layers == "scan" else ([i] for i in range(len(parts))):
        kinds = [model.config.layer_types[i] for i in run]
        chain = _scan if len(run) > 1 else _one
        x = chain([parts[i] for i in run], kinds, model.layers[run[0]], x, rotary, segment_ids, remat)
    return x


def _one(
    parts: list[Any], kinds: list[LayerType], first: Layer, x: Array, rotary: Any, segment_ids: Array, remat: Remat
) -> Array:
    del first
    graph, trained, frozen = parts[0]

    def layer(trained: Any, x: Array) -> Array:
        x, _ = nnx.merge(graph, gathered(trained), gathered(frozen))(x, rotary[kinds[0]], segment_ids)
        return constrain(x, ("batch", None, None))

    return (layer if remat == "none" else _checkpoint(layer, remat, prevent_cse=True))(trained, x)


def _scan(
    parts: list[Any], kinds: list[LayerType], first: Layer, x: Array, rotary: Any, segment_ids: Array, remat: Remat
) -> Array:
    mixed = len(set(kinds)) > 1
    graph = parts[kinds.index("local") if mixed else 0][0]  # of a layer that knows the window
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(trained for _, trained, _ in parts))
    frozen = [frozen for _, _, frozen in parts]
    angles = jax.tree.map(lambda *pair: jnp.stack(pair), rotary["global"], rotary["local"])
    joined = _joined(first, x)

    def layer(trained: Any, x: Array, index: Array, local: Array) -> Array:
        weights = gathered(_pick(frozen, index, trained, joined))
        own = jax.tree.map(lambda pair: pair[local.astype(jnp.int32)], angles) if mixed else rotary[kinds[0]]
        module = nnx.merge(graph, gathered(trained), weights)
        x, _ = module(x, own, segment_ids, local=local if mixed else None)
        return constrain(x, ("batch", None, None))

    layer = _checkpoint(layer, remat, prevent_cse=False)
    inputs = stacked, jnp.arange(len(parts)), jnp.asarray([kind == "local" for kind in kinds])
    return jax.lax.scan(lambda x, own: (layer(own[0], x, *own[1:]), None), x, inputs)[0]


def _checkpoint(layer: Callable[..., Array], remat: Remat, *, prevent_cse: bool) -> Callable[..., Array]:
    policy = jax.checkpoint_policies.save_only_these_names(*KEPT[remat])
    return jax.checkpoint(layer, policy=policy, prevent_cse=prevent_cse)


def _runs(parts: list[Any]) -> Iterator[list[int]]:
    """Indices of neighbouring layers whose parameters have the same names, shapes and types."""

    def described(i: int) -> Any:
        states = parts[i][1:]
        return jax.tree.structure(states), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(states)]

    for _, run in groupby(range(len(parts)), key=described):
        yield list(run)


def _pick(frozen: list[nnx.State], index: Array, trained: nnx.State, joined: dict[Path, float]) -> nnx.State:
    """The frozen weights of layer `index`; those in `joined` with a half of their adapter.

    A branch of the switch returns copies, so what is changed on the way costs no further one.
    """
    halves = {
        path: [_variable(trained, path, suffix).get_value() for suffix in ("_lora_a", "_lora_b")] for path in joined
    }

    def branch(state: nnx.State) -> Callable[..., list[Array]]:
        def weights(halves: dict[Path, list[Array]]) -> list[Array]:
            values = {path: v.get_value() for path, v in nnx.to_flat_state(state)}
            shares = {path: constrain(values[path], v.get_metadata()["axes"]) for path, v in nnx.to_flat_state(state)}
            shares |= {path: join(shares[path], a, b, joined[path]) for path, (a, b) in halves.items()}
            return list(shares.values())

        return weights

    first = nnx.to_flat_state(frozen[0])
    if not first:
        return frozen[0]
    chosen = jax.lax.switch(index, [branch(state) for state in frozen], jax.lax.stop_gradient(halves))
    return nnx.from_flat_state({path: v.replace(new) for (path, v), new in zip(first, chosen, strict=True)})


def _variable(state: nnx.State, path: Path, suffix: str) -> nnx.Variable:
    """The variable at `path`, whose name is followed by `suffix`."""
    node: Any = state
    for part in path[:-1]:
        node = node[part]
    return node[f"{path[-1]}{suffix}"]


def _joined(layer: Layer, x: Array) -> dict[Path, float]:
    """The weights that are to be joined with a half of their adapter (`projections.join`), and the adapter's scale.

    So it is on TPU, for plain weights that are whole along `embed`, where a device has at least `JOIN_FROM` times as
    many tokens as the residual stream is wide (`projections` has the figures for 3.6 times as many).
    """
    mesh = jax.sharding.get_abstract_mesh()
    if current_platform() != "tpu" or mesh.empty or mesh.shape["fsdp"] > 1:
        return {}
    rows = partition_spec(("batch",), x.shape[:1], mesh)[0]
    ways = math.prod(mesh.shape[axis] for axis in ((rows,) if isinstance(rows, str) else rows or ()))
    if x.shape[0] * x.shape[1] < JOIN_FROM * ways * x.shape[2]:
        return {}
    return {
        (*map(str, path), module.weight_name): module.lora_scale
        for path, module in nnx.iter_modules(layer)
        if isinstance(module, Einsum | Linear)
        and module.lora_scale is not None
        and isinstance(getattr(module, module.weight_name), nnx.Variable)
    }


def gathered(state: nnx.State) -> nnx.State:
    """A layer's state with every array whole along the dimension that `fsdp` splits."""

    def gather(variable: nnx.Variable) -> nnx.Variable:
        axes, value = variable.get_metadata()["axes"], variable.get_value()
        if "embed" not in axes:
            return variable
        whole = [None if axis == "embed" else axis for axis in axes]
        if value.dtype == jnp.uint4:
            return variable
        return variable.replace(constrain(value, whole))

    return jax.tree.map(gather, state, is_leaf=lambda v: isinstance(v, nnx.Variable))


def check_choices(remat: str, layers: str) -> None:
    """Raises ValueError for a policy or a way that there is not."""
    for name, value, known in (("remat", remat, get_args(Remat)), ("layers", layers, get_args(Layers))):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
