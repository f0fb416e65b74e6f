"""A model taken apart for training: every way of running the layers gives the model's own numbers and gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from coldforge.modeling import (
    Gemma3,
    LoraConfig,
    abstract_model,
    add_lora,
    blocks,
    fingerprint,
    lora_state,
    make_mesh,
    model_mesh,
    named_sharding,
    set_lora,
    trainable,
    with_params,
)
from coldforge.modeling.init import variable_sharding

pytestmark = pytest.mark.whole

SEQ = 24
TOKENS = np.random.default_rng(0).integers(1, 64, (8, SEQ)).astype(np.int32)
SEGMENTS = np.sort(np.random.default_rng(1).integers(0, 4, (8, SEQ)), axis=1).astype(np.int32)  # padding comes first
KINDS = ("local", "global")


@pytest.fixture(scope="module")
def make(make_model):
    """A model of a kind, with an adapter that does something, the same numbers on any mesh."""

    def build(base, mesh=None, **changes) -> Gemma3:
        model = make_model(mesh=mesh, layer_types=KINDS, **changes)
        if base == "full":
            return model
        model = add_lora(model, LoraConfig(rank=4, alpha=6.0, quantize=base), rngs=nnx.Rngs(0))
        rng = np.random.default_rng(3)
        set_lora(model, jax.tree.map(lambda x: rng.normal(0, 0.05, x.shape).astype("f4"), lora_state(model)))
        return model

    return build


def compile_loss(view, mesh=None):
    """A compiled function of (params, frozen): hidden states, and gradients of a loss over both outputs of `apply`."""
    names = ("batch", None)
    arrays = [
        x if mesh is None else jax.device_put(x, named_sharding(names, x.shape, mesh)) for x in (TOKENS, SEGMENTS)
    ]

    def loss(params, frozen, tokens, segment_ids):
        hidden, embedding = view.apply(params, frozen, tokens, None, segment_ids)
        text = (segment_ids > 0)[..., None]
        return jnp.where(text, jnp.sin(hidden) * embedding[:SEQ, None, 0].mean(), 0).sum(), jnp.where(text, hidden, 0)

    step = jax.jit(jax.grad(loss, has_aux=True))
    if mesh is None:
        return step.lower(view.params, view.frozen, *arrays).compile(), arrays
    with jax.set_mesh(mesh):
        return step.lower(view.params, view.frozen, *arrays).compile(), arrays


def outcome(view, mesh=None):
    program, arrays = compile_loss(view, mesh)
    gradients, hidden = program(view.params, view.frozen, *arrays)
    return np.asarray(hidden), {path: np.asarray(x) for path, x in flat(gradients).items()}


def flat(state) -> dict:
    return {path: variable.get_value() for path, variable in nnx.to_flat_state(state)}


@pytest.fixture(scope="module")
def expected(make, run):
    """Per kind of base: the model's own hidden states, and the gradients with every layer unrolled and all kept."""

    def compute(base):
        if base not in known:
            model = make(base)
            hidden, gradients = outcome(trainable(model, full=base == "full", remat="none", layers="unroll"))
            own = np.where((SEGMENTS > 0)[..., None], run(model, TOKENS, segment_ids=SEGMENTS), 0)
            np.testing.assert_allclose(hidden, own, atol=1e-5)
            known[base] = own, gradients
        return known[base]

    known: dict = {}
    return compute


def assert_same(found, expected):
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5)
    assert found[1].keys() == expected[1].keys()
    for path, gradient in expected[1].items():
        assert np.any(gradient), path
        np.testing.assert_allclose(found[1][path], gradient, atol=1e-5 * abs(gradient).max() + 1e-7, err_msg=str(path))


@pytest.mark.parametrize("base", [None, "nf4", "full", pytest.param("int8", marks=pytest.mark.slow)])
def test_a_scan_gives_what_the_model_gives(make, expected, base):
    assert_same(outcome(trainable(make(base), full=base == "full", layers="scan")), expected(base))


@pytest.mark.parametrize(("layers", "remat"), [("unroll", "block"), ("unroll", "full"), ("scan", "none")])
def test_what_is_computed_again_changes_nothing(make, expected, layers, remat):
    assert_same(outcome(trainable(make(None), layers=layers, remat=remat)), expected(None))


@pytest.mark.parametrize(
    ("base", "sizes"),
    [(None, {"data": 8}), ("int8", {"fsdp": 4, "tensor": 2}), ("full", {"data": 2, "fsdp": 2, "tensor": 2})],
    ids=str,
)
def test_eight_devices_give_what_one_gives(make, expected, base, sizes):
    mesh = make_mesh(**sizes)
    assert_same(outcome(trainable(make(base, mesh), full=base == "full", layers="scan"), mesh), expected(base))


def test_weights_joined_with_their_adapters_give_the_same(make, expected, monkeypatch):
    """What a scan does on TPU for many tokens; here the platform is only said to be one."""
    monkeypatch.setattr(blocks, "current_platform", lambda: "tpu")
    monkeypatch.setattr(blocks, "JOIN_FROM", 0)
    mesh = make_mesh(data=8)
    model = make(None, mesh)
    with jax.set_mesh(mesh):
        assert len(blocks._joined(model.layers[0], jnp.zeros((8, SEQ, 32)))) == 6
    assert_same(outcome(trainable(model, remat="none"), mesh), expected(None))


def test_layers_with_and_without_an_adapter_are_loops_of_their_own(make_model, run):
    kinds = ("local", "local", "global", "local", "local")
    model = add_lora(
        make_model(layer_types=kinds), LoraConfig(rank=2, targets=("layers/[34]/mlp/.*",)), rngs=nnx.Rngs(0)
    )
    lengths = [list(run) for run in blocks._runs([nnx.split(layer, nnx.LoRAParam, ...) for layer in model.layers])]
    assert lengths == [[0, 1, 2], [3, 4]]
    hidden, gradients = outcome(trainable(model, layers="scan"))
    np.testing.assert_allclose(
        hidden, np.where((SEGMENTS > 0)[..., None], run(model, TOKENS, segment_ids=SEGMENTS), 0), atol=1e-5
    )
    assert {path[1] for path in gradients} == {3, 4}


def test_policies_keep_less_and_less(make_model):
    """Deep and wide enough that what layers keep outweighs the rest."""
    model = make_model(mlp_dim=256, layer_types=("local",) * 6)
    model = add_lora(model, LoraConfig(rank=2, targets=("up_proj",)), rngs=nnx.Rngs(0))
    sizes = []
    for remat in ("none", "block", "full"):
        program, _ = compile_loss(trainable(model, layers="scan", remat=remat))
        sizes.append(program.memory_analysis().temp_size_in_bytes)
    assert sizes[0] > 1.3 * sizes[1]
    assert sizes[1] > sizes[2]


# --- taking apart and putting together


def test_params_are_float32_and_the_rest_is_shared(make):
    model = make(None, dtype=jnp.bfloat16)
    view = trainable(model)
    assert {x.dtype for x in flat(view.params).values()} == {jnp.dtype(jnp.float32)}
    assert flat(view.params).keys() == flat(lora_state(model)).keys()
    shared = {path: x.unsafe_buffer_pointer() for path, x in flat(nnx.state(model)).items()}
    assert {path: x.unsafe_buffer_pointer() for path, x in flat(view.frozen).items()}.items() <= shared.items()


def test_full_training_of_a_bfloat16_model_keeps_float32_and_computes_in_bfloat16(make_model):
    model = make_model(dtype=jnp.bfloat16)
    view = trainable(model, full=True)
    assert {x.dtype for x in flat(view.params).values()} == {jnp.dtype(jnp.float32)}
    assert not flat(view.frozen)
    hidden, embedding = jax.eval_shape(view.apply, view.params, view.frozen, TOKENS)
    assert hidden.dtype == embedding.dtype == jnp.bfloat16
    sampler = with_params(model, jax.tree.map(lambda x: x + 1, view.params))
    assert {x.dtype for x in flat(nnx.state(sampler)).values()} == {jnp.dtype(jnp.bfloat16)}
    assert sampler.final_norm.scale[0] == model.final_norm.scale[0] + 1


def test_with_params_shares_the_base_and_leaves_the_model_alone(make):
    model = make(None)
    before = {path: np.asarray(x) for path, x in flat(lora_state(model)).items()}
    other = with_params(model, jax.tree.map(lambda x: x + 1, trainable(model).params))
    assert all(np.array_equal(x, before[path]) for path, x in flat(lora_state(model)).items())
    assert all(np.array_equal(x, before[path] + 1) for path, x in flat(lora_state(other)).items())
    bases = [flat(nnx.split(m, nnx.LoRAParam, ...)[2]) for m in (model, other)]
    assert all(x is bases[1][path] for path, x in bases[0].items())


def test_params_that_are_not_the_models_are_refused(make, make_model):
    few = trainable(add_lora(make_model(layer_types=KINDS), LoraConfig(rank=2), rngs=nnx.Rngs(0))).params
    with pytest.raises(ValueError, match=r"\(24 differences\).*has shape \(32, 2\), wanted \(32, 4\)"):
        with_params(make(None), few)
    with pytest.raises(ValueError, match=r"layers\.0\.attn\.attn_vec_einsum\.w_lora_a is unexpected"):
        with_params(make_model(), few)


def test_an_adapter_is_moved_to_the_models_mesh(make):
    mesh = make_mesh(fsdp=4, tensor=2)
    model = make(None, mesh)
    expected = {path: x.sharding for path, x in flat(lora_state(model)).items()}
    elsewhere = lora_state(make(None))
    set_lora(model, elsewhere)
    assert {path: x.sharding for path, x in flat(lora_state(model)).items()} == expected
    assert {path: x.sharding for path, x in flat(lora_state(with_params(model, elsewhere))).items()} == expected


@pytest.mark.parametrize("quantize", [None, "int8", "nf4"])
def test_an_abstract_model_is_taken_apart_with_its_shardings(config, make_model, quantize):
    mesh = make_mesh(fsdp=4, tensor=2)
    lora = LoraConfig(rank=4, quantize=quantize)
    abstract = add_lora(abstract_model(config, mesh=mesh), lora, rngs=nnx.Rngs(0))
    assert model_mesh(abstract) == mesh
    real = add_lora(make_model(mesh=mesh), lora, rngs=nnx.Rngs(0))
    for a, b in zip(trainable(abstract)[1:], trainable(real)[1:], strict=True):
        assert jax.tree.structure(a) == jax.tree.structure(b)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            assert isinstance(x, jax.ShapeDtypeStruct)
            assert (x.shape, x.dtype, x.sharding) == (y.shape, y.dtype, y.sharding)


@pytest.mark.parametrize(
    ("base", "options", "message"),
    [
        ("full", {}, "no LoRA adapters to train"),
        (None, {"full": True}, "has LoRA adapters; start from the base"),
    ],
)
def test_what_makes_no_sense_is_refused(make, base, options, message):
    with pytest.raises(ValueError, match=message):
        trainable(make(base), **options)


def test_policies_and_ways_that_there_are_not_are_refused():
    with pytest.raises(ValueError, match="remat must be one of none, block, full, got 'all'"):
        blocks.check_choices("all", "auto")
    with pytest.raises(ValueError, match="layers must be one of auto, scan, unroll, got 'loop'"):
        blocks.check_choices("none", "loop")


# --- fingerprints


def test_a_fingerprint_is_the_bases_on_any_mesh(make, make_model):
    alone = fingerprint(make_model(layer_types=KINDS))
    assert fingerprint(make(None, make_mesh(fsdp=4, tensor=2))) == alone
    assert fingerprint(make("full", make_mesh(data=8))) == alone
    assert len(alone) == 64
    quantised = {fingerprint(make(kind, mesh)) for kind in ("int8", "nf4") for mesh in (None, make_mesh(fsdp=8))}
    assert len(quantised | {alone}) == 3


def test_a_fingerprint_sees_every_change(make_model, config):
    def changed(**edits) -> str:
        model = make_model(**{name: value for name, value in edits.items() if name != "edit"})
        if "edit" in edits:
            kernel = model.layers[1].mlp.up_proj.kernel
            kernel.set_value(edits["edit"](kernel.get_value()))
        return fingerprint(model)

    found = [
        changed(),
        changed(edit=lambda w: w.at[3, 5].add(1e-7)),
        changed(edit=lambda w: w.at[3, 5].set(-w[3, 5])),
        changed(edit=lambda w: w.at[jnp.array([0, 1])].set(w[jnp.array([1, 0])])),  # rows exchanged
        changed(seed=1),
        changed(dtype=jnp.bfloat16),
        changed(norm_eps=1e-5),
    ]
    assert len(set(found)) == len(found)
    assert changed() == found[0]
    other = make_model()
    other.layers[0], other.layers[2] = other.layers[2], other.layers[0]
    assert fingerprint(other) not in found


def test_shapes_have_no_fingerprint(config):
    with pytest.raises(ValueError, match="abstract model has no weights"):
        fingerprint(abstract_model(config))
    assert dataclasses.asdict(config)  # it is the model's fault, not the config's


def test_params_lie_where_the_rules_say(make):
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    for _, variable in nnx.to_flat_state(trainable(make(None, mesh)).params):
        assert variable.get_value().sharding == variable_sharding(variable, mesh)
