"""KL estimators: which value and gradient each has, by enumerating a small categorical policy, and by sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coldforge.losses import PolicyLoss, policy_loss
from coldforge.losses.kl import k1, k2, k3, unbiased_k3

pytestmark = pytest.mark.usefixtures("float64")

VOCAB = 6
LOGITS, REFERENCE, OLD = (np.random.default_rng(seed).normal(size=VOCAB) for seed in (0, 1, 2))


def reverse(logits):
    """KL(π_θ‖π_ref), analytically."""
    p, logp = jax.nn.softmax(logits), jax.nn.log_softmax(logits)
    return (p * (logp - jax.nn.log_softmax(jnp.asarray(REFERENCE)))).sum()


def forward(logits):
    """KL(π_ref‖π_θ), analytically."""
    q = jax.nn.log_softmax(jnp.asarray(REFERENCE))
    return (jnp.exp(q) * (q - jax.nn.log_softmax(logits))).sum()


def in_the_loss(logits, kind, sampled_from):
    """The mean of `policy_loss` over all tokens, each with the probability of being drawn: no sampling error."""
    old = jax.nn.log_softmax(jnp.asarray(sampled_from))
    terms = policy_loss(
        jax.nn.log_softmax(logits)[None], old[None], jnp.zeros((1, VOCAB)), jnp.exp(old)[None],
        ref_logprobs=jax.nn.log_softmax(jnp.asarray(REFERENCE))[None], config=PolicyLoss(kl=kind, beta=1.0),
    )  # fmt: skip
    return terms.loss


VALUES = {"k1": reverse, "k3": reverse, "unbiased_k3": reverse}
GRADIENTS = {"k1": lambda logits: 0 * logits.sum(), "k2": reverse, "k3": forward, "unbiased_k3": reverse}


@pytest.mark.parametrize("kind", VALUES)
def test_values_on_policy(kind):
    logits = jnp.asarray(LOGITS)
    assert in_the_loss(logits, kind, LOGITS) == pytest.approx(float(VALUES[kind](logits)), abs=1e-12)


@pytest.mark.parametrize("kind", GRADIENTS)
def test_gradients_on_policy(kind):
    """The table of kl.py: k1 none, k2 reverse, k3 forward, unbiased k3 reverse."""
    found = jax.grad(in_the_loss)(jnp.asarray(LOGITS), kind, LOGITS)
    np.testing.assert_allclose(found, jax.grad(GRADIENTS[kind])(jnp.asarray(LOGITS)), atol=1e-12)


def test_the_two_directions_differ_here():
    logits = jnp.asarray(LOGITS)
    assert abs(jax.grad(reverse)(logits) - jax.grad(forward)(logits)).max() > 0.05


def test_only_the_unbiased_one_is_right_off_policy():
    logits = jnp.asarray(LOGITS)
    value, gradient = jax.value_and_grad(in_the_loss)(logits, "unbiased_k3", OLD)
    assert value == pytest.approx(float(reverse(logits)), abs=1e-12)
    np.testing.assert_allclose(gradient, jax.grad(reverse)(logits), atol=1e-12)
    for kind in ("k1", "k2", "k3"):
        biased = jax.grad(in_the_loss)(logits, kind, OLD)
        assert abs(biased - jax.grad(GRADIENTS[kind])(logits)).max() > 0.05


@pytest.mark.parametrize("kind", GRADIENTS)
def test_by_sampling(kind):
    """A hundred thousand drawn tokens: the gradient's mean within four standard errors."""
    old = jax.nn.log_softmax(jnp.asarray(LOGITS))
    drawn = np.random.default_rng(3).choice(VOCAB, 100_000, p=np.exp(old))
    one = jax.vmap(jax.grad(lambda logits, token: estimator(kind, jax.nn.log_softmax(logits)[token], token)), (None, 0))

    def estimator(kind, logprob, token):
        ref = jax.nn.log_softmax(jnp.asarray(REFERENCE))[token]
        if kind == "unbiased_k3":
            return unbiased_k3(logprob, ref, jnp.exp(logprob - old[token]))
        return {"k1": k1, "k2": k2, "k3": k3}[kind](logprob, ref)

    each = one(jnp.asarray(LOGITS), jnp.arange(VOCAB))[drawn]
    error = each.std(0) / np.sqrt(len(drawn))
    assert (abs(each.mean(0) - jax.grad(GRADIENTS[kind])(jnp.asarray(LOGITS))) < 4 * error + 1e-12).all()


def test_formulas():
    rng = np.random.default_rng(4)
    new, ref = jnp.asarray(rng.normal(size=(2, 100)))
    r = np.exp(ref - new)
    np.testing.assert_allclose(k1(new, ref), -np.log(r), atol=1e-12)
    np.testing.assert_allclose(k2(new, ref), np.log(r) ** 2 / 2, atol=1e-12)
    np.testing.assert_allclose(k3(new, ref), r - 1 - np.log(r), atol=1e-12)
    np.testing.assert_allclose(unbiased_k3(new, ref, jnp.asarray(r)), r * (r - 1 - np.log(r)), atol=1e-12)


def test_k3_keeps_its_digits_near_zero():
    """exp(x) − 1 − x of x = 1e-4 is 5e-9: float32 alone would give 0 or 6e-8."""
    found = k3(jnp.zeros(1, jnp.float32), jnp.full(1, 1e-3, jnp.float32))
    assert found[0] == pytest.approx(5.0017e-7, rel=0.05)
    assert (k3(jnp.zeros(99, jnp.float32), jnp.linspace(-1e-4, 1e-4, 99, dtype=jnp.float32)) > -1e-11).all()
