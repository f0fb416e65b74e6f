"""Compiles all that a run of GRPO runs on a slice, and reads off what it takes. Imports JAX when it is called.

    plan = plan_grpo("r1", config, Slice.parse("v5e:2x4"))
    plan.fits, plan.programs, plan.sampler

In this order: the update; the scoring pass, where there is a reference or π_old is scored; the sampler, with as many
slots as fit beside them. All are those that `coldforge-grpo` runs, from the same `build`, with shapes in place of
arrays. Left out: programs that the sampler shrinks to as its queue runs dry, which are smaller, and checkpoints.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coldforge.apps.grpo.config import GrpoRunConfig
from coldforge.apps.plan import hlo
from coldforge.apps.plan.chips import Slice
from coldforge.apps.plan.compiling import Compiled, compile_lowered, mesh_over
from coldforge.apps.plan.cost import read_cost
from coldforge.apps.plan.memory import Memory, read_memory
from coldforge.apps.plan.plan_grpo import GrpoPlan, ProgramPlan, SlotPlan
from coldforge.apps.plan.target import require_compiler, slice_devices

if TYPE_CHECKING:
    from coldforge.apps.grpo.build import Built
    from coldforge.apps.plan.floor import Floor
    from coldforge.rollout import Engine
    from coldforge.rollout.sizes import Demand

ENGINES = 2  # of a run, each with its own copy of what is trained: for rollouts, and for held-out questions
# Parts of a program's arguments that stay on a chip between programs.
STAYING = (
    "frozen weights", "trained parameters", "optimizer", "sampler's weights", "slots", "prompt store",
)  # fmt: skip


def plan_grpo(
    preset: str, config: GrpoRunConfig, slice_: Slice, *, counted: float = 1.0, hlo_path: Path | None = None
) -> GrpoPlan:
    """Compiles update, scoring pass and sampler, and reads off what they take.

    Args:
        preset: Its name, for the record.
        config: The preset with whatever was overridden.
        slice_: To compile for.
        counted: Share of the tokens of an update that have a loss weight; the head is computed for these alone.
        hlo_path: A directory for the programs' texts, if they are wanted.

    Raises:
        MissingCompilerError: libtpu is not installed.
        CompilerError: XLA failed, and not for lack of memory on a chip.
        ValueError: The mesh or the rows do not fit the slice, or samples the model's context or a row.
    """
    devices = slice_devices(slice_)
    from coldforge.apps.grpo.build import build
    from coldforge.stages.model import abstract_model

    mesh = mesh_over(config.mesh, devices)
    built = build(abstract_model(config.model, config.lora, mesh), config, mesh=mesh)
    work = _Work(built, slice_, counted, hlo_path)
    demand = work.demand()
    if hlo_path is not None:
        hlo_path.mkdir(parents=True, exist_ok=True)
    updating = work.updating()
    sampler, sampling = work.sampling(demand)
    micro, rows, seq_len = built.shape
    return GrpoPlan(
        preset=preset, topology=slice_.name, options=dataclasses.asdict(config), mesh=dict(mesh.shape),
        shape=(micro, rows, seq_len), programs=[*sampling, *updating], sampler=sampler,
        trace_seconds=work.trace_seconds, versions={"jax": version("jax"), "libtpu": require_compiler()},
    )  # fmt: skip


def resident_bytes(built: "Built") -> dict[str, int]:
    """Bytes on a chip of what stays there for the whole run, by part."""
    import jax
    from flax import nnx

    from coldforge.modeling import quantized

    sampled = quantized(built.model) if built.config.rollout.weights == "int8" else built.model
    frozen = {id(leaf) for leaf in jax.tree.leaves(built.frozen)}
    own = [leaf for leaf in jax.tree.leaves(nnx.state(sampled)) if id(leaf) not in frozen]
    policy = shard_bytes(built.state.params)
    return {
        "frozen weights": shard_bytes(built.frozen),
        "trained parameters": policy,
        "optimizer": shard_bytes(built.state.opt_state),
        "reference": policy if built.loop.policy.needs_reference else 0,
        "sampler's own": ENGINES * shard_bytes(own),
    }


def shard_bytes(tree: Any) -> int:
    """Bytes on one device of arrays, or of their shapes, before padding."""
    import jax

    def one(leaf: Any) -> int:
        shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
        return math.prod(shape) * leaf.dtype.itemsize

    return sum(map(one, jax.tree.leaves(tree)))


class _Work:
    """A plan under way; tracing has taken `trace_seconds` so far."""

    def __init__(self, built: "Built", slice_: Slice, counted: float, hlo_path: Path | None) -> None:
        self.built, self.slice, self.counted, self.hlo_path = built, slice_, counted, hlo_path
        self.model, self.mesh = built.model.config, mesh_shape(built)
        self.resident = sum(resident_bytes(built).values())
        self.trace_seconds = 0.0

    def demand(self) -> "Demand":
        """What the sampler's sizes follow from. Raises ValueError for options that no engine takes."""
        from coldforge.apps.plan.sampler import engine_of

        return engine_of(self.built, slots=1).sizes.demand

    def updating(self) -> list[ProgramPlan]:
        """The scoring pass, if the run has one, and the update."""
        built, (micro, rows, seq_len) = self.built, self.built.shape
        each = rows / (self.mesh["data"] * self.mesh["fsdp"])
        work = f"up to {micro} × {rows} rows of {seq_len:,} tokens"
        found = []
        if built.loop.policy.needs_reference or built.loop.old == "trainer":
            bare = built.batch._replace(old_logprobs=None, ref_logprobs=None)
            lowered = self._trace(lambda: built.score.lower(built.state.params, built.frozen, bare))
            compiled = compile_lowered(lowered)
            found.append(self._read("score", work, compiled, rows=each, seq_len=seq_len, counted=self.counted))
        lowered = self._trace(lambda: built.train_step.lower(built.state, built.frozen, built.batch))
        floor = self._floor(each * micro, seq_len)
        compiled = compile_lowered(lowered)
        update = self._read("update", work, compiled, rows=each, seq_len=seq_len, counted=self.counted, floor=floor)
        return [*found, update]

    def sampling(self, demand: "Demand") -> tuple[SlotPlan | None, list[ProgramPlan]]:
        """The sampler with the slots that were asked for, or as many as fit; None and nothing if there is no room."""
        from coldforge.apps.plan import sampler

        options, capacity = self.built.config.rollout, self.slice.chip.memory
        limit = capacity * (1 - sampler.MARGIN)
        room = limit - self.resident
        given = options.slots is not None or options.memory_gib is not None
        wanted = sampler.engine_of(self.built, None).sizes.slots if given else sampler.estimated_slots(room, demand)
        if wanted == 0:
            return None, []
        engines: dict[int, Engine] = {}
        prefills: dict[Any, Compiled] = {}

        def compile_(slots: int) -> list[ProgramPlan]:
            engines[slots] = sampler.engine_of(self.built, slots)
            return self._sampler(engines[slots], prefills)

        programs, tried = sampler.find_slots(
            compile_, wanted, limit=math.inf if given else limit, slot_bytes=demand.slot_bytes, devices=demand.devices
        )
        engine = engines[min(engines)]
        free = capacity - shard_bytes(self.built.frozen) - shard_bytes(self.built.state.params)
        return sampler.slot_plan(engine, given=given, tried=tried, room=room, free=free), programs

    def _sampler(self, engine: "Engine", prefills: dict[Any, Compiled]) -> list[ProgramPlan]:
        """The three programs of an engine; `prefills`: those compiled before, by their rows."""
        from coldforge.rollout.programs import INTERVAL

        sizes, lowered = engine.sizes, self._trace(engine.lowered)
        devices = sizes.demand.devices
        if sizes.store_rows not in prefills:
            prefills[sizes.store_rows] = compile_lowered(lowered["prefill"])
        height, width = sizes.prefill_shapes[-1]
        prefill = self._read(
            "prefill", f"{height} × {width:,} tokens", prefills[sizes.store_rows], rows=height / devices, seq_len=width
        )
        rows, work = sizes.slots / devices, f"{sizes.entries} samples enter slots"
        admit = self._read("admit", work, compile_lowered(lowered["admit"]), rows=rows, seq_len=1)
        # One of its steps, which chooses from all tokens: GRPO has no top-k or top-p, whose branch is the dearer one.
        decode = self._read(
            "decode", f"a token in each of {sizes.slots:,} slots", compile_lowered(lowered["decode"]), rows=rows,
            seq_len=1, counted=1 / INTERVAL, branch="cheapest",
        )  # fmt: skip
        programs = [prefill, admit, decode]
        held = sum(
            max((one.memory.parts.get(part, 0) for one in programs if one.memory is not None), default=0)
            for part in ("slots", "prompt store")
        )
        return [dataclasses.replace(one, beside=self._beside(one.memory, held)) for one in programs]

    def _trace[T](self, make: Callable[[], T]) -> T:
        from coldforge.stages.devices import use

        start = time.perf_counter()
        with use(self.built.mesh):
            made = make()
        self.trace_seconds += time.perf_counter() - start
        return made

    def _read(self, name: str, work: str, compiled: Compiled, *, rows: float, seq_len: int, **how: Any) -> ProgramPlan:
        """What a compiled program takes, with what stays beside it while no slots are there; `how`: of `read_cost`."""
        memory, cost = None, None
        if compiled.program is not None:
            text = compiled.program.as_text()
            if self.hlo_path is not None:
                (self.hlo_path / f"{name}.txt").write_text(text, encoding="utf-8")
            program = hlo.parse(text)
            memory = read_memory(program, compiled.program.memory_analysis())
            tensor = self.mesh["tensor"]
            cost = read_cost(text, program, self.model, rows=rows, seq_len=seq_len, tensor=tensor, **how)
        return ProgramPlan(name, work, memory, compiled.refusal, cost, self._beside(memory, 0), compiled.seconds)

    def _beside(self, memory: Memory | None, held: int) -> int:
        """Bytes that stay on a chip and are no arguments of a program; `held`: by slots and prompt store."""
        if memory is None:
            return 0
        return max(0, self.resident + held - sum(memory.parts.get(part, 0) for part in STAYING))

    def _floor(self, rows: float, seq_len: int) -> "Floor":
        from coldforge.apps.plan.floor import step_floor

        config = self.built.config
        rank = None if config.model.train == "full" else config.lora.rank
        return step_floor(self.model, rows=rows, seq_len=seq_len, rank=rank, devices_per_row=self.mesh["tensor"])


def mesh_shape(built: "Built") -> Mapping[str, int]:
    """Sizes of the mesh's axes."""
    assert built.mesh is not None
    return built.mesh.shape
