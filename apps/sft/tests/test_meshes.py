"""The same losses wherever and however a batch is computed; test_processes.py has two processes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.whole

ONE = {"rows": 8, "accumulation": 1}
HELD_OUT = {"held out": True}
ALL_AXES = {"mesh": {"data": 2, "fsdp": 2, "tensor": 2}}
COPIES, SPLIT = {"mesh": {"data": 8, "shard_optimizer": True}}, {"mesh": {"data": 1, "fsdp": 8}}


@pytest.fixture
def start(data: Path, tokenizer: Path, tmp_path: Path) -> Callable[..., tuple["subprocess.Popen[str]", Path]]:
    def begin(meshes: list[dict], devices: int) -> tuple["subprocess.Popen[str]", Path]:
        out = tmp_path / f"{len(list(tmp_path.glob('*.started')))}.json"
        out.with_suffix(".started").touch()
        flags = f"--xla_force_host_platform_device_count={devices}"
        command = [
            sys.executable,
            Path(__file__).parent / "losses_on.py",
            data,
            tokenizer,
            out,
            json.dumps(meshes),
        ]
        process = subprocess.Popen(
            command, env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        return process, out

    return begin


def results(*started: tuple["subprocess.Popen[str]", Path]) -> list[list[float]]:
    said = [process.communicate(timeout=300)[0] for process, _ in started]
    assert [process.returncode for process, _ in started] == [0] * len(started), "\n".join(said)
    return [losses for _, out in started for losses in json.loads(out.read_text())]


@pytest.mark.parametrize(
    ("parts", "meshes"),
    [
        ({"rows": 1, "accumulation": 8}, [ALL_AXES]),
        pytest.param({"rows": 4, "accumulation": 2}, [COPIES, SPLIT], marks=pytest.mark.slow),
    ],
    ids=["all axes", "copies, split"],
)
def test_losses_are_equal_on_every_mesh_and_for_every_accumulation(
    start: Callable[..., object], parts: dict, meshes: list[dict]
) -> None:
    alone = results(start([ONE | HELD_OUT, parts], 1))
    first, *others = meshes
    eight = results(start([ONE | HELD_OUT | first, *(ONE | mesh for mesh in others)], 8))
    wanted = alone[0]
    assert wanted[-1] < wanted[0] - 1, "it learns"
    np.testing.assert_allclose(eight[0], wanted, rtol=0, atol=1e-5)
    for found in (*alone[1:], *eight[1:]):
        np.testing.assert_allclose(found, wanted[:-1], rtol=0, atol=1e-5)
