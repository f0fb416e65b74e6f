"""cross_entropy: weights, z-loss, segments, shifting, accumulation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from coldforge.losses import WeightedSum, cross_entropy, next_tokens

pytestmark = pytest.mark.whole


@pytest.fixture
def weights(problem):
    return np.where(problem.where, np.random.default_rng(4).uniform(0.5, 2, problem.where.shape), 0)


def test_loss_is_the_weighted_average_of_numpys(problem, weights):
    hidden, embedding, targets, _ = problem.arrays()
    result = cross_entropy(hidden, embedding, targets, jnp.asarray(weights, jnp.float32), chunk=4)
    expected = np.average(-problem.scores()[0], weights=weights)
    assert result.loss.mean() == pytest.approx(expected, abs=1e-5)
    assert result.nll.mean() == pytest.approx(expected, abs=1e-5)
    assert result.loss.weight == pytest.approx(weights.sum(), rel=1e-5)
    assert result.segments is None


def test_z_loss_is_in_the_loss_and_not_in_nll(problem, weights):
    hidden, embedding, targets, _ = problem.arrays()
    result = cross_entropy(hidden, embedding, targets, jnp.asarray(weights, jnp.float32), z_loss=0.1)
    logprobs, _, logsumexp = problem.scores()
    assert result.loss.mean() == pytest.approx(np.average(0.1 * logsumexp**2 - logprobs, weights=weights), abs=1e-4)
    assert result.nll.mean() == pytest.approx(np.average(-logprobs, weights=weights), abs=1e-5)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("z_loss", [0.0, 0.1])
def test_gradients_are_numerical_ones(problem, weights, z_loss):
    hidden, embedding, targets, _ = problem.arrays(jnp.float64)

    def loss(h, e):
        return cross_entropy(h, e, targets, jnp.asarray(weights), z_loss=z_loss, chunk=4).loss.mean()

    check_grads(jax.jit(loss), (hidden, embedding), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


def test_segments_are_unweighted_means_of_their_tokens(problem, weights):
    hidden, embedding, targets, _ = problem.arrays()
    labels = np.random.default_rng(6).integers(-1, 2, targets.shape)
    result = cross_entropy(
        hidden, embedding, targets, jnp.asarray(weights, jnp.float32), labels=jnp.asarray(labels), num_labels=2
    )
    nll = -problem.scores()[0]
    for k in range(2):
        inside = (labels == k) & (weights > 0)
        assert result.segments.mean()[k] == pytest.approx(nll[inside].mean(), abs=1e-5)
        assert result.segments.weight[k] == inside.sum()


def test_entropy_is_the_unweighted_mean_over_counted_tokens(problem, weights):
    hidden, embedding, targets, _ = problem.arrays()
    asked = cross_entropy(hidden, embedding, targets, jnp.asarray(weights, jnp.float32), entropy=True).entropy
    assert asked.mean() == pytest.approx(problem.scores()[1][weights > 0].mean(), abs=1e-5)
    assert asked.weight == (weights > 0).sum()
    assert cross_entropy(hidden, embedding, targets, jnp.asarray(weights, jnp.float32)).entropy is None


def test_metrics_have_no_gradient(problem, weights):
    hidden, embedding, targets, _ = problem.arrays()
    labels = jnp.zeros_like(targets)

    def metrics(h):
        result = cross_entropy(h, embedding, targets, jnp.asarray(weights, jnp.float32), labels=labels, num_labels=1)
        return result.nll.total + result.segments.total.sum()

    np.testing.assert_array_equal(jax.grad(metrics)(hidden), 0)


@pytest.mark.parametrize("micro_batches", [2, 4, 8])
def test_accumulation_is_the_whole_batch_whatever_the_lengths(problem, weights, micro_batches):
    """Sum of totals' gradients over sum of weights: rows count as many tokens as they have."""
    hidden, embedding, targets, _ = problem.arrays()
    weights = jnp.asarray(weights, jnp.float32)

    def total(e, *part):
        loss = cross_entropy(part[0], e, *part[1:], chunk=4).loss
        return loss.total, loss

    part_gradient = jax.jit(jax.grad(total, has_aux=True))
    gradient, seen = jnp.zeros_like(embedding), WeightedSum(0.0, 0.0)
    for part in zip(*(jnp.split(x, micro_batches) for x in (hidden, targets, weights)), strict=True):
        more, loss = part_gradient(embedding, *part)
        gradient, seen = gradient + more, seen + loss

    def whole(e):
        return cross_entropy(hidden, e, targets, weights).loss.mean()

    value, expected = jax.value_and_grad(whole)(embedding)
    assert seen.mean() == pytest.approx(float(value), abs=1e-5)
    np.testing.assert_allclose(gradient / seen.weight, expected, atol=1e-6)


def test_integer_and_boolean_weights(problem):
    hidden, embedding, targets, where = problem.arrays()
    expected = -problem.scores()[0].sum() / problem.where.sum()
    assert cross_entropy(hidden, embedding, targets, where.astype(jnp.int32)).loss.mean() == pytest.approx(
        expected, abs=1e-5
    )


def test_no_weight_is_skipped_unseen(problem):
    """A negative weight counts, and what is no number shows."""
    hidden, embedding, targets, where = problem.arrays()
    loss = cross_entropy(hidden, embedding, targets, -where.astype(jnp.float32)).loss
    assert loss.mean() == pytest.approx(-problem.scores()[0].sum() / problem.where.sum(), abs=1e-5)
    assert np.isnan(cross_entropy(hidden, embedding, targets, jnp.where(where, jnp.nan, 0.0)).loss.total)


def test_next_tokens_shift_targets_with_their_weights():
    tokens, weights = jnp.asarray([[2, 7, 8, 9]]), jnp.asarray([[0.0, 0.0, 1.0, 2.0]])
    targets, shifted = next_tokens(tokens, weights)
    assert targets.tolist() == [[7, 8, 9, 0]]
    assert shifted.tolist() == [[0, 1, 2, 0]]


def test_a_packed_text_does_not_predict_the_next_one():
    tokens, weights = jnp.asarray([[2, 7, 2, 9, 0]]), jnp.asarray([[1, 1, 1, 1, 0]])
    _, shifted = next_tokens(tokens, weights, jnp.asarray([[1, 1, 2, 2, 0]]))
    assert shifted.tolist() == [[1, 0, 1, 0, 0]]


def test_predicting_with_shifted_targets_is_scoring_each_token_by_the_one_before(problem):
    """Position t of the shifted call is position t + 1 of the tokens: a wrong direction would score other tokens."""
    hidden, embedding, tokens, _ = problem.arrays()
    targets, weights = next_tokens(tokens, jnp.ones(tokens.shape))
    problem.targets = np.roll(np.asarray(tokens), -1, axis=1)
    problem.where = np.arange(11) < np.full((8, 1), 10)
    result = cross_entropy(hidden, embedding, targets, weights)
    assert result.loss.total == pytest.approx(-problem.scores()[0].sum(), rel=1e-5)
    assert result.loss.weight == 80


def test_bad_input_is_named(problem):
    hidden, embedding, targets, where = problem.arrays()
    weights = where.astype(jnp.float32)
    with pytest.raises(ValueError, match="labels and num_labels go together, got labels=True, num_labels=0"):
        cross_entropy(hidden, embedding, targets, weights, labels=targets)
    with pytest.raises(ValueError, match="go together, got labels=False, num_labels=2"):
        cross_entropy(hidden, embedding, targets, weights, num_labels=2)
    with pytest.raises(ValueError, match="z_loss must be 0"):
        cross_entropy(hidden, embedding, targets, weights, z_loss=-1.0)
