"""`coldforge-plan`: will a training step fit on a TPU slice, and how long will it take? Answered on any CPU machine.

    coldforge-plan sft gemma3-1b --topology v5e:2x4
    coldforge-plan sft gemma3-12b --topology v5e:2x4 --mesh.fsdp 8 --remat full --rows 8 --seq-len 4096
    coldforge-plan sft gemma3-4b --topology v5e:2x4 --search

In this order: the command line; `plan`, which compiles the stage's own step; `report`. With `--search`, `search` runs
this program again for each candidate, in a process of its own. Standard output holds the plan; progress and errors go
to standard error. Exit codes: 0 fits, 1 does not, 2 something was given that is wrong, 3 XLA failed.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from coldforge.apps.plan.chips import Slice
from coldforge.apps.plan.plan import CompilerError, plan_sft
from coldforge.apps.plan.report import show
from coldforge.apps.plan.target import MissingCompilerError, prepare_environment, require_compiler
from coldforge.apps.sft.config import BatchConfig, OptimizerOptions, SftConfig
from coldforge.apps.sft.presets import PRESETS
from coldforge.stages.options import LoraOptions, MeshConfig, ModelConfig

STAGES = ("sft",)
USAGE = f"""usage: coldforge-plan {{{",".join(STAGES)}}} PRESET --topology CHIP:SHAPE [options]

Will a training step fit on a TPU slice, and how long will it take? Compiles the real one, on any CPU machine.
coldforge-plan sft --help lists presets, coldforge-plan sft PRESET --help all options."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepConfig:
    """The parts of a stage's configuration that its step depends on; short names (--rows) are understood too."""

    model: ModelConfig
    lora: LoraOptions
    batches: BatchConfig
    optimizer: OptimizerOptions
    mesh: MeshConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to plan, and how to say it."""

    topology: Annotated[str, tyro.conf.arg(metavar="CHIP:SHAPE")]
    """The slice: v5e:2x4, v5e:16x16, v6e:2x4, v5p:2x2x2."""
    search: bool = False
    """Try meshes, rematerialisation and rows per micro-batch, and recommend the fastest that fits."""
    limit: int = 12
    """Compile at most so many candidates in this search; the next one goes on from there."""
    timeout: float = 20.0
    """Give a candidate up after so many minutes."""
    cache: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """Where a search keeps its results. Without it, in the user's cache directory."""
    counted: float = 1.0
    """Share of the tokens that have a loss weight; the head is computed for these alone."""
    top: int = 12
    """Show so many of the dearest ops."""
    hlo: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """Also write the compiled program's text there."""
    json: bool = False
    """Print the plan as JSON."""
    config: Annotated[StepConfig, tyro.conf.arg(name="")]


def main(args: list[str] | None = None) -> None:
    """The program. `args`: instead of the command line's."""
    prepare_environment()
    args = sys.argv[1:] if args is None else args
    if not args or args[0] in ("-h", "--help"):
        print(USAGE)
        sys.exit(0 if args else 2)
    if args[0] not in STAGES:
        sys.exit(report(ValueError(f"there is no stage {args[0]!r} to plan; there is {', '.join(STAGES)}")))
    preset, options = parse(args[1:])
    try:
        sys.exit(run(preset, options))
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError, MissingCompilerError) as error:
        sys.exit(report(error))
    except CompilerError as error:
        sys.exit(report(error, code=3))


def report(error: Exception, code: int = 2) -> int:
    """Says on standard error what is wrong, and returns the exit code for it."""
    print(f"coldforge-plan: {error}", file=sys.stderr)
    return code


def run(preset: str, options: Options) -> int:
    """Plans, prints, and returns the exit code."""
    slice_ = Slice.parse(options.topology)
    require_compiler()
    if not 0 < options.counted <= 1:
        raise ValueError(f"--counted is a share of the tokens, above 0 and at most 1; got {options.counted}")
    config = whole(preset, options)
    if options.search:
        from coldforge.apps.plan.search import Limits, search

        limits = Limits(compiles=options.limit, minutes=options.timeout, cache=options.cache)
        base = PRESETS[preset]()
        return search(preset, config, base, slice_, limits, counted=options.counted, as_json=options.json)
    notes = Console(stderr=True, quiet=not sys.stderr.isatty())
    with notes.status(f"compiling for {slice_.name}; a model of 1B takes one to three minutes"):
        plan = plan_sft(preset, config, slice_, counted=options.counted, hlo_path=options.hlo)
    if options.json:
        print(json.dumps(plan.to_dict()))
    else:
        show(plan, Console(), top=options.top)
    return 0 if plan.fits else 1


def parse(args: list[str]) -> tuple[str, Options]:
    """The preset's name, and options whose configuration is the preset's with what was overridden."""
    kinds = {name: _defaults(make()) for name, make in PRESETS.items()}
    chosen: Any = tyro.cli(
        tyro.extras.subcommand_type_from_defaults(
            kinds, descriptions={name: (make.__doc__ or "").splitlines()[0] for name, make in PRESETS.items()}
        ),
        args=[_long(word) for word in args],
        prog="coldforge-plan sft",
        config=(tyro.conf.OmitSubcommandPrefixes,),
    )
    return next(word for word in args if word in PRESETS), chosen


def whole(preset: str, options: Options) -> SftConfig:
    """The stage's configuration."""
    parts = {field.name: getattr(options.config, field.name) for field in dataclasses.fields(StepConfig)}
    return dataclasses.replace(PRESETS[preset](), **parts)


def _defaults(config: SftConfig) -> Options:
    parts = {field.name: getattr(config, field.name) for field in dataclasses.fields(StepConfig)}
    return Options(topology=tyro.MISSING, config=StepConfig(**parts))


def _long(word: str) -> str:
    """`--rows` is `--batches.rows`: no two sections of the step's configuration share a name."""
    name, equals, value = word.removeprefix("--").partition("=")
    if word.startswith("--"):
        for section in dataclasses.fields(StepConfig):
            kind: Any = section.type
            if name.replace("-", "_") in {field.name for field in dataclasses.fields(kind)}:
                return f"--{section.name}.{name}{equals}{value}"
    return word


if __name__ == "__main__":
    main()
