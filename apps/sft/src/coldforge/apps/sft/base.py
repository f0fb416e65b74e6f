"""The base model: loaded where it will live, and checked against the size that was asked for. Imports JAX."""

from pathlib import Path

import jax
from jax.sharding import Mesh

from coldforge import modeling
from coldforge.apps.sft.build import dtype_of, model_config
from coldforge.apps.sft.config import SftConfig
from coldforge.apps.sft.inputs import Inputs
from coldforge.modeling.load import find_weights

COMPARED = ("embed_dim", "mlp_dim", "num_layers", "num_heads", "num_kv_heads", "head_dim")


def load_base(inputs: Inputs, config: SftConfig, mesh: Mesh | None) -> modeling.Gemma3:
    """The base without adapters, its weights placed on the mesh; each process reads its own share.

    Raises:
        ValueError: The weights are of another size, or have fewer tokens than the tokenizer.
        ConfigError, WeightsError, FileNotFoundError: As `coldforge.modeling.load`.
    """
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    dtype, vocabulary = dtype_of(config.model, platform), inputs.tokenizer.vocab_size
    if inputs.weights is None:
        return modeling.init_model(model_config(config.model, vocabulary), seed=0, dtype=dtype, mesh=mesh)
    stored = read_config(inputs.weights)
    if stored is not None:
        check_size(stored, config, inputs.weights)
    model = modeling.load(inputs.weights, dtype=dtype, mesh=mesh)
    check_size(model.config, config, inputs.weights)
    if vocabulary > model.config.vocab_size:
        raise ValueError(
            f"the tokenizer has {vocabulary:,} tokens and the model {model.config.vocab_size:,}. Pass the model's own "
            "with --tokenizer PATH"
        )
    return model


def read_config(path: Path) -> modeling.Gemma3Config | None:
    """Sizes of a Hugging Face model, without its weights; None for others, which are read quickly or tell late."""
    kind, place = find_weights(path)
    return modeling.from_hf(place) if kind == "hf" else None


def check_size(found: modeling.Gemma3Config, config: SftConfig, path: Path) -> None:
    """Makes sure that weights are of the size that the preset is for; a tiny model may have any."""
    if config.model.size == "tiny":
        return
    wanted = model_config(config.model)
    odd = [name for name in COMPARED if getattr(found, name) != getattr(wanted, name)]
    if odd:
        differences = ", ".join(f"{name} {getattr(found, name)} (wanted {getattr(wanted, name)})" for name in odd)
        raise ValueError(f"the weights at {path} are no {config.model.size}: {differences}. Choose their own preset")
