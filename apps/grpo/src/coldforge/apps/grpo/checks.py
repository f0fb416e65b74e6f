"""What is refused before the run's directory is touched and any weights are read: options that cannot be meant.

Each part of a run refuses what it is given when it is made; here all of them are made once, or asked, so that a wrong
number is told in seconds, and not after the weights, or after the training. A directory belongs to one configuration,
so that one with a wrong number in it would be of no use.
"""

import dataclasses

from jax.sharding import Mesh

from coldforge import training
from coldforge.apps.grpo.build import batch_shape, loop_config, sampling
from coldforge.apps.grpo.config import GrpoRunConfig, Options
from coldforge.apps.grpo.inputs import Inputs, question_at
from coldforge.apps.grpo.judge import Judge
from coldforge.apps.grpo.train import limits_of
from coldforge.apps.grpo.verdict import limits
from coldforge.stages.model import check_adapter, check_size, lora_config, model_config, read_config


def check(options: Options, inputs: Inputs, mesh: Mesh | None) -> None:
    """Makes sure that options fit together, and to what was found.

    Raises:
        ValueError: Of the first part that does not; it names the option, what was got and what was wanted.
    """
    config = options.config
    loop_config(config)
    batch_shape(config, mesh)
    training.OptimizerConfig(**dataclasses.asdict(config.optimizer))
    _check_sampling(config)
    limits_of(config.watchdog)
    limits(config.gate)
    if options.profile < 0:
        raise ValueError(f"profile is {options.profile}; wanted how many steps to trace, 0 or more")
    question_at(inputs, config, 0)
    with Judge(inputs, config):  # starts no process yet
        pass
    _check_model(config, inputs)


def _check_sampling(config: GrpoRunConfig) -> None:
    sampling(config.rollout)
    sampling(config.rollout, temperature=config.loop.eval_temperature)
    if config.rollout.temperature <= 0:
        raise ValueError(
            f"rollout.temperature is {config.rollout.temperature}; wanted above 0, as samples of a question must differ"
        )
    if config.rollout.weights != "model" and config.model.train == "full":
        raise ValueError(
            f"rollout.weights is {config.rollout.weights}: a copy of a frozen base, but model.train full has none. "
            "Train adapters (--model.train lora), or sample from the model (--rollout.weights model)"
        )


def _check_model(config: GrpoRunConfig, inputs: Inputs) -> None:
    """Sizes, context and adapter, by what lies beside the weights."""
    stored = None if inputs.weights is None else read_config(inputs.weights)
    if stored is not None and inputs.weights is not None:
        check_size(stored, config.model, inputs.weights)
    sizes = stored or model_config(config.model, inputs.tokenizer.vocab_size)
    if config.longest > sizes.max_seq_len:
        raise ValueError(
            f"rollout.max-prompt-tokens + rollout.max-new-tokens = {config.longest} exceed the model's context of "
            f"{sizes.max_seq_len}: lower one of them"
        )
    if inputs.adapter is not None:
        check_adapter(inputs.adapter, sizes, lora_config(config.model, config.lora))
