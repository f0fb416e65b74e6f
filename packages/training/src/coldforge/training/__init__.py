"""The parts of a training loop in JAX: optimizer, step, exact resume, metrics, watchdog, time box."""

from coldforge.training.checkpoint import (
    Checkpointer,
    CheckpointError,
    ForeignCheckpointError,
    Restored,
    SaveTimes,
)
from coldforge.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from coldforge.training.run import (
    GateError,
    Manifest,
    Run,
    RunError,
    command_line,
    open_run,
    read_manifest,
    require_gate,
    require_identity,
)
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
from coldforge.training.stop import Stopper

__all__ = [
    "CheckpointError",
    "Checkpointer",
    "EmptyBatchError",
    "ForeignCheckpointError",
    "GateError",
    "LossFn",
    "Manifest",
    "OptimizerConfig",
    "Restored",
    "Run",
    "RunError",
    "SaveTimes",
    "Stopper",
    "Sums",
    "TrainState",
    "TrainStep",
    "abstract_state",
    "command_line",
    "init_state",
    "make_eval_step",
    "make_optimizer",
    "make_schedule",
    "make_train_step",
    "open_run",
    "place_batch",
    "read_manifest",
    "require_gate",
    "require_identity",
]
