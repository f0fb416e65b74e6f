"""Means: what is masked does not exist, parts add up to the whole, gradients stay finite."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coldforge.losses import WeightedSum, masked_mean, segment_sums, token_mean, weighted_sum

VALUES = np.random.default_rng(1).normal(size=(6, 9)).astype(np.float32)
MASK = np.arange(9) < np.array([0, 1, 4, 9, 2, 6])[:, None]
WEIGHTS = np.where(MASK, np.random.default_rng(2).uniform(0.5, 2, MASK.shape), 0).astype(np.float32)


def test_masked_mean_is_the_mean_of_the_subset():
    assert masked_mean(jnp.asarray(VALUES), jnp.asarray(MASK)) == pytest.approx(VALUES[MASK].mean(), abs=1e-6)


@pytest.mark.parametrize("axis", [0, 1, -1, (0, 1)])
def test_masked_mean_over_an_axis_is_numpys(axis):
    expected = np.ma.masked_array(VALUES, ~MASK).mean(axis).filled(0) if axis != (0, 1) else VALUES[MASK].mean()
    np.testing.assert_allclose(masked_mean(jnp.asarray(VALUES), jnp.asarray(MASK), axis), expected, atol=1e-6)


def test_token_mean_is_the_weighted_average():
    expected = np.average(VALUES.astype(np.float64), weights=WEIGHTS)
    assert token_mean(jnp.asarray(VALUES), jnp.asarray(WEIGHTS)) == pytest.approx(expected, abs=1e-6)


def test_weights_broadcast_and_count_for_every_value():
    per_row = np.array([[1.0], [0.0], [2.0], [0.0], [0.0], [1.0]], np.float32)
    total, weight = weighted_sum(jnp.asarray(VALUES), jnp.asarray(per_row))
    assert weight == 36
    assert total == pytest.approx((VALUES * per_row).sum(), abs=1e-5)


@pytest.mark.parametrize("parts", [1, 2, 3, 6])
def test_parts_add_up_to_the_whole_where_means_of_means_do_not(parts):
    pieces = zip(np.split(VALUES, parts), np.split(WEIGHTS, parts), strict=True)
    sums = [weighted_sum(jnp.asarray(v), jnp.asarray(w)) for v, w in pieces]
    together = sum(sums[1:], sums[0]).mean()
    assert together == pytest.approx(float(token_mean(jnp.asarray(VALUES), jnp.asarray(WEIGHTS))), abs=1e-6)
    if parts > 1:
        assert abs(np.mean([part.mean() for part in sums]) - together) > 1e-2


def test_adding_anything_else_is_refused():
    with pytest.raises(TypeError):
        operator.add(WeightedSum(1.0, 1.0), (1.0, 1.0))


def test_nothing_counted_is_zero_with_zero_gradient():
    nothing = jnp.zeros_like(VALUES)
    value, gradient = jax.value_and_grad(token_mean)(jnp.asarray(VALUES), nothing)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf])
def test_masked_junk_reaches_neither_value_nor_gradient(junk):
    def loss(values):
        return token_mean(values**2, jnp.asarray(WEIGHTS))

    dirty = jnp.asarray(np.where(WEIGHTS > 0, VALUES, junk))
    clean = jnp.asarray(np.where(WEIGHTS > 0, VALUES, 0))
    assert loss(dirty) == loss(clean)
    # d(values²) is computed outside: 0 · inf of the chain rule is the caller's, so look at the mean's own gradient.
    np.testing.assert_array_equal(
        jax.grad(token_mean)(dirty, jnp.asarray(WEIGHTS)), jax.grad(token_mean)(clean, jnp.asarray(WEIGHTS))
    )


def test_low_precision_is_summed_in_float32():
    ones = jnp.ones(4096, jnp.bfloat16)  # a bfloat16 sum stops growing at 256
    total, weight = weighted_sum(ones, ones)
    assert (total, weight) == (4096, 4096)
    assert total.dtype == weight.dtype == jnp.float32


def test_segments_are_the_means_of_their_subsets():
    labels = np.random.default_rng(3).integers(-1, 3, VALUES.shape)
    sums = segment_sums(jnp.asarray(VALUES), jnp.asarray(WEIGHTS), jnp.asarray(labels), 3)
    for k in range(3):
        inside = labels == k
        assert sums.mean()[k] == pytest.approx(np.average(VALUES[inside], weights=WEIGHTS[inside]), abs=1e-6)
    assert sums.weight.sum() == pytest.approx(WEIGHTS[labels >= 0].sum())


def test_segments_need_a_number():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        segment_sums(jnp.ones(2), jnp.ones(2), jnp.zeros(2, int), 0)


def test_sums_pass_through_scan_vmap_and_psum():
    values, weights = jnp.asarray(VALUES), jnp.asarray(WEIGHTS)
    whole = weighted_sum(values, weights)

    def add(carry, row):
        return carry + weighted_sum(*row), None

    scanned, _ = jax.lax.scan(add, WeightedSum(jnp.zeros(()), jnp.zeros(())), (values, weights))
    reduced = jax.vmap(lambda v, w: jax.lax.psum(weighted_sum(v, w), "rows"), axis_name="rows")(values, weights)
    for result in (scanned, jax.tree.map(lambda x: x[0], reduced)):
        assert isinstance(result, WeightedSum)
        np.testing.assert_allclose(result, whole, rtol=1e-5)
