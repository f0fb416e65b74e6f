"""The loss of a policy update, put together from named parts: ratio, clip, KL, entropy, corrections; sums and metrics.

    config = PolicyLoss(clip_high=0.28, beta=0.001)
    terms = policy_loss(logprobs, old_logprobs, advantages, weights, segment_ids, ref_logprobs=ref, config=config)
    terms.loss                    # differentiate this sum, then divide by the denominator
    terms.means["kl"].mean()      # metrics

On packed rows `[rows, seq]`: entry t of every array speaks of the same token. With w from `aggregation_weights`, which
gives the denominator too:

    loss = Σ w · ( −correction · surrogate(ratio, A) + beta · KL − entropy_bonus · H )

Order: inputs that do not count are set to 0, ratio (`importance.ratios`), surrogate (`importance.clipped`, `cispo`),
off-policy mask and correction (of the surrogate alone, as in TRL), KL (`kl`), entropy, metrics.

Left out: who computes log-probabilities (`token_scores`) and advantages (`advantages`), the division at the end.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from coldforge.losses import importance
from coldforge.losses.importance import CorrectionKind, CorrectionLevel, RatioKind
from coldforge.losses.kl import KLKind, k1, k2, k3, unbiased_k3
from coldforge.losses.means import WeightedSum, weighted_sum

Objective = Literal["clip", "cispo"]
MAX_LOG_RATIO = 40.0  # e^40 = 2e17: its square is finite in float32


@dataclass(frozen=True, kw_only=True)
class PolicyLoss:
    """What a policy update minimises. The defaults are GRPO's with PPO's ε, without KL.

    Attributes:
      objective: "clip" (PPO, GRPO, DAPO, GSPO) or "cispo".
      ratio: "token", "sequence" (GSPO) or "sequence_token" (GSPO-token).
      clip_low: ε below: for A < 0 the ratio counts as at least 1 − clip_low. At 1 or more it never acts (R1: 10).
      clip_high: ε above: for A > 0 the ratio counts as at most 1 + clip_high. DAPO 0.28, GSPO 4e-4, R1 10.
      dual_clip: for A < 0 the ratio counts as at most this, more than 1; None: no bound. With R1's ε, set it: 3.
      cispo_min: the least weight of a token; 0 as in the papers.
      cispo_max: the largest weight of a token. MiniMax-M1's 1 + ε, ScaleRL's and TRL's `epsilon_high` (5).
      kl: the estimator, see `coldforge.losses.kl` for which gradient each has; "k3" is GRPO's.
      beta: coefficient of the KL to the reference; 0: none. R1 0.001, DeepSeekMath 0.04.
      entropy_bonus: coefficient of the entropy, which is to grow; 0: none.
      correction: "none", "truncate" (TIS) or "mask" (IcePop, MIS): what π_old/π_sampler outside of its bounds becomes.
      correction_level: "token", "sequence" (the product over a sample) or "geometric" (its mean).
      correction_min: the lower bound; 0: none.
      correction_max: the upper bound.
      off_policy_limit: samples of A < 0 are left out when the policy's mean log-probability fell by more than this
        below the sampler's (DeepSeek-V3.2); None: never.
      max_log_ratio: every log-ratio is cut off here, without gradient beyond, so that no ratio overflows.

    Raises:
      ValueError: for a value outside of its range, with the range.
    """

    objective: Objective = "clip"
    ratio: RatioKind = "token"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    cispo_min: float = 0.0
    cispo_max: float = 5.0
    kl: KLKind = "k3"
    beta: float = 0.0
    entropy_bonus: float = 0.0
    correction: CorrectionKind = "none"
    correction_level: CorrectionLevel = "token"
    correction_min: float = 0.0
    correction_max: float = 2.0
    off_policy_limit: float | None = None
    max_log_ratio: float = 20.0

    def __post_init__(self) -> None:
        kinds: dict[str, Any] = {
            "objective": Objective, "ratio": RatioKind, "kl": KLKind,
            "correction": CorrectionKind, "correction_level": CorrectionLevel,
        }  # fmt: skip
        for name, kind in kinds.items():
            if (value := getattr(self, name)) not in get_args(kind):
                raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}, got {value!r}")
        numbers = [name for name in self.__dataclass_fields__ if name not in kinds]
        for name in numbers:
            if (value := getattr(self, name)) is not None and not math.isfinite(value):
                raise ValueError(f"{name} must be finite, got {value}")
        for name in ("clip_low", "clip_high", "cispo_min", "beta", "entropy_bonus", "correction_min"):
            if (value := getattr(self, name)) < 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        if self.dual_clip is not None and self.dual_clip <= 1:
            raise ValueError(f"dual_clip bounds a ratio that is 1 on-policy: it must be above 1, got {self.dual_clip}")
        for low, high in (("cispo_min", "cispo_max"), ("correction_min", "correction_max")):
            if not getattr(self, low) < getattr(self, high):
                raise ValueError(f"{low} must be below {high}, got {getattr(self, low)} and {getattr(self, high)}")
        if self.off_policy_limit is not None and self.off_policy_limit < 0:
            raise ValueError(f"off_policy_limit must not be negative, got {self.off_policy_limit}")
        if not 0 < self.max_log_ratio <= MAX_LOG_RATIO:
            raise ValueError(f"max_log_ratio must be above 0 and at most {MAX_LOG_RATIO}, got {self.max_log_ratio}")

    @property
    def needs_reference(self) -> bool:
        """Whether `ref_logprobs` must be given."""
        return self.beta > 0

    @property
    def needs_sampler(self) -> bool:
        """Whether `sampler_logprobs` must be given."""
        return self.correction != "none" or self.off_policy_limit is not None

    @property
    def needs_entropy(self) -> bool:
        """Whether `entropy` must be given, with its gradient."""
        return self.entropy_bonus > 0


class PolicyTerms(NamedTuple):
    """Sums over the counted tokens of a micro-batch. `a + b` joins two micro-batches: sums added, extremes compared.

    Attributes:
      loss: what to differentiate: Σ w · loss of the token. The only one with a gradient.
      means: `WeightedSum`s in which each counted token (w ≠ 0) counts once:
        "loss" is the only one with the weights w;
        "ratio" π_θ/π_old, as used; "clip_low", "clip_high", "clip_dual": the share of tokens whose gradient the bound
        cut (for CISPO, whose weight was bounded); "old_kl": k3 of π_old to π_θ, how far the update has gone;
        with a reference "kl", the estimator that was chosen, and "kl_k3" (≥ 0, comparable between runs);
        with entropies "entropy";
        with sampler log-probabilities "gap", |log π_old − log π_sampler|, "gap_kl", its k3, and with a correction
        "correction" (before its bounds) and "correction_bounded", the share of tokens outside of them;
        with an off-policy limit "off_policy", the share of tokens left out by it.
      maxima: "ratio", and where there are means of the same name "gap", "correction"; −inf of no token.
      minima: "ratio", "correction"; inf of no token.
    """

    loss: Float[Array, ""]
    means: dict[str, WeightedSum]
    maxima: dict[str, Array]
    minima: dict[str, Array]

    def __add__(self, other: "PolicyTerms") -> "PolicyTerms":  # type: ignore[override]
        if not isinstance(other, PolicyTerms):  # a tuple's own + would concatenate
            return NotImplemented
        return PolicyTerms(
            self.loss + other.loss,
            {name: total + other.means[name] for name, total in self.means.items()},
            {name: jnp.maximum(value, other.maxima[name]) for name, value in self.maxima.items()},
            {name: jnp.minimum(value, other.minima[name]) for name, value in self.minima.items()},
        )


def policy_loss(
    logprobs: Float[Array, "rows seq"],
    old_logprobs: Float[Array, "rows seq"] | None,
    advantages: Float[Array, "rows seq"],
    weights: Num[Array, "rows seq"],
    segment_ids: Int[Array, "rows seq"] | None = None,
    *,
    ref_logprobs: Float[Array, "rows seq"] | None = None,
    sampler_logprobs: Float[Array, "rows seq"] | None = None,
    entropy: Float[Array, "rows seq"] | None = None,
    config: PolicyLoss = PolicyLoss(),
) -> PolicyTerms:
    """Σ w · (−correction · surrogate + beta · KL − entropy_bonus · H) over packed rows, and its metrics.

    Positions of weight 0 count for nothing and may hold anything, nan included.

    Args:
      logprobs: log π_θ of each token given what is before it; the only input with a gradient, but for `entropy`.
      old_logprobs: log π_old; None: π_θ itself, so that every ratio is exactly 1 (one update per rollout).
      advantages: of each token.
      weights: of each token, from `aggregation_weights`; 0 on prompts, padding and filtered samples.
      segment_ids: which sample of the row a token belongs to; None: a row is one sample. Any ids will do, as long as
        neighbours differ; entries must be shifted as the targets are.
      ref_logprobs: log π_ref; with beta = 0 for the metric alone.
      sampler_logprobs: log-probabilities as sampled, where they are not `old_logprobs`; with correction "none" for the
        metric alone.
      entropy: of each position's prediction (`token_scores(..., entropy_grad=True)` if it has a bonus).
      config: what to minimise.

    Returns:
      The loss as a sum, in float32 or wider, and sums and extremes for metrics.

    Raises:
      ValueError: for arrays of different shapes, or what the configuration needs and was not given.
    """
    given = {
        "old_logprobs": old_logprobs, "advantages": advantages, "weights": weights, "segment_ids": segment_ids,
        "ref_logprobs": ref_logprobs, "sampler_logprobs": sampler_logprobs, "entropy": entropy,
    }  # fmt: skip
    _check(logprobs, given, config)
    mask = weights != 0

    def counted(x: Array) -> Array:
        """Where nothing counts, 0: nan there must reach neither a sum nor a gradient."""
        return _real(jnp.where(mask, x, 0))

    new = counted(logprobs)
    fixed = jax.lax.stop_gradient(new)
    old = fixed if old_logprobs is None else jax.lax.stop_gradient(counted(old_logprobs))
    advantages = jax.lax.stop_gradient(counted(advantages))
    limit = config.max_log_ratio
    ratio = importance.ratios(new, old, mask, segment_ids, kind=config.ratio, limit=limit)
    found = _Metrics({}, {}, {})
    _measure_ratio(found, ratio, advantages, mask, config)
    found.mean("old_kl", k3(old, fixed, limit=limit), mask)

    per_token = -_surrogate(new, ratio, advantages, config)
    if sampler_logprobs is not None:
        sampler = jax.lax.stop_gradient(counted(sampler_logprobs))
        found.mean("gap_kl", k3(sampler, old, limit=limit), mask)
        found.mean("gap", jnp.abs(old - sampler), mask)
        found.extremes("gap", jnp.abs(old - sampler), mask, least=False)
        per_token = per_token * _corrections(found, fixed, old, sampler, advantages, mask, segment_ids, config)
    if ref_logprobs is not None:
        reference = jax.lax.stop_gradient(counted(ref_logprobs))
        kl = _kl(new, old, reference, mask, config)
        found.mean("kl", kl, mask)
        found.mean("kl_k3", k3(fixed, reference, limit=limit), mask)
        if config.beta > 0:
            per_token = per_token + config.beta * kl
    if entropy is not None:
        bonus = counted(entropy)
        found.mean("entropy", bonus, mask)
        if config.entropy_bonus > 0:
            per_token = per_token - config.entropy_bonus * bonus
    loss = weighted_sum(per_token, weights)
    found.means["loss"] = jax.lax.stop_gradient(loss)
    return PolicyTerms(jnp.asarray(loss.total), found.means, found.maxima, found.minima)


def _real(x: Array) -> Array:
    """In float32 or wider; of bools the share."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class _Metrics(NamedTuple):
    """What has been measured so far; nothing in it has a gradient."""

    means: dict[str, WeightedSum]
    maxima: dict[str, Array]
    minima: dict[str, Array]

    def mean(self, name: str, values: Array, mask: Array) -> None:
        self.means[name] = weighted_sum(jax.lax.stop_gradient(_real(values)), mask)

    def extremes(self, name: str, values: Array, mask: Array, *, least: bool = True) -> None:
        values = jax.lax.stop_gradient(values)
        self.maxima[name] = jnp.where(mask, values, -jnp.inf).max()
        if least:
            self.minima[name] = jnp.where(mask, values, jnp.inf).min()


def _measure_ratio(found: _Metrics, ratio: Array, advantages: Array, mask: Array, config: PolicyLoss) -> None:
    """The ratio, and the shares of tokens beyond each bound."""
    found.mean("ratio", ratio, mask)
    found.extremes("ratio", ratio, mask)
    nowhere = jnp.zeros_like(mask)
    if config.objective == "cispo":
        low, high, dual = ratio < config.cispo_min, ratio > config.cispo_max, nowhere
    else:
        low = (ratio < 1 - config.clip_low) & (advantages < 0)
        high = (ratio > 1 + config.clip_high) & (advantages > 0)
        dual = nowhere if config.dual_clip is None else (ratio > config.dual_clip) & (advantages < 0)
    for name, cut in (("clip_low", low), ("clip_high", high), ("clip_dual", dual)):
        found.mean(name, cut, mask)


def _surrogate(logprobs: Array, ratio: Array, advantages: Array, config: PolicyLoss) -> Array:
    """What each token contributes to the objective, before corrections."""
    if config.objective == "cispo":
        return importance.cispo(logprobs, ratio, advantages, low=config.cispo_min, high=config.cispo_max)
    return importance.clipped(ratio, advantages, low=config.clip_low, high=config.clip_high, dual=config.dual_clip)


def _corrections(
    found: _Metrics,
    logprobs: Array,
    old: Array,
    sampler: Array,
    advantages: Array,
    mask: Array,
    segment_ids: Array | None,
    config: PolicyLoss,
) -> Array:
    """The factor of each token for what the sampler was; 1 if the configuration has no correction."""
    factor = jnp.ones_like(old)
    if config.correction != "none":
        level, low, high = config.correction_level, config.correction_min, config.correction_max
        raw = importance.correction(old, sampler, mask, segment_ids, level=level, limit=config.max_log_ratio)
        factor = importance.bounded(raw, config.correction, low=low, high=high)
        found.mean("correction", raw, mask)
        found.extremes("correction", raw, mask)
        found.mean("correction_bounded", (raw < low) | (raw > high), mask)
    if config.off_policy_limit is not None:
        limit = config.off_policy_limit
        kept = importance.off_policy_mask(logprobs, sampler, advantages, mask, segment_ids, limit=limit)
        factor = jnp.where(kept, factor, 0)
        found.mean("off_policy", ~kept, mask)
    return factor


def _kl(logprobs: Array, old: Array, reference: Array, mask: Array, config: PolicyLoss) -> Array:
    """The chosen estimator at each token, with its gradient."""
    limit = config.max_log_ratio
    if config.kl == "unbiased_k3":  # the token's own ratio, whatever the surrogate's is
        return unbiased_k3(logprobs, reference, importance.ratios(logprobs, old, mask, limit=limit), limit=limit)
    if config.kl == "k3":
        return k3(logprobs, reference, limit=limit)
    return (k1 if config.kl == "k1" else k2)(logprobs, reference)


def _check(logprobs: Any, given: dict[str, Any], config: PolicyLoss) -> None:
    """Raises ValueError unless the arrays fit together and those that the configuration needs are there."""
    for name, array in given.items():
        if array is not None and array.shape != logprobs.shape:
            raise ValueError(f"{name} must have the shape of logprobs, {logprobs.shape}, got {array.shape}")
    needed = {
        "ref_logprobs": config.needs_reference and f"beta={config.beta}",
        "entropy": config.needs_entropy and f"entropy_bonus={config.entropy_bonus}",
        "sampler_logprobs": config.needs_sampler
        and f"correction={config.correction!r}, off_policy_limit={config.off_policy_limit}",
    }
    for name, setting in needed.items():
        if setting and given[name] is None:
            raise ValueError(f"{name} must be given with {setting}")
