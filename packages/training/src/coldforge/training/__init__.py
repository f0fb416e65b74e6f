"""The parts of a training loop in JAX: optimizer, step, exact resume, metrics, watchdog, time box."""

from coldforge.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from coldforge.training.state import TrainState, abstract_state, init_state
from coldforge.training.step import (
    EmptyBatchError,
    LossFn,
    Sums,
    TrainStep,
    make_eval_step,
    make_train_step,
    place_batch,
)

__all__ = [
    "EmptyBatchError",
    "LossFn",
    "OptimizerConfig",
    "Sums",
    "TrainState",
    "TrainStep",
    "abstract_state",
    "init_state",
    "make_eval_step",
    "make_optimizer",
    "make_schedule",
    "make_train_step",
    "place_batch",
]
