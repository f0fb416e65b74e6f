"""token_scores against float64 numpy: values, gradients, masks, tile sizes, transformations, memory, bad input."""

import inspect
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from coldforge.losses import chunks, token_scores

pytestmark = pytest.mark.whole

EVERYTHING = {"entropy_grad": True, "logsumexp": True}


def values(scores):
    return scores.logprobs, scores.entropy, scores.logsumexp


def mixed(scores, seed=5):
    """A loss in which every score of every token has another cotangent, one that depends on the scores too."""
    rng = np.random.default_rng(seed)
    shape = scores.logprobs.shape
    parts = [x for x in scores if x is not None]
    return sum(
        (jnp.asarray(rng.normal(size=shape)) * x + jnp.asarray(rng.normal(size=shape)) * x**2).sum() for x in parts
    )


def plain(hidden, embedding, targets, where, temperature=1.0):
    """The whole logits at once, differentiated by JAX itself."""
    z = jnp.einsum("btd,vd->btv", jnp.where(where[..., None], hidden, 0), embedding) / temperature
    logp = jax.nn.log_softmax(z)
    picked = jnp.take_along_axis(logp, targets[..., None], axis=-1)[..., 0]
    triple = picked, -(jnp.exp(logp) * logp).sum(-1), jax.nn.logsumexp(z, axis=-1)
    return [jnp.where(where, x, 0) for x in triple]


# Tokens, rows of a vocabulary of 48, temperature.
TILES = [(1, 48, 1.0), (3, 5, 0.7), (16, 1, 1), (88, 47, 1.5), (1000, 1000, 2), (None, None, 1.0)]


@pytest.mark.parametrize(("chunk", "block", "temperature"), TILES)
def test_values_are_numpys(problem, chunk, block, temperature):
    score = partial(token_scores, temperature=temperature, chunk=chunk, block=block, entropy=True, logsumexp=True)
    scores = jax.jit(score)(*problem.arrays())
    for ours, reference in zip(values(scores), problem.scores(temperature), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, reference, atol=2e-5)


def test_only_what_is_asked_for_is_returned(problem):
    scores = token_scores(*problem.arrays())
    assert scores.entropy is None
    assert scores.logsumexp is None
    np.testing.assert_allclose(scores.logprobs, problem.scores()[0], atol=2e-5)


def test_without_a_mask_every_token_counts(problem):
    problem.where = np.ones_like(problem.where)
    hidden, embedding, targets, _ = problem.arrays()
    np.testing.assert_allclose(token_scores(hidden, embedding, targets).logprobs, problem.scores()[0], atol=2e-5)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("chunk", [3, 64])
def test_gradients_are_numerical_ones(problem, chunk):
    hidden, embedding, targets, where = problem.arrays(jnp.float64)

    def loss(hidden, embedding):
        return mixed(token_scores(hidden, embedding, targets, where, temperature=0.8, chunk=chunk, **EVERYTHING))

    check_grads(jax.jit(loss), (hidden, embedding), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("chunk", "block", "temperature"), TILES)
def test_gradients_are_those_of_the_plain_form(problem, chunk, block, temperature):
    hidden, embedding, targets, where = problem.arrays(jnp.float64)
    cotangents = jnp.asarray(np.random.default_rng(1).normal(size=(3, *targets.shape)))

    def loss(triple):
        return sum((c * x).sum() for c, x in zip(cotangents, triple, strict=True))

    def ours(h, e):
        scores = token_scores(h, e, targets, where, temperature=temperature, chunk=chunk, block=block, **EVERYTHING)
        return loss(values(scores))

    expected = jax.grad(lambda h, e: loss(plain(h, e, targets, where, temperature)), (0, 1))(hidden, embedding)
    for got, want in zip(jax.jit(jax.grad(ours, (0, 1)))(hidden, embedding), expected, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_gradient_of_one_argument_is_that_of_both(problem):
    """The forward rule sees which arguments are differentiated; each case takes another path through it."""
    hidden, embedding, targets, where = problem.arrays(jnp.float64)

    def gradient(which):
        return jax.jit(jax.grad(lambda *a: mixed(token_scores(*a, targets, where, chunk=4, **EVERYTHING)), which))

    both = gradient((0, 1))(hidden, embedding)
    for i in (0, 1):
        np.testing.assert_array_equal(gradient(i)(hidden, embedding), both[i])


def test_a_tied_embedding_gets_both_gradients(problem):
    _, embedding, targets, where = problem.arrays()

    def loss(score):
        return lambda e: score(jnp.tanh(e[targets]), e, targets, where)

    got = jax.jit(jax.grad(loss(lambda *a: token_scores(*a, chunk=4).logprobs.sum())))(embedding)
    want = jax.grad(loss(lambda *a: plain(*a)[0].sum()))(embedding)
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_entropy_as_a_metric_has_no_gradient(problem):
    hidden, embedding, targets, where = problem.arrays()

    def metric(h, e):
        return token_scores(h, e, targets, where, entropy=True).entropy.sum()

    for gradient in jax.grad(metric, (0, 1))(hidden, embedding):
        np.testing.assert_array_equal(gradient, 0)


# --- masks


def test_masked_is_the_subset(problem):
    """Scores and gradients of counted tokens are those of a batch that holds nothing else."""
    hidden, embedding, targets, where = problem.arrays()
    few = (hidden[where][None], embedding, targets[where][None])
    score = jax.jit(partial(token_scores, chunk=5, **EVERYTHING))
    scores, subset = score(hidden, embedding, targets, where), score(*few)
    for a, b in zip(scores, subset, strict=True):
        np.testing.assert_allclose(a[where], b[0], atol=1e-6)
        np.testing.assert_array_equal(a[~where], 0)
    gradient = jax.jit(jax.grad(lambda *a: token_scores(*a, chunk=5).logprobs.sum(), (0, 1)))
    dense, sparse = gradient(hidden, embedding, targets, where), gradient(*few)
    np.testing.assert_allclose(dense[0][where], sparse[0][0], atol=1e-6)
    np.testing.assert_array_equal(dense[0][~where], 0)
    np.testing.assert_allclose(dense[1], sparse[1], atol=1e-5)


def test_junk_where_nothing_counts_leaks_nowhere(problem):
    hidden, embedding, targets, where = problem.arrays()

    def loss(h, e, y):
        return mixed(token_scores(h, e, y, where, chunk=4, **EVERYTHING))

    run = jax.jit(jax.value_and_grad(loss, (0, 1)))
    clean = run(hidden, embedding, targets)
    for junk in (np.nan, np.inf, -np.inf, 1e38):
        dirty = run(jnp.where(where[..., None], hidden, junk), embedding, jnp.where(where, targets, -100))
        for a, b in zip(jax.tree.leaves(dirty), jax.tree.leaves(clean), strict=True):
            np.testing.assert_array_equal(a, b)
            assert np.isfinite(a).all()


def test_cotangents_where_nothing_counts_leak_nowhere(problem):
    hidden, embedding, targets, where = problem.arrays()
    _, pull = jax.vjp(lambda h, e: token_scores(h, e, targets, where, chunk=4).logprobs, hidden, embedding)
    for gradient in pull(jnp.where(where, 1.0, jnp.nan)):
        assert np.isfinite(gradient).all()


def test_nothing_counted_is_zero(problem):
    hidden, embedding, targets, where = problem.arrays()
    nothing = jnp.zeros_like(where)
    np.testing.assert_array_equal(token_scores(hidden, embedding, targets, nothing).logprobs, 0)
    for gradient in jax.grad(lambda *a: token_scores(*a, targets, nothing).logprobs.sum(), (0, 1))(hidden, embedding):
        np.testing.assert_array_equal(gradient, 0)


def test_nan_in_a_counted_token_shows_in_that_token_alone(problem):
    problem.where[:] = True
    problem.hidden[2, 3] = np.nan
    scores = token_scores(*problem.arrays()).logprobs
    assert np.isnan(scores[2, 3])
    assert np.isnan(scores).sum() == 1


@pytest.mark.parametrize("target", [-1, 48, 1000])
def test_a_counted_target_outside_the_vocabulary_is_nan(problem, target):
    problem.where[:] = True
    problem.targets[1, 1] = target
    scores = token_scores(*problem.arrays()).logprobs
    assert np.isnan(scores[1, 1])
    assert np.isnan(scores).sum() == 1


# --- numbers


def test_large_logits_stay_finite(problem):
    problem.hidden *= 1e3
    hidden, embedding, targets, where = problem.arrays()
    scores = token_scores(hidden, embedding, targets, where, entropy=True)
    references = problem.scores()
    np.testing.assert_allclose(scores.logprobs, references[0], rtol=1e-4, atol=1e-2)
    assert (np.asarray(scores.entropy) >= -1e-6).all()
    gradient = jax.grad(lambda h: token_scores(h, embedding, targets, where, **EVERYTHING).entropy.sum())(hidden)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("order", [1, -1])
def test_logits_that_rise_or_fall_from_block_to_block(problem, order):
    """Each block raises the maximum, by up to 4,000 in all, or none does: sums are scaled as often, and stay finite."""
    problem.embedding[:, 0] = 100 * np.arange(48)[::order]
    problem.hidden[..., 0] = 1
    hidden, embedding, targets, where = problem.arrays()
    scores = jax.jit(partial(token_scores, block=5, entropy=True, logsumexp=True))(hidden, embedding, targets, where)
    for ours, reference in zip(values(scores), problem.scores(), strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-5, atol=1e-3)
    gradient = jax.jit(jax.grad(lambda *a: mixed(token_scores(*a, targets, where, block=5, **EVERYTHING)), (0, 1)))
    assert all(np.isfinite(x).all() for x in gradient(hidden, embedding))


def test_a_certain_token_keeps_its_loss():
    """−log p of 1e-10 and its gradient, where p is 1 for all that float32 knows of it; and never less than 0."""
    embedding = jnp.asarray([[24.0, 0.0], [1.0, 0.0], [0.5, 1.0]])
    hidden = jnp.ones((1, 1, 2))

    def nll(h):
        return -token_scores(h, embedding, jnp.zeros((1, 1), int), block=2).logprobs.sum()

    value, gradient = jax.value_and_grad(nll)(hidden)
    others = np.exp(np.array([1.0, 1.5]) - 24)
    assert float(value) == pytest.approx(np.log1p(others.sum()), rel=1e-5)
    np.testing.assert_allclose(gradient[0, 0], others @ [[1 - 24, 0], [0.5 - 24, 1]], rtol=1e-5)


def test_a_vocabulary_of_one_token_is_certain():
    score = partial(token_scores, jnp.ones((1, 2, 3)), jnp.ones((1, 3)), jnp.zeros((1, 2), int))
    for ours, reference in zip(values(score(**EVERYTHING)), (0, 0, 3), strict=True):
        np.testing.assert_allclose(ours, reference, atol=1e-30)


def test_bfloat16_is_summed_in_float32(problem):
    """Against float64 of the same rounded numbers, the products of bfloat16 are exact and only float32 sums round."""
    hidden, embedding, targets, where = problem.arrays(jnp.bfloat16)
    problem.hidden, problem.embedding = np.asarray(hidden, np.float64), np.asarray(embedding, np.float64)
    scores = token_scores(hidden, embedding, targets, where, entropy=True, logsumexp=True)
    for ours, reference in zip(values(scores), problem.scores(), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, reference, atol=2e-5)


def test_bfloat16_gradients_come_in_bfloat16_within_its_rounding(problem):
    hidden, embedding, targets, where = problem.arrays(jnp.bfloat16)
    got = jax.grad(lambda *a: token_scores(*a, chunk=4).logprobs.sum(), (0, 1))(hidden, embedding, targets, where)
    exact = (hidden.astype(jnp.float32), embedding.astype(jnp.float32), targets, where)
    want = jax.grad(lambda *a: plain(*a)[0].sum(), (0, 1))(*exact)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(jnp.float32), b, atol=2**-7 * float(abs(b).max()))


def test_a_confident_token_keeps_its_small_gradient_in_bfloat16():
    """1 − p of 1e-4 must not vanish beside 1: bfloat16 has no number between 0.996 and 1."""
    embedding = jnp.asarray([[1.0, 0.0], [0.0, 0.0]], jnp.bfloat16)
    hidden = jnp.asarray([[[9.1875, 0.0]]], jnp.bfloat16)
    gradient = jax.grad(lambda h: token_scores(h, embedding, jnp.zeros((1, 1), int)).logprobs.sum())(hidden)
    assert float(gradient[0, 0, 0]) == pytest.approx(1 / (1 + np.exp(9.1875)), rel=1e-2)


def test_mixed_dtypes_leave_the_embedding_as_it_is(problem):
    hidden, _, targets, where = problem.arrays()
    embedding = jnp.asarray(problem.embedding, jnp.bfloat16)
    gradients = jax.grad(lambda *a: token_scores(*a).logprobs.sum(), (0, 1))(hidden, embedding, targets, where)
    assert [g.dtype for g in gradients] == [jnp.float32, jnp.bfloat16]
    text = jax.jit(token_scores).lower(hidden, embedding, targets, where).as_text()
    assert "xbf16>" in text
    assert "48x6xf32" not in text


# --- transformations


def test_under_jit_temperature_and_mask_compile_nothing_anew(problem):
    hidden, embedding, targets, where = problem.arrays()
    traces = []

    @jax.jit
    def run(where, temperature):
        traces.append(1)
        return token_scores(hidden, embedding, targets, where, temperature=temperature, chunk=4).logprobs

    for temperature in (1.0, 0.6):
        np.testing.assert_allclose(run(where, temperature), problem.scores(temperature)[0], atol=2e-5)
    np.testing.assert_array_equal(run(jnp.zeros_like(where), 1.0), 0)
    assert len(traces) == 1


def test_vmap_is_a_loop(problem):
    hidden, embedding, targets, where = problem.arrays()
    args = tuple(x.reshape(4, 2, *x.shape[1:]) for x in (hidden, targets, where))

    def run(h, y, m):
        return jax.value_and_grad(lambda h: mixed(token_scores(h, embedding, y, m, chunk=4, **EVERYTHING)))(h)

    mapped, one = jax.jit(jax.vmap(run))(*args), jax.jit(run)
    looped = [one(*(x[i] for x in args)) for i in range(4)]
    for got, want in zip(mapped, zip(*looped, strict=True), strict=True):
        np.testing.assert_allclose(got, jnp.stack(want), atol=1e-5)


def test_scan_over_micro_batches_adds_up_to_the_batch(problem):
    hidden, embedding, targets, where = problem.arrays()

    def loss(e, h, y, m):
        return token_scores(h, e, y, m, chunk=4).logprobs.sum()

    def step(total, part):
        return total + jax.grad(loss)(embedding, *part), None

    parts = tuple(x.reshape(4, 2, *x.shape[1:]) for x in (hidden, targets, where))
    total, _ = jax.lax.scan(step, jnp.zeros_like(embedding), parts)
    np.testing.assert_allclose(total, jax.grad(loss)(embedding, hidden, targets, where), atol=1e-5)


def test_under_checkpoint(problem):
    hidden, embedding, targets, where = problem.arrays()

    def loss(h):
        return mixed(token_scores(jnp.tanh(h), embedding, targets, where, chunk=4))

    got, want = (jax.jit(jax.grad(f))(hidden) for f in (jax.checkpoint(loss), loss))
    np.testing.assert_allclose(got, want, atol=1e-6)


# --- work and memory


def compiled(seq, vocab, argnums=0, **options):
    """A compiled value and gradient for `[2, seq]` tokens."""
    h, e = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2, seq, 16), (vocab, 16)))
    y, m = (jax.ShapeDtypeStruct((2, seq), d) for d in (jnp.int32, jnp.bool))

    def loss(h, e, y, m):
        return token_scores(h, e, y, m, **options).logprobs.sum()

    return jax.jit(jax.value_and_grad(loss, argnums)).lower(h, e, y, m).compile()


@pytest.mark.parametrize("argnums", [0, (0, 1)])
def test_memory_grows_with_chunk_times_block_and_not_with_the_logits(argnums):
    def temporaries(seq, vocab, chunk, block):
        return compiled(seq, vocab, argnums, chunk=chunk, block=block).memory_analysis().temp_size_in_bytes

    base = temporaries(1024, 8192, 64, 2048)
    assert base < 4 * 64 * 2048 * 4 + (2048 * 16 * 10 + 8192 * 16) * 4  # logits of a tile, arrays like hidden, like E
    assert base < 2 * 1024 * 8192 * 4 / 10  # all logits would be 67 MB
    assert temporaries(1024, 8192, 64, 8192) > base + 64 * 6144 * 4 / 2  # the test sees tiles at all
    longer, wider = temporaries(4096, 8192, 64, 2048), temporaries(1024, 32768, 64, 2048)
    assert longer - base < 6144 * 16 * 4 * 10
    assert wider - base < 24576 * 16 * 4 * 2 * bool(argnums) + 2**16  # the embedding's gradient, if any


def test_chunks_without_counted_tokens_are_skipped():
    """The loop runs over counted tokens only, wherever they lie: with one in a hundred it is far quicker."""
    run = compiled(1024, 16384, chunk=32)
    rng = np.random.default_rng(0)
    h, e = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, 1024, 16), (16384, 16)))
    y = jnp.zeros((2, 1024), jnp.int32)
    spread = jnp.asarray(np.arange(2048).reshape(2, 1024) % 100 == 0)

    def seconds(mask):
        best = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            jax.block_until_ready(run(h, e, y, mask))
            best = min(best, time.perf_counter() - start)
        return best

    assert seconds(spread) < seconds(jnp.ones_like(spread)) / 4  # 1 chunk of 64


# --- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedding": jnp.zeros((6, 48))}, r"embedding \[vocab, embed\].*\(6, 48\).*transposed"),
        ({"targets": jnp.zeros((8, 10), int)}, r"targets must have .*\(8, 11\), got \(8, 10\)"),
        ({"where": jnp.zeros((7, 11), bool)}, r"where must have .*\(8, 11\), got \(7, 11\)"),
        ({"chunk": 0}, "chunk must be at least 1, got 0"),
        ({"block": 0}, "block must be at least 1, got 0"),
        ({"temperature": 0}, "temperature must be positive, got 0; greedy"),
        ({"temperature": -1.0}, "temperature must be positive"),
        ({"temperature": float("nan")}, "temperature must be positive"),
    ],
)
def test_bad_input_is_named(problem, change, message):
    arguments = dict(zip(("hidden", "embedding", "targets", "where"), problem.arrays(), strict=True))
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(token_scores)(**arguments | change)  # before the shape checks that tests switch on


def test_no_tokens_are_refused(problem):
    _, embedding, _, _ = problem.arrays()
    with pytest.raises(ValueError, match="at least one token"):
        token_scores(jnp.zeros((0, 4, 6)), embedding, jnp.zeros((0, 4), int))


def test_sums_as_products_are_the_same_sums(monkeypatch):
    """What runs on a TPU, where sums over the vocabulary are products with ones."""
    x = jnp.exp(-jnp.arange(2.0 * 3000).reshape(2, 3000) / 300)
    plain = chunks._over_vocab(x)
    monkeypatch.setattr(chunks, "platform", lambda: "tpu")
    np.testing.assert_allclose(chunks._over_vocab(x), plain, rtol=1e-5)
    np.testing.assert_allclose(plain, np.asarray(x, np.float64).sum(axis=1), rtol=1e-5)
