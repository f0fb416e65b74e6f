"""The sampler against float64 numpy: which tokens can come, how often, and with which log-probability."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coldforge.rollout import RowParams, SamplingParams, sample

VOCAB = 3000  # more than the 1,024 candidates, so that both ways to a threshold are used
jitted = jax.jit(sample)


def row_params(rows: int, temperature=1.0, top_k=0, top_p=1.0) -> RowParams:
    return RowParams(
        jnp.full(rows, temperature, jnp.float32), jnp.full(rows, top_k, jnp.int32), jnp.full(rows, top_p, jnp.float32)
    )


def logits_of(seed: int, spread: float) -> np.ndarray:
    return (spread * np.random.default_rng(seed).standard_normal(VOCAB)).astype(np.float32)


def reference(logits: np.ndarray, temperature: float, top_k: int, top_p: float) -> tuple[np.ndarray, np.ndarray]:
    """(probabilities after top-k and top-p, log-probabilities before them), in float64."""
    scaled = logits.astype(np.float64) / temperature
    logprobs = scaled - scaled.max() - np.log(np.exp(scaled - scaled.max()).sum())
    p = np.exp(logprobs)
    if top_k:
        p = np.where(p >= np.sort(p)[-top_k], p, 0)
        p /= p.sum()
    if top_p < 1:
        order = np.argsort(-p)
        count = int(np.sum(np.cumsum(p[order]) < top_p)) + 1
        p = np.where(p >= p[order[count - 1]], p, 0)
    return p / p.sum(), logprobs


@pytest.mark.whole
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "spread"),
    [
        (1.0, 0, 1.0, 2.0),
        (0.6, 0, 1.0, 2.0),
        (1.0, 50, 1.0, 2.0),
        (1.0, 2500, 1.0, 2.0),  # more than the candidates
        (1.0, 0, 0.9, 3.0),  # the nucleus lies among the candidates
        (1.0, 0, 0.95, 0.3),  # and here it does not
        (0.7, 40, 0.8, 2.0),
        (1.0, 2900, 0.99, 0.2),
        (1.0, 1, 1.0, 2.0),
        (1.0, 0, 1e-6, 2.0),
    ],
)
def test_frequencies_and_logprobs(temperature, top_k, top_p, spread):
    """Uniform numbers on a grid turn inverse sampling into counting: every token comes as often as its probability."""
    rows = 4000
    logits = logits_of(1, spread)
    uniform = (np.arange(rows) + 0.5) / rows
    tokens, logprobs = jitted(
        jnp.tile(logits, (rows, 1)), jnp.asarray(uniform, jnp.float32), row_params(rows, temperature, top_k, top_p)
    )
    p, all_logprobs = reference(logits, temperature, top_k, top_p)
    counts = np.bincount(np.asarray(tokens), minlength=VOCAB)
    assert counts[p == 0].sum() == 0, "a token that top-k or top-p excludes was sampled"
    assert np.abs(counts - rows * p).max() <= 2
    np.testing.assert_allclose(logprobs, all_logprobs[np.asarray(tokens)], atol=2e-5)


def test_greedy_takes_the_first_of_the_most_likely_and_reports_temperature_one():
    logits = np.stack([logits_of(seed, 2.0) for seed in range(4)])
    logits[0, [7, 2000]] = 50.0
    tokens, logprobs = jitted(jnp.asarray(logits), jnp.full(4, 0.9), row_params(4, 0.0, 5, 0.5))
    assert tokens.tolist() == logits.argmax(axis=1).tolist()
    np.testing.assert_allclose(logprobs, [reference(row, 1.0, 0, 1.0)[1].max() for row in logits], atol=1e-5)


def test_rows_of_different_parameters_do_not_touch_each_other():
    settings = [(1.0, 0, 1.0), (0.0, 0, 1.0), (0.5, 10, 1.0), (1.3, 0, 0.4), (1.0, 2000, 0.9), (2.0, 0, 0.999)]
    logits = jnp.asarray(np.stack([logits_of(i, 1.0) for i in range(len(settings))]))
    uniform = jnp.linspace(0.05, 0.95, len(settings))
    mixed = RowParams(*(jnp.asarray(column) for column in zip(*settings, strict=True)))
    together = jitted(logits, uniform, mixed)
    for i, setting in enumerate(settings):
        alone = jitted(logits[i : i + 1], uniform[i : i + 1], row_params(1, *setting))
        assert int(alone[0][0]) == int(together[0][i])
        np.testing.assert_allclose(alone[1][0], together[1][i], atol=1e-6)


def test_ties_at_the_threshold_are_all_kept():
    logits = np.full(VOCAB, -5.0, np.float32)
    logits[[3, 700, 1500, 2999]] = 1.0
    rows = 64
    uniform = jnp.asarray((np.arange(rows) + 0.5) / rows, jnp.float32)
    tokens, _ = jitted(jnp.tile(logits, (rows, 1)), uniform, row_params(rows, 1.0, 2, 1.0))
    assert set(tokens.tolist()) == {3, 700, 1500, 2999}


@pytest.mark.parametrize("uniform", [0.0, 1 - 2.0**-24, 0.5])
def test_a_token_of_probability_zero_never_comes(uniform):
    logits = np.full((2, VOCAB), -np.inf, np.float32)
    logits[:, [5, 1024]] = 0.0, -3.0
    tokens, logprobs = jitted(jnp.asarray(logits), jnp.full(2, uniform), row_params(2))
    assert set(tokens.tolist()) <= {5, 1024}
    assert np.isfinite(logprobs).all()


def test_new_parameters_compile_nothing():
    fresh = jax.jit(lambda *args: sample(*args))
    logits = jnp.asarray(logits_of(0, 1.0))[None]
    for setting in [(1.0, 0, 1.0), (0.3, 5, 0.9), (0.0, 0, 1.0), (1.0, 2000, 0.1)]:
        fresh(logits, jnp.full(1, 0.5), row_params(1, *setting))
    assert fresh._cache_size() == 1


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"seed": -1}, "seed"),
        ({"stop_ids": (-2,)}, "stop_ids"),
    ],
)
def test_bad_parameters_are_named(bad, named):
    with pytest.raises(ValueError, match=named):
        SamplingParams(**bad)
