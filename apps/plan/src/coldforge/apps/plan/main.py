"""`coldforge-plan`: does a stage fit on a TPU slice, and how long will a step take? Answered on any CPU machine.

    coldforge-plan sft gemma3-1b --topology v5e:2x4
    coldforge-plan sft gemma3-12b --topology v5e:2x4 --mesh.fsdp 8 --remat full --rows 8 --seq-len 4096
    coldforge-plan sft gemma3-4b --topology v5e:2x4 --search
    coldforge-plan grpo r1 --topology v5e:2x4 --rollout.kv int8

In this order: the command line (`options`); `sft` or `grpo`, which compile what the stage itself runs; a report. With
`--search`, `search` runs this program again for each candidate, in a process of its own. Standard output holds the
plan; progress and errors go to standard error. Exit codes: 0 fits, 1 does not, 2 something was given that is wrong,
3 XLA failed.
"""

import json
import sys
from typing import Any

from rich.console import Console

from coldforge.apps.plan.chips import Slice
from coldforge.apps.plan.compiling import CompilerError
from coldforge.apps.plan.grpo import plan_grpo
from coldforge.apps.plan.options import STAGES, GrpoOptions, SftOptions, parse, whole
from coldforge.apps.plan.report import show
from coldforge.apps.plan.report_grpo import show_grpo
from coldforge.apps.plan.sft import plan_sft
from coldforge.apps.plan.target import MissingCompilerError, prepare_environment, require_compiler

USAGE = f"""usage: coldforge-plan {{{",".join(STAGES)}}} PRESET --topology CHIP:SHAPE [options]

Does a stage fit on a TPU slice, and how long will a step take? Compiles the real programs, on any CPU machine.
coldforge-plan sft --help lists presets, coldforge-plan sft PRESET --help all options."""


def main(args: list[str] | None = None) -> None:
    """The program. `args`: instead of the command line's."""
    prepare_environment()
    args = sys.argv[1:] if args is None else args
    if not args or args[0] in ("-h", "--help"):
        print(USAGE)
        sys.exit(0 if args else 2)
    stage = args[0]
    if stage not in STAGES:
        sys.exit(report(ValueError(f"there is no stage {stage!r} to plan; there is {', '.join(STAGES)}")))
    try:
        preset, options = parse(stage, args[1:])
        sys.exit(run(stage, preset, options))
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


def run(stage: str, preset: str, options: Any) -> int:
    """Plans, prints, and returns the exit code."""
    slice_ = Slice.parse(options.topology)
    require_compiler()
    if not 0 < options.counted <= 1:
        raise ValueError(f"--counted is a share of the tokens, above 0 and at most 1; got {options.counted}")
    config = whole(stage, preset, options)
    return (run_sft if stage == "sft" else run_grpo)(preset, config, slice_, options)


def run_sft(preset: str, config: Any, slice_: Slice, options: SftOptions) -> int:
    """Plans supervised fine-tuning, or searches."""
    if options.search:
        from coldforge.apps.plan.search import Limits, search

        limits = Limits(compiles=options.limit, minutes=options.timeout, cache=options.cache)
        base = STAGES["sft"].presets[preset]()
        return search(preset, config, base, slice_, limits, counted=options.counted, as_json=options.json)
    with _notes().status(f"compiling for {slice_.name}; a model of 1B takes one to three minutes"):
        plan = plan_sft(preset, config, slice_, counted=options.counted, hlo_path=options.hlo)
    if options.json:
        print(json.dumps(plan.to_dict()))
    else:
        show(plan, Console(), top=options.top)
    return 0 if plan.fits else 1


def run_grpo(preset: str, config: Any, slice_: Slice, options: GrpoOptions) -> int:
    """Plans GRPO."""
    with _notes().status(f"compiling five programs for {slice_.name}; a model of 1B takes three to ten minutes"):
        plan = plan_grpo(preset, config, slice_, counted=options.counted, hlo_path=options.hlo)
    if options.json:
        print(json.dumps(plan.to_dict()))
    else:
        show_grpo(plan, Console())
    return 0 if plan.fits else 1


def _notes() -> Console:
    return Console(stderr=True, quiet=not sys.stderr.isatty())


if __name__ == "__main__":
    main()
