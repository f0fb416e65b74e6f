"""Which candidates there are, in which order, and which need no compile."""

import dataclasses
from collections.abc import Callable

import pytest

from coldforge.apps.plan.candidates import REMATS, Candidate, Search, candidates, flags, weights_bytes
from coldforge.apps.plan.plan import Failure, Outcome, Plan
from coldforge.apps.sft.presets import PRESETS

CONFIG = PRESETS["gemma3-1b"]()  # 8 rows × 1
GIB = 2**30


def test_candidates_keep_the_rows_of_a_step() -> None:
    found = candidates(CONFIG, devices=8, heads=4)
    assert {c.rows * c.accumulation for c in found} == {8}
    assert {(c.data, c.fsdp, c.tensor) for c in found if c.rows == 8} == {
        (8, 1, 1), (4, 2, 1), (2, 4, 1), (1, 8, 1), (4, 1, 2), (2, 2, 2), (1, 4, 2), (2, 1, 4), (1, 2, 4),
    }  # fmt: skip
    assert all(c.rows % (c.data * c.fsdp) == 0 for c in found)
    assert found[:3] == [Candidate(1, 1, 1, r, 8, 8) for r in range(3)]  # replicated weights first, least recomputation


def test_a_candidate_is_a_configuration() -> None:
    config = Candidate(tensor=2, fsdp=2, accumulation=2, remat=2, data=2, rows=4).apply(CONFIG)
    assert (config.mesh.data, config.mesh.fsdp, config.mesh.tensor) == (2, 2, 2)
    assert (config.batches.rows, config.batches.accumulation, config.model.remat) == (4, 2, "full")
    assert config.optimizer == CONFIG.optimizer


def test_flags_say_what_differs_from_the_preset() -> None:
    config = Candidate(tensor=2, fsdp=2, accumulation=2, remat=2, data=2, rows=4).apply(CONFIG)
    config = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, shard_optimizer=True))
    assert flags(config, CONFIG) == [
        "--model.remat", "full", "--batches.rows", "4", "--batches.accumulation", "2",
        "--mesh.data", "2", "--mesh.fsdp", "2", "--mesh.tensor", "2", "--mesh.shard-optimizer",
    ]  # fmt: skip
    assert flags(CONFIG, config)[-1] == "--mesh.no-shard-optimizer"
    assert flags(CONFIG, CONFIG) == []


def test_bytes_of_weights() -> None:
    lora = dataclasses.replace(CONFIG, lora=dataclasses.replace(CONFIG.lora, quantize="int8"))
    full = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, train="full"))
    assert weights_bytes(CONFIG, 1000, 300) == 2000
    assert weights_bytes(lora, 1000, 300) == 600 + 700
    assert weights_bytes(full, 1000, 300) == 12000


@pytest.fixture
def compiler(make_plan: Callable[..., Plan]) -> Callable[[Callable[[Candidate], float]], tuple[list, Callable]]:
    """A compiler that finds that a candidate takes as many GiB as a function says; and what it was asked."""

    def make(gib: Callable[[Candidate], float]):
        asked: list[Candidate] = []

        def compile_(candidate: Candidate) -> Outcome:
            asked.append(candidate)
            plan = make_plan(temporaries=int(gib(candidate) * GIB))
            slower = 1 + candidate.remat + 10 * candidate.fsdp
            cost = dataclasses.replace(plan.cost, cycles=plan.cost.cycles * slower)
            return dataclasses.replace(plan, cost=cost)

        return asked, compile_

    return make


def test_what_follows_is_not_compiled(compiler) -> None:
    order = [c for c in candidates(CONFIG, devices=8, heads=4) if c.tensor == 1 and c.rows == 8]
    asked, compile_ = compiler(lambda c: (20, 14, 6)[c.remat] / c.fsdp)
    search = Search(CONFIG, int(15.75 * GIB), 2 * GIB, compile_)
    seen = [candidate for candidate, _ in search.run(order)]
    assert seen == asked
    # Replicated: refused without recomputation, fits with some: the most is not tried. Split: the least fits at once.
    assert [(c.fsdp, REMATS[c.remat]) for c in asked] == [
        (1, "none"), (1, "block"), (2, "none"), (4, "none"), (8, "none"),
    ]  # fmt: skip
    candidate, plan = search.best
    assert (candidate.fsdp, REMATS[candidate.remat]) == (1, "block")
    assert plan.fits
    assert len(search.implied) == len(order) - len(asked)


def test_more_rows_than_refused_and_weights_too_large(compiler) -> None:
    config = dataclasses.replace(CONFIG, batches=dataclasses.replace(CONFIG.batches, rows=32))
    asked, compile_ = compiler(lambda c: 40)
    search = Search(config, int(15.75 * GIB), 40 * GIB, compile_)
    order = candidates(config, devices=8, heads=4)
    list(search.run(order))
    assert search.best is None
    assert {c.fsdp * c.tensor for c in asked} == {4, 8}
    assert "weights alone take 40.0 GiB" in search.implied.values()
    few_first = [Candidate(1, 8, 4, 2, 1, 8), Candidate(1, 8, 2, 2, 1, 16), Candidate(1, 8, 4, 0, 1, 8)]
    asked.clear()
    search = Search(config, int(15.75 * GIB), 40 * GIB, compile_)
    list(search.run(few_first))
    assert asked == few_first[:1]
    assert set(search.implied.values()) == {"takes more than what was refused"}


def test_failures_imply_nothing_and_what_is_left_waits() -> None:
    order = [c for c in candidates(CONFIG, devices=8, heads=4) if c.tensor == 1 and c.fsdp == 1]
    search = Search(CONFIG, 16 * GIB, 2 * GIB, lambda c: Failure("stopped") if c.remat == 0 else None)
    assert [c.remat for c, _ in search.run(order)] == [0]
    assert [c.remat for c in search.waiting] == [1, 2]
    assert search.best is None
