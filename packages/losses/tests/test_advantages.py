"""Advantages against loops in float64 over groups of different sizes; no variance, one sample, bad input."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coldforge.losses import advantages

pytestmark = pytest.mark.whole

SIZES = [4, 1, 3, 5, 2]
MASK = np.arange(5) < np.array(SIZES)[:, None]
REWARDS = np.where(MASK, np.random.default_rng(0).integers(0, 5, MASK.shape) / 4, np.nan)
REWARDS[2, :3] = 0.7  # a group without variance


def in_loops(formula):
    """`formula` of each group's existing rewards, 0 elsewhere."""
    result = np.zeros(MASK.shape)
    for group, size in enumerate(SIZES):
        rewards = REWARDS[group, :size]
        if size > 1 and len(set(rewards)) > 1:
            result[group, :size] = formula(rewards)
    return result


FORMULAS = {
    "grpo": lambda r: (r - r.mean()) / (r.std(ddof=1) + 1e-4),
    "dr_grpo": lambda r: r - r.mean(),
    "maxrl": lambda r: r / r.mean() - 1,
    "rloo": lambda r: np.array([r[i] - np.delete(r, i).mean() for i in range(len(r))]),
    "batch_scaled": lambda r: (r - r.mean()) / (REWARDS[MASK].std(ddof=1) + 1e-4),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", advantages.BY_NAME)
def test_each_is_its_formula(name):
    np.testing.assert_allclose(advantages.BY_NAME[name](REWARDS, MASK), in_loops(FORMULAS[name]), atol=1e-14)


@pytest.mark.parametrize("name", advantages.BY_NAME)
def test_numpy_lists_jax_and_jit_give_the_same(name):
    function = advantages.BY_NAME[name]
    whole = np.where(MASK, REWARDS, 0.25).astype(np.float32)
    expected = function(whole)
    for found in (function(whole.tolist()), function(jnp.asarray(whole)), jax.jit(function)(whole)):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert expected.dtype == jnp.float32


@pytest.mark.parametrize("name", advantages.BY_NAME)
def test_what_is_masked_does_not_exist(name):
    function = advantages.BY_NAME[name]
    padded = np.pad(REWARDS[[0, 2]], ((0, 0), (0, 2)), constant_values=np.nan)
    mask = np.pad(MASK[[0, 2]], ((0, 0), (0, 2)))
    np.testing.assert_allclose(function(padded, mask)[:, :5], function(REWARDS[[0, 2]], MASK[[0, 2]]), atol=1e-6)


@pytest.mark.parametrize("name", advantages.BY_NAME)
def test_no_variance_is_exactly_zero(name):
    """A mean of 13 times 0.1 is not 0.1 in float32, and 1e-8 over 1e-4 would be a signal."""
    for value in (0.0, 0.1, 1.0):
        np.testing.assert_array_equal(advantages.BY_NAME[name](np.full((3, 13), value)), 0)


def test_signal_is_found_by_equality():
    found = advantages.has_signal(REWARDS, MASK)
    np.testing.assert_array_equal(found, [True, False, False, True, True])
    np.testing.assert_array_equal(advantages.has_signal([[0.1] * 13, [0.1] * 12 + [0.1001]]), [False, True])
    np.testing.assert_array_equal(advantages.has_signal([[0.1] * 12 + [0.1001]], tolerance=0.01), [False])
    np.testing.assert_array_equal(advantages.has_signal([[1.0, 0.0]], [[False, False]]), [False])


def test_two_samples_can_only_be_better_or_worse():
    np.testing.assert_allclose(advantages.grpo([[1.0, 0.2], [0.0, 3.0]]), [[0.707, -0.707], [-0.707, 0.707]], atol=1e-3)


def test_population_deviation():
    found = advantages.grpo([[1.0, 0.0, 0.0, 1.0]], epsilon=0.0, ddof=0)
    np.testing.assert_allclose(found, [[1, -1, -1, 1]], atol=1e-6)


def test_rloo_is_scaled_dr_grpo_and_maxrl_is_dr_grpo_over_the_mean():
    centred = advantages.dr_grpo(REWARDS[:1, :4])
    np.testing.assert_allclose(advantages.rloo(REWARDS[:1, :4]), centred * 4 / 3, atol=1e-6)
    np.testing.assert_allclose(advantages.maxrl(REWARDS[:1, :4]), centred / REWARDS[0, :4].mean(), atol=1e-6)


def test_maxrl_of_right_and_wrong():
    """N/K − 1 for the solved, −1 for the others; no signal where nothing is solved."""
    np.testing.assert_allclose(advantages.maxrl([[1, 0, 0, 0], [0, 0, 0, 0]]), [[3, -1, -1, -1], [0, 0, 0, 0]])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("batch", [False, True])
def test_gdpo_normalises_each_reward(batch):
    rng = np.random.default_rng(1)
    rewards = np.where(MASK, rng.normal(size=(3, *MASK.shape)), np.nan)
    rewards[1] *= 100
    weights = [1.0, 0.5, 2.0]
    expected = np.zeros(MASK.shape)
    for part, weight in zip(rewards, weights, strict=True):
        for group, size in enumerate(SIZES):
            r = part[group, :size]
            if size > 1:
                expected[group, :size] += weight * (r - r.mean()) / (r.std(ddof=1) + 1e-4)
    if batch:
        every = expected[MASK]
        expected = np.where(MASK, (expected - every.mean()) / (every.std(ddof=1) + 1e-4), 0)
    np.testing.assert_allclose(advantages.gdpo(rewards, weights, MASK, batch=batch), expected, atol=1e-12)


def test_gdpo_tells_apart_what_a_sum_does_not():
    parts = np.array([[[1.0, 0.0, 0.0]], [[0.0, 10.0, 0.0]]])
    apart = advantages.gdpo(parts, batch=False)
    assert abs(apart[0, 0] - apart[0, 1]) < 1e-3  # each best at one of two equal rewards
    summed = advantages.grpo(parts.sum(0))
    assert summed[0, 0] < 0 < summed[0, 1]


@pytest.mark.usefixtures("float64")
def test_process_supervision_is_deepseekmaths():
    rng = np.random.default_rng(2)
    steps = [[3, 1, 2], [2, 2, 1]]
    mask = np.arange(3) < np.array(steps)[..., None]
    rewards = np.where(mask, rng.normal(size=mask.shape), np.nan)
    expected = np.zeros(mask.shape)
    for group in range(2):
        every = np.concatenate([rewards[group, i, :n] for i, n in enumerate(steps[group])])
        for i, n in enumerate(steps[group]):
            each = (rewards[group, i, :n] - every.mean()) / (every.std(ddof=1) + 1e-4)
            expected[group, i, :n] = [each[j:].sum() for j in range(n)]
    found = advantages.process(rewards, mask)
    np.testing.assert_allclose(found, expected, atol=1e-13)
    step_of_token = np.array([0, 0, 1, 2, 2])  # of one sample; this is how tokens get theirs
    np.testing.assert_allclose(found[0, 0][step_of_token], expected[0, 0, [0, 0, 1, 2, 2]])


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("name", advantages.BY_NAME)
def test_rewards_that_are_no_numbers_are_named(name, wrong):
    with pytest.raises(ValueError, match=r"finite.* got (nan|inf) for sample 2, group 1"):
        advantages.BY_NAME[name]([[1.0, 0.0, 0.5], [0.0, 0.5, wrong]])


def test_maxrl_refuses_negative_rewards():
    with pytest.raises(ValueError, match=r"not negative, got -0.5 for sample 1, group 0"):
        advantages.maxrl([[1.0, -0.5]])


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"\(1, 2\) and \(1, 3\)"):
        advantages.grpo([[1.0, 0.0]], [[True, True, True]])
    with pytest.raises(ValueError, match=r"\[rewards, groups, samples\], got \(1, 2\)"):
        inspect.unwrap(advantages.gdpo)(np.ones((1, 2)))
    with pytest.raises(ValueError, match="one weight per reward"):
        advantages.gdpo(np.ones((3, 1, 2)), [1.0])
