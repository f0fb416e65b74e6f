"""Memory by part, and XLA's refusals."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from coldforge.apps.plan.hlo import Program
from coldforge.apps.plan.memory import Refusal, read_memory, read_refusal

GIB = 2**30


def test_parts_are_the_entry_s_parameters(program: Callable[[str], Program]) -> None:
    analysis = SimpleNamespace(
        argument_size_in_bytes=5_784_064, output_size_in_bytes=1000, alias_size_in_bytes=900,
        temp_size_in_bytes=7, generated_code_size_in_bytes=5, peak_memory_in_bytes=3,
    )  # fmt: skip
    memory = read_memory(program("step"), analysis)
    assert memory.parts == {
        "frozen weights": 8192 * 256 * 2,
        "trained parameters": 3 * 256 * 256 * 4,
        "optimizer": 3 * 256 * 256 * 4,
        "batch": 2 * 2 * 1024 * 4,
        "step and key": 512,
    }
    assert memory.arguments == 5_784_064
    assert memory.total == 5_784_064 + 100 + 7 + 5


def test_what_xla_rounds_up_is_not_lost(program: Callable[[str], Program]) -> None:
    analysis = SimpleNamespace(
        argument_size_in_bytes=5_785_000, output_size_in_bytes=0, alias_size_in_bytes=0,
        temp_size_in_bytes=0, generated_code_size_in_bytes=0, peak_memory_in_bytes=0,
    )  # fmt: skip
    assert read_memory(program("step"), analysis).parts["other arguments"] == 936


@pytest.mark.parametrize(
    ("message", "needed", "available"),
    [
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (33.80G) exceeds available HBM (15.75G). HLO module: jit_train_step.\nSee https://openxla.org",
            33.80, 15.75,
        ),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 20.93G "
            "of 15.48G hbm. Exceeded hbm capacity by 5.45G.\n\nTotal hbm usage >= 21.45G:\n    reserved        530.01M",
            20.93, 15.48,
        ),
        (
            "RESOURCE_EXHAUSTED: TPU TensorCore Hbm usage: 34.82G, SparseCore Hbm usage 174.10G, exceeding available "
            "bytes: 95.74G",
            34.82, 95.74,
        ),
        ("RESOURCE_EXHAUSTED: not enough HBM, in words that are new", 0, 0),
    ],
)  # fmt: skip
def test_refusals(message: str, needed: float, available: float) -> None:
    refusal = read_refusal(message)
    assert refusal == Refusal(round(needed * GIB), round(available * GIB), message[20:].split("\n")[0])


def test_other_errors_are_no_refusals() -> None:
    assert read_refusal("INTERNAL: Mosaic failed to compile TPU kernel: hbm") is None
    assert read_refusal("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem") is None
