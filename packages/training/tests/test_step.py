"""One step: the same update however a batch is split, nothing applied that is not finite, no transfer, one compile."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from coldforge.training import (
    EmptyBatchError,
    OptimizerConfig,
    Sums,
    abstract_state,
    init_state,
    make_eval_step,
    make_optimizer,
    make_schedule,
    make_train_step,
    place_batch,
)

pytestmark = pytest.mark.whole

MESHES = {"data 8": (8, 1, 1), "fsdp 8": (1, 8, 1), "data 2, fsdp 2, tensor 2": (2, 2, 2)}


def run(small, *, mesh=None, accumulation=1, unroll=False, steps=5, loss=None, **options):
    """The metrics of some steps and the last state."""
    step = small.make_step(accumulation=accumulation, unroll=unroll, loss=loss or small.loss_fn)
    state, frozen = small.make_state(mesh, **options), small.placed_frozen(mesh)
    found = []
    for index in range(steps):
        batch = place_batch(small.make_batch(index, accumulation), mesh=mesh)
        state, metrics = step(state, frozen, batch)
        found.append(jax.device_get(metrics))
    assert step.compiles() == 1
    return found, state


def assert_same(found, expected, atol=1e-5):
    for name in expected[0][0]:
        got, want = ([float(m[name]) for m in metrics] for metrics, _ in (found, expected))
        np.testing.assert_allclose(got, want, atol=atol, rtol=atol, err_msg=name)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), found[1].params, expected[1].params)


@pytest.fixture(scope="module")
def expected(small):
    """On one device, all rows at once."""
    return run(small)


def test_one_compile_whatever_was_committed_to_a_device(small):
    """Weights read from files are, new adapters are not: the first step's state has to look like the second's."""
    step, state = small.make_step(), small.make_state()
    frozen = jax.device_put(small.placed_frozen(), jax.devices()[0])
    for index in range(2):
        state, _ = step(state, frozen, place_batch(small.make_batch(index)))
    assert step.compiles() == 1


def test_loss_falls_and_metrics_are_small(expected):
    metrics, state = expected
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    assert int(state.step) == 5
    assert all(np.shape(value) == () for value in metrics[0].values())
    assert set(metrics[0]) == {
        "loss", "weight", "grad_norm", "grad_norm_clipped", "update_norm", "learning_rate", "applied", "tokens",
    }  # fmt: skip


def test_a_step_is_optax_on_the_gradient_of_the_token_mean(small, expected):
    """The definition, in four lines, beside what the step makes of it."""
    params, frozen, batch = small.placed(), small.placed_frozen(), jax.tree.map(lambda x: x[0], small.make_batch(0))

    def mean(params):
        sums = small.loss_fn(params, frozen, batch, None)
        return sums.loss / sums.weight

    loss, gradient = jax.value_and_grad(mean)(params)
    norm = optax.tree.norm(gradient)
    optimizer = make_optimizer(small.CONFIG, small.STEPS)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params, step=0)
    metrics = expected[0][0]
    assert metrics["loss"] == pytest.approx(float(loss), rel=1e-6)
    assert metrics["grad_norm"] == pytest.approx(float(norm), rel=1e-5)
    assert metrics["grad_norm_clipped"] == pytest.approx(min(0.5, float(norm)), rel=1e-5)
    assert metrics["update_norm"] == pytest.approx(float(optax.tree.norm(updates)), rel=1e-5)
    assert metrics["learning_rate"] == pytest.approx(0.05 / 2)
    assert metrics["weight"] == pytest.approx(batch["loss_weights"].sum())


@pytest.mark.parametrize("unroll", [False, True], ids=["scan", "unrolled"])
@pytest.mark.parametrize("accumulation", [4, 8])
def test_accumulation_changes_nothing(small, expected, accumulation, unroll):
    assert_same(run(small, accumulation=accumulation, unroll=unroll), expected)


@pytest.mark.parametrize("sizes", MESHES.values(), ids=MESHES)
def test_meshes_change_nothing(small, expected, sizes):
    mesh = small.make_mesh(*sizes)
    found = run(small, mesh=mesh)
    assert_same(found, expected)
    for name, spec in small.SPECS.items():  # and the state stays where it was
        for array in (found[1].params[name], found[1].opt_state[1].mu[name]):
            assert array.sharding == jax.sharding.NamedSharding(mesh, spec)


def test_accumulation_on_a_mesh(small, expected):
    assert_same(run(small, mesh=small.make_mesh(2, 1, 2), accumulation=4), expected)


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2)], ids=str)
def test_a_split_optimizer_changes_nothing(small, expected, sizes):
    mesh = small.make_mesh(*sizes)
    found = run(small, mesh=mesh, shard_optimizer="data")
    assert_same(found, expected)
    for moment in (found[1].opt_state[1].mu, found[1].opt_state[1].nu):
        assert {len(x.sharding.device_set) // len({s.index for s in x.addressable_shards}) for x in moment.values()}
        shares = [x.addressable_shards[0].data.size / x.size for x in moment.values()]
        assert max(shares) == 1 / sizes[0]
        assert moment["up"].addressable_shards[0].data.size == moment["up"].size // 8


def test_a_split_optimizer_compiles_to_smaller_arguments(small):
    mesh = small.make_mesh(8, 1, 1)
    optimizer, batch = make_optimizer(small.CONFIG, 9), place_batch(small.make_batch(0), mesh=mesh)
    step = small.make_step()

    def size(**options):
        state = abstract_state(small.placed(mesh), optimizer, **options)
        analysis = step.lower(state, small.placed_frozen(mesh), batch).compile().memory_analysis()
        return analysis.argument_size_in_bytes

    moments = 2 * 4 * sum(x.size for x in small.make_params().values())
    assert size() - size(shard_optimizer="data") == moments * 7 // 8


def test_an_axis_that_the_mesh_lacks(small):
    with pytest.raises(ValueError, match="'expert', over which to split"):
        abstract_state(small.placed(small.make_mesh(8)), make_optimizer(small.CONFIG, 9), shard_optimizer="expert")


@pytest.mark.parametrize("accumulation", [1, 4])
def test_no_transfer_in_a_step(small, accumulation):
    step, state, frozen = small.make_step(accumulation=accumulation), small.make_state(), small.placed_frozen()
    batches = [place_batch(small.make_batch(i, accumulation)) for i in range(3)]
    state, _ = step(state, frozen, batches[0])
    with jax.transfer_guard("disallow"):
        for batch in batches[1:]:
            state, metrics = step(state, frozen, batch)
    assert float(metrics["loss"]) > 0
    assert step.compiles() == 1


def test_the_state_is_donated(small):
    state = small.make_state()
    new, _ = small.make_step()(state, small.placed_frozen(), place_batch(small.make_batch(0)))
    assert all(x.is_deleted() for x in jax.tree.leaves((state.params, state.opt_state)))
    assert not any(x.is_deleted() for x in jax.tree.leaves(new))


def frozen_state(state):
    return jax.tree.map(np.asarray, jax.device_get((state.params, state.opt_state)))


@pytest.mark.parametrize("poison", ["loss", "gradient", "weight"])
def test_what_is_not_finite_is_not_applied(small, poison):
    def loss(params, frozen, batch, key):
        sums = small.loss_fn(params, frozen, batch, key)
        bad = jnp.where(batch["tokens"][0, 0] < 0, jnp.inf, 1.0)  # the poisoned batch's mark
        if poison == "loss":
            return sums._replace(loss=sums.loss * bad)
        if poison == "weight":
            return sums._replace(weight=sums.weight * bad)
        # sqrt of 0 has a finite value and an infinite gradient
        return sums._replace(loss=sums.loss + jnp.sqrt(jnp.where(bad > 1, 0.0, 1.0) * params["scale"][0] ** 2))

    step = small.make_step(loss=loss)
    state, frozen = small.make_state(), small.placed_frozen()
    state, _ = step(state, frozen, place_batch(small.make_batch(0)))
    before = frozen_state(state)
    bad = small.make_batch(1)
    bad["tokens"][0, 0, 0] = -1
    state, metrics = step(state, frozen, place_batch(bad))
    assert int(metrics["applied"]) == 0
    assert float(metrics["update_norm"]) == 0
    assert int(state.step) == 2
    jax.tree.map(np.testing.assert_array_equal, frozen_state(state), before)

    state, metrics = step(state, frozen, place_batch(small.make_batch(2)))
    assert int(metrics["applied"]) == 1
    assert np.isfinite(float(metrics["update_norm"]))
    assert metrics["learning_rate"] == make_schedule(small.CONFIG, small.STEPS)(2)  # the schedule counts steps
    assert int(state.opt_state[1].count) == 2  # Adam counts updates
    assert step.compiles() == 1


def test_a_batch_without_weight_is_not_applied_and_flagged(small):
    step, state, frozen = small.make_step(), small.make_state(), small.placed_frozen()
    before = frozen_state(state)
    empty = small.make_batch(0) | {"loss_weights": np.zeros((1, small.ROWS, small.SEQ), np.float32)}
    state, metrics = step(state, frozen, place_batch(empty))
    assert (float(metrics["weight"]), int(metrics["applied"])) == (0, 0)
    assert np.isnan(float(metrics["loss"]))  # there is no mean of nothing
    jax.tree.map(np.testing.assert_array_equal, frozen_state(state), before)


def test_a_batch_without_weight_is_refused_on_the_host(small):
    batch = small.make_batch(0)
    with pytest.raises(EmptyBatchError, match="all 48 loss weights of the batch are 0"):
        place_batch(batch, weights=np.zeros_like(batch["loss_weights"]))
    with pytest.raises(EmptyBatchError, match="finite and not negative, got -1"):
        place_batch(batch, weights=batch["loss_weights"] - 1)
    assert place_batch(batch, weights=batch["loss_weights"])["tokens"].shape == (1, small.ROWS, small.SEQ)


def test_rows_are_split_over_the_axes_that_the_mesh_has(small):
    mesh = jax.make_mesh((4, 2), ("data", "other"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    placed = place_batch(small.make_batch(0), mesh=mesh)
    assert placed["tokens"].addressable_shards[0].data.shape == (1, small.ROWS // 4, small.SEQ)


@pytest.mark.parametrize(("whole", "where"), [(False, " in this process"), (True, "")])
def test_rows_that_the_mesh_does_not_divide(small, whole, where):
    batch, mesh = small.make_batch(0, 2), small.make_mesh(2, 4)
    with pytest.raises(
        ValueError, match=rf"\['loss_weights'\] has shape \(2, 4, 6\), .* rows 8 ways{where} \(data × fsdp\)"
    ):
        place_batch(batch, mesh=mesh, whole=whole)


def test_the_key_changes_with_step_and_micro_batch(small):
    def loss(params, frozen, batch, key):
        return Sums(params["scale"].sum(), jnp.float32(1), {"noise": jax.random.uniform(key)})

    def noise(accumulation, seed=0):
        step, state = small.make_step(accumulation=accumulation, loss=loss), small.make_state(seed=seed)
        found = []
        for index in range(3):
            state, metrics = step(state, (), place_batch(small.make_batch(index, accumulation)))
            found.append(float(metrics["noise"]))
        return found

    assert len(set(noise(1))) == 3
    assert noise(1) == noise(1)
    assert noise(1) != noise(1, seed=1)
    assert noise(2)[0] != pytest.approx(2 * noise(1)[0])


def test_gradients_are_summed_before_they_are_divided(small, expected):
    """Micro-batches of very different weight: a mean of means would count the light one as much."""
    step, frozen = small.make_step(accumulation=2), small.placed_frozen()
    batch = small.make_batch(0, 2)
    batch["loss_weights"][0] *= 1e-3
    whole = jax.tree.map(lambda x: x.reshape(1, small.ROWS, small.SEQ), batch)
    _, split = step(small.make_state(), frozen, place_batch(batch))
    _, together = small.make_step()(small.make_state(), frozen, place_batch(whole))
    for name in ("loss", "grad_norm", "update_norm"):
        assert float(split[name]) == pytest.approx(float(together[name]), rel=1e-5)


def test_any_optimizer_of_optax_will_do(small):
    optimizer = optax.sgd(0.1)
    step = make_train_step(small.loss_fn, optimizer, optax.constant_schedule(0.1), accumulation=1)
    _, metrics = step(init_state(small.placed(), optimizer, 0), small.placed_frozen(), place_batch(small.make_batch(0)))
    assert float(metrics["grad_norm_clipped"]) == float(metrics["grad_norm"])
    assert float(metrics["update_norm"]) == pytest.approx(0.1 * float(metrics["grad_norm"]), rel=1e-5)


def test_evaluation_adds_up(small):
    params, frozen, batch = small.placed(), small.placed_frozen(), small.make_batch(0)
    whole = make_eval_step(small.loss_fn)(params, frozen, batch)
    parts = make_eval_step(small.loss_fn)(params, frozen, small.make_batch(0, 4))
    unrolled = make_eval_step(small.loss_fn, unroll=True)(params, frozen, small.make_batch(0, 4))
    for got in (parts, unrolled):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, whole)
    assert float(whole.loss / whole.weight) == pytest.approx(run(small, steps=1)[0][0]["loss"], rel=1e-5)


def test_bad_arguments_are_named(small):
    with pytest.raises(ValueError, match="accumulation must be at least 1, got 0"):
        small.make_step(accumulation=0)
    with pytest.raises(ValueError, match=r"\['tokens'\] has shape \(4, 2, 6\); with accumulation=2 .* \[2, rows"):
        small.make_step(accumulation=2)(
            small.make_state(), small.placed_frozen(), {"tokens": small.make_batch(0, 4)["tokens"]}
        )

    def loss(params, frozen, batch, key):
        return small.loss_fn(params, frozen, batch, key)._replace(aux={"loss": jnp.float32(0)})

    with pytest.raises(ValueError, match=r"names of the step's own metrics: \['loss'\]"):
        small.make_step(loss=loss)(small.make_state(), small.placed_frozen(), place_batch(small.make_batch(0)))


def test_parameters_in_bfloat16_are_refused(small):
    params = small.placed() | {"up": small.placed()["up"].astype(jnp.bfloat16)}
    with pytest.raises(TypeError, match=r"\['up'\] is bfloat16, .* must be float32"):
        init_state(params, make_optimizer(OptimizerConfig(), 10), 0)


def test_an_abstract_state_compiles_the_same_step(small):
    """As the planner does: shapes and shardings only."""
    mesh = small.make_mesh(2, 2, 2)
    params = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=jax.sharding.NamedSharding(mesh, small.SPECS[name]))
        for name, x in small.make_params().items()
    }
    optimizer = make_optimizer(small.CONFIG, small.STEPS)
    abstract, real = abstract_state(params, optimizer), small.make_state(mesh)
    jax.tree.map(lambda a, b: np.testing.assert_equal((a.shape, a.dtype, a.sharding), (b.shape, b.dtype, b.sharding)),
                 abstract, real)  # fmt: skip
    batch, frozen = place_batch(small.make_batch(0), mesh=mesh), small.placed_frozen(mesh)
    texts = {small.make_step().lower(state, frozen, batch).compile().as_text() for state in (abstract, real)}
    assert len(texts) == 1


def test_empty_micro_batches_are_skipped_and_change_nothing():
    """The same rows with and without micro-batches of nothing beside them: same update, same sums, same maxima."""

    def loss(params, frozen, batch, key):
        total = jnp.sum(batch["x"] * params["scale"]) ** 2
        return Sums(total, batch["weight"].sum(), {"count": jnp.sum(batch["x"] > 0)}, {"largest": batch["x"].max()})

    def empty(batch):
        return ~jnp.any(batch["weight"] > 0)

    options = OptimizerConfig(learning_rate=0.1)
    optimizer, schedule = make_optimizer(options, 10), make_schedule(options, 10)
    full = {"x": jnp.arange(1.0, 9.0).reshape(2, 4), "weight": jnp.ones((2, 4))}
    padded = jax.tree.map(lambda x: jnp.concatenate([x[:1], 0 * x[:1], x[1:], 0 * x[:1]]), full)
    outcomes = []
    for batch, skip in ((full, None), (padded, empty)):
        step = make_train_step(loss, optimizer, schedule, accumulation=len(batch["x"]), empty=skip)
        state = init_state({"scale": jnp.ones(4)}, optimizer, 0)
        outcomes.append(jax.device_get(step(state, None, batch)))
    jax.tree.map(np.testing.assert_array_equal, *outcomes)
    assert outcomes[0][1]["largest"] == 8
    assert outcomes[0][1]["count"] == 8
    nothing = jax.tree.map(jnp.zeros_like, padded)
    _, metrics = step(init_state({"scale": jnp.ones(4)}, optimizer, 0), None, nothing)
    assert metrics["applied"] == 0
    assert metrics["largest"] == -np.inf
    sums = make_eval_step(loss, empty=empty)({"scale": jnp.ones(4)}, None, padded)
    assert (sums.weight, sums.maxima["largest"]) == (8, 8)


def test_sums_add_up_and_maxima_are_compared():
    one, two = (Sums(jnp.float32(x), jnp.float32(x), {"n": jnp.float32(x)}, {"m": jnp.float32(-x)}) for x in (1, 2))
    total = one + two
    assert (total.loss, total.weight, total.aux["n"], total.maxima["m"]) == (3, 3, 3, -1)
