"""The model without a cache: packing, padding, positions, dtypes, the pieces by numeric example, and wrong calls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beartype import beartype
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError, jaxtyped

from coldforge.modeling import Gemma3, Gemma3Config, abstract_model, init_cache, init_model
from coldforge.modeling.model import RMSNorm, rotary_angles, rotate, segment_positions

pytestmark = pytest.mark.whole

SEQ = 40  # five windows; every test of packing uses this length, so that they share one compilation


@pytest.fixture(scope="module")
def model(make_model) -> Gemma3:
    return make_model()


@pytest.fixture(scope="module")
def alone(model, run):
    """The hidden states of a text in a row of its own."""

    def hidden(text: np.ndarray) -> np.ndarray:
        tokens, segment_ids = np.zeros((2, 2, SEQ), np.int32)
        tokens[0, : text.size], segment_ids[0, : text.size] = text, 1
        return np.asarray(run(model, tokens, segment_ids=segment_ids))[0, : text.size]

    return hidden


def random_text(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 64, length).astype(np.int32)


# --- packing and padding


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=8), st.integers(0, 5), st.booleans(), st.integers(0, 2**32 - 1)
)
def test_packed_texts_are_as_if_alone(model, run, alone, sizes, gap, gap_in_front, seed):
    texts, tokens, segment_ids, spans = [], *np.zeros((2, 2, SEQ), np.int32), []
    tokens[:] = np.random.default_rng(seed).integers(0, 64, tokens.shape)  # padding may hold any id
    end = gap if gap_in_front else 0
    for number, size in enumerate(sizes, start=1):
        if end + size > SEQ:
            break
        span = slice(end, end + size)
        texts.append(random_text(size, seed + number))
        spans.append(span)
        tokens[1, span], segment_ids[1, span] = texts[-1], number
        end = span.stop + (0 if gap_in_front else gap)
    hidden = np.asarray(run(model, tokens, segment_ids=segment_ids))
    assert np.isfinite(hidden).all()
    for text, span in zip(texts, spans, strict=True):
        np.testing.assert_allclose(hidden[1, span], alone(text), atol=1e-5)


@pytest.mark.parametrize("length", [1, 7, 31])
def test_padding_on_either_side_changes_nothing(model, run, length):
    text = random_text(length)
    bare = np.asarray(run(model, text[None]))[0]
    for start in (0, SEQ - length, 3):
        tokens, segment_ids = np.zeros((2, 2, SEQ), np.int32)
        tokens[1, start : start + length], segment_ids[1, start : start + length] = text, 1
        hidden = np.asarray(run(model, tokens, segment_ids=segment_ids))
        np.testing.assert_allclose(hidden[1, start : start + length], bare, atol=1e-5)


def test_negative_positions_are_padding_also_without_a_cache(model, run):
    text = random_text(31)
    tokens, positions = np.zeros((2, SEQ), np.int32), np.full((2, SEQ), -1, np.int32)
    tokens[0, 9:], positions[0, 9:] = text, np.arange(31)
    np.testing.assert_allclose(np.asarray(run(model, tokens, positions))[0, 9:], run(model, text[None])[0], atol=1e-5)


def test_packed_rows_longer_than_the_band_are_as_if_alone(model, run):
    # 300 tokens: local layers work in bands (window 8 + 256 < 300), in which neighbouring texts share blocks.
    sizes = (130, 7, 100, 50)
    texts = [random_text(n, n) for n in sizes]
    tokens, segment_ids = np.zeros((2, 1, 300), np.int32)
    tokens[0, :287], segment_ids[0, :287] = np.concatenate(texts), np.repeat([1, 2, 3, 4], sizes)
    hidden = np.asarray(run(model, tokens, segment_ids=segment_ids))[0]
    for text, end in zip(texts, np.cumsum(sizes), strict=True):
        np.testing.assert_allclose(hidden[end - text.size : end], np.asarray(run(model, text[None]))[0], atol=1e-5)


def test_without_segment_ids_a_row_is_one_text_and_id_0_is_a_token_like_others(model, run):
    tokens = np.stack([random_text(SEQ), random_text(SEQ, 1)])
    tokens[1, 5] = 0
    default, explicit = run(model, tokens), run(model, tokens, segment_ids=np.ones_like(tokens))
    np.testing.assert_array_equal(default, explicit)


def test_a_later_token_never_changes_an_earlier_hidden_state(model, run):
    tokens = np.stack([random_text(SEQ)] * 2)
    tokens[1, 25] += 1
    hidden = np.asarray(run(model, tokens))
    np.testing.assert_array_equal(hidden[0, :25], hidden[1, :25])
    assert (hidden[0, 25:] != hidden[1, 25:]).any(axis=1).all()  # the global layer carries it to every later one


# --- positions


@pytest.mark.parametrize(
    ("segment_ids", "positions"),
    [
        ([1, 1, 2, 2, 2, 0], [0, 1, 0, 1, 2, 0]),
        ([0, 0, 1, 1, 1, 1], [0, 1, 0, 1, 2, 3]),  # left padding; numbers on padding mean nothing
        ([1, 1, 1, 1, 1, 1], [0, 1, 2, 3, 4, 5]),
        ([3, 1, 1, 3, 3, 2], [0, 0, 1, 0, 1, 0]),  # the numbers' order does not matter
    ],
)
def test_segment_positions(segment_ids, positions):
    assert segment_positions(jnp.array([segment_ids])).tolist() == [positions]


def test_positions_default_to_the_index_within_the_segment(model, run):
    tokens = np.stack([random_text(SEQ)] * 2)
    segment_ids = np.repeat([[1, 2, 0]], 2, axis=0).repeat([15, 20, 5], axis=1).astype(np.int32)
    positions = np.concatenate([np.arange(15), np.arange(20), np.zeros(5)])[None].repeat(2, axis=0).astype(np.int32)
    np.testing.assert_allclose(
        run(model, tokens, segment_ids=segment_ids)[:, :35],
        run(model, tokens, positions, segment_ids)[:, :35],
        atol=1e-6,
    )


def test_only_distances_between_positions_matter_and_they_do(model, run):
    tokens = np.stack([random_text(SEQ)] * 2)
    index = np.arange(SEQ, dtype=np.int32)
    near, far = (np.asarray(run(model, tokens, np.stack([index + n, 2 * index]))) for n in (0, 100))
    np.testing.assert_allclose(near[0], far[0], atol=1e-4)
    assert abs(near[0] - near[1]).max() > 0.1


# --- pieces


def test_rms_norm_by_example():
    norm = RMSNorm(2, 0.0, axis="embed", dtype=jnp.float32, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(norm(jnp.array([[3.0, 4.0]])), [[3 / 12.5**0.5, 4 / 12.5**0.5]], rtol=1e-6)
    norm.scale[...] = jnp.array([0.5, -1.0])  # what is stored is the distance from 1
    np.testing.assert_allclose(norm(jnp.array([[3.0, 4.0]])), [[4.5 / 12.5**0.5, 0]], rtol=1e-6)


def test_rms_norm_rounds_once_at_the_end():
    rng = np.random.default_rng(0)
    norm = RMSNorm(64, 1e-6, axis="embed", dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    norm.scale[...] = jnp.asarray(rng.normal(size=64), jnp.bfloat16)
    x = jnp.asarray(1e4 * rng.normal(size=(50, 64)), jnp.bfloat16)
    wide, scale = np.asarray(x, np.float64), np.asarray(norm.scale[...], np.float64)
    expected = wide / np.sqrt((wide**2).mean(axis=-1, keepdims=True)) * (1 + scale)
    # bfloat16 keeps 8 bits; every further rounding on the way would put a third of the numbers off by one of them.
    same = np.asarray(norm(x)) == expected.astype(np.float32).astype(x.dtype)
    assert same.mean() > 0.99


def test_rotation_by_example():
    # Dimension 0 turns by one radian a position together with dimension 2, and 1 by 1/10 with dimension 3.
    x = jnp.array([1.0, 1.0, 0.0, 0.0]).reshape(1, 1, 1, 4)
    turned = rotate(x, rotary_angles(jnp.array([[3]]), 4, 100.0, 1.0), scale=2.0)
    np.testing.assert_allclose(
        turned.ravel(), 2 * np.array([np.cos(3), np.cos(0.3), np.sin(3), np.sin(0.3)]), rtol=1e-6
    )


def test_linear_rope_scaling_divides_positions():
    stretched = rotary_angles(jnp.array([[8, 80]]), 16, 1e6, 8.0)
    plain = rotary_angles(jnp.array([[1, 10]]), 16, 1e6, 1.0)
    for a, b in zip(stretched, plain, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_embeddings_are_scaled_in_the_activations_dtype():
    for dtype, factor in ((jnp.float32, np.float32(640**0.5)), (jnp.bfloat16, 25.25)):
        model = model_of_ones(dtype)
        assert model.embedder.encode(jnp.array([[3]]))[0, 0, 0] == factor


def model_of_ones(dtype) -> Gemma3:
    """270M's width with a vocabulary of 8 and one layer; all weights are 1."""
    config = Gemma3Config(
        vocab_size=8, embed_dim=640, mlp_dim=8, num_heads=1, num_kv_heads=1, head_dim=8,
        layer_types=("local",), sliding_window=8, max_seq_len=8, query_scale=1.0,
    )  # fmt: skip
    model = abstract_model(config, dtype=dtype)
    nnx.update(model, jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), nnx.state(model)))
    return model


def test_logits_are_float32_products_with_the_embedding_for_any_leading_dimensions(model):
    table = np.asarray(model.embedder.input_embedding[...], np.float64)
    hidden = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 32)), jnp.float32)
    np.testing.assert_allclose(model.logits(hidden), np.asarray(hidden, np.float64) @ table.T, atol=1e-5)
    np.testing.assert_allclose(model.logits(hidden[1, 2]), model.logits(hidden)[1, 2], atol=1e-6)
    low = init_model(model.config, seed=0, dtype=jnp.bfloat16)
    assert low.logits(hidden.astype(jnp.bfloat16)).dtype == jnp.float32


# --- dtypes and initial weights


def test_bfloat16_stays_near_float32(make_model, run):
    tokens = np.stack([random_text(SEQ, s) for s in range(2)])
    wide, low = make_model(seed=3), make_model(seed=3, dtype=jnp.bfloat16)
    # The same weights: those of the bfloat16 model.
    nnx.update(wide, jax.tree.map(lambda x: x.astype(jnp.float32), nnx.state(low)))
    exact, rounded = run(wide, tokens), run(low, tokens)
    assert rounded.dtype == jnp.bfloat16
    error = np.abs(np.asarray(rounded, np.float32) - np.asarray(exact))
    # Hidden states are about 1 in size, three layers deep, and rounded to 8 bits.
    assert error.mean() < 0.02
    assert error.max() < 0.2


def test_gradients_of_a_bfloat16_model_are_finite_and_bfloat16(make_model):
    graph, state = nnx.split(make_model(dtype=jnp.bfloat16))
    tokens = jnp.asarray(random_text(SEQ))[None]

    def loss(state):
        return (nnx.merge(graph, state)(tokens).astype(jnp.float32) ** 2).sum()

    for gradient in jax.tree.leaves(jax.jit(jax.grad(loss))(state)):
        assert gradient.dtype == jnp.bfloat16
        assert np.isfinite(np.asarray(gradient, np.float32)).all()


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.int8, jnp.float64])
def test_dtypes_that_would_overflow_or_be_cut_are_refused(config, dtype):
    with pytest.raises(ValueError, match=r"dtype must be float32 or bfloat16 .*got (float16|int8|float64)"):
        abstract_model(config, dtype=dtype)


def test_the_seed_decides_the_weights(config):
    first, again, other = (jax.tree.leaves(nnx.state(init_model(config, seed=s))) for s in (0, 0, 1))
    assert all(map(np.array_equal, first, again))
    assert not all(map(np.array_equal, first, other))
    kernels = [layer.mlp.up_proj.kernel[...] for layer in init_model(config, seed=0).layers]
    assert not np.array_equal(kernels[0], kernels[2])


def test_initial_hidden_states_and_logits_are_neither_tiny_nor_huge(config, run):
    model = init_model(config, seed=0)
    hidden = run(model, np.stack([random_text(SEQ, s) for s in range(2)]))
    assert 0.5 < np.std(hidden) < 2
    assert 0.3 < np.std(model.logits(hidden)) < 3


# --- wrong calls


def test_calls_that_make_no_sense_are_refused(model, config):
    tokens = jnp.ones((2, 4), jnp.int32)
    cache = init_cache(config, 3, 16, dtype=jnp.float32)
    positions = jnp.arange(4)[None].repeat(2, axis=0)
    with pytest.raises(ValueError, match="positions must be given"):
        model(tokens, cache=cache)
    with pytest.raises(ValueError, match="give the cache too"):
        model(tokens, positions, rows=jnp.zeros_like(tokens))
    with pytest.raises(ValueError, match="tokens of 2 rows that continue a cache of 3 rows"):
        model(tokens, positions, cache=cache)
    with pytest.raises(ValueError, match="no segment_ids"):
        model(tokens, positions, jnp.ones_like(tokens), cache=init_cache(config, 2, 16, dtype=jnp.float32))
    prefix = init_cache(config, 1, 16, dtype=jnp.float32)
    with pytest.raises(ValueError, match="with a prefix, cache, rows and segment_ids must be given"):
        model(tokens, positions, cache=cache, rows=jnp.zeros_like(tokens), prefix=prefix)
    with pytest.raises(ValueError, match="of the cache's length 16, got 3 rows of length 16"):
        model(tokens, positions, jnp.ones_like(tokens), cache=cache, rows=jnp.zeros_like(tokens), prefix=cache)
    prefix = init_cache(config, 1, 16, dtype=jnp.int8)
    with pytest.raises(ValueError, match="a prefix lies in a cache of the model's dtype, got int8"):
        model(tokens, positions, jnp.ones_like(tokens), cache=cache, rows=jnp.zeros_like(tokens), prefix=prefix)


def test_tokens_must_have_two_dimensions(model):
    with pytest.raises((ValueError, TypeCheckError), match="batch"):
        model(jnp.ones(4, jnp.int32))


def test_shapes_are_checked_by_the_annotations(model):
    checked = jaxtyped(Gemma3.__call__, typechecker=beartype)
    tokens = jnp.ones((2, SEQ), jnp.int32)
    for wrong in ((tokens, tokens[:, 1:]), (tokens, tokens, tokens[:1]), (tokens.astype(jnp.float32),)):
        with pytest.raises(TypeCheckError):
            checked(model, *wrong)
