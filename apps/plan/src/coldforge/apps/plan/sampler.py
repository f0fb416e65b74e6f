"""How many slots the sampler has room for, found by compiling it. Imports JAX.

What is left of a chip beside weights, training state and a margin is a budget, of which `coldforge.rollout.sizes`
estimates the slots. The sampler is compiled with these; if XLA takes more than estimated, with fewer, until it fits.
Slots that options give are compiled as they are.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp

from coldforge.apps.grpo.build import Built
from coldforge.apps.plan.plan_grpo import ProgramPlan, SlotPlan
from coldforge.modeling import cache_bytes
from coldforge.modeling.config import LayerType
from coldforge.rollout import Engine
from coldforge.rollout.sizes import Demand, slots_in, ways

GIB = 2**30
MARGIN = 1 / 16  # of a chip's memory: programs of fewer rows, code of other programs, gaps between arrays
ATTEMPTS = 5  # numbers of slots that are compiled
OWN_SHARE = 0.7  # of what is free when the engine is made, which it takes by itself


def engine_of(built: Built, slots: int | None) -> Engine:
    """The run's engine with so many slots; None: with as many as the options say, or its own choice."""
    if slots is None:
        return built.engine()
    rollout = dataclasses.replace(built.config.rollout, slots=slots)
    return dataclasses.replace(built, config=dataclasses.replace(built.config, rollout=rollout)).engine()


def estimated_slots(room: float, demand: Demand) -> int:
    """Slots over all devices that so many bytes of a chip hold by estimate; 0 if not one on each."""
    return 0 if room - demand.once_bytes < demand.slot_bytes else slots_in(room / GIB, demand)


def find_slots(
    compile_: Callable[[int], list[ProgramPlan]], slots: int, *, limit: float, slot_bytes: int, devices: int
) -> tuple[list[ProgramPlan], list[int]]:
    """The sampler compiled with as many slots as fit, and the numbers of slots that did not.

    Args:
        compile_: Compiles it with so many slots.
        slots: To begin with.
        limit: Bytes of a chip that each program may take, with what stays beside it.
        slot_bytes: Of one slot on its device.
        devices: That share the slots.

    What does not fit after `ATTEMPTS` is returned as it is.
    """
    tried: list[int] = []
    while True:
        programs = compile_(slots)
        over = max(_excess(program, limit) for program in programs)
        fewer = fewer_slots(slots, over, slot_bytes=slot_bytes, devices=devices) if over > 0 else 0
        if fewer == 0 or len(tried) + 1 == ATTEMPTS:
            return programs, tried
        tried.append(slots)
        slots = fewer


def fewer_slots(slots: int, over: float, *, slot_bytes: int, devices: int) -> int:
    """The next smaller number of slots that saves `over` bytes on each device; 0 if there is none.

    A multiple of 8 on each device from 8 on, as XLA takes them well: `fewer_slots(2048, 2**20, slot_bytes=2**20,
    devices=8)` is 1,984.
    """
    each = slots // devices
    left = min(each - 1, each - int(-(-over // slot_bytes)))
    return max(0, devices * (left if left < 8 else left // 8 * 8))


def _excess(program: ProgramPlan, limit: float) -> float:
    """Bytes beyond the limit; of a refused program as XLA's message says, or a GiB."""
    if program.refusal is None:
        return program.total - limit
    return max(program.refusal.needed + program.beside - limit, GIB)


def slot_plan(engine: Engine, *, given: bool, tried: list[int], room: float, free: float) -> SlotPlan:
    """What is to be said of an engine's slots.

    Args:
        engine: As it was compiled.
        given: Whether its slots were given.
        tried: Numbers of slots that did not fit.
        room: Bytes of a chip for slots, prompt store and what a step takes.
        free: Bytes of a chip that are free when the run makes its engine.
    """
    demand = engine.sizes.demand
    everywhere: list[LayerType] = ["global"] * demand.model.num_layers
    full = dataclasses.replace(demand, model=dataclasses.replace(demand.model, layer_types=tuple(everywhere)))
    return SlotPlan(
        slots=engine.sizes.slots,
        devices=demand.devices,
        given=given,
        length=demand.length,
        kv=jnp.dtype(demand.kv).name,
        ring_bytes=slot_cache_bytes(demand),
        full_bytes=slot_cache_bytes(full),
        full_slots=estimated_slots(room, full),
        own_slots=estimated_slots(OWN_SHARE * free, demand),
        tried=tried,
    )


def slot_cache_bytes(demand: Demand) -> int:
    """Bytes of one slot's cache on its device."""
    one = cache_bytes(demand.model, 1, demand.length, dtype=demand.kv)
    return one // ways(demand.mesh, demand.model.num_kv_heads)
