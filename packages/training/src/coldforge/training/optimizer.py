"""AdamW with a warm-up and a cosine, as optax transformations: global-norm clipping, moments, decay of matrices, rate.

    config = OptimizerConfig(learning_rate=2e-4)
    schedule = make_schedule(config, steps=500)      # what metrics show
    optimizer = make_optimizer(config, steps=500)    # any other optax optimizer will do in its place

The learning rate follows the step of the run, which the training step passes as `step=`, not a count of updates: after
a skipped step the schedule still ends with the run. Only Adam's bias correction counts updates.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

Schedule = Callable[[Int[Array, ""] | int], Float[Array, ""]]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Options of AdamW (arXiv:1711.05101) and its schedule; the defaults are for LoRA on a few thousand rows.

    Attributes:
      learning_rate: the highest rate, at the end of the warm-up.
      warmup: share of the steps during which the rate rises linearly, 0 for none.
      final_fraction: where the cosine ends, as a fraction of `learning_rate` (DeepSeek-R1 uses 0.1).
      weight_decay: per step and unit of learning rate, of parameters with two dimensions or more.
      max_grad_norm: the global gradient is scaled down to this norm; None for no clipping.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the root of the second moment.
    """

    learning_rate: float = 2e-4
    warmup: float = 0.1
    final_fraction: float = 0.0
    weight_decay: float = 0.1
    max_grad_norm: float | None = 0.1
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        for name, low, high in (
            ("learning_rate", 0, None), ("warmup", 0, 1), ("final_fraction", 0, 1), ("weight_decay", 0, None),
            ("b1", 0, 1), ("b2", 0, 1), ("eps", 0, None),
        ):  # fmt: skip
            value = getattr(self, name)
            if not (value >= low and (high is None or value <= high)):
                wanted = f"at least {low}" if high is None else f"between {low} and {high}"
                raise ValueError(f"{name} must be {wanted}, got {value}")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be positive, or None for no clipping, got {self.max_grad_norm}")


def make_schedule(config: OptimizerConfig, steps: int) -> Schedule:
    """Step (from 0) → learning rate: linear warm-up, then half a cosine down to the final fraction.

    With 100 steps and a warm-up of 0.1, steps 0 to 9 have 1/10 to 10/10 of the rate, step 10 starts the cosine at the
    whole rate, and step 100, the first that is not run, would have the final fraction: no step is lost to a rate of 0.

    Raises:
      ValueError: if `steps` is less than 1.
    """
    if steps < 1:
        raise ValueError(f"a schedule needs at least 1 step, got {steps}")
    warmup = round(config.warmup * steps)

    def schedule(step: Int[Array, ""] | int) -> Float[Array, ""]:
        step = jnp.asarray(step, jnp.float32)
        rising = (step + 1) / max(warmup, 1)
        progress = jnp.clip((step - warmup) / max(steps - warmup, 1), 0, 1)
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * progress))
        falling = config.final_fraction + (1 - config.final_fraction) * cosine
        return config.learning_rate * jnp.where(step < warmup, rising, falling)

    return schedule


def make_optimizer(
    config: OptimizerConfig, steps: int, *, decay: Callable[[PyTree], PyTree] | None = None
) -> optax.GradientTransformationExtraArgs:
    """Clipping by global norm, Adam, decay of what `decay` selects (default `matrices`), learning rate.

    Its `update` wants the step of the run: `optimizer.update(gradients, state, parameters, step=step)`.
    """
    clip = [] if config.max_grad_norm is None else [clip_by_global_norm(config.max_grad_norm)]
    return optax.with_extra_args_support(
        optax.chain(
            *clip,
            optax.scale_by_adam(config.b1, config.b2, config.eps, mu_dtype=jnp.float32),
            optax.add_decayed_weights(config.weight_decay, mask=decay or matrices),
            scale_by_schedule_of_step(make_schedule(config, steps)),
        )
    )


def matrices(params: PyTree) -> PyTree:
    """True for parameters with two dimensions or more: both matrices of LoRA, not the scales of norms."""
    return jax.tree.map(lambda p: p.ndim >= 2, params)


class ClipState(NamedTuple):
    """The norm that the last gradient had after clipping, for metrics."""

    clipped_norm: Float[Array, ""]


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Scales by min(1, max_norm / ‖g‖) over all arrays, as optax's own does, which does not say what it did."""

    def init(params: PyTree) -> ClipState:
        del params
        return ClipState(jnp.zeros((), jnp.float32))

    def update(updates: PyTree, state: ClipState, params: PyTree | None = None) -> tuple[PyTree, ClipState]:
        del state, params
        norm = optax.tree.norm(updates)
        scale = jnp.minimum(1, max_norm / jnp.maximum(norm, jnp.finfo(jnp.float32).tiny))
        return jax.tree.map(lambda g: g * scale, updates), ClipState(norm * scale)

    return optax.GradientTransformation(init, update)


def scale_by_schedule_of_step(schedule: Schedule) -> optax.GradientTransformationExtraArgs:
    """−schedule(step) · update, with the step that the caller passes."""

    def update(
        updates: PyTree, state: optax.EmptyState, params: PyTree | None = None, *, step: Any, **extra: Any
    ) -> tuple[PyTree, optax.EmptyState]:
        del params, extra
        rate = schedule(step)
        return jax.tree.map(lambda u: -rate * u, updates), state

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)
