"""All that can be set: one frozen dataclass per part of a run, put together as `SftConfig`; a preset fills it in.

`Options` is the whole command line: where things are, how long this session may take, and an `SftConfig`. A run
directory belongs to one configuration; what does not decide the loss curve (`MAY_DIFFER`: mesh, gate, intervals) may
change when the run goes on. Nothing here imports JAX, so that `--help` is quick.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

# Fields of an SftConfig that do not decide the loss curve (up to rounding): another session may have others.
MAY_DIFFER = (
    "mesh.*", "gate.*", "output.*", "model.remat", "model.layers", "optimizer.chunk",
    "loop.eval_*", "loop.checkpoint_*", "loop.keep_last", "loop.sample*", "loop.on_nan",
)  # fmt: skip

Shown = tyro.conf.arg(metavar="PATH", help_behavior_hint="")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The base model, and how it is computed."""

    size: Literal["tiny", "270m", "1b", "4b", "12b", "27b"]
    """Which Gemma3. tiny: random weights of a few thousand parameters, with the vocabulary of --tokenizer."""
    train: Literal["lora", "full"] = "lora"
    """What is trained: adapters on a frozen base, or every parameter (in float32)."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the base and of the arithmetic. auto: float32 on a CPU, bfloat16 elsewhere."""
    remat: Literal["none", "block", "full"] = "block"
    """What the backward pass computes again: nothing, all but attention, everything."""
    layers: Literal["auto", "scan", "unroll"] = "auto"
    """Compile a block of layers once (scan), or every layer. auto: scan on TPU."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraOptions:
    """The adapters (model.train lora)."""

    rank: int = 64
    """Columns of A, rows of B."""
    alpha: float = 64.0
    """The adapter's output is scaled by alpha / rank."""
    quantize: Literal["none", "int8", "nf4"] = "none"
    """How the frozen base is stored: as it is, or as QLoRA in 8 or 4 bits."""


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
class OptimizerOptions:
    """AdamW, its schedule, and the loss. `coldforge.training.OptimizerConfig` has the formulas."""

    learning_rate: float = 2e-4
    """The highest rate, at the end of the warm-up."""
    warmup: float = 0.1
    """Share of the steps in which the rate rises."""
    final_fraction: float = 0.0
    """Where the cosine ends, as a fraction of the rate (DeepSeek-R1: 0.1)."""
    weight_decay: float = 0.1
    """Of matrices, per step and unit of learning rate."""
    max_grad_norm: float | None = 0.1
    """Larger gradients are scaled down to this norm."""
    b1: float = 0.9
    """Decay of the first moment."""
    b2: float = 0.999
    """Decay of the second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    z_loss: float = 0.0
    """Coefficient of the z-loss (PaLM: 1e-4)."""
    chunk: int | None = None
    """Tokens of a device whose logits exist at a time; None: what is best for the platform."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How the devices share the work."""

    data: int | None = None
    """Devices that split the batch and hold whole weights. None: all that fsdp and tensor leave."""
    fsdp: int = 1
    """Devices that split batch and weights, for weights that do not fit."""
    tensor: int = 1
    """Devices that split heads, MLP and vocabulary."""
    shard_optimizer: bool = False
    """Split the optimizer's state over `data` too (ZeRO 1)."""


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
class OutputConfig:
    """What the run leaves besides adapter, manifest and report."""

    take: Literal["last", "best"] = "last"
    """Which state is gated and handed on: that after the last step, or that of the lowest held-out loss."""
    merged: bool = False
    """Write the model with its adapter merged in, as a Hugging Face directory."""
    base_model_name: str | None = None
    """What the adapter's config names as its base: a hub name or a path."""
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
class Distributed:
    """Several processes, one per host, that train together."""

    initialize: bool = False
    """Call jax.distributed.initialize; on a TPU slice it finds the rest itself."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where it is not found."""
    processes: int | None = None
    """How many there are."""
    process: int | None = None
    """Which of them this is, from 0."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Cold-start SFT: trains a Gemma3 on a prepared data set, then holds it against its gate."""

    data: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """A data set that coldforge-prepare wrote."""
    run: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Where everything goes. The same command on the same directory continues a run."""
    weights: Annotated[Path | None, Shown] = None
    """The base: a Hugging Face directory, a .gguf file or a Coldforge checkpoint. Without it, the 270m's come from the
    extra."""
    tokenizer: Annotated[Path | None, Shown] = None
    """The tokenizer, where it does not lie with the weights."""
    max_hours: Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="")] = None
    """Stop in time: save, and say how to go on."""
    profile: int = 0
    """Trace so many steps for TensorBoard's profiler."""
    regate: bool = False
    """Ask the base model again, too, where its replies are kept in the run."""
    distributed: Distributed = Distributed()
    config: Annotated[SftConfig, tyro.conf.arg(name="")]
