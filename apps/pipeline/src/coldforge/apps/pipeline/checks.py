"""What is refused before the run's directory is made. Without JAX.

Stages that could not read what another has made; options of a stage that the pipeline sets itself; an extra that is not
installed, and would be missed hours later.
"""

import dataclasses
import re
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path

from coldforge.apps.pipeline.config import PipelineConfig
from coldforge.data.sources import is_hub_name, is_row_file
from coldforge.stages.options import LoraOptions, QuestionOptions


def check(config: PipelineConfig) -> None:
    """Makes sure that the stages fit together.

    Raises:
        ValueError: Of the first options that do not; they are named, with what was got and what was wanted.
    """
    check_models(config)
    check_adapters(config)
    check_questions(config)


def check_models(config: PipelineConfig) -> None:
    """Makes sure that all stages have one base, computed and trained in one way.

    Raises:
        ValueError: They have not: what one stage has made could not be read by the next.
    """
    models = {
        "cold-start": config.cold_start.model, "rl-1": config.rl_1.model, "reject": config.reject.model,
        "sft-2": config.sft_2.model, "rl-2": config.rl_2.model,
    }  # fmt: skip
    for name in ("size", "train", "dtype"):
        values = {stage: getattr(model, name) for stage, model in models.items()}
        if name == "train":
            del values["reject"]  # it trains nothing
        if len(set(values.values())) > 1:
            said = ", ".join(f"--{stage}.model.{name} {value}" for stage, value in values.items())
            raise ValueError(f"all stages need the same model.{name}, and there are {said}")


def check_adapters(config: PipelineConfig) -> None:
    """Makes sure that a stage that goes on with another's adapter has the same, on a base stored in the same way.

    SFT 2 begins anew where it starts from the base: its adapter, and that of GRPO 2, may be others than the first two.
    Rejection sampling and evaluation take an adapter as its run says that it is.

    Raises:
        ValueError: An option is not the same; both are named.
    """
    if config.cold_start.model.train == "full":
        return
    loras = {
        "cold-start": config.cold_start.lora, "rl-1": config.rl_1.lora, "sft-2": config.sft_2.lora,
        "rl-2": config.rl_2.lora,
    }  # fmt: skip
    follows = [("cold-start", "rl-1"), ("sft-2", "rl-2")]
    if config.sft_2_from != "base":
        follows.append((config.sft_2_from, "sft-2"))
    for first, second in follows:
        for field in dataclasses.fields(LoraOptions):
            before, after = (getattr(loras[stage], field.name) for stage in (first, second))
            if before != after:
                raise ValueError(
                    f"{second} goes on with the adapter of {first}: --{second}.lora.{field.name} is {after}, and "
                    f"--{first}.lora.{field.name} is {before}; wanted the same"
                )


def check_questions(config: PipelineConfig) -> None:
    """Makes sure that no stage is told to ask other questions than the first stage writes down for all of them.

    Raises:
        ValueError: One is; the option that is meant is named.
    """
    asked = {"rl-1": config.rl_1.questions, "reject": config.reject.questions, "rl-2": config.rl_2.questions}
    for stage, questions in asked.items():
        for name, wanted in (("sources", "--data.questions"), ("split", "--data.split")):
            value = getattr(questions, name)
            if value != getattr(QuestionOptions(), name):
                said = value if isinstance(value, str) else " ".join(value)
                raise ValueError(
                    f"--{stage}.questions.{name} is {said}, but all stages ask the same questions; wanted {wanted}"
                )


def check_extras(config: PipelineConfig, todo: Collection[str]) -> None:
    """Makes sure that what reads the hub is installed, where one of the stages to be done reads from there.

    Raises:
        ModuleNotFoundError: It is not; the extra is named.
    """
    data, named = config.data, list[str]()
    if "data" in todo:
        named += [*data.rows, *data.questions, *data.heldout, *data.prepare.decontaminate]
    if "reject" in todo:
        named += [*config.reject.keep.decontaminate, *config.reject.chat.sources]
    for spec in named:
        path = Path(spec)
        name = re.split("[:@]", spec)[0]
        if is_hub_name(name) and not path.exists() and not is_row_file(path) and find_spec("datasets") is None:
            raise ModuleNotFoundError(
                f"{spec} from the hub needs datasets: pip install 'coldforge-app-pipeline[hub]' "
                "(in a clone of Coldforge: uv run --extra hub …).",
                name="datasets",
            )
