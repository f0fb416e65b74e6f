"""Compiles the step of supervised fine-tuning for a slice and reads off what it takes. Imports JAX when it is called.

    plan = plan_sft("gemma3-1b", config, Slice.parse("v5e:2x4"))
    plan.fits, plan.memory, plan.seconds

The step is the one that `coldforge-sft` runs, from the same `build`, with shapes in place of arrays.
"""

import dataclasses
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from coldforge.apps.plan import hlo
from coldforge.apps.plan.chips import Slice
from coldforge.apps.plan.compiling import compile_lowered, mesh_over
from coldforge.apps.plan.cost import Cost, read_cost
from coldforge.apps.plan.memory import read_memory
from coldforge.apps.plan.plan import Plan
from coldforge.apps.plan.target import require_compiler, slice_devices
from coldforge.apps.sft.config import SftConfig


def plan_sft(
    preset: str, config: SftConfig, slice_: Slice, *, counted: float = 1.0, hlo_path: Path | None = None
) -> Plan:
    """Compiles the step of supervised fine-tuning and reads off what it takes.

    Args:
        preset: Its name, for the record.
        config: The preset with whatever was overridden.
        slice_: To compile for.
        counted: Share of the tokens that have a loss weight; the head is computed for these alone.
        hlo_path: Where to write the program's text, if anywhere.

    Raises:
        MissingCompilerError: libtpu is not installed.
        CompilerError: XLA failed, and not for lack of memory on a chip.
        ValueError: The mesh or the rows do not fit the slice.
    """
    devices = slice_devices(slice_)
    from coldforge.apps.sft.build import build
    from coldforge.stages.devices import use
    from coldforge.stages.model import abstract_model

    mesh = mesh_over(config.mesh, devices)
    start = time.perf_counter()
    built = build(abstract_model(config.model, config.lora, mesh), config, steps=1000, mesh=mesh)
    with use(mesh):
        lowered = built.train_step.lower(built.state, built.frozen, built.batch)
    traced = time.perf_counter() - start
    compiled = compile_lowered(lowered)
    record: dict[str, Any] = {
        "preset": preset,
        "topology": slice_.name,
        "config": config,
        "mesh": dict(mesh.shape),
        "trace_seconds": traced,
        "compile_seconds": compiled.seconds,
        "versions": {"jax": version("jax"), "libtpu": require_compiler()},
    }
    if compiled.program is None:
        return _plan(memory=None, refusal=compiled.refusal, cost=None, **record)
    text = compiled.program.as_text()
    if hlo_path is not None:
        hlo_path.write_text(text, encoding="utf-8")
    return read_plan(text, compiled.program.memory_analysis(), counted=counted, **record)


def read_plan(
    text: str, analysis: Any, *, config: SftConfig, mesh: dict[str, int], counted: float = 1.0, **record: Any
) -> Plan:
    """The plan of a compiled program.

    Args:
        text: Of the program.
        analysis: `compiled.memory_analysis()`.
        config: It was compiled for.
        mesh: Sizes of its axes.
        counted: As in `plan_sft`.
        record: Fields of `Plan` that the program does not tell.
    """
    program = hlo.parse(text)
    return _plan(
        memory=read_memory(program, analysis), refusal=None, cost=_cost(text, program, config, mesh, counted),
        config=config, mesh=mesh, **record,
    )  # fmt: skip


def _plan(*, config: SftConfig, **fields: Any) -> Plan:
    return Plan(stage="sft", options=dataclasses.asdict(config), **fields)


def _cost(text: str, program: hlo.Program, config: SftConfig, mesh: dict[str, int], counted: float) -> Cost:
    from coldforge.apps.plan.floor import step_floor
    from coldforge.stages.model import model_config

    model, batches, tensor = model_config(config.model), config.batches, mesh["tensor"]
    rows = batches.rows / (mesh["data"] * mesh["fsdp"])
    rank = None if config.model.train == "full" else config.lora.rank
    floor = step_floor(
        model, rows=rows * batches.accumulation, seq_len=batches.seq_len, rank=rank, devices_per_row=tensor
    )
    return read_cost(
        text, program, model, rows=rows, seq_len=batches.seq_len, tensor=tensor, counted=counted, floor=floor
    )
