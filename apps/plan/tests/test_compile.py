"""What only the compiler shows; it takes minutes and needs libtpu."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("libtpu")

import programs

from coldforge.apps.plan.estimate import Estimate, estimate
from coldforge.apps.plan.hlo import parse

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def fresh() -> dict[str, Estimate]:
    """The programs as this compiler makes them, in a process that JAX is not loaded in yet."""
    code = (
        "import json, sys; from coldforge.apps.plan.target import prepare_environment; prepare_environment();"
        f"sys.path.insert(0, {str(programs.DATA.parent)!r}); import programs;"
        "print(json.dumps({name: make() for name, make in programs.PROGRAMS.items()}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name: estimate(parse(text)) for name, text in json.loads(done.stdout).items()}


def test_cycles_go_with_trips(fresh: dict[str, Estimate]) -> None:
    inner = sum(op.cycles for op in fresh["loops10"].ops if op.times == 30)
    assert fresh["loops20"].cycles - fresh["loops10"].cycles == inner


def test_the_compiler_still_writes_what_is_read(fresh: dict[str, Estimate]) -> None:
    for name, found in fresh.items():
        kept = estimate(parse(programs.read(name)))
        assert found.cycles == pytest.approx(kept.cycles, rel=0.3), name
        assert _kinds(found) == _kinds(kept), name
        assert len(found.loops) == len(kept.loops), name


def _kinds(found: Estimate) -> Counter[str]:
    kinds: Counter[str] = Counter()
    for collective, times in found.collectives:
        kinds[collective.kind] += times
    for kernel in found.kernels:
        kinds[kernel.name] += kernel.times
    return kinds


def plan(*words: str, stage: str = "sft") -> tuple[int, dict]:
    command = [sys.executable, "-m", "coldforge.apps.plan.main", stage, "tiny", "--json", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


def test_a_plan_of_the_real_step() -> None:
    code, found = plan("--topology", "v5e:2x4", "--rows", "8", "--fsdp", "2")
    assert code == 0
    assert {"trained parameters", "optimizer", "batch", "step and key"} <= set(found["memory"]["parts"])
    assert "other arguments" not in found["memory"]["parts"]
    assert found["mesh"] == {"data": 4, "fsdp": 2, "tensor": 1}
    assert found["cost"]["cycles"] > 0
    assert sum(found["cost"]["kernels"].values()) > 0
    assert any(one["kind"] == "all-reduce" for one in found["cost"]["traffic"])


def test_adapters_are_told_from_the_base() -> None:
    _, found = plan("--topology", "v5e:1x1", "--train", "lora")
    parts = found["memory"]["parts"]
    assert parts["frozen weights"] > 0
    assert parts["optimizer"] > parts["trained parameters"] > 0


def test_a_refusal_is_a_result() -> None:
    code, found = plan("--topology", "v5e:1x1", "--rows", "65536", "--seq-len", "1024")
    assert code == 1
    assert found["memory"] is None
    assert found["refusal"]["needed"] > found["refusal"]["available"] > 15 * 2**30


def test_a_slice_of_many_hosts() -> None:
    code, found = plan("--topology", "v5e:16x16", "--rows", "256")
    assert code == 0
    assert found["mesh"]["data"] == 256
    assert {one["group"] for one in found["cost"]["traffic"]} == {256}


def test_all_programs_of_grpo(tmp_path: Path) -> None:
    """Adapters and a reference, int8 caches, a mesh that splits weights; slots are found."""
    code, found = plan(
        "--topology", "v5e:2x2", "--train", "lora", "--beta", "0.1", "--kv", "int8", "--fsdp", "2",
        "--hlo", str(tmp_path / "hlo"), stage="grpo",
    )  # fmt: skip
    programs = {one["name"]: one for one in found["programs"]}
    assert list(programs) == ["prefill", "admit", "decode", "score", "update"]
    assert code == 0
    assert all(one["fits"] and one["seconds"] > 0 for one in programs.values())
    assert {path.stem for path in (tmp_path / "hlo").iterdir()} == set(programs)
    parts = {name: set(one["memory"]["parts"]) for name, one in programs.items()}
    assert {"frozen weights", "trained parameters", "optimizer", "batch"} <= parts["update"]
    assert {"frozen weights", "trained parameters", "batch"} <= parts["score"]
    assert {"sampler's weights", "slots"} <= parts["decode"]
    assert {"sampler's weights", "prompt store"} <= parts["prefill"]
    assert programs["update"]["beside"] > 0  # the reference, and the sampler's copies of the adapter
    sampler = found["sampler"]
    assert sampler["slots"] == 1024  # as many as an engine takes: 256 a chip
    assert sampler["kv"] == "int8"
    assert sampler["ring_bytes"] < sampler["full_bytes"]
    assert sum(programs["update"]["cost"]["kernels"].values()) > sum(programs["score"]["cost"]["kernels"].values()) > 0


def test_a_step_of_the_sampler_costs_what_its_slots_do() -> None:
    """One step is counted, of 64 in a call, and the branch that GRPO's sampling takes."""
    few, many = (plan("--topology", "v5e:1x1", "--slots", n, stage="grpo")[1] for n in ("16", "256"))
    few, many = ({one["name"]: one for one in found["programs"]}["decode"] for found in (few, many))
    assert 0 < few["cost"]["cycles"] < many["cost"]["cycles"] < 16 * few["cost"]["cycles"]
    assert few["cost"]["loops"][0][2] == 1
