"""All that can be set: one frozen dataclass per part of a run, put together as `SftConfig`; a preset fills it in.

`Options` is the whole command line: where things are, how long this session may take, and an `SftConfig`. A run
directory belongs to one configuration; what does not decide the loss curve (`MAY_DIFFER`: mesh, gate, intervals) may
change when the run goes on. What other stages have too is in `coldforge.stages.options`. Nothing here imports JAX, so
that `--help` is quick.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from coldforge.stages.options import AdamWOptions, LoraOptions, MeshConfig, ModelConfig, SavingOptions, StageOptions

# Fields of an SftConfig that do not decide the loss curve (up to rounding): another session may have others.
MAY_DIFFER = (
    "mesh.*", "gate.*", "output.*", "model.remat", "model.layers", "optimizer.chunk",
    "loop.eval_*", "loop.checkpoint_*", "loop.keep_last", "loop.sample*", "loop.on_nan",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """What a step trains on."""

    seq_len: int = 1024
    """Tokens of a row; examples are packed into rows, and none is ever cut."""
    rows: int = 2
    """Rows of a micro-batch, all devices together."""
    accumulation: int = 4
    """Micro-batches of a step."""
    reasoning_weight: float = 1.0
    """α: how much a token of the reasoning counts."""
    answer_weight: float = 1.0
    """β: how much a token of the answer counts, <end_of_turn> included."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerOptions(AdamWOptions):
    """AdamW, its schedule, and the loss. `coldforge.training.OptimizerConfig` has the formulas."""

    z_loss: float = 0.0
    """Coefficient of the z-loss (PaLM: 1e-4)."""
    chunk: int | None = None
    """Tokens of a device whose logits exist at a time; None: what is best for the platform."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long, and what happens on the way."""

    epochs: float = 1.0
    """Passes over the training split."""
    steps: int | None = None
    """Instead of epochs: so many steps."""
    seed: int = 0
    """Of adapters and the order of the data."""
    eval_every: int = 50
    """Steps between held-out losses; 0: only at the end."""
    eval_batches: int = 16
    """At most so many batches of held-out rows."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""
    checkpoint_minutes: float = 15.0
    """And minutes."""
    keep_last: int = 2
    """Newest checkpoints to keep; the one of the lowest held-out loss stays besides."""
    sample_every: int = 0
    """Steps between texts sampled from the model; 0: none."""
    samples: int = 2
    """Texts to sample."""
    sample_tokens: int = 256
    """Of at most so many tokens."""
    on_nan: Literal["skip", "stop"] = "skip"
    """After a loss or gradient that is not finite, whose step is never applied and whose batch is saved: go on, or
    stop."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateOptions:
    """What the tuned model has to show on held-out prompts, before another stage may start from it."""

    format: float = 0.95
    """Least share of well-formed replies."""
    ended: float = 0.95
    """Least share of ended turns."""
    truncated: float = 0.05
    """Largest share of replies cut off at max-new-tokens."""
    accuracy_drop: float = 0.1
    """How much accuracy may be lost against the base: 0.1 is 10 points."""
    min_prompts: int = 73
    """The gate fails on fewer: 73 is the least number that can show 95 %."""
    prose: float = 0.5
    """Largest share of prompts whose right answer is a text to read, which no grader can compare."""
    prompts: int = 128
    """Ask so many held-out prompts, if there are."""
    max_new_tokens: int = 1024
    """A reply is cut off after so many tokens."""
    rows: int = 64
    """Replies that are made at a time."""
    temperature: float = 0.0
    """0: the most likely token each time."""
    top_p: float = 1.0
    """With a temperature: among the most likely tokens of this probability."""
    timeout: float = 5.0
    """Seconds of processor time that comparing two answers by computer algebra may take."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputConfig(SavingOptions):
    """What the run leaves besides adapter, manifest and report."""

    take: Literal["last", "best"] = "last"
    """Which state is gated and handed on: that after the last step, or that of the lowest held-out loss."""
    examples: int = 12
    """Replies that the report shows."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SftConfig:
    """One cold start."""

    model: ModelConfig
    lora: LoraOptions = LoraOptions()
    batches: BatchConfig = BatchConfig()
    optimizer: OptimizerOptions = OptimizerOptions()
    mesh: MeshConfig = MeshConfig()
    loop: LoopConfig = LoopConfig()
    gate: GateOptions = GateOptions()
    output: OutputConfig = OutputConfig()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(StageOptions):
    """Cold-start SFT: trains a Gemma3 on a prepared data set, then holds it against its gate."""

    data: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """A data set that coldforge-prepare (or coldforge-reject) wrote."""
    start: Annotated[Path | None, tyro.conf.arg(name="from", metavar="DIR", help_behavior_hint="")] = None
    """A run whose adapter (or whole model) training goes on with, once its gate is passed. Without it, it begins from
    the base. The gate compares with the base in either case."""
    force: bool = False
    """Start from that run although its gate is failed."""
    regate: bool = False
    """Ask the base model again, too, where its replies are kept in the run."""
    config: Annotated[SftConfig, tyro.conf.arg(name="")]
