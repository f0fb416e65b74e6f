"""Options that every stage has: one frozen dataclass per part, for an app to put into its configuration.

An app adds fields by inheriting (`class OptimizerOptions(AdamWOptions)`), and sets other values in its presets. Its
whole command line inherits from `StageOptions`. The docstrings are the program's `--help`. Nothing here imports JAX, so
that it is quick.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

Shown = tyro.conf.arg(metavar="PATH", help_behavior_hint="")  # of a path that may be left out


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The base model, and how it is computed."""

    size: Literal["tiny", "nano", "270m", "1b", "4b", "12b", "27b"]
    """Which Gemma3. tiny: random weights, about 100,000 with a vocabulary of 512; it has that of --tokenizer.
    nano: the one that coldforge-nano brings."""
    train: Literal["lora", "full"] = "lora"
    """What is trained: adapters on a frozen base, or every parameter (in float32)."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the base and of the arithmetic. auto: float32 on a CPU, bfloat16 elsewhere."""
    remat: Literal["none", "block", "full"] = "block"
    """What the backward pass computes again. none: no products of matrices; block: those before and behind attention,
    and the first two of the MLP's; full: everything."""
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
class AdamWOptions:
    """AdamW and its schedule. `coldforge.training.OptimizerConfig` has the formulas."""

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
class QuestionOptions:
    """What is asked."""

    sources: tuple[str, ...] = ()
    """Where questions come from: reasoning-gym tasks as NAME:COUNT?key=value&…, files with questions and answers
    (JSONL, JSON, parquet, arrow), or names on the hub."""
    split: str = "train"
    """Of a data set on the hub."""
    heldout: int = 200
    """Questions that are never trained on: asked before, on the way and after."""
    seed: int = 0
    """Of reasoning-gym's tasks, and of the order in which coldforge-grpo asks."""
    on_bad: Literal["refuse", "drop"] = "refuse"
    """What becomes of a row without a question or an answer: the run does not begin, or it is dropped and counted."""
    on_long: Literal["refuse", "drop"] = "refuse"
    """The same of questions longer than the sampler takes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerOptions:
    """The room that the sampler has on this machine's devices."""

    slots: int | None = None
    """Samples that run at the same time; None: as many as memory-gib holds, at most 256 a device (128 on a CPU)."""
    memory_gib: float | None = None
    """What sampling may take on each device beside the weights; None: 70 % of what is free (2 on a CPU)."""
    kv: Literal["model", "bf16", "int8"] = "model"
    """How caches hold keys and values."""
    weights: Literal["model", "int8"] = "model"
    """Sample from the weights as they are, or from a copy of the projections in int8, under the same adapter."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavingOptions:
    """What a run leaves besides its adapter."""

    merged: bool = False
    """Write the model with its adapter merged in, as a Hugging Face directory."""
    base_model_name: str | None = None
    """What the adapter's config names as its base: a hub name or a path."""


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
class StageOptions:
    """What does not decide what is trained: where things are, and how long this session may take."""

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
    distributed: Distributed = Distributed()
