"""From a configuration to what runs: model, sampler, the compiled update and scoring pass. Imports JAX.

    built = build(model, config, mesh=mesh)                      # a real model: what `main` runs
    built = build(abstract_model(...), config, mesh=mesh)        # shapes only: what can be compiled
    built.train_step.lower(built.state, built.frozen, built.batch).compile()
    built.engine().lowered()["decode"].compile()

The one place where these are put together: the run and `coldforge-plan` both come here, so that what was planned is
what runs. Policy, sampler and reference share the frozen weights.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from coldforge import grpo, modeling, training
from coldforge.apps.grpo.config import GrpoRunConfig, RolloutOptions
from coldforge.grpo import BatchShape, GrpoConfig, Rows
from coldforge.losses import PolicyLoss
from coldforge.rollout import Engine, EngineConfig, SamplingParams
from coldforge.stages.devices import ROWS


@dataclasses.dataclass(frozen=True)
class Built:
    """A model ready to be trained by GRPO; arrays may be shapes only.

    Attributes:
        config: What it was made of.
        loop: The loop's numbers.
        model: With adapters, or all of it.
        params, frozen: What is trained, and the rest.
        train_step: Compiled on its first call, to be called inside `use(mesh)`.
        score: Log-probabilities without a gradient; likewise.
        optimizer: optax's.
        state, batch: Shapes and shardings of the training state and of an update's batch.
        shape: Of that batch.
        mesh: None on a single device.
    """

    config: GrpoRunConfig
    loop: GrpoConfig
    model: modeling.Gemma3
    params: nnx.State
    frozen: nnx.State
    train_step: training.TrainStep
    score: Any
    optimizer: Any
    state: training.TrainState
    batch: Rows
    shape: BatchShape
    mesh: Mesh | None

    def start(self) -> training.TrainState:
        """The state before the first update, which consumes its arrays, `params` among them."""
        zero = "data" if self.config.mesh.shard_optimizer and self.mesh is not None else None
        return training.init_state(self.params, self.optimizer, self.config.loop.seed, shard_optimizer=zero)

    def engine(self, *, temperature: float | None = None, stop_ids: tuple[int, ...] = ()) -> Engine:
        """A sampler of this model: at the run's temperature, unless another is given."""
        params, sizes = sampling(self.config.rollout, temperature=temperature, stop_ids=stop_ids)
        return Engine(self.model, params, sizes)

    def with_params(self, params: Any) -> modeling.Gemma3:
        """The model with what was trained, the base shared."""
        return modeling.with_params(self.model, params)


def build(model: modeling.Gemma3, config: GrpoRunConfig, *, mesh: Mesh | None) -> Built:
    """Puts together what a run calls.

    Args:
        model: With adapters, or all of it to be trained (model.train full); its arrays may be shapes.
        config: The configuration.
        mesh: That the model lies on.

    Raises:
        ValueError: Samples do not fit into rows, rows cannot be split over the mesh, options do not fit together.
    """
    loop = loop_config(config)
    shape = batch_shape(config, mesh)
    view = modeling.trainable(
        model, full=config.model.train == "full", remat=config.model.remat, layers=config.model.layers
    )
    loss = grpo.grpo_loss(view.apply, loop.policy, old=loop.old, temperature=config.rollout.temperature)
    options = training.OptimizerConfig(**dataclasses.asdict(config.optimizer))
    optimizer = training.make_optimizer(options, loop.steps)
    zero = "data" if config.mesh.shard_optimizer and mesh is not None else None
    return Built(
        config=config,
        loop=loop,
        model=model,
        params=view.params,
        frozen=view.frozen,
        train_step=training.make_train_step(
            loss, optimizer, training.make_schedule(options, loop.steps), accumulation=shape.accumulation,
            empty=grpo.is_empty,
        ),
        score=grpo.make_score(view.apply, temperature=config.rollout.temperature),
        optimizer=optimizer,
        state=training.abstract_state(view.params, optimizer, shard_optimizer=zero),
        batch=abstract_batch(loop, shape, mesh),
        shape=shape,
        mesh=mesh,
    )  # fmt: skip


def sampling(
    options: RolloutOptions, *, temperature: float | None = None, stop_ids: tuple[int, ...] = ()
) -> tuple[SamplingParams, EngineConfig]:
    """How is sampled, and in what room.

    Raises:
        ValueError: An option is out of its range.
    """
    return SamplingParams(
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature if temperature is None else temperature,
        stop_ids=stop_ids,
    ), EngineConfig(
        max_prompt_tokens=options.max_prompt_tokens, slots=options.slots, memory_gib=options.memory_gib,
        prefill_chunk=options.prefill_chunk, kv=options.kv, weights=options.weights,
    )  # fmt: skip


def loop_config(config: GrpoRunConfig) -> GrpoConfig:
    """The loop's numbers."""
    loop, algorithm = config.loop, config.algorithm
    rewards = ("accuracy", "format", "language", "repetition", "overlong")
    return GrpoConfig(
        steps=loop.steps, questions=config.rollout.questions, group_size=config.rollout.group_size,
        policy=PolicyLoss(**dataclasses.asdict(config.policy)), max_new_tokens=config.rollout.max_new_tokens,
        reward_weights=tuple((name, w) for name in rewards if (w := getattr(config.rewards, name)))
        if algorithm.advantage == "gdpo" else (),
        seed=loop.seed, eval_every=loop.eval_every, checkpoint_every=loop.checkpoint_every,
        checkpoint_minutes=loop.checkpoint_minutes, texts=loop.texts, texts_every=loop.texts_every, on_nan=loop.on_nan,
        **dataclasses.asdict(algorithm),
    )  # fmt: skip


def batch_shape(config: GrpoRunConfig, mesh: Mesh | None) -> BatchShape:
    """The shape of an update's batch, which holds the longest samples there can be.

    Raises:
        ValueError: The rows cannot be split over the mesh, or a sample does not fit into one.
    """
    rows = config.rows.rows
    if rows < 1:
        raise ValueError(f"rows.rows is {rows}; wanted at least 1")
    if mesh is not None:
        ways = mesh.shape["data"] * mesh.shape["fsdp"]
        if rows % ways:
            raise ValueError(
                f"rows.rows is {rows}, and the mesh splits them over data × fsdp = {ways} devices; wanted a multiple "
                f"of {ways}"
            )
    samples = config.rollout.questions * config.rollout.group_size // config.algorithm.minibatches
    return grpo.shape_for(samples, config.longest, rows=rows, seq_len=config.seq_len)


def abstract_batch(loop: GrpoConfig, shape: BatchShape, mesh: Mesh | None) -> Rows:
    """Shapes of one update's batch, `[accumulation, rows, seq]` each."""
    sharding = None if mesh is None else NamedSharding(mesh, PartitionSpec(None, ROWS))

    def array(dtype: Any, *sizes: int) -> Any:
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=sharding)

    ints, floats = array(np.int32, *shape), array(np.float32, *shape)
    return Rows(
        tokens=ints, positions=ints, segment_ids=ints, targets=ints, weights=floats, advantages=floats,
        sampler_logprobs=floats, old_logprobs=floats if loop.old == "trainer" else None,
        ref_logprobs=floats if loop.policy.needs_reference else None, denominator=array(np.float32, *shape[:2]),
    )  # fmt: skip
