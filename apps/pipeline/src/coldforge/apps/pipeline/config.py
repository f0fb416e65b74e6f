"""All that can be set: the configuration of each stage's own program, put together; a preset fills it in.

`Options` is the whole command line. A changed option redoes the stages that depend on it, and no others; what does not
decide a stage's result (its mesh, its gate, how often it saves) changes nothing that is finished. Nothing here imports
JAX, so that `--help` is quick.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from coldforge.apps.grpo.config import GrpoRunConfig
from coldforge.apps.reject.config import RejectConfig
from coldforge.apps.sft.config import SftConfig
from coldforge.data.prepare import Options as PrepareOptions
from coldforge.stages.options import Distributed, Shown

StageName = Literal["data", "cold-start", "rl-1", "reject", "sft-2", "rl-2", "evaluation"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions:
    """What is learnt, asked, and held out."""

    rows: tuple[str, ...] = ()
    """What the cold start learns: sources as coldforge-prepare takes them, or rows of coldforge-nano: nano:COUNT, or
    sums:COUNT?min_terms=2&max_terms=3&… with options of reasoning-gym's chain_sum."""
    questions: tuple[str, ...] = ()
    """What reinforcement learning and rejection sampling ask: sources as coldforge-grpo takes them, or coldforge-nano's
    questions."""
    heldout: tuple[str, ...] = ()
    """What every checkpoint is evaluated on: the same kinds of sources. A question that the cold start's rows hold is
    left out, and one that is held out is never trained on."""
    split: str = "train"
    """Of `questions` on the hub."""
    heldout_split: str = "test"
    """Of `heldout` on the hub."""
    on_bad: Literal["refuse", "drop"] = "refuse"
    """What becomes of a question without text or answer."""
    processes: int | None = None
    """How many judge and tokenize rows; None: one for each processor."""
    prepare: PrepareOptions = dataclasses.field(default_factory=PrepareOptions)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """How every checkpoint is asked the held-out questions.

    Temperature and top-p are DeepSeek-R1's. The model's dtype and the mesh are those of the cold start.
    """

    samples: int = 1
    """Of each question."""
    temperature: float = 0.6
    """0: the likeliest token each time, one sample."""
    top_p: float = 0.95
    """Sample among the likeliest tokens that together have this probability."""
    max_new_tokens: int = 1024
    """Replies are cut off there."""
    slots: int | None = None
    """Samples that run at the same time. None: as many as the memory holds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a stage takes, as far as it is known."""

    minutes: float
    """On the preset's hardware."""
    gb: float
    """Of memory, on each device or in the process."""
    measured: bool = False
    """Seen, or worked out."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """All stages."""

    data: DataOptions
    cold_start: SftConfig
    rl_1: GrpoRunConfig
    reject: RejectConfig
    sft_2: SftConfig
    rl_2: GrpoRunConfig
    evaluation: EvaluationOptions = EvaluationOptions()
    sft_2_from: Literal["base", "rl-1"] = "base"
    """What the second fine-tuning starts from: the base, as in the paper, or the policy that wrote its data."""
    estimates: tyro.conf.Suppress[dict[str, Estimate]] = dataclasses.field(default_factory=dict)
    """By stage."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The whole pipeline: cold start, GRPO, rejection sampling, fine-tuning, GRPO, evaluation, in one directory."""

    run: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Where everything goes. The same command on the same directory goes on."""
    weights: Annotated[Path | None, Shown] = None
    """The base, where the preset brings none: a Hugging Face directory, a .gguf file or a Coldforge checkpoint."""
    tokenizer: Annotated[Path | None, Shown] = None
    """The tokenizer, where it does not lie with the weights."""
    seed: int = 0
    """Added to the seeds of rows, questions, training and sampling; data.prepare.seed and reject.keep.seed stay."""
    start: Annotated[StageName | None, tyro.conf.arg(name="from", help_behavior_hint="")] = None
    """Do this stage, and what comes after it, again."""
    until: Annotated[StageName | None, tyro.conf.arg(help_behavior_hint="")] = None
    """End after this stage."""
    max_hours: Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="")] = None
    """Stop in time: save, and say how to go on."""
    dry_run: bool = False
    """Show what would be done, with time and memory, and do nothing. What does not fit together is refused."""
    distributed: Distributed = Distributed()
    config: Annotated[PipelineConfig, tyro.conf.arg(name="")]
