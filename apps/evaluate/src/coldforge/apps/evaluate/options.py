"""What the program can be told. Imports no JAX, so that `--help` is quick."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from coldforge.stages.options import Distributed, MeshConfig, SamplerOptions, Shown


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceOptions(SamplerOptions):
    """The room that the sampler has on this machine's devices, and in what arithmetic it works."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """What the weights become in memory. auto: float32 on a CPU, bfloat16 elsewhere."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalOptions(DeviceOptions):
    """A model on this machine's devices."""

    model: Path | None = None
    """Weights; None: the 270m's from the extra."""
    adapter: Path | None = None
    """A run, or an adapter in PEFT's format."""
    tokenizer: Path | None = None
    """The tokenizer, where it lies neither with the adapter nor with the weights."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServedOptions:
    """How a served model is asked (--endpoint)."""

    key_variable: str = "OPENAI_API_KEY"
    """The environment variable that holds the key, if it wants one."""
    concurrency: int = 16
    """Requests that are under way at the same time."""
    timeout: float = 600.0
    """Seconds until a request counts as failed."""
    retries: int = 5
    """How often a request is repeated that fails in transport, or on the server."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EndpointOptions(ServedOptions):
    """A served model."""

    endpoint: str
    """Its URL, as http://localhost:8000/v1."""
    model: str
    """What the server calls it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Evaluate a Gemma3, with or without an adapter, or any served model.

    Without --tasks from the hub, nothing needs a network: reasoning-gym's tasks, suites (gym:arithmetic), local files.
    The same command on the same --out goes on where it was ended. `coldforge-evaluate compare A B`, `show DIR`,
    `regrade DIR`, `decontaminate TASK DATA` and `lm-eval ...` are commands of their own.
    """

    tasks: tuple[str, ...]
    """What to ask, by spaces or commas: gsm8k, math500, aime24, aime25, gpqa_diamond, mmlu, mmlu_pro, ifeval (from the
    hub, or NAME=PATH from local files in its format); NAME:COUNT?key=value of reasoning-gym; gym:SUITE; a JSONL."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Where the results go."""
    model: Annotated[str | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """Weights: a Hugging Face directory, a .gguf file or a Coldforge checkpoint; with --endpoint the model's name
    there. Without it, the 270m's weights from the extra."""
    adapter: Annotated[Path | None, Shown] = None
    """A run of any stage, or an adapter in PEFT's format."""
    tokenizer: Annotated[Path | None, Shown] = None
    """The tokenizer, where it lies neither with the adapter nor with the weights."""
    endpoint: Annotated[str | None, tyro.conf.arg(metavar="URL", help_behavior_hint="")] = None
    """Ask a served model that speaks OpenAI's protocol."""
    name: Annotated[str | None, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")] = None
    """What the report calls the model. Without it, its path's or its run's name."""
    prompt: Annotated[str | None, tyro.conf.arg(metavar="STYLE", help_behavior_hint="")] = None
    """How questions are put: reasoning (tags), boxed, lm-eval's few-shot forms. Without it, reasoning; IFEval plain."""
    form: Annotated[Path | None, Shown] = None
    """Ask in the form (tags, instruction) of this run or data set, where the model has none of its own: a base that is
    held against what was made of it."""
    limit: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Ask so many questions of each task, a fair sample that is the same for all models."""
    task_seed: int = 0
    """Of reasoning-gym's questions."""
    samples: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Of each question. Without it, the protocol's: 64 for AIME and GPQA, 16 for MATH-500."""
    greedy: bool = False
    """One sample, the likeliest token each time; temperature and top-p do not count."""
    temperature: float = 0.6
    """The default is DeepSeek-R1's, as is that of top-p."""
    top_p: float = 0.95
    """Sample among the likeliest tokens that together have this probability; 1: among all."""
    top_k: int = 0
    """Sample among the k likeliest tokens; 0: among all."""
    max_new_tokens: int = 32_768
    """Replies are cut off there, or where the model's context ends."""
    seed: int = 0
    """Same seed, same samples."""
    max_hours: Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="")] = None
    """Stop in time, with what was sampled kept, and say how to go on. Not with --endpoint."""
    device: DeviceOptions = DeviceOptions()
    mesh: MeshConfig = MeshConfig()
    distributed: Distributed = Distributed()
    served: ServedOptions = ServedOptions()


def task_specs(words: Sequence[str]) -> list[str]:
    """The tasks that are named, by words or by commas within one; a path may hold commas.

    Raises:
        ValueError: None is named.
    """
    specs = [spec for word in words for spec in ([word] if _is_path(word) else word.split(",")) if spec]
    if not specs:
        raise ValueError("no task is named; wanted some, as --tasks gsm8k chain_sum:200")
    return specs


def _is_path(word: str) -> bool:
    return "=" in word.partition("?")[0] and "/" in word
