"""LoRA and QLoRA: what an adapter computes, what it shares with its base, what is trained, and what is refused."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import qwix
from flax import nnx

from coldforge.modeling import (
    Gemma3,
    LoraConfig,
    abstract_model,
    add_lora,
    gemma3_1b,
    gemma3_4b,
    gemma3_270m,
    init_cache,
    lora_state,
    quantized,
    set_lora,
)
from coldforge.modeling.lora import TARGETS

pytestmark = pytest.mark.whole

TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 64, (2, 24)), jnp.int32)
QUANTIZE = [None, "int8", "nf4"]


@pytest.fixture(scope="module")
def model(make_model) -> Gemma3:
    return make_model()


def flat(state) -> dict[str, jax.Array]:
    return {".".join(map(str, path)): variable.get_value() for path, variable in nnx.to_flat_state(state)}


def lora_arrays(model: Gemma3) -> dict[str, jax.Array]:
    return flat(lora_state(model))


def modules_with_lora(model: Gemma3) -> set[str]:
    return {re.sub(r"\.\w+_lora_[ab]$", "", name) for name in lora_arrays(model)}


def adapted(model, *, seed=0, **config) -> Gemma3:
    return add_lora(model, LoraConfig(**{"rank": 4, "alpha": 8.0} | config), rngs=nnx.Rngs(seed))


def randomised(adapter: nnx.State, seed: int = 1) -> nnx.State:
    """An adapter that does something: every number drawn anew."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.2, x.shape), x.dtype), adapter)


# --- what it computes


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_fresh_adapter_changes_no_bit(make_model, run, dtype):
    base = make_model(dtype=dtype)
    expected, hidden = run(base, TOKENS), run(adapted(base), TOKENS)
    assert hidden.dtype == dtype
    np.testing.assert_array_equal(np.asarray(expected, np.float32), np.asarray(hidden, np.float32))


@pytest.mark.parametrize("quantize", ["int8", "nf4"])
def test_a_fresh_adapter_changes_no_bit_of_a_quantised_base(model, run, quantize):
    few, many = (adapted(model, quantize=quantize, targets=targets) for targets in (("q_einsum",), TARGETS))
    np.testing.assert_array_equal(run(few, TOKENS), run(many, TOKENS))


def test_a_tuned_model_is_its_base_with_merged_weights(make_model, model, run):
    """The whole model, and through the cache, against W + A B alpha / rank in place of W."""
    tuned = adapted(model, rank=4, alpha=6.0)
    set_lora(tuned, randomised(lora_state(tuned)))
    merged, deltas = make_model(), lora_arrays(tuned)
    state = {}
    for path, variable in nnx.to_flat_state(nnx.state(merged)):
        name = ".".join(map(str, path))
        if name + "_lora_a" in deltas:
            delta = 6.0 / 4 * jnp.tensordot(deltas[name + "_lora_a"], deltas[name + "_lora_b"], axes=1)
            variable = variable.replace(variable.get_value() + delta)
        state[path] = variable
    nnx.update(merged, nnx.from_flat_state(state))
    expected = run(merged, TOKENS)
    assert abs(np.asarray(expected) - run(model, TOKENS)).max() > 0.5
    np.testing.assert_allclose(run(tuned, TOKENS), expected, atol=2e-4)

    positions = jnp.tile(jnp.arange(24), (2, 1))
    cache = init_cache(model.config, 2, 32, dtype=jnp.float32)
    _, cache = run(tuned, TOKENS[:, :20], positions[:, :20], cache=cache)
    last, _ = run(tuned, TOKENS[:, 20:21], positions[:, 20:21], cache=cache)
    np.testing.assert_allclose(np.asarray(last)[:, 0], np.asarray(expected)[:, 20], atol=2e-4)


@pytest.mark.parametrize(("quantize", "bound"), [("int8", 0.5 / 127), ("nf4", 0.152)])
def test_quantised_weights_are_off_by_half_a_step(model, quantize, bound):
    """Half a step of int8, or half the widest gap of nf4 (-1 to -0.696), times the largest weight of the scale."""
    tuned = adapted(model, quantize=quantize)
    for layer, quantised_layer in zip(model.layers, tuned.layers, strict=True):
        for name in TARGETS:
            part = "attn" if "einsum" in name else "mlp"
            base, quantised = (getattr(getattr(x, part), name) for x in (layer, quantised_layer))
            weight = np.asarray(getattr(base, base.weight_name)[...])
            back = np.asarray(qwix.dequantize(getattr(quantised, base.weight_name).array))
            largest = abs(weight).max(axis=tuple(range(base.contracted)), keepdims=True)
            assert (abs(back - weight) <= 1.001 * bound * largest).all(), name
            assert abs(back - weight).max() > 0


def test_nf4_has_a_scale_for_64_weights(make_model):
    tuned = adapted(make_model(embed_dim=128, mlp_dim=192, head_dim=64), quantize="nf4")
    for name, variable in flat(nnx.state(tuned)).items():
        if name.endswith("array.scale"):
            values = flat(nnx.state(tuned))[name.removesuffix("scale") + "qvalue"]
            assert values.size == 64 * variable.size, name


@pytest.mark.parametrize(("quantize", "mean"), [("int8", 0.03), ("nf4", 0.35)])
def test_hidden_states_of_a_quantised_base_stay_near(model, run, quantize, mean):
    expected = np.asarray(run(model, TOKENS))
    hidden = np.asarray(run(adapted(model, quantize=quantize), TOKENS))
    assert 0 < abs(hidden - expected).mean() < mean * abs(expected).mean()


def test_a_model_is_quantised_under_its_adapter(model, run):
    tuned = adapted(model)
    set_lora(tuned, randomised(lora_state(tuned)))
    small = quantized(tuned)
    other = adapted(model, quantize="int8")
    set_lora(other, lora_state(tuned))
    np.testing.assert_array_equal(run(small, TOKENS), run(other, TOKENS))
    assert small.embedder.input_embedding.get_value() is tuned.embedder.input_embedding.get_value()
    assert tuned.lora.quantize is None  # as it was
    assert (small.lora.rank, small.lora.quantize) == (4, "int8")
    with pytest.raises(ValueError, match="quantised already"):
        quantized(small)


def test_a_model_without_adapter_is_quantised(model, run):
    small = quantized(model)
    assert small.lora is None
    np.testing.assert_array_equal(run(small, TOKENS), run(adapted(model, quantize="int8"), TOKENS))


@pytest.mark.parametrize("quantize", ["int8", "nf4"])
def test_a_quantised_base_is_smaller_and_embedding_and_norms_stay(model, quantize):
    state, base = flat(nnx.state(adapted(model, quantize=quantize))), flat(nnx.state(model))
    kept = [name for name in base if name in state]
    assert all("norm" in name or "embedding" in name for name in kept)
    assert len(kept) == len(base) - 6 * 3
    width = {"int8": jnp.int8, "nf4": jnp.uint4}[quantize]
    assert {x.dtype for name, x in state.items() if name.endswith("qvalue")} == {jnp.dtype(width)}


def test_without_adapters_on_a_projection_it_is_quantised_all_the_same(model):
    state = flat(nnx.state(adapted(model, quantize="int8", targets=("q_einsum",))))
    assert sum(name.endswith("qvalue") for name in state) == 6 * 3
    assert sum("_lora_" in name for name in state) == 2 * 3


# --- names, shapes, dtypes


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("quantize", QUANTIZE)
def test_adapters_are_float32_whatever_the_base_is(make_model, dtype, quantize):
    arrays = lora_arrays(adapted(make_model(dtype=dtype), quantize=quantize))
    assert {x.dtype for x in arrays.values()} == {jnp.dtype(jnp.float32)}


def test_names_and_shapes_are_those_of_tunix():
    """As Tunix 0.1.7 makes them for Gemma3 1B, so that adapters and expressions carry over."""
    base = abstract_model(gemma3_1b(), dtype=jnp.bfloat16)
    tuned = nnx.eval_shape(lambda: add_lora(base, LoraConfig(), rngs=nnx.Rngs(0)))
    shapes = {name: x.shape for name, x in lora_arrays(tuned).items()}
    wanted = {
        "attn.q_einsum.w_lora_a": (1152, 64),
        "attn.q_einsum.w_lora_b": (64, 4, 256),
        "attn.kv_einsum.w_lora_a": (1152, 64),
        "attn.kv_einsum.w_lora_b": (64, 2, 1, 256),
        "attn.attn_vec_einsum.w_lora_a": (4, 256, 64),
        "attn.attn_vec_einsum.w_lora_b": (64, 1152),
        "mlp.gate_proj.kernel_lora_a": (1152, 64),
        "mlp.gate_proj.kernel_lora_b": (64, 6912),
        "mlp.up_proj.kernel_lora_a": (1152, 64),
        "mlp.up_proj.kernel_lora_b": (64, 6912),
        "mlp.down_proj.kernel_lora_a": (6912, 64),
        "mlp.down_proj.kernel_lora_b": (64, 1152),
    }
    assert shapes == {f"layers.{i}.{name}": shape for i in range(26) for name, shape in wanted.items()}


@pytest.mark.parametrize(("preset", "count"), [(gemma3_270m, 14_450_688), (gemma3_4b, None)])
def test_number_of_adapter_parameters(preset, count):
    config = preset()
    tuned = nnx.eval_shape(lambda: add_lora(abstract_model(config), LoraConfig(rank=64), rngs=nnx.Rngs(0)))
    found = sum(math.prod(x.shape) for x in lora_arrays(tuned).values())
    d, q, kv = config.embed_dim, config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    # rank x (in + out) of q, kv, attn_vec, gate, up, down
    sides = (d + q) + (d + 2 * kv) + (q + d) + 3 * (d + config.mlp_dim)
    assert found == 64 * config.num_layers * sides
    assert count in (None, found)


def test_a_is_random_with_variance_2_over_fan_in_and_b_is_zero(make_model):
    arrays = lora_arrays(adapted(make_model(embed_dim=256, mlp_dim=512), rank=64))
    for name, x in arrays.items():
        if name.endswith("_b"):
            assert not np.any(x), name
        else:
            fan_in = math.prod(x.shape[:-1])
            assert float(jnp.std(x)) == pytest.approx((2 / fan_in) ** 0.5, rel=0.05), name
    same_shape = [x for name, x in arrays.items() if "q_einsum.w_lora_a" in name]
    assert not np.array_equal(same_shape[0], same_shape[1])  # layers differ


def test_the_seed_decides_the_adapter(model):
    first, again, other = (lora_arrays(adapted(model, seed=s)) for s in (0, 0, 1))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert any(not np.array_equal(first[name], other[name]) for name in first)


# --- targets


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (("q_einsum",), [f"layers.{i}.attn.q_einsum" for i in range(3)]),
        (("gate_proj", "down_proj"), [f"layers.{i}.mlp.{m}_proj" for i in range(3) for m in ("gate", "down")]),
        ((r"layers/[02]/attn/.*",), [f"layers.{i}.attn.{m}_einsum" for i in (0, 2) for m in ("q", "kv", "attn_vec")]),
        ((r".*_proj",), [f"layers.{i}.mlp.{m}_proj" for i in range(3) for m in ("gate", "up", "down")]),
        (
            ("layers/1/.*q_einsum", "up_proj"),
            ["layers.1.attn.q_einsum", *(f"layers.{i}.mlp.up_proj" for i in range(3))],
        ),
    ],
    ids=str,
)
def test_targets_are_names_or_expressions_for_whole_paths(model, targets, expected):
    assert modules_with_lora(adapted(model, targets=targets)) == set(expected)


@pytest.mark.parametrize("target", ["q_proj", "einsum", "layers/7/attn/q_einsum", "embedder", "_query_norm", ""])
def test_a_target_that_matches_nothing_is_an_error_that_lists_what_there_is(model, target):
    with pytest.raises(ValueError, match=rf"LoRA target '{target}' matches no module.*q_einsum, kv_einsum.*down_proj"):
        adapted(model, targets=("q_einsum", target))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"alpha": 0.0}, "alpha must be positive, got 0.0"),
        ({"alpha": math.inf}, "alpha must be positive, got inf"),
        ({"alpha": math.nan}, "alpha must be positive, got nan"),
        ({"targets": ()}, "targets must be a tuple"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        LoraConfig(**changes)


# --- sharing and exchanging


@pytest.mark.parametrize("quantize", QUANTIZE)
def test_what_is_not_quantised_is_shared_with_the_base_and_stays_so(model, quantize):
    before = {name: x.unsafe_buffer_pointer() for name, x in flat(nnx.state(model)).items()}
    tuned = adapted(model, quantize=quantize)
    set_lora(tuned, randomised(lora_state(tuned)))
    after = {name: x.unsafe_buffer_pointer() for name, x in flat(nnx.state(tuned)).items() if "_lora_" not in name}
    shared = [name for name in before if quantize is None or not re.search(r"_einsum|_proj", name)]
    assert {name: after[name] for name in shared} == {name: before[name] for name in shared}


def test_the_base_itself_stays_a_base(model, run):
    expected = np.asarray(run(model, TOKENS))
    tuned = adapted(model)
    set_lora(tuned, randomised(lora_state(tuned)))
    assert model.lora is None
    assert not any("_lora_" in name for name in flat(nnx.state(model)))
    np.testing.assert_array_equal(run(model, TOKENS), expected)
    with pytest.raises(ValueError, match="no LoRA adapters"):
        lora_state(model)


def test_two_adapters_on_one_base_are_exchanged_without_a_copy(model, run):
    tuned = adapted(model)
    first = lora_state(tuned)
    second = randomised(first)
    pointers = [x.unsafe_buffer_pointer() for name, x in flat(nnx.state(tuned)).items() if "_lora_" not in name]
    outputs = []
    for adapter in (first, second, first):
        set_lora(tuned, adapter)
        outputs.append(np.asarray(run(tuned, TOKENS)))
    np.testing.assert_array_equal(outputs[0], outputs[2])
    assert abs(outputs[0] - outputs[1]).max() > 0.5
    now = [x.unsafe_buffer_pointer() for name, x in flat(nnx.state(tuned)).items() if "_lora_" not in name]
    assert pointers == now


def test_a_taken_adapter_is_a_snapshot(model):
    tuned = adapted(model)
    taken = lora_state(tuned)
    held = {name: np.asarray(x) for name, x in flat(taken).items()}
    set_lora(tuned, randomised(taken))
    tuned.layers[0].attn.q_einsum.w_lora_b[...] += 1.0
    assert all(np.array_equal(held[name], x) for name, x in flat(taken).items())
    # Nor does a model follow what is done to an adapter after it was set.
    other = randomised(taken, seed=3)
    set_lora(tuned, other)
    other["layers"][0]["attn"]["q_einsum"]["w_lora_b"][...] += 1.0
    assert not np.array_equal(
        other["layers"][0]["attn"]["q_einsum"]["w_lora_b"][...], tuned.layers[0].attn.q_einsum.w_lora_b[...]
    )


def test_an_adapter_that_does_not_fit_is_refused_with_the_differences(model):
    tuned = adapted(model)
    before = {name: np.asarray(x) for name, x in lora_arrays(tuned).items()}
    with pytest.raises(ValueError, match=r"\(36 differences\).*w_lora_a has shape \(4, 16, 8\), wanted \(4, 16, 4\)"):
        set_lora(tuned, lora_state(adapted(model, rank=8)))
    with pytest.raises(ValueError, match=r"layers\.0\.attn\.attn_vec_einsum\.w_lora_a is missing"):
        set_lora(tuned, lora_state(adapted(model, targets=("q_einsum",))))
    with pytest.raises(ValueError, match=r"w_lora_a is unexpected"):
        set_lora(adapted(model, targets=("q_einsum",)), lora_state(tuned))
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), lora_state(tuned))
    with pytest.raises(ValueError, match=r"w_lora_a is bfloat16, wanted float32"):
        set_lora(tuned, narrow)
    assert all(np.array_equal(before[name], x) for name, x in lora_arrays(tuned).items())


def test_a_second_adapter_on_top_is_refused(model):
    with pytest.raises(ValueError, match="has LoRA adapters already"):
        adapted(adapted(model))


# --- training


@pytest.mark.parametrize(
    ("dtype", "quantize"),
    [
        (jnp.float32, None),
        (jnp.bfloat16, "nf4"),
        pytest.param(jnp.bfloat16, None, marks=pytest.mark.slow),
        pytest.param(jnp.bfloat16, "int8", marks=pytest.mark.slow),
    ],
)
def test_gradients_go_to_the_adapter_alone(make_model, dtype, quantize):
    tuned = adapted(make_model(dtype=dtype), quantize=quantize)
    set_lora(tuned, randomised(lora_state(tuned)))
    graph, adapter, frozen = nnx.split(tuned, nnx.LoRAParam, ...)

    @jax.jit
    @jax.grad
    def gradient(adapter, frozen):
        return (nnx.merge(graph, adapter, frozen)(TOKENS).astype(jnp.float32) ** 3).mean()

    found, wanted = flat(gradient(adapter, frozen)), lora_arrays(tuned)
    assert found.keys() == wanted.keys()
    for name, x in found.items():
        assert (x.shape, x.dtype) == (wanted[name].shape, jnp.float32), name
        assert np.isfinite(np.asarray(x)).all(), name
        assert np.any(x), name


def test_gradients_through_nnx_are_the_derivative(model):
    tuned = adapted(model)
    set_lora(tuned, randomised(lora_state(tuned)))

    def loss(model):
        return (model(TOKENS) ** 3).mean()

    gradients = nnx.jit(nnx.grad(loss, argnums=nnx.DiffState(0, nnx.LoRAParam)))(tuned)
    direction = randomised(lora_state(tuned), seed=7)
    slope = sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(direction), strict=True))

    def moved(step):
        start = lora_state(tuned)
        other = adapted(model)
        set_lora(other, jax.tree.map(lambda x, d: x + step * d, start, direction))
        return float(nnx.jit(loss)(other))

    step = 3e-3
    assert (moved(step) - moved(-step)) / (2 * step) == pytest.approx(float(slope), rel=0.02)


def test_a_frozen_base_and_a_fresh_adapter_train_b_first(model):
    """A gets no gradient while B is zero (Hu et al., section 4.1): the first step moves B alone."""
    graph, adapter, frozen = nnx.split(adapted(model), nnx.LoRAParam, ...)
    gradients = flat(jax.jit(jax.grad(lambda a: (nnx.merge(graph, a, frozen)(TOKENS) ** 3).mean()))(adapter))
    assert {bool(np.any(x)) for name, x in gradients.items() if name.endswith("_a")} == {False}
    assert {bool(np.any(x)) for name, x in gradients.items() if name.endswith("_b")} == {True}
