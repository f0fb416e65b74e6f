"""What a run says of itself: the manifest's entries of data and figures, and a summary for people. Imports JAX."""

import math
from typing import Any

import jax

from coldforge import training
from coldforge.apps.sft.build import Built
from coldforge.apps.sft.inputs import Inputs
from coldforge.data import Batches
from coldforge.sft import FitResult
from coldforge.stages.find import form_entry


def dataset_entry(inputs: Inputs) -> dict[str, Any]:
    """What the manifest says of the data: enough for the next stage to ask and to read as this one did."""
    dataset, start = inputs.dataset, inputs.start
    entry = {
        "path": str(dataset.path), "content_hash": dataset.content_hash, "train": len(dataset.train),
        "heldout": len(dataset.heldout), "form": form_entry(dataset.form),
    }  # fmt: skip
    return entry if start is None else entry | {"from": str(start.manifest.directory)}


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
