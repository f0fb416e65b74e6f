"""From a model to what runs: the compiled steps, and where every array lives. Imports JAX.

    mesh, parts = make_mesh(config.mesh), (config.model, config.lora)
    built = build(adapted(base, *parts, seed=0), config, steps=500, mesh=mesh)          # a real model: what `main` runs
    built = build(abstract_model(*parts, mesh), config, steps=500, mesh=mesh)           # shapes: what can be compiled
    with use(mesh):
        state, metrics = built.train_step(built.start(), built.frozen, place_batch(batch, mesh=mesh))
    built.train_step.lower(built.state, built.frozen, built.batch).compile()      # for a TPU that is not here

The one place where these are put together: training and `coldforge-plan` both come here, so that what was planned is
what runs. Mesh and model are made by `coldforge.stages`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from coldforge import modeling, training
from coldforge.apps.sft.config import SftConfig
from coldforge.data.batches import TokenBatch
from coldforge.sft import sft_loss
from coldforge.stages.devices import ROWS


@dataclasses.dataclass(frozen=True)
class Built:
    """A model ready to be trained; arrays may be shapes only.

    Attributes:
        config: What it was made of.
        model: With adapters; where all of it is trained, its shapes only, so that the weights exist once.
        params, frozen: What is trained, and the rest.
        train_step, eval_step: Compiled on their first call, to be called inside `use(mesh)`.
        optimizer: optax's.
        state, batch: Shapes and shardings of the training state and of a batch, to compile for or restore into.
        mesh: None on a single device.
    """

    config: SftConfig
    model: modeling.Gemma3
    params: nnx.State
    frozen: nnx.State
    train_step: training.TrainStep
    eval_step: Callable[..., training.Sums]
    optimizer: Any
    state: training.TrainState
    batch: TokenBatch
    mesh: Mesh | None

    def start(self) -> training.TrainState:
        """The state before the first step; the first training step consumes its arrays, `params` among them."""
        return training.init_state(
            self.params, self.optimizer, self.config.loop.seed, shard_optimizer=_zero(self.config, self.mesh)
        )

    def sampler(self, params: nnx.State) -> modeling.Gemma3:
        """The model with other values of what is trained: to sample from, or to save."""
        return modeling.with_params(self.model, params)


def build(model: modeling.Gemma3, config: SftConfig, *, steps: int, mesh: Mesh | None) -> Built:
    """Makes the steps for a model that `adapted` or `abstract_model` of `coldforge.stages.model` has made.

    Args:
        model: With adapters, or to be trained in full.
        config: The configuration.
        steps: How many the schedule is for.
        mesh: That the model lies on; None for a single device.

    Raises:
        ValueError: The rows of a micro-batch cannot be split over the mesh.
    """
    full = config.model.train == "full"
    view = modeling.trainable(model, full=full, remat=config.model.remat, layers=config.model.layers)
    loss = sft_loss(view.apply, z_loss=config.optimizer.z_loss, chunk=config.optimizer.chunk)
    named = dataclasses.asdict(config.optimizer)
    options = training.OptimizerConfig(**{k: v for k, v in named.items() if k not in ("z_loss", "chunk")})
    optimizer = training.make_optimizer(options, steps)
    schedule = training.make_schedule(options, steps)
    return Built(
        config=config,
        model=_shapes(model) if full else model,
        params=view.params,
        frozen=view.frozen,
        train_step=training.make_train_step(loss, optimizer, schedule, accumulation=config.batches.accumulation),
        eval_step=training.make_eval_step(loss),
        optimizer=optimizer,
        state=training.abstract_state(view.params, optimizer, shard_optimizer=_zero(config, mesh)),
        batch=abstract_batch(config, mesh),
        mesh=mesh,
    )


def abstract_batch(config: SftConfig, mesh: Mesh | None) -> TokenBatch:
    """Shapes of one step's batch, `[accumulation, rows, seq]` each.

    Raises:
        ValueError: The rows cannot be split over the mesh.
    """
    batches = config.batches
    shape = (batches.accumulation, batches.rows, batches.seq_len)
    sharding = None
    if mesh is not None:
        ways = mesh.shape["data"] * mesh.shape["fsdp"]
        if batches.rows % ways:
            raise ValueError(
                f"batches.rows is {batches.rows}, and the mesh splits them over data × fsdp = {ways} devices; wanted a "
                f"multiple of {ways} (so many rows in accumulation {batches.accumulation} make a step)"
            )
        sharding = NamedSharding(mesh, PartitionSpec(None, ROWS))
    dtypes = (np.int32, np.int32, np.int32, np.float32, np.uint8)
    leaves: list[Any] = [jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for dtype in dtypes]
    return TokenBatch(*leaves)


def _zero(config: SftConfig, mesh: Mesh | None) -> str | None:
    return "data" if config.mesh.shard_optimizer and mesh is not None else None


def _shapes(model: modeling.Gemma3) -> modeling.Gemma3:
    graph, state = nnx.split(model)
    return nnx.merge(graph, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state))
