"""The command line of `coldforge-plan`: for each stage, its presets and the options that its programs depend on.

Nothing here imports JAX, so that help and complaints are quick.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro

from coldforge.apps.grpo.config import (
    AlgorithmOptions,
    GrpoAdamW,
    GrpoRunConfig,
    PolicyOptions,
    RolloutOptions,
    RowOptions,
)
from coldforge.apps.grpo.presets import PRESETS as GRPO_PRESETS
from coldforge.apps.sft.config import BatchConfig, OptimizerOptions, SftConfig
from coldforge.apps.sft.presets import PRESETS as SFT_PRESETS
from coldforge.stages.options import LoraOptions, MeshConfig, ModelConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepConfig:
    """The parts of a stage's configuration that its step depends on; short names (--rows) are understood too."""

    model: ModelConfig
    lora: LoraOptions
    batches: BatchConfig
    optimizer: OptimizerOptions
    mesh: MeshConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class GrpoStepConfig:
    """The parts of GRPO's configuration that its programs depend on; short names (--rows) are understood too."""

    model: ModelConfig
    lora: LoraOptions
    rollout: RolloutOptions
    algorithm: AlgorithmOptions
    policy: PolicyOptions
    rows: RowOptions
    optimizer: GrpoAdamW
    mesh: MeshConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to plan, and how to say it."""

    topology: Annotated[str, tyro.conf.arg(metavar="CHIP:SHAPE")]
    """The slice: v5e:2x4, v5e:16x16, v6e:2x4, v5p:2x2x2."""
    counted: float = 1.0
    """Share of the tokens that have a loss weight; the head is computed for these alone."""
    hlo: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """Also write the compiled program's text there (grpo: a directory, a file for each program)."""
    json: bool = False
    """Print the plan as JSON."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SftOptions(Options):
    """What to plan, and how to say it."""

    search: bool = False
    """Try meshes, rematerialisation and rows per micro-batch, and recommend the fastest that fits."""
    limit: int = 12
    """Compile at most so many candidates in this search; the next one goes on from there."""
    timeout: float = 20.0
    """Give a candidate up after so many minutes."""
    cache: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """Where a search keeps its results. Without it, in the user's cache directory."""
    top: int = 12
    """Show so many of the dearest ops."""
    config: Annotated[StepConfig, tyro.conf.arg(name="")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GrpoOptions(Options):
    """What to plan, and how to say it."""

    config: Annotated[GrpoStepConfig, tyro.conf.arg(name="")]


@dataclasses.dataclass(frozen=True)
class Stage:
    """What can be planned: its presets, its options, and the parts of its configuration in them."""

    presets: Mapping[str, Callable[[], Any]]
    options: type[Options]
    parts: type


STAGES: Mapping[str, Stage] = {
    "sft": Stage(SFT_PRESETS, SftOptions, StepConfig),
    "grpo": Stage(GRPO_PRESETS, GrpoOptions, GrpoStepConfig),
}


def parse(stage: str, args: list[str]) -> tuple[str, Any]:
    """The preset's name, and options whose configuration is the preset's with what was overridden.

    Raises:
        ValueError: A search is asked for where there is none.
    """
    if stage != "sft" and any(word.partition("=")[0] == "--search" for word in args):
        raise ValueError(
            f"--search is for sft alone. Plan {stage} as it is, and change what does not fit: --rollout.slots, "
            "--model.remat, --rows.rows, --mesh.fsdp"
        )
    kind = STAGES[stage]
    defaults = {name: _defaults(kind, make()) for name, make in kind.presets.items()}
    chosen: Any = tyro.cli(
        tyro.extras.subcommand_type_from_defaults(
            defaults, descriptions={name: (make.__doc__ or "").splitlines()[0] for name, make in kind.presets.items()}
        ),
        args=[_long(kind.parts, word) for word in args],
        prog=f"coldforge-plan {stage}",
        config=(tyro.conf.OmitSubcommandPrefixes,),
    )
    return next(word for word in args if word in kind.presets), chosen


def whole(stage: str, preset: str, options: Any) -> Any:
    """The stage's configuration: an `SftConfig`, a `GrpoRunConfig`."""
    kind = STAGES[stage]
    parts = {field.name: getattr(options.config, field.name) for field in dataclasses.fields(kind.parts)}
    return dataclasses.replace(kind.presets[preset](), **parts)


def _defaults(kind: Stage, config: SftConfig | GrpoRunConfig) -> Options:
    parts = {field.name: getattr(config, field.name) for field in dataclasses.fields(kind.parts)}
    make: Any = kind.options
    return make(topology=tyro.MISSING, config=kind.parts(**parts))


def _long(parts: type, word: str) -> str:
    """`--rows` is `--batches.rows`: no two sections of a stage's configuration share a name."""
    name, equals, value = word.removeprefix("--").partition("=")
    if word.startswith("--"):
        for section in dataclasses.fields(parts):
            kind: Any = section.type
            if name.replace("-", "_") in {field.name for field in dataclasses.fields(kind)}:
                return f"--{section.name}.{name}{equals}{value}"
    return word
