"""How far the policy is from a reference, estimated from the sampled tokens alone; which estimator has which gradient.

With r = π_ref(token) / π_θ(token) of a token sampled from π_θ (Schulman, "Approximating KL divergence", 2020), each of
k1, k2, k3 estimates KL(π_θ‖π_ref) as a *value*. In the loss what matters is the expected *gradient*, which is not
that of the value, since the sampling is not differentiated. For samples of the current policy:

| estimator | value | mean of its gradient |
|---|---|---|
| k1 = −log r | unbiased, large variance, may be negative | **0**: in the loss it does nothing but add noise |
| k2 = (log r)² / 2 | biased | ∇ KL(π_θ‖π_ref), the reverse KL |
| k3 = r − 1 − log r | unbiased, ≥ 0 | ∇ KL(π_ref‖π_θ), the *forward* KL (equal to second order) |
| unbiased k3 = (π_θ/π_old) · k3 | unbiased, off-policy too | ∇ KL(π_θ‖π_ref), off-policy too |

GRPO and R1 have k3 in the loss (arXiv:2402.03300, eq. 4; arXiv:2501.12948, eq. 2).
"""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

KLKind = Literal["k1", "k2", "k3", "unbiased_k3"]


def k1(logprobs: Float[Array, "*dims"], ref_logprobs: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
    """The log-ratio log π_θ − log π_ref. In a loss its mean gradient is 0: for measuring, or in the reward."""
    return logprobs - ref_logprobs


def k2(logprobs: Float[Array, "*dims"], ref_logprobs: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
    """(log π_θ − log π_ref)² / 2. On-policy its mean gradient is that of KL(π_θ‖π_ref)."""
    return (logprobs - ref_logprobs) ** 2 / 2


def k3(
    logprobs: Float[Array, "*dims"], ref_logprobs: Float[Array, "*dims"], *, limit: float = 20.0
) -> Float[Array, "*dims"]:
    """π_ref/π_θ − log(π_ref/π_θ) − 1. On-policy its mean gradient is that of KL(π_ref‖π_θ).

    The log-ratio is cut off at ±`limit`, without gradient beyond: e²⁰ = 5 · 10⁸ is finite in float32, e⁸⁹ is not.
    """
    log_ratio = jnp.clip(ref_logprobs - logprobs, -limit, limit)
    return jnp.expm1(log_ratio) - log_ratio


def unbiased_k3(
    logprobs: Float[Array, "*dims"],
    ref_logprobs: Float[Array, "*dims"],
    ratio: Float[Array, "*dims"],
    *,
    limit: float = 20.0,
) -> Float[Array, "*dims"]:
    """The ratio times k3: DeepSeek-V3.2 (arXiv:2512.02556, section 3.1). Its mean gradient is that of KL(π_θ‖π_ref).

    Args:
      logprobs: of the policy.
      ref_logprobs: of the reference.
      ratio: π_θ / π_old of each token, with its gradient; the tokens were sampled from π_old.
      limit: as in `k3`.
    """
    return ratio * k3(logprobs, ref_logprobs, limit=limit)
