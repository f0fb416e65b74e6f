"""Slots: fewer until the sampler fits, and what is said of them. No compiler: a made-up one says what slots take."""

import dataclasses
from collections.abc import Callable

import pytest

from coldforge.apps.grpo.build import build
from coldforge.apps.grpo.presets import PRESETS
from coldforge.apps.plan.memory import Memory, Refusal
from coldforge.apps.plan.plan_grpo import ProgramPlan
from coldforge.apps.plan.sampler import (
    ATTEMPTS,
    engine_of,
    estimated_slots,
    fewer_slots,
    find_slots,
    slot_cache_bytes,
    slot_plan,
)
from coldforge.modeling import cache_bytes
from coldforge.stages.model import abstract_model

pytestmark = pytest.mark.whole

GIB, MIB = 2**30, 2**20
MakeProgram = Callable[..., ProgramPlan]


@pytest.mark.parametrize(
    ("slots", "over", "expected"),
    [
        (2048, 1, 1984),  # 8 fewer on each of 8 devices
        (2048, MIB, 1984),
        (2048, 8 * MIB + 1, 1920),
        (40, 1, 32),  # 5 on each: below 8 one at a time
        (8, 1, 0),
        (64, 100 * MIB, 0),
    ],
)
def test_fewer_slots(slots: int, over: int, expected: int) -> None:
    assert fewer_slots(slots, over, slot_bytes=MIB, devices=8) == expected


@pytest.fixture
def compiler(make_program: MakeProgram) -> Callable[[int], Callable[[int], list[ProgramPlan]]]:
    """Makes a compiler whose `decode` takes so many bytes for each slot of one device, and nothing beside."""

    def make(each: int) -> Callable[[int], list[ProgramPlan]]:
        def compile_(slots: int) -> list[ProgramPlan]:
            memory = Memory(parts={"slots": slots * each}, temporaries=0, outputs=0, code=0, peak=0)
            return [make_program("prefill"), make_program(memory=memory, beside=0)]

        return compile_

    return make


def test_an_estimate_that_holds_is_compiled_once(compiler) -> None:
    programs, tried = find_slots(compiler(MIB), 64, limit=10 * GIB, slot_bytes=MIB, devices=1)
    assert tried == []
    assert programs[1].total == 64 * MIB


def test_what_takes_more_than_estimated_gets_fewer(compiler) -> None:
    programs, tried = find_slots(compiler(100 * MIB), 128, limit=10 * GIB, slot_bytes=95 * MIB, devices=1)
    assert tried[0] == 128
    assert programs[1].total <= 10 * GIB
    assert programs[1].total + 16 * 100 * MIB > 10 * GIB  # not many fewer than fit


def test_it_ends(compiler) -> None:
    programs, tried = find_slots(compiler(10 * GIB), 128, limit=GIB, slot_bytes=MIB, devices=1)
    assert len(tried) < ATTEMPTS
    assert programs[1].total > GIB  # as it is, and said not to fit


def test_a_refusal_says_how_many_fewer(make_program: MakeProgram) -> None:
    asked = []

    def compile_(slots: int) -> list[ProgramPlan]:
        asked.append(slots)
        if slots > 96:
            return [make_program(memory=None, cost=None, beside=0, refusal=Refusal(12 * GIB, 10 * GIB, "no"))]
        return [make_program(beside=0)]

    _, tried = find_slots(compile_, 128, limit=10 * GIB, slot_bytes=64 * MIB, devices=1)
    assert (asked, tried) == ([128, 96], [128])  # 2 GiB are 32 slots


@pytest.fixture
def built():
    config = PRESETS["tiny"]()
    return build(abstract_model(config.model, config.lora, None), config, mesh=None)


def test_what_is_said_of_slots(built) -> None:
    engine = engine_of(built, 64)
    demand, model = engine.sizes.demand, built.model.config
    found = slot_plan(engine, given=False, tried=[72], room=0.5 * GIB, free=GIB)
    assert (found.slots, found.devices, found.length, found.kv, found.tried) == (64, 1, 256, "float32", [72])
    assert found.ring_bytes == slot_cache_bytes(demand) == cache_bytes(model, 1, 256, dtype="float32")
    row = 2 * model.num_kv_heads * model.head_dim * 4
    assert found.full_bytes - found.ring_bytes > 0.9 * (256 - model.sliding_window) * row  # of the one local layer
    assert found.own_slots == estimated_slots(0.7 * GIB, demand) > 0


def test_full_caches_leave_room_for_fewer(built) -> None:
    demand = engine_of(built, 8).sizes.demand
    room = demand.once_bytes + 64 * demand.slot_bytes
    found = slot_plan(engine_of(built, 64), given=False, tried=[], room=room, free=room)
    assert estimated_slots(room, demand) == 64
    assert 0 < found.full_slots < 64


def test_no_room_is_no_slot(built) -> None:
    assert estimated_slots(1000.0, engine_of(built, 8).sizes.demand) == 0
    assert estimated_slots(-1.0, engine_of(built, 8).sizes.demand) == 0


def test_options_may_say_how_many(built) -> None:
    rollout = dataclasses.replace(built.config.rollout, slots=24)
    asked = dataclasses.replace(built, config=dataclasses.replace(built.config, rollout=rollout))
    assert engine_of(asked, None).sizes.slots == 24
