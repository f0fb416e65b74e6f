"""The policy to begin with: base weights, the cold start's adapter on them, and what the manifest says of it.

Imports JAX.
"""

from typing import Any

import jax
from jax.sharding import Mesh

from coldforge import modeling, training
from coldforge.apps.grpo.build import Built
from coldforge.apps.grpo.config import GrpoRunConfig
from coldforge.apps.grpo.inputs import Inputs
from coldforge.grpo import FitResult
from coldforge.stages.find import form_entry
from coldforge.stages.model import adapted, load_adapter, load_base
from coldforge.stages.output import describe


def load_policy(run: training.Run, inputs: Inputs, config: GrpoRunConfig, mesh: Mesh | None) -> modeling.Gemma3:
    """The model that the run starts from, on the mesh: the base, with the adapter of the run before where it has one.

    Raises:
        RunError: The base is not the one that the adapter was trained on, or not that of this run so far.
        ValueError: The adapter is of another kind than the options say.
    """
    base = load_base(inputs.weights, config.model, inputs.tokenizer.vocab_size, mesh)
    if inputs.adapter is not None:
        training.require_identity(inputs.manifest, {"base": modeling.fingerprint(base)})
    describe(
        run, base, inputs.weights, inputs.tokenizer, model=config.model, lora=config.lora,
        dataset={
            "train": inputs.questions.describe(), "heldout": inputs.heldout.describe(), "form": form_entry(inputs.form),
            "from": str(inputs.manifest.directory),
        },
    )  # fmt: skip
    model = adapted(base, config.model, config.lora, seed=config.loop.seed)
    if inputs.adapter is not None:
        load_adapter(model, inputs.adapter)
    return model


def summary(built: Built, inputs: Inputs) -> str:
    """A few lines for people, before training starts."""
    loop, shape, device = built.loop, built.shape, jax.devices()[0]
    trained, frozen = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (built.params, built.frozen))
    each = "1 update" if loop.updates == 1 else f"{loop.updates} updates"
    dropped = "".join(f", {count} dropped: {why}" for why, count in inputs.questions.dropped.items())
    return (
        f"{len(inputs.questions):,} questions to train on, {len(inputs.heldout):,} held out{dropped}\n"
        f"{trained:,} of {trained + frozen:,} parameters are trained, on {jax.device_count()} × {device.device_kind}\n"
        f"{loop.steps} steps: rollouts of {loop.questions} × {loop.group_size} samples, {each} of each, "
        f"in rows of {shape.seq_len}, {shape.rows} at a time; π_old: {loop.old}"
    )


def figures(manifest: training.Manifest, trained: FitResult) -> dict[str, Any]:
    """Numbers worth keeping of all sessions so far: the last of every curve, and what there is only once."""
    before = manifest.figures
    found: dict[str, Any] = {
        "steps": trained.step,
        "skipped": sorted({*before.get("skipped", ()), *trained.skipped}),
        "findings": [*before.get("findings", ()), *map(str, trained.findings)],
    }
    return found | trained.metrics
