"""Attention without a cache, against plain attention in float64 written from the definition; and what it may cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beartype import beartype
from jaxtyping import TypeCheckError, jaxtyped

from coldforge.modeling import attention, short_rows
from coldforge.modeling.attention import attend, attend_cached

pytestmark = pytest.mark.whole

BLOCKED = jax.jit(attend, static_argnames=("window", "kernel"))


@pytest.fixture(params=["short", "long"])
def path(request, monkeypatch):
    """Both ways off TPU: `short_rows`, and what longer rows take, at lengths that are cheap to test."""
    if request.param == "long":
        monkeypatch.setattr(short_rows, "LONGEST", 0)
    BLOCKED.clear_cache()
    yield request.param
    BLOCKED.clear_cache()


def plain_attention(q, k, v, segment_ids, window=None, xp=np):
    """Softmax attention in the dtype of its input, one dense mask; rows that see nothing give zeros."""
    seq, group = q.shape[1], q.shape[2] // k.shape[2]
    k, v = (xp.repeat(x, group, axis=2) for x in (k, v))
    near = np.tri(seq, dtype=bool) & ~np.tri(seq, k=-(window or seq), dtype=bool)
    seen = near & (segment_ids[:, :, None] == segment_ids[:, None, :]) & (segment_ids[:, None, :] != 0)
    seen = seen[:, None]
    scores = xp.where(seen, xp.einsum("bqnh,bknh->bnqk", q, k), -1e30)
    weights = seen * xp.exp(scores - scores.max(-1, keepdims=True))
    total = weights.sum(-1, keepdims=True)
    return xp.einsum("bnqk,bknh->bqnh", weights / xp.where(total == 0, 1, total), v)


def example(seq, *, heads=2, kv_heads=1, head_dim=8, batch=1, texts=4, padding=9, seed=0):
    """Random queries, keys, values; rows of several texts of random lengths, with padding at the end."""
    rng = np.random.default_rng(seed)
    q, k, v = (rng.normal(size=(batch, seq, n, head_dim)) for n in (heads, kv_heads, kv_heads))
    segment_ids = np.sort(rng.integers(1, texts + 1, (batch, seq)), axis=1)
    segment_ids[:, seq - padding :] = 0
    return q, k, v, segment_ids


def narrow(q, k, v, segment_ids, dtype=jnp.float32):
    return *(jnp.asarray(x, dtype) for x in (q, k, v)), jnp.asarray(segment_ids, jnp.int32)


def assert_agrees(inputs, window, **kernel):
    """`attend` agrees with plain attention where there is text, and is finite elsewhere."""
    out = np.asarray(BLOCKED(*narrow(*inputs), window=window, **kernel))
    text = inputs[3] > 0
    np.testing.assert_allclose(out[text], plain_attention(*inputs, window)[text], atol=2e-6, rtol=1e-5)
    assert np.isfinite(out).all()


# --- values


@pytest.mark.parametrize(
    ("seq", "window", "path"),
    [
        (40, None, "short"),
        (40, 7, "short"),
        (300, 1, "short"),  # three blocks, the last one shorter; a token sees only itself
        (391, 129, "short"),  # a window reaches back exactly one block
        (391, 130, "short"),  # one more: two
        (777, 512, "short"),
        (1024, None, "short"),
        (1100, 300, "short"),  # the first length with blocks of more than 128
        (2048, None, "short"),  # the longest
        (2049, None, "long"),  # the shortest of the others: five blocks, three ranges
        (300, 1, "long"),  # banded, no earlier block needed; a token sees only itself
        (263, 2, "long"),
        (264, 7, "long"),  # the first length that is banded
        (391, 64, "long"),  # a block reaches back exactly one block
        (650, 65, "long"),  # one more: two
        (777, 255, "long"),
        (777, 256, "long"),
        (777, 257, "long"),
        (1024, 512, "long"),  # a multiple of the block
        (901, 512, "long"),
        (1025, None, "long"),  # three blocks of queries, two ranges
        (1100, 1090, "long"),  # a window so long that bands do not pay
    ],
    indirect=["path"],
)
def test_agrees_with_plain_attention(seq, window, path):
    assert_agrees(example(seq), window)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 2), (3, 1)])
@pytest.mark.parametrize(("seq", "window", "path"), [(280, 16, "short"), (280, 16, "long")], indirect=["path"])
def test_heads_share_keys_in_consecutive_groups(heads, kv_heads, seq, window, path):
    assert_agrees(example(seq, heads=heads, kv_heads=kv_heads, batch=2, head_dim=4), window)


@pytest.mark.parametrize("blocks", [3, 8, 17, 23])  # ranges of 2, 2, 3 and 3 blocks; the last range is shorter
def test_long_rows_put_several_blocks_of_queries_in_a_range(monkeypatch, blocks):
    monkeypatch.setattr(attention, "QUERY_BLOCK", 16)
    monkeypatch.setattr(short_rows, "LONGEST", 0)
    inputs = example(16 * blocks - 5)
    out = jax.jit(lambda *arrays: attend(*arrays))(*narrow(*inputs))
    text = inputs[3] > 0
    np.testing.assert_allclose(np.asarray(out)[text], plain_attention(*inputs)[text], atol=2e-6, rtol=1e-5)


def test_a_window_of_one_gives_each_token_its_own_value():
    q, k, v, segment_ids = narrow(*example(300, padding=0))
    np.testing.assert_allclose(BLOCKED(q, k, v, segment_ids, window=1), np.repeat(v, 2, axis=2), atol=1e-6)


@pytest.mark.parametrize(
    ("seq", "window", "path"), [(300, None, "short"), (400, 16, "long"), (1100, None, "long")], indirect=["path"]
)
def test_a_row_of_padding_alone_is_finite_and_so_are_its_gradients(seq, window, path):
    q, k, v, segment_ids = narrow(*example(seq, batch=2))
    segment_ids = segment_ids.at[1].set(0)

    def loss(q, k, v):
        return attend(q, k, v, segment_ids, window=window)[0].sum()

    out = BLOCKED(q, k, v, segment_ids, window=window)
    assert np.isfinite(out).all()
    for gradient in jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(q, k, v):
        assert np.isfinite(gradient).all()
        assert not np.any(gradient[1])  # nothing of the padding row reaches the other row


@pytest.mark.parametrize(
    ("seq", "window", "path"),
    [(300, None, "short"), (700, 130, "short"), (300, 7, "long"), (700, 130, "long"), (1100, None, "long")],
    indirect=["path"],
)
def test_what_a_query_may_not_see_does_not_change_a_bit(seq, window, path):
    q, k, v, segment_ids = narrow(*example(seq, texts=2))
    before = np.asarray(BLOCKED(q, k, v, segment_ids, window=window))
    at = int(np.flatnonzero(segment_ids[0] == 1)[-1]) - 20  # a key in the first text, away from its end
    after = np.asarray(BLOCKED(q, k.at[:, at].set(50.0), v.at[:, at].set(-50.0), segment_ids, window=window))
    changed = np.flatnonzero((before != after).any(axis=(0, 2, 3)) & (segment_ids[0] > 0))
    last = at + 20
    assert changed.min() == at
    assert changed.max() <= (last if window is None else min(last, at + window - 1))


def test_scores_far_apart_do_not_overflow():
    q, k, v, segment_ids = example(20)
    assert_agrees((1e3 * q, k, v, segment_ids), None)


# --- gradients


@pytest.mark.parametrize(
    ("seq", "window", "path"),
    [(40, 7, "short"), (390, None, "short"), (601, 200, "short"), (390, 64, "long"), (601, 300, "long"),
     (1100, None, "long")],
    indirect=["path"],
)  # fmt: skip
def test_gradients_agree_with_those_of_plain_attention(seq, window, path):
    inputs = narrow(*example(seq, heads=4, kv_heads=2, head_dim=4))
    cotangent = np.random.default_rng(1).normal(size=inputs[0].shape).astype(np.float32)
    cotangent[np.asarray(inputs[3]) == 0] = 0

    def gradients(attend):
        def loss(q, k, v):
            return (attend(q, k, v) * cotangent).sum()

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*inputs[:3])

    ours = gradients(lambda q, k, v: attend(q, k, v, inputs[3], window=window))
    theirs = gradients(lambda q, k, v: plain_attention(q, k, v, inputs[3], window, xp=jnp))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


# --- several stores


def test_stores_are_attended_as_if_concatenated():
    rng = np.random.default_rng(0)
    q = jnp.asarray(rng.normal(size=(2, 3, 4, 8)), jnp.float32)
    keys, values = ([jnp.asarray(rng.normal(size=(2, 2, n, 8)), jnp.float32) for n in (5, 3, 1)] for _ in range(2))
    masks = [jnp.asarray(rng.random((2, 3, n)) < 0.5) for n in (5, 3, 1)]
    masks[0] = masks[0].at[:, :, 0].set(True)
    split = attend_cached(q, keys, values, masks)
    joined = attend_cached(q, *([jnp.concatenate(stores, axis=2)] for stores in (keys, values, masks)))
    np.testing.assert_allclose(split, joined, atol=1e-6)
    # A store of which nothing is seen changes nothing, whatever it holds.
    junk, unseen = jnp.full((2, 2, 4, 8), 1e4), jnp.zeros((2, 3, 4), bool)
    np.testing.assert_allclose(attend_cached(q, [*keys, junk], [*values, junk], [*masks, unseen]), split, atol=1e-6)


def test_softmax_is_in_float32_also_for_bfloat16_inputs():
    inputs = narrow(*example(64, padding=0, texts=1), jnp.bfloat16)
    out = BLOCKED(*inputs)
    assert out.dtype == jnp.bfloat16
    expected = plain_attention(*(np.asarray(x, np.float64) for x in inputs[:3]), np.asarray(inputs[3]))
    # Weights and output are rounded to 8 bits; a softmax in bfloat16 would be off by 0.03 and more.
    np.testing.assert_allclose(out.astype(np.float32), expected, atol=0.015)


def test_shapes_are_checked_by_the_annotations():
    checked = jaxtyped(attend, typechecker=beartype)
    q, k, v, segment_ids = narrow(*example(16))
    checked(q, k, v, segment_ids)
    for wrong in ((q[:, :15], k, v, segment_ids), (q, k, v[..., :4], segment_ids), (q, k, v, segment_ids[0])):
        with pytest.raises(TypeCheckError):
            checked(*wrong)


# --- cost


def compiled(seq, window, *, gradient=False, heads=4, head_dim=64):
    """The compiled program for a row of `seq` tokens; nothing is run."""

    def run(q, k, v, segment_ids):
        return attend(q, k, v, segment_ids, window=window)

    def loss(q, k, v, segment_ids):
        return run(q, k, v, segment_ids).sum()

    shapes = [jax.ShapeDtypeStruct((1, seq, n, head_dim), jnp.float32) for n in (heads, 1, 1)]
    function = jax.grad(loss, argnums=(0, 1, 2)) if gradient else run
    return jax.jit(function).lower(*shapes, jax.ShapeDtypeStruct((1, seq), jnp.int32)).compile()


def temporaries(program) -> int:
    return program.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("gradient", [False, True])
def test_a_local_layer_costs_seq_times_window(gradient):
    short, long = (compiled(seq, 512, gradient=gradient) for seq in (4096, 8192))
    assert temporaries(long) <= 2.2 * temporaries(short)
    assert long.cost_analysis()["flops"] <= 2.2 * short.cost_analysis()["flops"]
    # Scores of 4 heads, 8,192 queries and 768 keys are 96 MiB; with weights, masks and gradients at most six of them.
    assert temporaries(long) <= 6 * 4 * 8192 * 768 * 4


def test_half_the_window_is_about_half_the_work():
    wide, half = (compiled(4096, window).cost_analysis()["flops"] for window in (1024, 512))
    assert half <= 0.62 * wide  # 768 of 1,280 keys


@pytest.mark.parametrize("seq", [2048, 4096, 8192])
@pytest.mark.parametrize("gradient", [False, True])
def test_a_global_layer_never_holds_scores_of_all_queries(seq, gradient):
    # Of one block of 512 queries and all keys: scores and weights, and in the backward pass gradients of both.
    block = 4 * 512 * seq * 4
    arrays = 5 * 4 * seq * 64 * 4  # queries and the like
    assert temporaries(compiled(seq, None, gradient=gradient)) <= (6 if gradient else 3) * block + 4 * arrays
