"""The stages in their order: what decides each one's result, what it reads, and the program that makes it.

    data ─► cold-start ─► rl-1 ─► reject ─► sft-2 ─► rl-2 ─► evaluation/…

Each stage is the function behind its own command (`coldforge-sft` and so on), called with options that say where the
stage before has left its result. A stage's program is imported when it runs.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from coldforge.apps.grpo import config as grpo
from coldforge.apps.pipeline.config import EvaluationOptions, Options, PipelineConfig
from coldforge.apps.pipeline.data import Places
from coldforge.apps.pipeline.work import Work
from coldforge.apps.reject import config as reject
from coldforge.apps.sft import config as sft
from coldforge.data.dataset import MANIFEST
from coldforge.stages.program import PASSED

CHECKPOINTS = {"base": None, "cold start": "cold-start", "GRPO 1": "rl-1", "SFT 2": "sft-2", "GRPO 2": "rl-2"}
"""What is evaluated: its name in tables → the stage that made it."""

_END = 1 << 20  # bytes of a file's beginning and of its end


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        work: What the ledger knows of it.
        group: Its name on the command line.
        title: For people.
        run: Makes it, in so many hours at most; returns the exit code of its program.
    """

    work: Work
    group: str
    title: str
    run: Callable[[float | None], int]


def stages_of(options: Options) -> list[Stage]:
    """All stages of a pipeline, in their order."""
    options = dataclasses.replace(options, run=options.run.absolute())  # stages write down where their data lies
    config, run = seeded(options.config, options.seed), options.run
    places = Places.under(run / "data")
    base = {
        "weights": content(options.weights), "tokenizer": content(options.tokenizer),
        "size": config.cold_start.model.size,
    }  # fmt: skip

    def tuned(name: str, title: str, chosen: sft.SftConfig, data: str, start: str | None = None) -> Stage:
        rows = places.rows if data == "data" else run / data
        reads = (data,) if start is None else (data, start)
        # Which state is handed on is no part of the loss curve, and decides the result.
        free = [each for each in sft.MAY_DIFFER if each not in ("output.*", "loop.eval_*")]
        free += [f"output.{field.name}" for field in dataclasses.fields(chosen.output) if field.name != "take"]
        free += ["loop.eval_*"] if chosen.output.take == "last" else []
        work = Work(name, {"config": chosen, **base, "from": start}, reads, _config_fields(free))

        def call(hours: float | None) -> int:
            from coldforge.apps.sft.main import run as program

            begun = None if start is None else run / start
            return program(
                sft.Options(
                    run=run / name, data=rows, config=chosen, max_hours=hours, start=begun, weights=options.weights,
                    tokenizer=options.tokenizer,
                )
            )  # fmt: skip

        return Stage(work, name, title, call)

    def reinforced(name: str, title: str, chosen: grpo.GrpoRunConfig, start: str) -> Stage:
        work = Work(name, {"config": chosen, **base}, ("data", start), _config_fields(grpo.MAY_DIFFER))
        asked = dataclasses.replace(
            chosen, questions=dataclasses.replace(chosen.questions, sources=(str(places.questions),))
        )

        def call(hours: float | None) -> int:
            from coldforge.apps.grpo.main import run as program

            return program(
                grpo.Options(
                    run=run / name, start=run / start, config=asked, max_hours=hours, weights=options.weights,
                    tokenizer=options.tokenizer,
                )
            )  # fmt: skip

        return Stage(work, name, title, call)

    return [
        _data(options, config, base),
        tuned("cold-start", "cold start: the form, from worked examples", config.cold_start, "data"),
        reinforced("rl-1", "GRPO 1: rewards by rules", config.rl_1, "cold-start"),
        _rejection(options, config, base, places),
        tuned(
            "sft-2", "SFT 2: the policy's own right answers", config.sft_2, "reject",
            None if config.sft_2_from == "base" else config.sft_2_from,
        ),
        reinforced("rl-2", "GRPO 2: rules and language", config.rl_2, "sft-2"),
        *(
            _evaluation(label, stage, options, config.evaluation, base, places)
            for label, stage in CHECKPOINTS.items()
        ),
    ]  # fmt: skip


def seeded(config: PipelineConfig, seed: int) -> PipelineConfig:
    """The configuration with all seeds moved by `seed`, so that runs of different seeds have nothing in common."""
    replace = dataclasses.replace

    def sft_of(chosen: sft.SftConfig) -> sft.SftConfig:
        return replace(chosen, loop=replace(chosen.loop, seed=chosen.loop.seed + seed))

    def grpo_of(chosen: grpo.GrpoRunConfig) -> grpo.GrpoRunConfig:
        return replace(
            chosen, loop=replace(chosen.loop, seed=chosen.loop.seed + seed),
            questions=replace(chosen.questions, seed=chosen.questions.seed + seed),
        )  # fmt: skip

    return replace(
        config, cold_start=sft_of(config.cold_start), sft_2=sft_of(config.sft_2), rl_1=grpo_of(config.rl_1),
        rl_2=grpo_of(config.rl_2), reject=replace(config.reject, seed=config.reject.seed + seed),
    )  # fmt: skip


def evaluation_folder(label: str) -> str:
    """Where a checkpoint's evaluation lies in the run: "evaluation/cold-start"."""
    return f"evaluation/{label.lower().replace(' ', '-')}"


def content(path: Path | None) -> str | None:
    """What tells a file, or the files of a directory, from others wherever it lies: a hash of names, sizes and ends.

    Weights are gigabytes, and are compared whole by the stages that read them: here a change is seen, not proved.
    """
    if path is None or not path.exists():
        return None if path is None else str(path)
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            size = file.stat().st_size
            digest.update(f"{file.relative_to(path)} {size}\n".encode())
            with file.open("rb") as opened:
                digest.update(opened.read(_END))
                opened.seek(max(0, size - _END))
                digest.update(opened.read(_END))
    return digest.hexdigest()[:16]


def _config_fields(names: Iterable[str]) -> tuple[str, ...]:
    """Fields of a stage's configuration as its settings name them."""
    return tuple(f"config.{name}" for name in names)


def _data(options: Options, config: PipelineConfig, base: Mapping[str, Any]) -> Stage:
    settings = {"config": config.data, **base, "seed": options.seed}

    def call(hours: float | None) -> int:
        del hours
        from coldforge.apps.pipeline.data import make_data
        from coldforge.stages import devices
        from coldforge.stages.find import find_tokenizer, find_weights

        def make() -> int:
            weights = find_weights(options.weights, config.cold_start.model.size)
            tokenizer = find_tokenizer(options.tokenizer, weights)
            name = (options.tokenizer or weights or Path("tokenizer")).name
            make_data(config.data, tokenizer, name, options.run / "data", options.seed)
            return PASSED

        return devices.first_does(make)

    return Stage(Work("data", settings, (), ("config.processes",)), "data", "data: rows, questions, held out", call)


def _rejection(options: Options, config: PipelineConfig, base: Mapping[str, Any], places: Places) -> Stage:
    # What either stage of reinforcement learning holds out is not asked: SFT 2 would learn what GRPO 2's gate asks.
    heldout = max(part.questions.heldout for part in (config.reject, config.rl_1, config.rl_2))
    settings = dataclasses.replace(
        config.reject, questions=dataclasses.replace(config.reject.questions, heldout=heldout)
    )
    chosen = dataclasses.replace(
        settings, questions=dataclasses.replace(settings.questions, sources=(str(places.questions),))
    )
    work = Work(
        "reject", {"config": settings, **base}, ("data", "rl-1"), _config_fields(reject.MAY_DIFFER),
        last=("config.keep.*", "config.chat.*"), product=MANIFEST,
    )  # fmt: skip

    def call(hours: float | None) -> int:
        from coldforge.apps.reject.main import run as program

        start, out = options.run / "rl-1", options.run / "reject"
        return program(
            reject.Options(
                start=start, out=out, config=chosen, max_hours=hours, weights=options.weights,
                tokenizer=options.tokenizer,
            )
        )  # fmt: skip

    return Stage(work, "reject", "rejection sampling: right and clean samples become rows", call)


def _evaluation(
    label: str, stage: str | None, options: Options, chosen: EvaluationOptions, base: Mapping[str, Any], places: Places
) -> Stage:
    name = evaluation_folder(label)
    reads = ("data",) if stage is None else ("data", stage)

    def call(hours: float | None) -> int:
        from coldforge.apps.evaluate import options as evaluate
        from coldforge.apps.evaluate.main import run as program
        from coldforge.stages.find import find_weights
        from coldforge.training import read_manifest

        model, made = options.config.cold_start.model, None if stage is None else options.run / stage
        whole = made is not None and read_manifest(made).adapter_path is None  # it brings its weights
        return program(
            evaluate.Options(
                tasks=(str(places.heldout),), out=options.run / name, name=label,
                model=None if whole else str(find_weights(options.weights, model.size)), adapter=made,
                form=places.rows if stage is None else None,
                tokenizer=options.tokenizer, samples=None if chosen.temperature == 0 else chosen.samples,
                greedy=chosen.temperature == 0, temperature=chosen.temperature, top_p=chosen.top_p,
                max_new_tokens=chosen.max_new_tokens, seed=options.seed, max_hours=hours,
                device=evaluate.DeviceOptions(slots=chosen.slots, dtype=model.dtype),
                mesh=options.config.cold_start.mesh,
            )
        )  # fmt: skip

    settings = {"config": chosen, **base, "seed": options.seed, "dtype": options.config.cold_start.model.dtype}
    work = Work(name, settings, reads, ("config.slots",))
    return Stage(work, "evaluation", f"evaluation: {label}", call)
