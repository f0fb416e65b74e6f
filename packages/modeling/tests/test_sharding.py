"""Meshes of eight simulated devices: the same numbers as on one, and each device holds and computes only its share."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from coldforge.modeling import (
    LoraConfig,
    abstract_model,
    add_lora,
    gemma3_1b,
    gemma3_27b,
    init_cache,
    init_model,
    lora_state,
    make_mesh,
    model_mesh,
    named_sharding,
    partition_spec,
    set_lora,
)
from coldforge.modeling.init import variable_sharding
from coldforge.modeling.sharding import constrain, current_platform

pytestmark = pytest.mark.whole

MESHES = [{"data": 8}, {"fsdp": 8}, {"fsdp": 4, "tensor": 2}, {"data": 2, "fsdp": 2, "tensor": 2}]
SEQ = 24
TOKENS = np.random.default_rng(0).integers(0, 64, (8, SEQ)).astype(np.int32)
SEGMENTS = np.random.default_rng(1).integers(0, 2, (8, SEQ)).astype(np.int32).cumsum(axis=1) % 3


@partial(jax.jit, static_argnums=0)
def _logits(graph, state, tokens, segment_ids):
    model = nnx.merge(graph, state)
    hidden = model(tokens, segment_ids=segment_ids)
    return hidden, model.logits(hidden)


def on_mesh(mesh, *arrays):
    """Token arrays as training places them: rows over `data` and `fsdp`."""
    if mesh is None:
        return [jnp.asarray(x) for x in arrays]
    return [jax.device_put(x, named_sharding(("batch", None), x.shape, mesh)) for x in arrays]


def hidden_and_logits(model):
    mesh = model_mesh(model)
    arrays = on_mesh(mesh, TOKENS, SEGMENTS)
    if mesh is None:
        return _logits(*nnx.split(model), *arrays)
    with jax.set_mesh(mesh):
        return _logits(*nnx.split(model), *arrays)


def tuned(model, **config):
    """The model with an adapter that does something, drawn by numpy so that every mesh has the same."""
    result = add_lora(model, LoraConfig(rank=4, **config), rngs=nnx.Rngs(0))
    rng = np.random.default_rng(3)
    adapter = lora_state(result)
    set_lora(
        result, jax.tree.map(lambda x: jax.device_put(rng.normal(0, 0.2, x.shape).astype("f4"), x.sharding), adapter)
    )
    return result


@pytest.fixture(scope="module")
def one_device(make_model):
    return hidden_and_logits(make_model())


# --- the same numbers


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_logits_are_those_of_one_device(make_model, one_device, sizes):
    hidden, logits = hidden_and_logits(make_model(mesh=make_mesh(**sizes)))
    text = SEGMENTS > 0
    np.testing.assert_allclose(np.asarray(hidden)[text], np.asarray(one_device[0])[text], atol=1e-4)
    np.testing.assert_allclose(np.asarray(logits)[text], np.asarray(one_device[1])[text], atol=1e-4)


@pytest.mark.parametrize(
    ("sizes", "quantize"),
    [
        ({"data": 2, "fsdp": 2, "tensor": 2}, None),
        ({"fsdp": 8}, "nf4"),
        pytest.param({"fsdp": 4, "tensor": 2}, "int8", marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_logits_with_adapters_and_quantised_bases_are_those_of_one_device(make_model, quantize, sizes):
    sharded = tuned(make_model(mesh=make_mesh(**sizes)), quantize=quantize)
    expected = hidden_and_logits(tuned(make_model(), quantize=quantize))[1]
    text = SEGMENTS > 0
    np.testing.assert_allclose(np.asarray(hidden_and_logits(sharded)[1])[text], np.asarray(expected)[text], atol=1e-4)


@pytest.mark.parametrize("sizes", [{"data": 8}, {"fsdp": 4, "tensor": 2}], ids=str)
def test_gradients_of_an_adapter_are_those_of_one_device_and_lie_where_it_lies(make_model, sizes):
    def gradient(model):
        graph, adapter, frozen = nnx.split(model, nnx.LoRAParam, ...)

        def loss(adapter, frozen, tokens):
            return (nnx.merge(graph, adapter, frozen)(tokens) ** 3).mean()

        mesh = model_mesh(model)
        tokens = on_mesh(mesh, TOKENS)[0]
        if mesh is None:
            return jax.jit(jax.grad(loss))(adapter, frozen, tokens)
        where = jax.tree.map(lambda x: x.sharding, adapter)
        with jax.set_mesh(mesh):
            return jax.jit(jax.grad(loss), out_shardings=where)(adapter, frozen, tokens)

    ours = jax.tree.leaves(gradient(tuned(make_model(mesh=make_mesh(**sizes)))))
    for a, b in zip(ours, jax.tree.leaves(gradient(tuned(make_model()))), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * float(abs(b).max()) + 1e-6)


@pytest.mark.parametrize("sizes", [{"data": 8}, {"fsdp": 4, "tensor": 2}], ids=str)
def test_decoding_on_a_mesh_is_that_of_one_device(make_model, sizes):
    """As a sampler does it: the cache is born in the compiled prefill, and a step gives it up for the next."""
    mesh = make_mesh(**sizes)
    graph, state = nnx.split(tuned(make_model(mesh=mesh)))
    alone = tuned(make_model())
    expected = jax.jit(lambda state, tokens: nnx.merge(graph, state)(tokens))(nnx.state(alone), jnp.asarray(TOKENS))

    @jax.jit
    def start(state, tokens, positions):
        cache = init_cache(alone.config, 8, 32, dtype=jnp.float32)
        return nnx.merge(graph, state)(tokens, positions, cache=cache)

    @partial(jax.jit, donate_argnums=1)
    def step(state, cache, tokens, positions):
        return nnx.merge(graph, state)(tokens, positions, cache=cache)

    positions = np.tile(np.arange(SEQ, dtype=np.int32), (8, 1))
    with jax.set_mesh(mesh):
        hidden, cache = start(state, *on_mesh(mesh, TOKENS[:, :10], positions[:, :10]))
        parts = [hidden]
        for i in range(10, SEQ):
            hidden, cache = step(state, cache, *on_mesh(mesh, TOKENS[:, i : i + 1], positions[:, i : i + 1]))
            parts.append(hidden)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), expected, atol=1e-4)
    rows, heads = (1, 2) if "data" in sizes else (2, 1)
    for store in (*cache.keys, *cache.values):
        assert {piece.data.shape[:2] for piece in store.addressable_shards} == {(rows, heads)}


def test_initial_weights_do_not_depend_on_the_mesh(config):
    alone = jax.tree.leaves(nnx.state(init_model(config, seed=1)))
    spread = jax.tree.leaves(nnx.state(init_model(config, seed=1, mesh=make_mesh(fsdp=4, tensor=2))))
    assert all(map(np.array_equal, alone, spread))


# --- each its share


@pytest.mark.parametrize(
    ("sizes", "quantize"), [({"data": 8}, None), ({"fsdp": 8}, "int8"), ({"fsdp": 4, "tensor": 2}, None)], ids=str
)
def test_no_device_holds_more_than_its_share(config, sizes, quantize):
    mesh = make_mesh(**sizes)
    model = init_model(config, seed=0, mesh=mesh)
    model = add_lora(model, LoraConfig(rank=4, quantize=quantize), rngs=nnx.Rngs(0))
    held = dict.fromkeys(mesh.devices.flat, 0)
    share = 0
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        array, sharding = variable.get_value(), variable_sharding(variable, mesh)
        assert array.sharding.is_equivalent_to(sharding, array.ndim), path
        share += math.prod(sharding.shard_shape(array.shape)) * array.dtype.itemsize
        for piece in array.addressable_shards:
            held[piece.device] += piece.data.nbytes
    assert set(held.values()) == {share}


@pytest.mark.parametrize("preset", [gemma3_1b, gemma3_27b])
@pytest.mark.parametrize("sizes", [{"fsdp": 8}, {"fsdp": 4, "tensor": 2}, {"fsdp": 2, "tensor": 4}], ids=str)
def test_a_share_is_an_eighth_of_a_real_model(preset, sizes):
    mesh, state = make_mesh(**sizes), nnx.state(abstract_model(preset()))
    parts = [(v.get_value().shape, variable_sharding(v, mesh)) for _, v in nnx.to_flat_state(state)]
    share = sum(math.prod(sharding.shard_shape(shape)) for shape, sharding in parts)
    # 1B's one key/value head is not split over `tensor`: 15 M of 1,000 M parameters.
    assert preset().num_params / 8 <= share <= 1.06 * preset().num_params / 8


def test_every_large_weight_is_split_as_far_as_the_mesh_goes(config):
    model = init_model(config, seed=0, mesh=make_mesh(fsdp=4, tensor=2))
    specs = {
        ".".join(map(str, path)): variable.get_value().sharding.spec
        for path, variable in nnx.to_flat_state(nnx.state(model))
        if path[0] != "layers" or path[1] == 0
    }
    assert specs == {
        "embedder.input_embedding": P("tensor", "fsdp"),
        "final_norm.scale": P("fsdp"),
        "layers.0.attn._key_norm.scale": P(None),
        "layers.0.attn._query_norm.scale": P(None),
        "layers.0.attn.q_einsum.w": P("fsdp", "tensor", None),
        "layers.0.attn.kv_einsum.w": P("fsdp", None, "tensor", None),
        "layers.0.attn.attn_vec_einsum.w": P("tensor", None, "fsdp"),
        "layers.0.mlp.gate_proj.kernel": P("fsdp", "tensor"),
        "layers.0.mlp.up_proj.kernel": P("fsdp", "tensor"),
        "layers.0.mlp.down_proj.kernel": P("tensor", "fsdp"),
        **{
            f"layers.0.{name}_norm.scale": P("fsdp")
            for name in ("pre_attention", "post_attention", "pre_ffw", "post_ffw")
        },
    }


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_the_batch_stays_split(make_model, sizes):
    hidden, _ = hidden_and_logits(make_model(mesh=make_mesh(**sizes)))
    rows = 8 // (sizes.get("data", 1) * sizes.get("fsdp", 1))
    assert {s.data.shape for s in hidden.addressable_shards} == {(rows, SEQ, 32)}


def test_replicated_weights_need_no_communication_and_split_ones_gather_weights_not_rows(make_model):
    def program(**sizes):
        mesh = make_mesh(**sizes)
        model = make_model(mesh=mesh)
        with jax.set_mesh(mesh):
            arrays = on_mesh(mesh, TOKENS, SEGMENTS)
            return _logits.lower(*nnx.split(model), *arrays).compile().as_text()

    collectives = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
    assert not any(name in program(data=8) for name in collectives)
    # Activations of all eight rows would be f32[8,24,…] on a device.
    split = program(fsdp=8)
    assert "all-gather" in split
    assert "f32[8,24," not in split


# --- what does not divide


def test_what_the_mesh_does_not_divide_stays_whole_and_computes_the_same(make_model):
    """Three rows, three heads over one key/value head, a vocabulary of 63, a width of 30."""
    sizes = {"vocab_size": 63, "num_kv_heads": 1, "num_heads": 3, "embed_dim": 30, "mlp_dim": 50}
    tokens = TOKENS[:3] % 63
    expected = make_model(**sizes)(jnp.asarray(tokens))
    mesh = make_mesh(fsdp=4, tensor=2)
    model = make_model(mesh=mesh, **sizes)
    assert model.embedder.input_embedding[...].sharding.is_fully_replicated
    with jax.set_mesh(mesh):
        graph, state = nnx.split(model)
        hidden = jax.jit(lambda state, tokens: nnx.merge(graph, state)(tokens))(state, jnp.asarray(tokens))
    np.testing.assert_allclose(hidden, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("axes", "shape", "spec"),
    [
        (("vocab", "embed"), (64, 32), P("tensor", "fsdp")),
        (("vocab", "embed"), (63, 32), P(None, "fsdp")),
        (("vocab", "embed"), (64, 30), P("tensor", "fsdp")),
        (("embed", "kv", "kv_heads", "head_dim"), (32, 2, 1, 16), P("fsdp", None, None, None)),
        (("batch", None), (8, 5), P(("data", "fsdp"), None)),
        (("batch", None), (2, 5), P("data", None)),  # the longest prefix that divides
        (("batch", None), (3, 5), P(None, None)),
        (("batch", "embed"), (8, 32), P(("data", "fsdp"), None)),  # a mesh axis is used once
        (("batch", "embed"), (2, 32), P("data", "fsdp")),  # and is free where it was not used
        ((None, "rank"), (8, 8), P(None, None)),
        (("mlp", "heads"), (8, 8), P("tensor", None)),
        ((), (), P()),
    ],
    ids=str,
)
def test_partitions_by_example(axes, shape, spec):
    assert partition_spec(axes, shape, make_mesh(data=2, fsdp=2, tensor=2)) == spec


def test_axes_of_size_1_do_not_appear():
    mesh = make_mesh(data=8)
    assert partition_spec(("batch", "embed"), (8, 32), mesh) == P("data", None)
    assert partition_spec(("vocab", "embed"), (64, 32), mesh) == P(None, None)


def test_wrong_axes_are_refused():
    mesh = make_mesh(data=8)
    with pytest.raises(ValueError, match=r"unknown logical axis 'width'; known are \['batch', 'embed'"):
        partition_spec(("batch", "width"), (8, 8), mesh)
    with pytest.raises(ValueError, match=r"shape \(8, 8\) has 1 logical axes"):
        partition_spec(("batch",), (8, 8), mesh)


# --- meshes


def test_a_mesh_has_all_axes_and_uses_the_devices_that_it_is_given():
    assert dict(make_mesh(data=2, fsdp=4).shape) == {"data": 2, "fsdp": 4, "tensor": 1}
    devices = jax.devices()[4:6]
    assert list(make_mesh(tensor=2, devices=devices).devices.flat) == devices


@pytest.mark.parametrize(
    "sizes", [{}, {"data": 3}, {"data": 4, "fsdp": 4}, {"fsdp": 0, "data": 8}, {"data": -8, "fsdp": -1}]
)
def test_a_mesh_of_other_than_all_devices_is_refused(sizes):
    with pytest.raises(ValueError, match=r"a mesh of data=.* x fsdp=.* x tensor=.* but there are 8"):
        make_mesh(**sizes)


def test_without_a_mesh_nothing_is_constrained(make_model):
    array = jnp.ones((8, 4))
    assert constrain(array, ("batch", None)) is array
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        assert constrain(array, ("batch", None)) is array
    assert model_mesh(make_model()) is None


def test_the_platform_of_a_trace_is_that_of_its_mesh():
    assert current_platform() == "cpu"
    with jax.set_mesh(make_mesh(data=8)):
        assert jax.jit(lambda: jnp.ones(()) * (current_platform() == "cpu"))() == 1
