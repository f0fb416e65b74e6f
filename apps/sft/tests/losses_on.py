"""Losses of a few steps on some meshes, through the app's own build (started by test_meshes.py).

    losses_on.py DATA TOKENIZER OUT MESHES [PORT RANK]

MESHES is a list of JSON objects with the axes of a mesh, and rows and accumulation of a batch; with PORT and RANK, this
is one of two processes. Writes OUT as JSON: the list of losses, held-out losses last, for each of them.
"""

import dataclasses
import json
import sys
from pathlib import Path

import jax

from coldforge.apps.sft import base, build, devices, presets, train
from coldforge.apps.sft.config import Distributed, MeshConfig, Options
from coldforge.apps.sft.inputs import find_inputs

STEPS = 3


def main(data: str, tokenizer: str, out: str, meshes: str, port: str = "", rank: str = "") -> None:
    if port:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        devices.join(Distributed(initialize=True, coordinator=f"localhost:{port}", processes=2, process=int(rank)))
    found = [losses(Path(data), Path(tokenizer), which) for which in json.loads(meshes)]
    Path(out).write_text(json.dumps(found))


def losses(data: Path, tokenizer: Path, which: dict) -> list[float]:
    preset = presets.tiny()
    config = dataclasses.replace(
        preset,
        model=dataclasses.replace(preset.model, train=which["train"]),
        batches=dataclasses.replace(
            preset.batches, rows=which["rows"], accumulation=which["accumulation"], answer_weight=2.0
        ),
        mesh=MeshConfig(**which.get("mesh", {})),
    )
    mesh = devices.make_mesh(config.mesh) if "mesh" in which else None
    inputs = find_inputs(Options(data=data, tokenizer=tokenizer, run=Path(), config=config))
    batches = train.batches_of(inputs, config, devices.row_share(mesh))
    model = build.adapted(base.load_base(inputs, config, mesh), config)
    built = build.build(model, config, steps=50, mesh=mesh)
    state, found = built.start(), []
    with devices.use(mesh):
        for _ in range(STEPS):
            batch = train.training.place_batch(next(batches), mesh=mesh)
            state, metrics = built.train_step(state, built.frozen, batch)
            found.append(float(metrics["loss"]))
    sums = train.held_out(built, inputs)(state)
    return [*found, float(sums["loss"]) / float(sums["weight"])]


if __name__ == "__main__":
    main(*sys.argv[1:])
