"""Models by construction: their shapes without memory, their shardings, random initial weights born where they live."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from coldforge.modeling.attention import Kernel
from coldforge.modeling.config import Gemma3Config
from coldforge.modeling.model import Gemma3
from coldforge.modeling.sharding import named_sharding


def abstract_model(config: Gemma3Config, *, dtype=jnp.float32, kernel: Kernel = "auto") -> Gemma3:
    """A model whose parameters are shapes and dtypes only; takes no memory."""
    return nnx.eval_shape(lambda: Gemma3(config, rngs=nnx.Rngs(0), dtype=dtype, kernel=kernel))


def init_model(
    config: Gemma3Config, *, seed: int, dtype=jnp.float32, mesh: Mesh | None = None, kernel: Kernel = "auto"
) -> Gemma3:
    """A model with random weights; with `mesh`, each device makes only its own share of them."""

    def create():
        return nnx.state(Gemma3(config, rngs=nnx.Rngs(seed), dtype=dtype, kernel=kernel))

    model = abstract_model(config, dtype=dtype, kernel=kernel)
    shardings = None if mesh is None else state_shardings(nnx.state(model), mesh)
    nnx.update(model, jax.jit(create, out_shardings=shardings)())
    return model


def state_shardings(state: nnx.State, mesh: Mesh) -> Any:
    """The sharding of every variable of a model's state, in the state's own structure (for `jit` and `device_put`)."""
    return jax.tree.map(
        lambda v: v.replace(variable_sharding(v, mesh)), state, is_leaf=lambda v: isinstance(v, nnx.Variable)
    )


def variable_sharding(variable: nnx.Variable, mesh: Mesh) -> NamedSharding:
    """The sharding of one variable from its logical axes; a variable without axes stays whole."""
    shape = variable.get_value().shape
    return named_sharding(variable.get_metadata().get("axes") or (None,) * len(shape), shape, mesh)


def model_mesh(model: Gemma3) -> Mesh | None:
    """The mesh that a model's parameters lie on, or None for a single device."""
    sharding = getattr(model.embedder.input_embedding.get_value(), "sharding", None)
    return sharding.mesh if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh) else None
