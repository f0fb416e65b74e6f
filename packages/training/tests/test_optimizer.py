"""The schedule's numbers, and that the optimizer is clipping, Adam and decay of matrices, against optax's own parts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from coldforge.training import OptimizerConfig, make_optimizer, make_schedule


def rates(steps, **options):
    schedule = make_schedule(OptimizerConfig(**options), steps)
    return np.array([schedule(step) for step in range(steps + 1)])


def test_defaults_are_the_guides():
    config = OptimizerConfig()
    assert (config.learning_rate, config.warmup, config.final_fraction) == (2e-4, 0.1, 0.0)
    assert (config.weight_decay, config.max_grad_norm) == (0.1, 0.1)


def test_schedule():
    found = rates(500)
    np.testing.assert_allclose(found[:51] / 2e-4, [*(np.arange(1, 51) / 50), 1], rtol=1e-6)
    assert (np.diff(found[50:]) < 0).all()
    assert found[275] == pytest.approx(1e-4, rel=1e-5)  # half way down
    assert 0 < found[499] < 1e-8
    assert found[500] == 0


def test_final_fraction():
    found = rates(100, learning_rate=1.0, final_fraction=0.1)
    assert found[100] == pytest.approx(0.1)
    assert found[55] == pytest.approx(0.55, abs=1e-6)


def test_after_the_end_the_rate_stays():
    schedule = make_schedule(OptimizerConfig(final_fraction=0.1, learning_rate=1.0), 10)
    assert schedule(25) == pytest.approx(0.1)


@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_only_one_half_of_the_schedule(warmup):
    found = rates(10, learning_rate=1.0, warmup=warmup)
    assert found[0] == pytest.approx(0.1 if warmup else 1.0)
    assert np.isfinite(found).all()


def test_one_step():
    assert rates(1)[0] == pytest.approx(2e-4)


@pytest.mark.parametrize("max_grad_norm", [0.1, 100.0, None])
def test_is_adamw_with_decay_of_matrices(max_grad_norm):
    rng = np.random.default_rng(0)
    params = {"norm": jnp.asarray(rng.normal(size=5)), "lora_a": jnp.asarray(rng.normal(size=(5, 2))),
              "stacked": jnp.asarray(rng.normal(size=(2, 3, 4)))}  # fmt: skip
    config = OptimizerConfig(max_grad_norm=max_grad_norm, learning_rate=0.01)
    ours, schedule = make_optimizer(config, 10), make_schedule(config, 10)
    theirs = optax.chain(
        optax.identity() if max_grad_norm is None else optax.clip_by_global_norm(max_grad_norm),
        optax.adamw(schedule, b2=0.999, weight_decay=0.1, mask={"norm": False, "lora_a": True, "stacked": True}),
    )
    mine, state, other, other_state = params, ours.init(params), params, theirs.init(params)
    for step in range(5):
        gradients = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
        updates, state = ours.update(gradients, state, mine, step=jnp.asarray(step))
        mine = optax.apply_updates(mine, updates)
        updates, other_state = theirs.update(gradients, other_state, other)
        other = optax.apply_updates(other, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), mine, other)


def test_moments_are_float32():
    state = make_optimizer(OptimizerConfig(), 10).init({"w": jnp.zeros((3, 3))})
    assert {x.dtype.name for x in jax.tree.leaves(state)} == {"float32", "int32"}


def test_decay_can_be_chosen():
    params = {"w": jnp.ones((2, 2)), "keep": jnp.ones((2, 2))}
    optimizer = make_optimizer(
        OptimizerConfig(learning_rate=1.0, warmup=0.0), 10, decay=lambda p: {"w": True, "keep": False}
    )
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params, step=0)
    assert (updates["w"] == jnp.float32(-0.1)).all()
    assert (updates["keep"] == 0).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [("learning_rate", -1.0), ("warmup", 1.5), ("final_fraction", -0.1), ("weight_decay", -1.0), ("max_grad_norm", 0.0),
     ("b1", 1.1), ("b2", float("nan")), ("eps", -1.0)],
)  # fmt: skip
def test_options_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=rf"{name} must be .*, got {value}"):
        OptimizerConfig(**{name: value})


def test_no_steps():
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        make_schedule(OptimizerConfig(), 0)
