"""What the README shows: its example runs, its commands are understood, its table is that of the code."""

import math
import re
import shlex
from pathlib import Path

import pytest

from coldforge.apps.plan.chips import CHIPS, Slice
from coldforge.apps.plan.options import parse, whole
from coldforge.stages.options import MeshConfig

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_example(capsys: pytest.CaptureFixture[str]) -> None:
    [code] = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    trips, unpriced = capsys.readouterr().out.splitlines()
    assert trips == "Trips(count=10, how='exact')"
    assert unpriced.startswith("Counter({")


def commands() -> list[list[str]]:
    [block] = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    return [shlex.split(line, comments=True) for line in block.splitlines()]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_are_understood(words: list[str]) -> None:
    assert words[0] == "coldforge-plan"
    preset, options = parse(words[1], words[2:])
    slice_ = Slice.parse(options.topology)
    assert slice_.chip.name == "v5e"
    config = whole(words[1], preset, options)
    assert fits(config.mesh, math.prod(slice_.shape))
    assert (config.batches if words[1] == "sft" else config.rows).rows > 0


def fits(mesh: MeshConfig, chips: int) -> bool:
    """Whether the mesh takes all chips of a slice, as `make_mesh` wants it."""
    ways = mesh.fsdp * mesh.tensor
    return chips % ways == 0 if mesh.data is None else mesh.data * ways == chips


def test_table_of_chips() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| ([\d.]+) GiB.* \| ([\d,]+) TFLOP/s.* \| ([\d.]+) GHz", README, flags=re.MULTILINE
    )
    assert {name for name, *_ in rows} == set(CHIPS)
    for name, memory, flops, clock in rows:
        chip = CHIPS[name]
        assert float(memory) == round(chip.memory / 2**30, 2)
        assert int(flops.replace(",", "")) == int(chip.flops / 1e12)
        assert float(clock) == round(chip.clock / 1e9, 2)
