"""What the tests share: the kept texts of compiled programs, and plans made of one."""

import dataclasses
import os

os.environ["JAX_PLATFORMS"] = "cpu"

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coldforge.apps.plan.hlo import Program, parse
from coldforge.apps.plan.options import STAGES
from coldforge.apps.plan.plan import Plan
from coldforge.apps.plan.plan_grpo import GrpoPlan, ProgramPlan, SlotPlan
from coldforge.apps.plan.sft import read_plan

sys.path.insert(0, str(Path(__file__).parent))  # for `programs`
import programs


@pytest.fixture
def text() -> Callable[[str], str]:
    return programs.read


@pytest.fixture
def program() -> Callable[[str], Program]:
    return lambda name: parse(programs.read(name))


@pytest.fixture
def make_plan() -> Callable[..., Plan]:
    """A plan of the preset tiny from the text of the program `step`, as if it had been compiled with these options."""

    def make(*, temporaries: int = 3 * 2**30, **options: Any) -> Plan:
        analysis = SimpleNamespace(
            argument_size_in_bytes=5_784_064, output_size_in_bytes=1_572_868, alias_size_in_bytes=1_572_868,
            temp_size_in_bytes=temporaries, generated_code_size_in_bytes=2**28, peak_memory_in_bytes=temporaries,
        )  # fmt: skip
        return read_plan(
            programs.read("step"), analysis,
            preset="tiny", topology="v5e:2x4", config=STAGES["sft"].presets["tiny"](),
            mesh={"data": 8, "fsdp": 1, "tensor": 1},
            trace_seconds=2.0, compile_seconds=60.0, versions={"jax": "0.12.0.1", "libtpu": "0.0.52"}, **options,
        )  # fmt: skip

    return make


@pytest.fixture
def make_program(make_plan: Callable[..., Plan]) -> Callable[..., ProgramPlan]:
    """A program of GRPO with the memory and cost of the program `step`."""

    def make(name: str = "decode", *, beside: int = 2**30, **changes: Any) -> ProgramPlan:
        one = make_plan()
        made = ProgramPlan(name, f"what {name} does", one.memory, None, one.cost, beside, 61.0)
        return dataclasses.replace(made, **changes)

    return make


@pytest.fixture
def make_grpo_plan(make_program: Callable[..., ProgramPlan]) -> Callable[..., GrpoPlan]:
    """A plan of the preset r1 whose programs all have the memory and cost of the program `step`."""

    def make(**changes: Any) -> GrpoPlan:
        programs = [make_program(name) for name in ("prefill", "admit", "decode", "score", "update")]
        sampler = SlotPlan(
            slots=2048, devices=8, given=False, length=32768, kv="bfloat16", ring_bytes=139 * 2**20,
            full_bytes=832 * 2**20, full_slots=104, own_slots=1408, tried=[2112],
        )  # fmt: skip
        made = GrpoPlan(
            preset="r1", topology="v5e:2x4", options=dataclasses.asdict(STAGES["grpo"].presets["r1"]()),
            mesh={"data": 8, "fsdp": 1, "tensor": 1}, shape=(64, 8, 32768), programs=programs, sampler=sampler,
            trace_seconds=20.0, versions={"jax": "0.12.0.1", "libtpu": "0.0.52"},
        )  # fmt: skip
        return dataclasses.replace(made, **changes)

    return make
