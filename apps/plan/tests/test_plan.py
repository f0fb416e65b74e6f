"""A plan is plain data, and its sums are what a person expects."""

import json
from collections.abc import Callable

import pytest

from coldforge.apps.plan.plan import Plan

MakePlan = Callable[..., Plan]


def test_json_and_back(make_plan: MakePlan) -> None:
    plan = make_plan()
    data = json.loads(json.dumps(plan.to_dict()))
    assert data["fits"] is True
    assert data["seconds"] == pytest.approx(plan.seconds)
    assert json.dumps(Plan.from_dict(data).to_dict()) == json.dumps(data)


def test_time_is_the_estimate_and_the_least_of_what_it_leaves_out(make_plan: MakePlan) -> None:
    plan = make_plan()
    cost, parts = plan.cost, plan.estimated
    assert parts["xla"] == pytest.approx(cost.cycles / 1.503e9, rel=1e-3)
    assert parts["kernels"] == cost.kernel_flops / 197e12 > 0
    assert parts["collectives"] == pytest.approx(cost.sent() / 100e9)  # none runs beside other work
    assert plan.seconds == sum(parts.values())


def test_fits_counts_the_program_too(make_plan: MakePlan) -> None:
    assert make_plan(temporaries=int(15.4 * 2**30)).fits
    assert not make_plan(temporaries=int(15.6 * 2**30)).fits  # 0.25 GiB of program


def test_fewer_counted_tokens_cost_less(make_plan: MakePlan) -> None:
    assert make_plan(counted=0.5).cost.cycles < make_plan().cost.cycles
