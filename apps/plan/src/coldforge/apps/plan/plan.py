"""Compiles a stage's real step for a slice and reads off what it takes: the plan. Imports JAX when it is called.

    plan = plan_sft("gemma3-1b", config, Slice.parse("v5e:2x4"))
    plan.fits, plan.memory, plan.seconds

The step is the one that `coldforge-sft` runs, from the same `build`, with shapes in place of arrays. Everything in a
plan is plain data: `to_dict` makes it JSON.
"""

import dataclasses
import time
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from coldforge.apps.plan import frames, hlo
from coldforge.apps.plan.chips import Slice
from coldforge.apps.plan.estimate import Estimate, Loop, estimate
from coldforge.apps.plan.groups import Group, group
from coldforge.apps.plan.memory import Memory, Refusal, read_memory, read_refusal
from coldforge.apps.plan.target import require_compiler, slice_devices
from coldforge.apps.sft.config import SftConfig

GROUPS = 40  # of the dearest ops, kept in a plan


class CompilerError(Exception):
    """XLA failed to compile a step, for another reason than a chip's memory."""


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Collectives of one kind over groups of one size, in one step.

    Attributes:
        kind: "all-reduce", …
        group: Devices in a group.
        overlapped: Whether they run beside other work.
        times: How many.
        sent: Bytes that a chip sends in all of them (`collectives` has the formulas).
    """

    kind: str
    group: int
    overlapped: bool
    times: int
    sent: float


@dataclasses.dataclass(frozen=True)
class Cost:
    """XLA's estimate of one step on one chip, and what it leaves out.

    Attributes:
        cycles: The estimate.
        groups: The dearest ops, put together.
        kernels: Calls of Pallas kernels by name, which the estimate leaves out.
        kernel_flops: Operations of those that are attention, at least.
        traffic: Collectives, which it leaves out too.
        unpriced: Executions of other ops that XLA does not price.
        loops: (where, most trips or 0 if unknown, trips counted) of loops that run as often as data decide.
        conditionals: Of each the dearest branch is counted.
        floor_products, floor_attention: Operations of the model's products, by formula (`floor`).
    """

    cycles: int
    groups: list[Group]
    kernels: dict[str, int]
    kernel_flops: float
    traffic: list[Traffic]
    unpriced: dict[str, int]
    loops: list[tuple[str, int, int]]
    conditionals: int
    floor_products: float
    floor_attention: float

    def sent(self, *, overlapped: bool | None = None) -> float:
        """Bytes that a chip sends, in all collectives or in those that (do not) run beside other work."""
        return sum(one.sent for one in self.traffic if overlapped is None or one.overlapped == overlapped)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a step takes on a slice.

    Attributes:
        stage, preset, topology: What was asked for.
        options: The configuration, as nested dicts.
        mesh: Sizes of its axes.
        memory: None if XLA refused.
        refusal: Why, if it did.
        cost: None if it did.
        trace_seconds, compile_seconds: On this machine: from Python to XLA's input, and from there to the program.
        versions: Of jax and libtpu.
    """

    stage: str
    preset: str
    topology: str
    options: dict[str, Any]
    mesh: dict[str, int]
    memory: Memory | None
    refusal: Refusal | None
    cost: Cost | None
    trace_seconds: float
    compile_seconds: float
    versions: dict[str, str]

    @property
    def slice(self) -> Slice:
        """What it was compiled for."""
        return Slice.parse(self.topology)

    @property
    def fits(self) -> bool:
        """Whether a chip's memory holds it."""
        return self.memory is not None and self.memory.total <= self.slice.chip.memory

    @property
    def estimated(self) -> dict[str, float]:
        """Seconds of a step by part: XLA's estimate, and the least that what it leaves out takes.

        Collectives that run beside other work count only where they take longer than all of it.
        """
        if self.cost is None:
            return {}
        chip = self.slice.chip
        priced = self.cost.cycles / chip.clock
        kernels = self.cost.kernel_flops / chip.flops
        alone = self.cost.sent(overlapped=False) / chip.ring_bytes
        beside = self.cost.sent(overlapped=True) / chip.ring_bytes
        return {"xla": priced, "kernels": kernels, "collectives": alone + max(0.0, beside - priced - kernels)}

    @property
    def seconds(self) -> float:
        """About how long a step takes; infinite if it was refused."""
        return sum(self.estimated.values()) if self.cost is not None else float("inf")

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data for JSON, with what follows from it: `fits`, `seconds` (None if refused)."""
        return dataclasses.asdict(self) | {"fits": self.fits, "seconds": None if self.cost is None else self.seconds}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Plan":
        """The inverse of `to_dict`."""
        data = {field.name: data[field.name] for field in dataclasses.fields(cls)}
        memory, refusal, cost = data["memory"], data["refusal"], data["cost"]
        if cost is not None:
            parts = {
                "groups": [Group(**one) for one in cost["groups"]],
                "traffic": [Traffic(**one) for one in cost["traffic"]],
                "loops": [tuple(one) for one in cost["loops"]],
            }
            cost = Cost(**(cost | parts))
        return cls(
            **(data | {
                "memory": None if memory is None else Memory(**memory),
                "refusal": None if refusal is None else Refusal(**refusal),
                "cost": cost,
            })
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Failure:
    """A compile that gave no plan: its process was stopped, or died."""

    reason: str


Outcome = Plan | Failure


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
    from coldforge import modeling
    from coldforge.apps.sft.build import build
    from coldforge.stages.devices import make_mesh, use
    from coldforge.stages.model import abstract_model

    mesh = make_mesh(config.mesh, devices) or modeling.make_mesh(devices=devices)
    start = time.perf_counter()
    built = build(abstract_model(config.model, config.lora, mesh), config, steps=1000, mesh=mesh)
    with use(mesh):
        lowered = built.train_step.lower(built.state, built.frozen, built.batch)
    traced = time.perf_counter()
    compiled, refusal = _compile(lowered)
    done = time.perf_counter()
    record: dict[str, Any] = {
        "preset": preset,
        "topology": slice_.name,
        "config": config,
        "mesh": dict(mesh.shape),
        "trace_seconds": traced - start,
        "compile_seconds": done - traced,
        "versions": {"jax": version("jax"), "libtpu": require_compiler()},
    }
    if compiled is None:
        return _plan(memory=None, refusal=refusal, cost=None, **record)
    text = compiled.as_text()
    if hlo_path is not None:
        hlo_path.write_text(text, encoding="utf-8")
    return read_plan(text, compiled.memory_analysis(), counted=counted, **record)


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
    found = estimate(program, share=counted)
    return _plan(
        memory=read_memory(program, analysis), refusal=None, cost=_cost(text, found, config, mesh),
        config=config, mesh=mesh, **record,
    )  # fmt: skip


def _plan(*, config: SftConfig, **fields: Any) -> Plan:
    return Plan(stage="sft", options=dataclasses.asdict(config), **fields)


def _compile(lowered: Any) -> tuple[Any, Refusal | None]:
    """The compiled program, or XLA's reason why it does not fit."""
    import jax

    try:
        return lowered.compile(), None
    except jax.errors.JaxRuntimeError as error:
        refusal = read_refusal(str(error))
        if refusal is None:
            raise CompilerError(f"XLA cannot compile this step: {error}") from error
        return None, refusal


def _cost(text: str, found: Estimate, config: SftConfig, mesh: dict[str, int]) -> Cost:
    from coldforge.apps.plan.floor import kernel_flops, step_floor
    from coldforge.stages.model import model_config

    model = model_config(config.model)
    places = frames.read(text)
    kernels: Counter[str] = Counter()
    for kernel in found.kernels:
        kernels[kernel.name] += kernel.times
    times: Counter[tuple[str, int, bool]] = Counter()
    sent: dict[tuple[str, int, bool], float] = {}
    for collective, number in found.collectives:
        key = (collective.kind, collective.group, collective.overlapped)
        times[key] += number
        sent[key] = sent.get(key, 0.0) + collective.sent * number
    batches, tensor = config.batches, mesh["tensor"]
    rows = batches.rows / (mesh["data"] * mesh["fsdp"])
    rank = None if config.model.train == "full" else config.lora.rank
    floor = step_floor(
        model, rows=rows * batches.accumulation, seq_len=batches.seq_len, rank=rank, devices_per_row=tensor
    )
    return Cost(
        cycles=found.cycles,
        groups=group(found.ops, places)[:GROUPS],
        kernels=dict(kernels),
        kernel_flops=kernel_flops(model, dict(kernels), rows=rows, seq_len=batches.seq_len, tensor=tensor),
        traffic=sorted((Traffic(*key, times[key], sent[key]) for key in times), key=lambda one: -one.sent),
        unpriced=dict(found.unpriced),
        loops=[(_where(loop, places), loop.trips.count if loop.trips else 0, loop.counted) for loop in found.loops],
        conditionals=found.conditionals,
        floor_products=floor.products,
        floor_attention=floor.attention,
    )


def _where(loop: Loop, places: Mapping[int, frames.Place]) -> str:
    place = places.get(loop.frame)
    return loop.op_name if place is None else f"{place.calls} {place.line}"
