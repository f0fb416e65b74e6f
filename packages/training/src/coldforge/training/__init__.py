"""The parts of a training loop in JAX: optimizer, step, exact resume, metrics, watchdog, time box."""

from coldforge.training.batches import load_batch, save_batch
from coldforge.training.checkpoint import (
    Checkpointer,
    CheckpointError,
    ForeignCheckpointError,
    Restored,
    SaveTimes,
)
from coldforge.training.live import LiveView
from coldforge.training.memory import memory_metrics
from coldforge.training.metrics import SCALARS, MetricLog, read_metrics
from coldforge.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from coldforge.training.profile import Profiler
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
from coldforge.training.stop import Stopper, Vote
from coldforge.training.throughput import Throughput, Totals
from coldforge.training.watchdog import Finding, Watchdog, WatchdogConfig

__all__ = [
    "SCALARS",
    "CheckpointError",
    "Checkpointer",
    "EmptyBatchError",
    "Finding",
    "ForeignCheckpointError",
    "GateError",
    "LiveView",
    "LossFn",
    "Manifest",
    "MetricLog",
    "OptimizerConfig",
    "Profiler",
    "Restored",
    "Run",
    "RunError",
    "SaveTimes",
    "Stopper",
    "Sums",
    "Throughput",
    "Totals",
    "TrainState",
    "TrainStep",
    "Vote",
    "Watchdog",
    "WatchdogConfig",
    "abstract_state",
    "command_line",
    "init_state",
    "load_batch",
    "make_eval_step",
    "make_optimizer",
    "make_schedule",
    "make_train_step",
    "memory_metrics",
    "open_run",
    "place_batch",
    "read_manifest",
    "read_metrics",
    "require_gate",
    "require_identity",
    "save_batch",
]
