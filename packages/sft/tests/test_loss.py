"""The loss of a micro-batch: what is counted, and that its sums add up over micro-batches and mean what they say."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coldforge.sft import means, padding_share, sft_loss, trained_tokens

VOCAB, EMBED = 30, 8


class Batch(NamedTuple):
    tokens: jax.Array
    positions: jax.Array
    segment_ids: jax.Array
    loss_weights: jax.Array
    parts: jax.Array


@pytest.fixture
def batch() -> Batch:
    """Two rows of 8: two packed texts and padding; one text."""
    rng = np.random.default_rng(0)
    parts = np.array([[0, 1, 1, 2, 0, 1, 2, 0], [0, 0, 1, 1, 1, 2, 2, 2]], np.uint8)
    weights = np.array([0.0, 1.0, 2.0], np.float32)[parts]
    return Batch(
        jnp.asarray(rng.integers(1, VOCAB, (2, 8)), jnp.int32),
        jnp.asarray([[0, 1, 2, 3, 0, 1, 2, 0], range(8)], jnp.int32),
        jnp.asarray([[1, 1, 1, 1, 2, 2, 2, 0], [1] * 8], jnp.int32),
        jnp.asarray(weights), jnp.asarray(parts),
    )  # fmt: skip


def apply(params, frozen, tokens, positions, segment_ids):
    """Guesses the next token from this one alone."""
    return frozen[tokens] @ params, frozen


@pytest.fixture
def model():
    keys = jax.random.split(jax.random.key(0))
    return jax.random.normal(keys[0], (EMBED, EMBED)), jax.random.normal(keys[1], (VOCAB, EMBED))


def nll(model, tokens) -> np.ndarray:
    """−log p of each token given the one before, `[rows, seq]`, nan for the first."""
    hidden, embedding = apply(*model, tokens, None, None)
    logp = jax.nn.log_softmax(hidden @ embedding.T)
    picked = jnp.take_along_axis(logp[:, :-1], tokens[:, 1:, None], axis=2)[..., 0]
    return np.pad(-np.asarray(picked), ((0, 0), (1, 0)), constant_values=np.nan)


def test_sums_are_those_of_each_token_that_counts(model, batch):
    sums = sft_loss(apply)(*model, batch, jax.random.key(0))
    wanted = nll(model, batch.tokens)
    weights = np.asarray(batch.loss_weights)
    counted = weights > 0
    assert sums.loss == pytest.approx((wanted * weights)[counted].sum(), rel=1e-5)
    assert sums.weight == weights.sum()
    for number, part in enumerate(("reasoning", "answer"), start=1):
        inside = np.asarray(batch.parts) == number
        assert sums.aux[f"{part}_nll"] == pytest.approx(wanted[inside].sum(), rel=1e-5)
        assert sums.aux[f"{part}_tokens"] == inside.sum()
    assert (int(sums.aux["tokens"]), int(sums.aux["positions"])) == (15, 16)


def test_sums_add_up_over_micro_batches(model, batch):
    loss = sft_loss(apply, z_loss=1e-3, entropy=True)
    whole = loss(*model, batch, jax.random.key(0))
    halves = [loss(*model, jax.tree.map(lambda x, i=i: x[i : i + 1], batch), jax.random.key(0)) for i in range(2)]
    jax.tree.map(lambda a, b, c: np.testing.assert_allclose(a, b + c, rtol=1e-5), whole, *halves)


def test_a_packed_text_is_not_predicted_by_the_one_before(model, batch):
    """Even where a weight stands on a text's first token."""
    weights = batch.loss_weights.at[0, 4].set(5.0)
    sums = sft_loss(apply)(*model, batch._replace(loss_weights=weights), jax.random.key(0))
    assert sums.weight == np.asarray(batch.loss_weights).sum()


def test_metrics_are_means_over_tokens(model, batch):
    sums = sft_loss(apply, entropy=True, z_loss=1e-9)(*model, batch, jax.random.key(0))
    found = means(sums.aux | {"weight": sums.weight}, group="eval")
    wanted = nll(model, batch.tokens)
    assert found["eval/loss_reasoning"] == pytest.approx(wanted[np.asarray(batch.parts) == 1].mean(), rel=1e-5)
    assert found["eval/nll"] == pytest.approx(float(sums.loss / sums.weight), rel=1e-6)
    assert 0 < found["eval/entropy"] < np.log(VOCAB)
    assert padding_share(sums.aux) == 1 / 16
    assert trained_tokens(sums.aux) == 11
    nothing = means(dict.fromkeys(sums.aux, 0.0) | {"weight": 0.0})
    assert nothing == {}


def test_z_loss_is_in_the_loss_and_not_in_the_metrics(model, batch):
    plain, with_z = (sft_loss(apply, z_loss=z)(*model, batch, jax.random.key(0)) for z in (0.0, 0.1))
    assert with_z.loss > plain.loss
    assert with_z.aux["nll"] == pytest.approx(float(plain.loss), rel=1e-6)
    assert "nll" not in plain.aux
