"""The policy that training begins with: fresh adapters on the base, or those of another run, or its whole model.

What does not fit is told before a run's directory is made (`check_start`), or, where the weights have to be there for
it, before anything is entered into it (`check_base`). Imports JAX.
"""

from jax.sharding import Mesh

from coldforge import modeling, training
from coldforge.apps.sft.config import SftConfig
from coldforge.apps.sft.inputs import Inputs
from coldforge.stages.model import (
    adapted,
    check_adapter,
    load_adapter,
    load_base,
    lora_config,
    model_config,
    read_config,
)


def check_start(inputs: Inputs, config: SftConfig) -> None:
    """Makes sure that what another run has trained is what this one is to train.

    Raises:
        AdapterError: Its adapter is of another rank or alpha, or all of the model is to be trained.
        ValueError: It has trained all of the model, and adapters are to be trained.
    """
    start = inputs.start
    if start is None:
        return
    if start.adapter is not None:
        stored = None if inputs.weights is None else read_config(inputs.weights)
        sizes = stored or model_config(config.model, inputs.tokenizer.vocab_size)
        check_adapter(start.adapter, sizes, lora_config(config.model, config.lora))
    elif config.model.train != "full":
        raise ValueError(
            f"{start.manifest.directory} has trained all of the model: go on with it by --model.train full, or train "
            f"adapters on it by --weights {start.weights} instead of --from"
        )


def check_base(base: modeling.Gemma3, inputs: Inputs) -> None:
    """Makes sure that the adapter to go on with belongs to this base.

    Raises:
        RunError: It was trained on other weights; both fingerprints are named.
    """
    if inputs.start is not None and inputs.start.adapter is not None:
        training.require_identity(inputs.start.manifest, {"base": modeling.fingerprint(base)})


def begin(base: modeling.Gemma3, inputs: Inputs, config: SftConfig, mesh: Mesh | None) -> modeling.Gemma3:
    """The model to be trained, as it is before the first step.

    Args:
        base: As loaded.
        inputs: With the policy to go on with, if there is one.
        config, mesh: The run's.

    Raises:
        AdapterError: The adapter is on other modules.
        ValueError: The whole model is of another size.
    """
    start = inputs.start
    if start is not None and start.adapter is None:
        return load_base(start.weights, config.model, inputs.tokenizer.vocab_size, mesh)
    model = adapted(base, config.model, config.lora, seed=config.loop.seed)
    if start is not None and start.adapter is not None:
        load_adapter(model, start.adapter)
    return model
