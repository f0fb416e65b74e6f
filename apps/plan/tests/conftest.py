"""What the tests share: the kept texts of compiled programs, and a plan made of one."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coldforge.apps.plan.hlo import Program, parse
from coldforge.apps.plan.plan import Plan, read_plan
from coldforge.apps.sft.presets import PRESETS

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
            preset="tiny", topology="v5e:2x4", config=PRESETS["tiny"](), mesh={"data": 8, "fsdp": 1, "tensor": 1},
            trace_seconds=2.0, compile_seconds=60.0, versions={"jax": "0.12.0.1", "libtpu": "0.0.52"}, **options,
        )  # fmt: skip

    return make
