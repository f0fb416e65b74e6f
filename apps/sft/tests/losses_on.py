"""Losses of a few steps on some meshes, through the app's own build (started by test_meshes.py).

    losses_on.py DATA TOKENIZER OUT RUNS

RUNS is a list of JSON objects: rows and accumulation of a batch, the axes of a mesh where there is one, and whether
the held-out loss is wanted too. Writes OUT as JSON: for each of them the list of losses.
"""

import dataclasses
import json
import sys
from pathlib import Path

from coldforge.apps.sft import build, presets, train
from coldforge.apps.sft.config import Options
from coldforge.apps.sft.inputs import find_inputs
from coldforge.stages import devices
from coldforge.stages.model import adapted, load_base
from coldforge.stages.options import MeshConfig

STEPS = 3


def main(data: str, tokenizer: str, out: str, runs: str) -> None:
    found = [losses(Path(data), Path(tokenizer), which) for which in json.loads(runs)]
    Path(out).write_text(json.dumps(found))


def losses(data: Path, tokenizer: Path, which: dict) -> list[float]:
    preset = presets.tiny()
    config = dataclasses.replace(
        preset,
        batches=dataclasses.replace(
            preset.batches, rows=which["rows"], accumulation=which["accumulation"], answer_weight=2.0
        ),
        mesh=MeshConfig(**which.get("mesh", {})),
    )
    mesh = devices.make_mesh(config.mesh) if "mesh" in which else None
    inputs = find_inputs(Options(data=data, tokenizer=tokenizer, run=Path(), config=config))
    batches = train.batches_of(inputs, config, devices.row_share(mesh))
    model = adapted(
        load_base(inputs.weights, config.model, inputs.tokenizer.vocab_size, mesh), config.model, config.lora, seed=0
    )
    built = build.build(model, config, steps=50, mesh=mesh)
    state, found = built.start(), []
    with devices.use(mesh):
        for _ in range(STEPS):
            batch = train.training.place_batch(next(batches), mesh=mesh)
            state, metrics = built.train_step(state, built.frozen, batch)
            found.append(float(metrics["loss"]))
    if which.get("held out"):
        sums = train.held_out(built, inputs)(state)
        found.append(float(sums["loss"]) / float(sums["weight"]))
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
