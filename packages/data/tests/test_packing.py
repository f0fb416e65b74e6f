"""Plans of rows: every example once, room enough, the same on every machine, and little padding."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coldforge.data.packing import Plan, plan_rows, shuffled

CAPACITY = 20
lengths = st.lists(st.integers(1, CAPACITY), min_size=1, max_size=60).map(lambda x: np.array(x, np.int32))
seeds = st.none() | st.integers(0, 5)


def rows(plan: Plan) -> list[list[int]]:
    return [plan[i].tolist() for i in range(len(plan))]


@given(lengths, seeds, st.integers(0, 3), st.booleans(), st.integers(0, 9))
def test_each_example_is_in_one_row_that_has_room(
    lengths: np.ndarray, seed: int | None, epoch: int, pack: bool, window: int
) -> None:
    plan = plan_rows(lengths, CAPACITY, seed=seed, epoch=epoch, pack=pack, window=window)
    assert sorted(itertools.chain(*rows(plan))) == list(range(len(lengths)))
    fills = [lengths[row].sum() for row in rows(plan)]
    assert 1 <= min(fills) <= max(fills) <= CAPACITY
    assert plan.tokens == lengths.sum()
    assert plan.padding_share == pytest.approx(1 - lengths.sum() / (len(plan) * CAPACITY))


@given(lengths, seeds)
def test_best_fit_leaves_no_two_rows_that_would_fit_in_one(lengths: np.ndarray, seed: int | None) -> None:
    fills = sorted(lengths[row].sum() for row in rows(plan_rows(lengths, CAPACITY, seed=seed)))
    assert len(fills) == 1 or fills[0] + fills[1] > CAPACITY


@given(lengths)
def test_in_order_when_there_is_no_seed(lengths: np.ndarray) -> None:
    packed = rows(plan_rows(lengths, CAPACITY))
    assert all(row == sorted(row) for row in packed)
    firsts = [row[0] for row in packed]
    assert firsts == sorted(firsts)
    assert rows(plan_rows(lengths, CAPACITY, pack=False)) == [[i] for i in range(len(lengths))]


def test_order_is_one_of_seed_and_epoch_and_changes_with_either() -> None:
    lengths = np.random.default_rng(0).integers(1, CAPACITY, 500)
    seen = {(seed, epoch): plan_rows(lengths, CAPACITY, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1)}
    assert len({plan.fingerprint for plan in seen.values()}) == 4
    assert plan_rows(lengths, CAPACITY, seed=1, epoch=1).fingerprint == seen[1, 1].fingerprint
    neighbours = [{i: set(row) for row in rows(plan) for i in row} for plan in seen.values()]
    assert sum(neighbours[0][i] == neighbours[1][i] for i in range(500)) < 100  # other company in another epoch


def test_the_order_is_fixed_for_ever() -> None:
    """A checkpoint's place in the data must mean the same after an update of numpy or of this package."""
    assert shuffled(8, 3, 1, 0).tolist() == [0, 6, 2, 1, 3, 7, 4, 5]
    lengths = np.arange(1, 200) % CAPACITY + 1
    assert plan_rows(lengths, CAPACITY, seed=7, epoch=2).fingerprint == "4e9466ec"


@pytest.mark.parametrize(("p50", "sigma", "capacity"), [(300, 0.3, 1024), (4000, 0.8, 4096), (4000, 0.8, 32768)])
def test_padding_is_less_than_of_first_fit_and_much_less_than_of_a_row_each(
    p50: int, sigma: float, capacity: int
) -> None:
    drawn = np.random.default_rng(0).lognormal(np.log(p50), sigma, 6000)
    lengths = drawn[drawn <= capacity].astype(np.int32)
    best, alone = plan_rows(lengths, capacity, seed=0), plan_rows(lengths, capacity, seed=0, pack=False)
    first = 1 - lengths.sum() / (first_fit(lengths, capacity) * capacity)
    assert best.padding_share < first < alone.padding_share / 3
    assert best.padding_share < 0.06


def first_fit(lengths: np.ndarray, capacity: int) -> int:
    room = np.full(len(lengths), capacity)
    for length in lengths.tolist():
        room[np.argmax(room >= length)] -= length
    return int((room < capacity).sum())


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"example 2 has 30 tokens, and rows have room for 20 \(2 of 4 examples are too"
    ):
        plan_rows(np.array([3, 21, 30, 4]), 20)
    with pytest.raises(ValueError, match="example 1 has 0 tokens"):
        plan_rows(np.array([3, 0]), 20)
    with pytest.raises(ValueError, match="there are no examples"):
        plan_rows(np.array([], np.int32), 20)
    with pytest.raises(IndexError, match="1 rows; 1 is none"):
        plan_rows(np.array([3]), 20)[1]
