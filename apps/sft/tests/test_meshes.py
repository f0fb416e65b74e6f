"""The same losses wherever and however a batch is computed: one device, eight on three meshes, two processes."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

ONE = {"rows": 8, "accumulation": 1}
MESHES = [{"mesh": {"data": 8}}, {"mesh": {"data": 1, "fsdp": 8}}, {"mesh": {"data": 2, "fsdp": 2, "tensor": 2}}]


@pytest.fixture
def start(data: Path, tokenizer: Path, tmp_path: Path) -> Callable[..., tuple["subprocess.Popen[str]", Path]]:
    def begin(meshes: list[dict], devices: int, *more: str) -> tuple["subprocess.Popen[str]", Path]:
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
            *more,
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


def test_losses_are_equal_on_every_mesh_and_in_two_processes(start: Callable[..., object]) -> None:
    full, lora = {"train": "full"}, {"train": "lora"}
    alone = results(start([
        ONE | full, {"rows": 4, "accumulation": 2} | full, {"rows": 1, "accumulation": 8} | full, ONE | lora,
    ], 1))  # fmt: skip
    wanted, wanted_lora = alone[0], alone[3]
    assert wanted[-1] < wanted[0] - 1, "it learns"
    eight = results(start([*(ONE | full | mesh for mesh in MESHES), ONE | lora | MESHES[2]], 8))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    two = results(*(start([ONE | full | MESHES[2]], 4, port, str(rank)) for rank in range(2)))
    for found in (*alone[1:3], *eight[:3], *two):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    np.testing.assert_allclose(eight[3], wanted_lora, rtol=0, atol=1e-5)
