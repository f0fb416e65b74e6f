"""What a run leaves for the next stage: its manifest's entries, and the adapter or the model. Imports JAX."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from coldforge import modeling, training
from coldforge.data import Tokenizer
from coldforge.stages.options import LoraOptions, ModelConfig, SavingOptions

ADAPTER, MODEL, MERGED = "adapter", "model", "merged"


def describe(
    run: training.Run, base: modeling.Gemma3, weights: Path | None, tokenizer: Tokenizer, *,
    model: ModelConfig, lora: LoraOptions, dataset: Mapping[str, Any],
) -> None:  # fmt: skip
    """Enters what the run is made of, and compares the base's fingerprint with what the run began with.

    Args:
        run: To enter it into.
        base: As loaded, without adapters.
        weights: Where from; None for random ones.
        tokenizer: The run's.
        model, lora: Its options.
        dataset: The entry `dataset` of the manifest: path, hash, what the next stage asks of it.

    Raises:
        RunError: The base weights are others than those of the run.
    """
    fingerprint = modeling.fingerprint(base)
    run.identify({"base": fingerprint})
    run.update(
        base={"path": str(weights or "random"), "size": model.size, "dtype": str(base.dtype),
              "fingerprint": fingerprint, "quantize": lora.quantize},
        tokenizer={"sha256": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size},
        dataset=dict(dataset),
    )  # fmt: skip


def save_model(
    run: training.Run, model: modeling.Gemma3, weights: Path | None, tokenizer: Tokenizer, options: SavingOptions
) -> None:
    """Writes the adapter in PEFT's format (all of a model that has none), with the tokenizer.

    What an earlier session left under the same name is replaced. All processes must call this.

    Args:
        run: Whose directory gets it.
        model: As trained.
        weights: Where the base is, for the adapter's config; None for random weights.
        tokenizer: The run's.
        options: The base's other name, and whether a merged model is wanted too.
    """
    if model.lora is None:
        place = _emptied(run.path / MODEL)
        modeling.save_hf(model, place)
    else:
        place = _emptied(run.path / ADAPTER)
        modeling.save_peft(model, place, base_model_name=options.base_model_name or str(weights or "random"))
        run.update(adapter=place)
    _add_tokenizer(tokenizer, place)
    if options.merged and model.lora is not None:
        modeling.save_hf(model, _emptied(run.path / MERGED))
        _add_tokenizer(tokenizer, run.path / MERGED)


def _add_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    if jax.process_index() == 0:
        tokenizer.save(directory / "tokenizer.model")


def _emptied(directory: Path) -> Path:
    if jax.process_index() == 0 and directory.exists():
        shutil.rmtree(directory)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"emptied {directory.name}")
    return directory
