"""What the tests share: eight simulated devices, a tiny model with every kind of layer, and one compiled call of it.

The devices are set up before JAX first asks for its backend. Tests that need one device simply use no mesh.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
# Programs here are compiled once and run once, on tiny arrays: LLVM's optimisations take longer than they save.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from coldforge.modeling import Gemma3, Gemma3Config, abstract_model
from coldforge.modeling.init import variable_sharding


@pytest.fixture(scope="session")
def config() -> Gemma3Config:
    """Local and global layers, grouped heads, a window that short texts leave, its own query scale, rope scaling."""
    return Gemma3Config(
        vocab_size=64, embed_dim=32, mlp_dim=64, num_heads=4, num_kv_heads=2, head_dim=16,
        layer_types=("local", "global", "local"), sliding_window=8, max_seq_len=256,
        query_scale=0.3, global_rope_factor=2.0,
    )  # fmt: skip


@pytest.fixture(scope="session")
def make_model(config: Gemma3Config) -> Callable[..., Gemma3]:
    """Makes a model with random weights of a seed, norm scales included; keywords change the configuration.

    The numbers come from numpy: `init_model` compiles programs for every configuration, and leaves norms at 0.
    """

    def make(seed: int = 0, *, dtype=jnp.float32, mesh=None, kernel="auto", **changes) -> Gemma3:
        rng = np.random.default_rng(seed)
        model = abstract_model(dataclasses.replace(config, **changes), dtype=dtype, kernel=kernel)
        values = {}
        for path, variable in nnx.to_flat_state(nnx.state(model)):
            value = rng.normal(0, 0.3 if path[-1] == "scale" else 0.17, variable.get_value().shape)
            sharding = None if mesh is None else variable_sharding(variable, mesh)
            values[path] = variable.replace(jax.device_put(value.astype(dtype), sharding))
        nnx.update(model, nnx.from_flat_state(values))
        return model

    return make


@partial(jax.jit, static_argnums=0)
def _forward(graph, state, args, kwargs):
    return nnx.merge(graph, state)(*args, **kwargs)


@pytest.fixture(scope="session")
def run() -> Callable:
    """Calls a model under jit; one compilation per set of shapes, whatever the weights."""

    def call(model: Gemma3, *args, **kwargs):
        return _forward(*nnx.split(model), args, kwargs)

    return call
