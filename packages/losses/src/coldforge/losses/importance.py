"""Importance ratios and what keeps them in bounds: clips of the policy's ratio, corrections for another sampler.

Three policies meet here: π_θ is trained, π_old is its state when the update began, π_sampler drew the tokens (the same
weights as π_old, by another program or in another precision). The *ratio* π_θ/π_old is clipped (`clipped`, `cispo`);
the *correction* π_old/π_sampler, which has no gradient, is truncated or masked (`correction`).

Every function is of `[rows, seq]` arrays; `mask` marks the completion tokens, `segment_ids` keeps packed samples apart.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from coldforge.losses.sequences import sequence_means, sequence_sums

RatioKind = Literal["token", "sequence", "sequence_token"]
CorrectionKind = Literal["none", "truncate", "mask"]
CorrectionLevel = Literal["token", "sequence", "geometric"]


def ratios(
    logprobs: Float[Array, "rows seq"],
    old_logprobs: Float[Array, "rows seq"],
    mask: Bool[Array, "rows seq"],
    segment_ids: Int[Array, "rows seq"] | None = None,
    *,
    kind: RatioKind = "token",
    limit: float = 20.0,
) -> Float[Array, "rows seq"]:
    """π_θ/π_old of each token, with its gradient; 1 where `mask` is False.

    - "token": exp(log π_θ(o_t) − log π_old(o_t)). PPO (arXiv:1707.06347, eq. 6), GRPO.
    - "sequence": s_i = (π_θ(o_i) / π_old(o_i))^(1/|o_i|), the same at every token of sample i: GSPO (arXiv:2507.18071,
      eq. 7). With weights of 1/|o_i| (`"sequence_mean"`) the sum over tokens is its eq. 5.
    - "sequence_token": the value of s_i, with the gradient of the token: sg(s_i) · π_θ(o_t) / sg(π_θ(o_t)): GSPO-token
      (eq. 14). For one advantage per sample both have the same gradient; for one per token this one tells them apart.

    The log-ratio is cut off at ±`limit`, without gradient beyond, so that the ratio stays finite.
    """
    log_ratio = jnp.where(mask, logprobs - old_logprobs, 0)
    if kind != "token":
        mean = jnp.where(mask, sequence_means(log_ratio, mask, segment_ids), 0)
        log_ratio = mean
        if kind == "sequence_token":  # own − own is exactly 0, and has the token's gradient
            own = jnp.where(mask, logprobs, 0)
            log_ratio = jax.lax.stop_gradient(mean) + (own - jax.lax.stop_gradient(own))
    return jnp.exp(jnp.clip(log_ratio, -limit, limit))


def clipped(
    ratio: Float[Array, "*dims"],
    advantages: Float[Array, "*dims"],
    *,
    low: float = 0.2,
    high: float = 0.2,
    dual: float | None = None,
) -> Float[Array, "*dims"]:
    """min(ρ A, clip(ρ, 1 − low, 1 + high) A), and for A < 0 not below dual · A: what is to be *maximised*.

    low = high: PPO (arXiv:1707.06347, eq. 7) and GRPO (arXiv:2402.03300, eq. 3). high > low: clip-higher (DAPO,
    arXiv:2503.14476, section 3.1). dual: dual clip (arXiv:1912.09729; two-sided clip of INTELLECT-2,
    arXiv:2505.07291; TRL's `delta`): without it a token of A < 0 whose ratio grew has a loss without bound. TRL's form
    is this one for delta > 1 + high.

    Written out, ρ has no lower bound for A > 0 and no upper one (but `dual`) for A < 0; beyond a bound the gradient
    is 0.
    """
    lower = jnp.where(advantages < 0, 1 - low, -jnp.inf)
    upper = jnp.where(advantages > 0, 1 + high, jnp.inf if dual is None else dual)
    return jnp.clip(ratio, lower, upper) * advantages


def cispo(
    logprobs: Float[Array, "*dims"],
    ratio: Float[Array, "*dims"],
    advantages: Float[Array, "*dims"],
    *,
    low: float = 0.0,
    high: float = 5.0,
) -> Float[Array, "*dims"]:
    """sg(clip(ρ, low, high)) · A · log π_θ, to be *maximised*: CISPO (MiniMax-M1, arXiv:2506.13585, eq. 4-5).

    The weight is bounded, the gradient is cut for no token. `low` and `high` bound the ratio itself, as in ScaleRL
    (arXiv:2510.13786) and TRL; the paper writes 1 − ε and 1 + ε. The paper leaves `low` off.
    """
    return jax.lax.stop_gradient(jnp.clip(ratio, low, high)) * advantages * logprobs


def correction(
    old_logprobs: Float[Array, "rows seq"],
    sampler_logprobs: Float[Array, "rows seq"],
    mask: Bool[Array, "rows seq"],
    segment_ids: Int[Array, "rows seq"] | None = None,
    *,
    level: CorrectionLevel = "token",
    limit: float = 20.0,
) -> Float[Array, "rows seq"]:
    """π_old/π_sampler before any bound, without gradient; 1 where `mask` is False.

    level "token": of each token; "sequence": the product over the sample, exp Σ_t, at each of its tokens (what
    importance sampling of whole samples asks for, of large variance); "geometric": its |o_i|-th root.
    """
    log_ratio = jax.lax.stop_gradient(jnp.where(mask, old_logprobs - sampler_logprobs, 0))
    if level == "sequence":
        log_ratio = sequence_sums(log_ratio, segment_ids)
    elif level == "geometric":
        log_ratio = sequence_means(log_ratio, mask, segment_ids)
    return jnp.where(mask, jnp.exp(jnp.clip(log_ratio, -limit, limit)), 1)


def bounded(
    weights: Float[Array, "*dims"], kind: CorrectionKind, *, low: float = 0.0, high: float = 2.0
) -> Float[Array, "*dims"]:
    """A correction in bounds: truncated importance sampling, or masked.

    - "truncate": min(w, high), and not below `low`: TIS (Yao et al., "Your efficient RL framework secretly brings you
      off-policy RL training", 2025; as IMPALA's ρ̄, arXiv:1802.01561). Biased towards the sampler, of bounded variance.
    - "mask": w inside [low, high], else 0: IcePop (Ring-1T, arXiv:2510.18855, per token, low = 0.5, high = 5), masked
      importance sampling per sequence. What the trainer finds that implausible is not learned from at all.
    - "none": 1.
    """
    if kind == "none":
        return jnp.ones_like(weights)
    inside = (weights >= low) & (weights <= high)
    return jnp.where(inside, weights, 0) if kind == "mask" else jnp.clip(weights, low, high)


def off_policy_mask(
    logprobs: Float[Array, "rows seq"],
    sampler_logprobs: Float[Array, "rows seq"],
    advantages: Float[Array, "rows seq"],
    mask: Bool[Array, "rows seq"],
    segment_ids: Int[Array, "rows seq"] | None = None,
    *,
    limit: float,
) -> Bool[Array, "rows seq"]:
    """False where A < 0 and the sample's mean log(π_sampler/π_θ) is over `limit`: DeepSeek-V3.2's sequence mask.

    arXiv:2512.02556, section 3.1: bad samples that the policy would hardly draw any more teach little and disturb much.
    """
    gap = jax.lax.stop_gradient(jnp.where(mask, sampler_logprobs - logprobs, 0))
    return (advantages >= 0) | (sequence_means(gap, mask, segment_ids) <= limit)
