"""What the tests share: eight simulated devices, a small problem, and float64 references written in numpy."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

BATCH, SEQ, EMBED, VOCAB = 8, 11, 6, 48


@dataclasses.dataclass
class Problem:
    """Hidden states, an embedding, targets, and rows of ragged length: the first row counts nothing."""

    hidden: np.ndarray
    embedding: np.ndarray
    targets: np.ndarray
    where: np.ndarray

    def arrays(self, dtype=jnp.float32):
        """Hidden, embedding, targets, where as JAX arrays."""
        return (
            jnp.asarray(self.hidden, dtype), jnp.asarray(self.embedding, dtype),
            jnp.asarray(self.targets), jnp.asarray(self.where),
        )  # fmt: skip

    def scores(self, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Log-probabilities, entropy and logsumexp in float64."""
        z = np.einsum("btd,vd->btv", self.hidden, self.embedding) / temperature
        top = z.max(-1, keepdims=True)
        logsumexp = top[..., 0] + np.log(np.exp(z - top).sum(-1))
        logp = z - logsumexp[..., None]
        picked = np.take_along_axis(logp, self.targets[..., None], axis=-1)[..., 0]
        values = picked, -(np.exp(logp) * logp).sum(-1), logsumexp
        return tuple(np.where(self.where, x, 0) for x in values)


@pytest.fixture
def problem() -> Problem:
    rng = np.random.default_rng(0)
    lengths = np.array([0, 1, 5, 11, 3, 8, 2, 10])
    return Problem(
        hidden=rng.normal(size=(BATCH, SEQ, EMBED)),
        embedding=rng.normal(size=(VOCAB, EMBED)),
        targets=rng.integers(0, VOCAB, (BATCH, SEQ)),
        where=(np.arange(SEQ) < lengths[:, None]) & (rng.random((BATCH, SEQ)) < 0.8),
    )


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield
