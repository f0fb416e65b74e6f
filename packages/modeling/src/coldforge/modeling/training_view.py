"""A model as training sees it: a pure function, what is trained, and what is frozen.

    view = trainable(model, remat="block")
    hidden, embedding = view.apply(view.params, view.frozen, tokens, positions, segment_ids)    # inside a jitted step
    sampler_model = with_params(model, params)                                                  # the base is shared

`params` keeps the model's own structure, one entry per layer, on every platform: a checkpoint of it, or of an optimizer
over it, fits a run with another way of running the layers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from coldforge.modeling.blocks import Layers, Remat, check_choices, run_layers
from coldforge.modeling.lora import placed_like
from coldforge.modeling.model import Gemma3


class Trainable(NamedTuple):
    """A model taken apart for training.

    Attributes:
      apply: `(params, frozen, tokens, positions, segment_ids)` → hidden states `[batch, seq, embed]` after the last
        norm and the embedding `[vocab, embed]`; pure, to be called inside jit, under the mesh where there is one.
      params: what is trained, in float32: the adapter, or every parameter.
      frozen: the rest.
    """

    apply: Callable[..., tuple[Float[Array, "batch seq embed"], Float[Array, "vocab embed"]]]
    params: nnx.State
    frozen: nnx.State


def trainable(model: Gemma3, *, full: bool = False, remat: Remat = "block", layers: Layers = "auto") -> Trainable:
    """Takes a model apart for training; its arrays are shared, and may be shapes only (`abstract_model`).

    Args:
      model: with an adapter, or without one if `full`.
      full: train every parameter. They are kept in float32 and cast to the model's dtype where they are used.
      remat: what is computed again in the backward pass: "full" all of a layer, "block" what is not the output of its
        attention or of its MLP, "none" nothing, or next to nothing (`blocks.KEPT`).
      layers: "scan" compiles one layer and loops over it, "unroll" compiles each; "auto" scans on TPU.

    Raises:
      ValueError: if there is nothing to train (no adapter), or what is to be trained is quantised or has an adapter.
    """
    if not full and model.lora is None:
        raise ValueError(
            "the model has no LoRA adapters to train; add_lora makes them, full=True trains all parameters"
        )
    if full and model.lora is not None:
        raise ValueError("full=True trains the base itself, but the model has LoRA adapters; start from the base")
    check_choices(remat, layers)
    trained: Any = nnx.Param if full else nnx.LoRAParam
    graph, params, *rest = nnx.split(model, trained, ...)
    (frozen,) = rest
    dtype = model.dtype
    if full:
        params = jax.tree.map(lambda x: _cast(x, jnp.float32), params)

    def apply(params, frozen, tokens, positions=None, segment_ids=None):
        if full:
            params = jax.tree.map(lambda x: x.astype(dtype), params)
        model = nnx.merge(graph, params, frozen)
        x, rotary, segment_ids = model.begin(tokens, positions, segment_ids)
        x = run_layers(model, trained, x, rotary, segment_ids, remat=remat, layers=layers)
        return model.final_norm(x), model.embedder.input_embedding[...]

    return Trainable(apply, params, frozen)


def _cast(x, dtype):
    if isinstance(x, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding)
    return x.astype(dtype)


def with_params(model: Gemma3, params: nnx.State) -> Gemma3:
    """A model with the values of `params` in place of its own, cast to its dtypes; everything else is shared.

    Raises:
      ValueError: if `params` are not parameters of this model; the message lists the differences.
    """
    graph, state = nnx.split(model)
    values = dict(nnx.to_flat_state(state))
    wrong = []
    for path, variable in nnx.to_flat_state(params):
        name, new = ".".join(map(str, path)), variable.get_value()
        if path not in values:
            wrong.append(f"{name} is unexpected")
            continue
        old = values[path].get_value()
        if new.shape != old.shape:
            wrong.append(f"{name} has shape {new.shape}, wanted {old.shape}")
        values[path] = values[path].replace(placed_like(new if new.dtype == old.dtype else _cast(new, old.dtype), old))
    if wrong:
        raise ValueError(f"parameters are not this model's ({len(wrong)} differences): " + "; ".join(wrong[:10]))
    return nnx.merge(graph, nnx.from_flat_state(values))
