"""What the tests share: eight simulated devices, a small model of plain arrays with its batch, meshes to place them on.

The devices are set up before JAX first asks for its backend. Scripts that tests start as processes import this too.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from coldforge.training import OptimizerConfig, Sums, init_state, make_optimizer, make_schedule, make_train_step

VOCAB, EMBED, HIDDEN, ROWS, SEQ, STEPS = 32, 8, 16, 8, 6, 20
SPECS = {"scale": P(), "up": P("fsdp", "tensor"), "down": P("tensor", "fsdp")}
CONFIG = OptimizerConfig(learning_rate=0.05, max_grad_norm=0.5)


def make_params(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {"scale": (EMBED,), "up": (EMBED, HIDDEN), "down": (HIDDEN, EMBED)}
    return {name: rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}


def make_frozen() -> dict[str, np.ndarray]:
    return {"embedding": np.random.default_rng(9).normal(size=(VOCAB, EMBED)).astype(np.float32)}


def make_batch(step: int, accumulation: int = 1, rows: int = ROWS) -> dict[str, np.ndarray]:
    """Rows of ragged length, one of them without weight: `[accumulation, rows / accumulation, SEQ]`."""
    rng = np.random.default_rng(100 + step)
    lengths = rng.integers(1, SEQ + 1, rows)
    lengths[step % rows] = 0
    weights = (np.arange(SEQ) < lengths[:, None]) * rng.uniform(0.5, 2, (rows, SEQ))
    batch = {"tokens": rng.integers(0, VOCAB, (rows, SEQ)).astype(np.int32), "loss_weights": weights.astype(np.float32)}
    return {name: x.reshape(accumulation, rows // accumulation, SEQ) for name, x in batch.items()}


def loss_fn(params: Any, frozen: Any, batch: Any, key: Any) -> Sums:
    del key
    x = frozen["embedding"][batch["tokens"]] * params["scale"]
    x = x + jnp.tanh(x @ params["up"]) @ params["down"]
    logp = jax.nn.log_softmax(x @ frozen["embedding"].T)
    nll = -jnp.take_along_axis(logp, jnp.roll(batch["tokens"], -1, -1)[..., None], -1)[..., 0]
    weights = batch["loss_weights"]
    return Sums((weights * nll).sum(), weights.sum(), {"tokens": jnp.sum(weights > 0)})


def noisy_loss(params: Any, frozen: Any, batch: Any, key: Any) -> Sums:
    """`loss_fn` that depends on its key, as dropout would."""
    sums = loss_fn(params, frozen, batch, key)
    return sums._replace(loss=sums.loss + 0.1 * jnp.vdot(jax.random.normal(key, (EMBED,)), params["scale"]))


def make_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1) -> jax.sharding.Mesh:
    return jax.make_mesh((data, fsdp, tensor), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


def placed(mesh: Any = None, seed: int = 0) -> dict[str, jax.Array]:
    """The parameters, on one device or on a mesh."""
    where = {name: None if mesh is None else NamedSharding(mesh, spec) for name, spec in SPECS.items()}
    return {name: jax.device_put(x, where[name]) for name, x in make_params(seed).items()}


def placed_frozen(mesh: Any = None) -> dict[str, jax.Array]:
    return jax.device_put(make_frozen(), None if mesh is None else NamedSharding(mesh, P()))


def make_step(*, accumulation: int = 1, unroll: bool = False, config: OptimizerConfig = CONFIG, loss: Any = loss_fn):
    schedule = make_schedule(config, STEPS)
    return make_train_step(loss, make_optimizer(config, STEPS), schedule, accumulation=accumulation, unroll=unroll)


def make_state(mesh: Any = None, *, config: OptimizerConfig = CONFIG, seed: int = 0, **options: Any):
    return init_state(placed(mesh, seed), make_optimizer(config, STEPS), seed, **options)


@pytest.fixture(scope="session")
def small() -> ModuleType:
    """This file's functions and sizes, for tests, which cannot import it by a name."""
    return sys.modules[__name__]


@pytest.fixture
def messages(caplog) -> Callable[[], list[str]]:
    """What the package has warned of."""
    return lambda: caplog.messages
