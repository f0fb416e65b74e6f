"""The model of a run: its sizes, the base loaded where it will live, adapters on it, or its shapes alone. Imports JAX.

base = load_base(weights, options, tokenizer.vocab_size, mesh)      # checked against the size that was asked for
model = adapted(base, options, lora, seed=0)                        # with fresh adapters, or as it is
load_adapter(model, "run/adapter")                                  # those of another run in their place
model = with_adapter(base, "run/adapter", quantize="none")          # or of whatever kind they are
shapes = abstract_model(options, lora, mesh)                        # to compile for a TPU that is not here
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from coldforge import modeling, training
from coldforge.modeling.config import layer_pattern
from coldforge.modeling.init import state_shardings
from coldforge.modeling.load import find_weights
from coldforge.stages.devices import platform_of
from coldforge.stages.options import LoraOptions, ModelConfig
from coldforge.training.run import MANIFEST

COMPARED = ("embed_dim", "mlp_dim", "num_layers", "num_heads", "num_kv_heads", "head_dim")


class AdapterError(ValueError):
    """An adapter is not of the kind that the run's options name; the message says which option to change."""


def model_config(model: ModelConfig, vocab_size: int | None = None) -> modeling.Gemma3Config:
    """Sizes of a model by name. `vocab_size`: of the tiny one, which takes any."""
    if model.size == "tiny":
        return modeling.Gemma3Config(
            vocab_size=vocab_size or 512, embed_dim=64, mlp_dim=128, num_heads=4, num_kv_heads=1, head_dim=16,
            layer_types=("local", "global"), sliding_window=64, max_seq_len=1024, query_scale=16**-0.5,
        )  # fmt: skip
    if model.size == "nano":
        return modeling.Gemma3Config(
            vocab_size=768, embed_dim=96, mlp_dim=288, num_heads=3, num_kv_heads=1, head_dim=32,
            layer_types=layer_pattern(6), sliding_window=64, max_seq_len=1024, query_scale=32**-0.5,
        )  # fmt: skip
    sizes = {
        "270m": modeling.gemma3_270m, "1b": modeling.gemma3_1b, "4b": modeling.gemma3_4b,
        "12b": modeling.gemma3_12b, "27b": modeling.gemma3_27b,
    }  # fmt: skip
    return sizes[model.size]()


def dtype_of(model: ModelConfig, platform: str) -> Literal["float32", "bfloat16"]:
    """What the weights become on a platform ("cpu", "tpu"); XLA:CPU multiplies float32 faster in a backward pass."""
    if model.dtype == "auto":
        return "float32" if platform == "cpu" else "bfloat16"
    return model.dtype


def lora_config(model: ModelConfig, lora: LoraOptions) -> modeling.LoraConfig | None:
    """The adapters that the options name; None where all of the model is trained."""
    if model.train == "full":
        return None
    quantize = None if lora.quantize == "none" else lora.quantize
    return modeling.LoraConfig(rank=lora.rank, alpha=lora.alpha, quantize=quantize)


def load_base(weights: Path | None, model: ModelConfig, vocabulary: int, mesh: Mesh | None) -> modeling.Gemma3:
    """The base without adapters, its weights placed on the mesh; each process reads its own share.

    Args:
        weights: Where they are; None for random ones.
        model: Of which size it has to be, and in which dtype.
        vocabulary: How many tokens the tokenizer has.
        mesh: None for a single device.

    Raises:
        ValueError: The weights are of another size, or have fewer tokens than the tokenizer.
        ConfigError, WeightsError, FileNotFoundError: As `coldforge.modeling.load`.
    """
    dtype = dtype_of(model, platform_of(mesh))
    if weights is None:
        return modeling.init_model(model_config(model, vocabulary), seed=0, dtype=dtype, mesh=mesh)
    stored = read_config(weights)
    if stored is not None:
        check_size(stored, model, weights)
    base = modeling.load(weights, dtype=dtype, mesh=mesh)
    check_size(base.config, model, weights)
    if vocabulary > base.config.vocab_size:
        raise ValueError(
            f"the tokenizer has {vocabulary:,} tokens and the model {base.config.vocab_size:,}. Pass the model's own "
            "with --tokenizer PATH"
        )
    return base


def read_config(path: Path) -> modeling.Gemma3Config | None:
    """Sizes of a Hugging Face model, without its weights; None for others, which are read quickly or tell late."""
    kind, place = find_weights(path)
    return modeling.from_hf(place) if kind == "hf" else None


def check_size(found: modeling.Gemma3Config, model: ModelConfig, path: Path) -> None:
    """Makes sure that weights are of the size that the preset is for; a tiny model may have any."""
    if model.size == "tiny":
        return
    wanted = model_config(model)
    odd = [name for name in COMPARED if getattr(found, name) != getattr(wanted, name)]
    if odd:
        differences = ", ".join(f"{name} {getattr(found, name)} (wanted {getattr(wanted, name)})" for name in odd)
        raise ValueError(f"the weights at {path} are no {model.size}: {differences}. Choose their own preset")


def adapted(base: modeling.Gemma3, model: ModelConfig, lora: LoraOptions, *, seed: int) -> modeling.Gemma3:
    """The base with fresh adapters, quantised if asked for; as it is, if all of it is trained."""
    config = lora_config(model, lora)
    return base if config is None else modeling.add_lora(base, config, rngs=nnx.Rngs(seed))


def check_adapter(directory: Path, sizes: modeling.Gemma3Config, have: modeling.LoraConfig | None) -> None:
    """Makes sure that an adapter is of a rank and an alpha, before any weights are read.

    Where it lies in the run that has trained it, the base has to be stored as it was there: an adapter on int8 or nf4
    makes up for what that takes from a base, and the policy is another one without it.

    Args:
        directory: In PEFT's format.
        sizes: Of the base.
        have: What the options name; None for no adapters.

    Raises:
        AdapterError: It is of another, or the base was stored otherwise; the message says which option to change.
        FileNotFoundError: There is no adapter in `directory`.
    """
    found = modeling.peft_config(directory, sizes)
    if have is None:
        raise AdapterError(f"the adapter in {directory} needs a model with adapters (--model.train lora)")
    odd = [
        f"{name} {getattr(found, name)} (--lora.{name} is {getattr(have, name)})"
        for name in ("rank", "alpha")
        if getattr(found, name) != getattr(have, name)
    ]
    stored, quantize = _stored(directory), have.quantize or "none"
    if stored not in (None, quantize):
        odd.append(f"a base stored as quantize {stored} (--lora.quantize is {quantize})")
    if odd:
        raise AdapterError(f"the adapter in {directory} has {', '.join(odd)}. Pass its own")


def _stored(adapter: Path) -> str | None:
    """How the base was stored when an adapter was trained, as its run's manifest says; None where nobody says."""
    run = adapter.absolute().parent
    if not (run / MANIFEST).is_file():
        return None
    try:
        manifest = training.read_manifest(run)
    except training.RunError:  # a data set's, say, which has the same name
        return None
    return manifest.base.get("quantize") if manifest.adapter_path == run / adapter.name else None


def load_adapter(model: modeling.Gemma3, directory: Path) -> None:
    """Puts an adapter in PEFT's format on a model with adapters of that kind, in place; the base is not touched.

    That the base's weights are those the adapter was trained on, `coldforge.training.require_identity` shows by the
    fingerprint in the manifest of the adapter's run.

    Raises:
        AdapterError: The model's adapters are of another rank or alpha, or on other modules, or it has none.
        FileNotFoundError: There is no adapter in `directory`.
        WeightsError: It is damaged, or of a model of other sizes.
    """
    found, have = modeling.peft_config(directory, model.config), model.lora
    check_adapter(directory, model.config, have)
    assert have is not None
    try:
        modeling.load_peft(model, directory)
    except modeling.WeightsError:
        raise
    except ValueError as error:  # of the same rank and alpha: on other modules
        raise AdapterError(
            f"the adapter in {directory} is on the modules {', '.join(found.targets)}; wanted one on "
            f"{', '.join(have.targets)}, as coldforge-sft makes"
        ) from error


def with_adapter(base: modeling.Gemma3, directory: Path | None, *, quantize: str = "none") -> modeling.Gemma3:
    """The base with an adapter of any rank on it, to sample from; as it is, if there is none.

    Args:
        base: Without adapters.
        directory: In PEFT's format.
        quantize: How the base was stored when the adapter was trained: "none", "int8", "nf4".

    Raises:
        FileNotFoundError, WeightsError: As `coldforge.modeling.peft_config` and `load_peft`.
    """
    if directory is None:
        return base
    config = modeling.peft_config(directory, base.config)
    bits: Any = quantize
    if quantize != "none":
        config = dataclasses.replace(config, quantize=bits)
    model = modeling.add_lora(base, config, rngs=nnx.Rngs(0))
    modeling.load_peft(model, directory)
    return model


def abstract_model(
    model: ModelConfig, lora: LoraOptions, mesh: Mesh | None, *, vocab_size: int | None = None
) -> modeling.Gemma3:
    """What `adapted` gives, as shapes, dtypes and shardings: no memory, and no device of the mesh need be here."""
    dtype = jnp.dtype(dtype_of(model, platform_of(mesh)))
    sizes, config = model_config(model, vocab_size), lora_config(model, lora)

    def make() -> modeling.Gemma3:
        base = modeling.Gemma3(sizes, rngs=nnx.Rngs(0), dtype=dtype)
        return base if config is None else modeling.add_lora(base, config, rngs=nnx.Rngs(0))

    made = nnx.eval_shape(make)
    if mesh is not None:
        state = nnx.state(made)
        where = state_shardings(state, mesh)
        nnx.update(made, jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, where))
    return made
