"""Meshes, and what processes tell each other; two real ones in test_two_processes."""

import json
import os
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from coldforge.stages.devices import everybodys, first, from_first, make_mesh, row_share, use
from coldforge.stages.options import MeshConfig
from coldforge.stages.program import WRONG
from coldforge.stages.testing import Ended, free_port, run_all

pytestmark = pytest.mark.whole


def test_a_single_device_needs_no_mesh() -> None:
    one = jax.devices()[:1]
    assert make_mesh(MeshConfig(), one) is None
    assert row_share(None) == (0, 1)
    with use(None):
        assert first()
    with pytest.raises(ValueError, match="1"):
        make_mesh(MeshConfig(fsdp=2), one)


def test_a_process_alone_keeps_its_own() -> None:
    values = {"a": np.arange(3.0)}
    assert from_first(values)["a"] is values["a"]
    assert everybodys(True)
    assert not everybodys(False)


def two(*more: str) -> list[Ended]:
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    command, port = [sys.executable, str(Path(__file__).with_name("process_of_two.py"))], str(free_port())
    return run_all([[*command, port, str(rank), *more] for rank in range(2)], env=environment, timeout=120)


def test_one_leaves_the_other_which_ends_at_once() -> None:
    first_one, other = two("leave")
    assert first_one.code == WRONG
    assert other.code != 0


def test_two_processes() -> None:
    said = two()
    assert [one.code for one in said] == [0, 0], said
    found = [json.loads(one.out.splitlines()[-1]) for one in said]  # Gloo writes above it
    shares, firsts = [one.pop("shares") for one in found], [one.pop("first") for one in found]
    assert firsts == [True, False]
    assert [(one.pop("codes"), one.pop("done")) for one in found] == [([7, "'refused'"], [7, -1]), ([7, WRONG], [])]
    assert found[0] == found[1] == {
        "dtypes": {"rewards": "float64", "right": "bool", "step": "int64", "none": "float32"},
        "rewards": [value.hex() for value in (0.1, np.pi, 1e-300, -np.inf)],
        "right": 500, "step": 2**40 + 1, "none": [0, 2], "writable": True, "yes": True, "no": False, "devices": 8,
    }  # fmt: skip
    assert [one["data 8"] for one in shares] == [[0, 2], [1, 2]]
    assert [one["data 2 fsdp 2 tensor 2"] for one in shares] == [[0, 2], [1, 2]]
    assert [one["tensor 8"] for one in shares] == [[0, 1], [0, 1]], "both hold all rows"
