"""What a run leaves for the next stage: its manifest's entries, and the adapter or the model. Imports JAX."""

import math
import shutil
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from coldforge import modeling, training
from coldforge.apps.sft.build import Built
from coldforge.apps.sft.config import SftConfig
from coldforge.apps.sft.inputs import Inputs
from coldforge.data import Batches
from coldforge.sft import FitResult

ADAPTER, MODEL, MERGED = "adapter", "model", "merged"


def describe(run: training.Run, base: modeling.Gemma3, inputs: Inputs, config: SftConfig) -> None:
    """Enters what the run is made of, and compares the base's fingerprint with what the run began with.

    Raises:
        RunError: The base weights are others than those of the run.
    """
    fingerprint = modeling.fingerprint(base)
    run.identify({"base": fingerprint})
    run.update(
        base={"path": str(inputs.weights or "random"), "size": config.model.size, "dtype": str(base.dtype),
              "fingerprint": fingerprint, "quantize": config.lora.quantize},
        tokenizer={"sha256": inputs.tokenizer.fingerprint, "vocab_size": inputs.tokenizer.vocab_size},
        dataset={"path": str(inputs.dataset.path), "content_hash": inputs.dataset.content_hash,
                 "train": len(inputs.dataset.train), "heldout": len(inputs.dataset.heldout)},
    )  # fmt: skip


def summary(built: Built, inputs: Inputs, steps: int, batches: Batches) -> str:
    """A few lines for people, before training starts."""
    shape, dataset, device = built.config.batches, inputs.dataset, jax.devices()[0]
    trained, frozen = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (built.params, built.frozen))
    return (
        f"{len(dataset.train):,} examples to train on, {len(dataset.heldout):,} held out\n"
        f"{trained:,} of {trained + frozen:,} parameters are trained, on {jax.device_count()} × {device.device_kind}\n"
        f"{steps} steps of {shape.accumulation} × {shape.rows} rows of {shape.seq_len} tokens: "
        f"{steps / batches.batches_per_epoch:.2f} epochs, {batches.padding_share:.1%} padding"
    )


def figures(manifest: training.Manifest, trained: FitResult, clock: training.Throughput) -> dict[str, Any]:
    """Numbers worth keeping of all sessions so far: the last of every curve, and what there is only once."""
    before, totals = manifest.figures, clock.totals()
    found: dict[str, Any] = {
        "steps": trained.step,
        "hours": before.get("hours", 0.0) + totals.elapsed / 3600,
        "skipped": sorted({*before.get("skipped", ()), *trained.skipped}),
        "findings": [*before.get("findings", ()), *map(str, trained.findings)],
    }
    if math.isfinite(trained.best):
        found["best eval/loss"] = trained.best
    if totals.steps:
        found["trained_tokens_per_second"] = totals.trained_tokens_per_second
    return found | trained.metrics


def save_model(built: Built, params: Any, inputs: Inputs, run: training.Run) -> None:
    """Writes the adapter in PEFT's format (all of the model, where all of it was trained), with the tokenizer.

    What an earlier session left under the same name is replaced. All processes must call this.
    """
    config = built.config
    model = built.sampler(params)
    if config.model.train == "lora":
        place = _emptied(run.path / ADAPTER)
        name = config.output.base_model_name or str(inputs.weights or "random")
        modeling.save_peft(model, place, base_model_name=name)
        run.update(adapter=place)
    else:
        place = _emptied(run.path / MODEL)
        modeling.save_hf(model, place)
    _add_tokenizer(inputs, place)
    if config.output.merged and config.model.train == "lora":
        modeling.save_hf(model, _emptied(run.path / MERGED))
        _add_tokenizer(inputs, run.path / MERGED)


def _add_tokenizer(inputs: Inputs, directory: Path) -> None:
    if jax.process_index() == 0:
        inputs.tokenizer.save(directory / "tokenizer.model")


def _emptied(directory: Path) -> Path:
    if jax.process_index() == 0 and directory.exists():
        shutil.rmtree(directory)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"emptied {directory.name}")
    return directory
