"""What stays on a chip between the programs of GRPO, and what a plan makes of it."""

import dataclasses
import json
import math
from collections.abc import Callable

import jax
import pytest

from coldforge.apps.grpo.build import Built, build
from coldforge.apps.grpo.config import GrpoRunConfig
from coldforge.apps.grpo.presets import PRESETS
from coldforge.apps.plan.grpo import resident_bytes, shard_bytes
from coldforge.apps.plan.plan_grpo import GrpoPlan, ProgramPlan
from coldforge.stages.model import abstract_model

pytestmark = pytest.mark.whole

GIB = 2**30


def made(**changes) -> Built:
    config: GrpoRunConfig = PRESETS["tiny"]()
    parts = {name: dataclasses.replace(getattr(config, name), **fields) for name, fields in changes.items()}
    config = dataclasses.replace(config, **parts)
    return build(abstract_model(config.model, config.lora, None), config, mesh=None)


def whole_bytes(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def test_adapters_stay_five_times_and_the_base_once() -> None:
    built = made(model={"train": "lora"}, policy={"beta": 0.1})
    found, adapter = resident_bytes(built), whole_bytes(built.params)
    assert found["frozen weights"] == whole_bytes(built.frozen)
    assert found["trained parameters"] == found["reference"] == adapter
    assert found["optimizer"] == pytest.approx(2 * adapter, rel=0.01)  # two moments, and a count
    assert found["sampler's own"] == 2 * adapter  # an engine for rollouts, one for held-out questions


def test_no_reference_without_a_kl() -> None:
    assert resident_bytes(made(model={"train": "lora"}))["reference"] == 0


def test_where_all_is_trained_samplers_have_weights_of_their_own() -> None:
    built = made()
    found = resident_bytes(built)
    assert found["frozen weights"] == 0
    assert found["sampler's own"] == 2 * whole_bytes(built.params)


def test_an_int8_sampler_shares_what_is_not_quantised() -> None:
    built = made(model={"train": "lora"}, rollout={"weights": "int8"})
    found, adapter = resident_bytes(built), whole_bytes(built.params)
    own = found["sampler's own"] / 2 - adapter
    embedding = built.model.embedder.input_embedding.get_value()
    projections = found["frozen weights"] - embedding.size * embedding.dtype.itemsize
    assert projections / 8 < own < projections / 2  # a byte for each number of 4, and scales


def test_a_device_has_its_share() -> None:
    devices = jax.sharding.AbstractMesh((4, 2), ("data", "fsdp"))
    split = jax.sharding.NamedSharding(devices, jax.sharding.PartitionSpec(None, "fsdp"))
    assert shard_bytes([jax.ShapeDtypeStruct((6, 8), "float32", sharding=split)]) == 6 * 4 * 4
    assert shard_bytes([jax.ShapeDtypeStruct((6, 8), "bfloat16")]) == 6 * 8 * 2


def test_what_is_beside_a_program_has_to_fit_with_it(make_grpo_plan, make_program) -> None:
    plan: GrpoPlan = make_grpo_plan()
    assert plan.fits
    program: ProgramPlan = make_program(beside=13 * GIB)
    assert program.memory.total < 15.75 * GIB < program.total
    assert not make_grpo_plan(programs=[program]).fits
    assert not make_grpo_plan(sampler=None).fits


def test_json(make_grpo_plan: Callable[..., GrpoPlan], make_program) -> None:
    refused = make_program("update", memory=None, cost=None)
    data = json.loads(json.dumps(make_grpo_plan(programs=[make_program(), refused]).to_dict()))
    assert data["stage"] == "grpo"
    assert [one["fits"] for one in data["programs"]] == [True, False]
    assert data["programs"][0]["seconds"] > 0
    assert data["programs"][1]["seconds"] is None
    assert data["options"]["rollout"]["group_size"] == 16
    assert math.prod(data["shape"]) == 64 * 8 * 32768
