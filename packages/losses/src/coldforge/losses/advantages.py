"""Advantages from the rewards of groups: how much better a sample did than the others of the same prompt.

    from coldforge.losses import advantages
    advantages.grpo([[1.0, 0.0, 0.0, 1.0]])  # [[0.87, -0.87, -0.87, 0.87]]

Rewards are `[groups, samples]`; `mask` says which samples exist, so that groups may be of different sizes. Every
function is differentiable JAX and takes numpy arrays too; it runs on the host's numbers, once per rollout. `BY_NAME`
holds those that need nothing but rewards. `gdpo` takes each reward by itself, `process` the rewards of steps. Whatever
the function, a group whose rewards are all equal gets advantages of exactly 0; `has_signal` finds these groups.

`policy_loss` takes one advantage per token. An outcome's is the same for all tokens of a sample,
`advantages[sample_of_token]`; with process supervision it is that of the token's step,
`advantages[sample_of_token, step_of_token]`.

Left out: rewards themselves (`coldforge.rewards`), which groups to sample again (`coldforge.grpo`), critics.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num

# A host's rewards are numpy arrays or lists of lists.
Rewards = Num[Array | np.ndarray, "groups samples"] | Sequence[Sequence[float | int]]
Mask = Bool[Array | np.ndarray, "groups samples"] | Sequence[Sequence[bool]] | None

EPSILON = 1e-4
"""Added to a standard deviation before dividing, as TRL does (verl: 1e-6). Rewards that differ by rounding alone, say
0.1 + 0.2 and 0.3, would otherwise get advantages of ±1."""


def has_signal(rewards: Rewards, mask: Mask = None, *, tolerance: float = 0.0) -> Bool[Array, " groups"]:
    """Whether a group's rewards differ by more than `tolerance`; False for a group of one sample or none.

    `has_signal([[1., 1.], [1., 0.]])` is `[False, True]`. Largest and smallest are compared, since a standard deviation
    in floating point need not be 0 for equal numbers. Dynamic sampling (DAPO, arXiv:2503.14476, section 3.2) replaces
    groups without signal.
    """
    return _spread(*_checked(rewards, mask)) > tolerance


def grpo(rewards: Rewards, mask: Mask = None, *, epsilon: float = EPSILON, ddof: int = 1) -> Float[Array, "g n"]:
    """A_i = (r_i − mean r) / (std r + ε): GRPO (DeepSeekMath, arXiv:2402.03300, section 4.1.2; DeepSeek-R1, eq. 3).

    The papers show no ε and leave open which standard deviation is meant. The default, that of a sample, is what TRL,
    verl and Tunix divide by; with `ddof=0` advantages are √(G / (G−1)) times as large.

    Raises:
      ValueError: for rewards that are not finite, not `[groups, samples]`, or not of the mask's shape.
    """
    rewards, mask = _checked(rewards, mask)
    centred = _centred(rewards, mask)
    return _zero_without_signal(centred / (_std(centred, mask, -1, ddof) + epsilon), rewards, mask)


def dr_grpo(rewards: Rewards, mask: Mask = None) -> Float[Array, "g n"]:
    """A_i = r_i − mean r: Dr. GRPO (arXiv:2503.20783, section 3.2).

    Dividing by the standard deviation weighs questions that are nearly always or nearly never solved above the others.
    """
    rewards, mask = _checked(rewards, mask)
    return _zero_without_signal(_centred(rewards, mask), rewards, mask)


def maxrl(rewards: Rewards, mask: Mask = None) -> Float[Array, "g n"]:
    """A_i = (r_i − mean r) / mean r: MaxRL (arXiv:2602.02710); 0 where the mean is 0.

    For rewards of 0 and 1 this is (1/K) · [solved] − 1/N times N, of K solved among N samples: an estimate of
    the gradient of log p(solved) in place of p(solved), cut off at order N.

    Raises:
      ValueError: as `grpo`; for a negative reward, since a mean near or below 0 would turn the direction around.
    """
    rewards, mask = _checked(rewards, mask, negative=False)
    mean = _mean(rewards, mask, -1)
    advantages = jnp.where(mean > 0, _centred(rewards, mask) / jnp.where(mean > 0, mean, 1), 0)
    return _zero_without_signal(advantages, rewards, mask)


def rloo(rewards: Rewards, mask: Mask = None) -> Float[Array, "g n"]:
    """A_i = r_i − mean of the other samples' rewards: RLOO (arXiv:2402.14740, section 3; Kool et al. 2019).

    It is G / (G−1) times `dr_grpo`'s; the baseline does not depend on the sample, so the gradient is unbiased.
    """
    rewards, mask = _checked(rewards, mask)
    count = mask.sum(-1, keepdims=True)
    scale = count / jnp.maximum(count - 1, 1)
    return _zero_without_signal(_centred(rewards, mask) * scale, rewards, mask)


def batch_scaled(
    rewards: Rewards, mask: Mask = None, *, epsilon: float = EPSILON, ddof: int = 1
) -> Float[Array, "g n"]:
    """A_i = (r_i − mean of the group) / (std of all rewards of the batch + ε): Lite PPO (arXiv:2508.08221).

    ScaleRL (arXiv:2510.13786) scales so too. One divisor for all leaves the questions' weights as `dr_grpo` has them.
    """
    rewards, mask = _checked(rewards, mask)
    everywhere = rewards - _mean(rewards, mask, None)
    scaled = _centred(rewards, mask) / (_std(everywhere, mask, None, ddof) + epsilon)
    return _zero_without_signal(scaled, rewards, mask)


BY_NAME: dict[str, Callable[..., Array]] = {
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "maxrl": maxrl,
    "rloo": rloo,
    "batch_scaled": batch_scaled,
}
"""Advantages by the names that a configuration uses: `BY_NAME[name](rewards, mask)`."""


def gdpo(
    rewards: Num[Array | np.ndarray, "rewards groups samples"],
    weights: Num[Array | np.ndarray, " rewards"] | Sequence[float | int] | None = None,
    mask: Mask = None,
    *,
    epsilon: float = EPSILON,
    ddof: int = 1,
    batch: bool = True,
) -> Float[Array, "g n"]:
    """Each reward normalised by itself, then summed: GDPO (arXiv:2601.05242).

    A_i = Σ_k w_k · grpo(r_k)_i, and with `batch` (A_i − mean) / (std + ε) over all samples of the batch, which keeps
    the size of advantages from growing with the number of rewards. Summing first would give rewards (1, 0) and (0, 1)
    the same advantage, and drown a reward of small variance.

    Args:
      rewards: one `[groups, samples]` per reward.
      weights: of each reward; default 1.
      mask: samples that exist.
      epsilon: added to each standard deviation.
      ddof: 1 for the standard deviation of a sample.
      batch: normalise over the batch at the end. A group without signal may then get advantages other than 0.

    Raises:
      ValueError: as `grpo`; for weights that are not one per reward.
    """
    if rewards.ndim != 3 or rewards.shape[0] == 0:
        raise ValueError(f"rewards must be [rewards, groups, samples], got {rewards.shape}")
    factors = jnp.ones(rewards.shape[0]) if weights is None else jnp.asarray(weights)
    if factors.shape != rewards.shape[:1]:
        raise ValueError(f"there must be one weight per reward, got {factors.shape} for {rewards.shape[0]} rewards")
    parts = jnp.stack([grpo(part, mask, epsilon=epsilon, ddof=ddof) for part in rewards])
    _, mask = _checked(rewards[0], mask)
    total = jnp.tensordot(factors.astype(parts.dtype), parts, 1)
    if not batch:
        return total
    centred = total - _mean(total, mask, None)
    return jnp.where(mask, centred / (_std(centred, mask, None, ddof) + epsilon), 0)


def process(
    rewards: Num[Array | np.ndarray, "groups samples steps"],
    mask: Bool[Array | np.ndarray, "groups samples steps"],
    *,
    epsilon: float = EPSILON,
    ddof: int = 1,
) -> Float[Array, "groups samples steps"]:
    """One advantage per step: GRPO with process supervision (DeepSeekMath, arXiv:2402.03300, section 4.1.3).

    Â[i, j] = Σ_{k ≥ j} (r[i, k] − mean) / (std + ε), mean and std over all steps of all samples of the group: what a
    token in step j is worth is what this step and those after it were judged to be. Give each token its step's.

    Args:
      rewards: of each step, as a process reward model judges them.
      mask: steps that exist; a sample's steps come first, then nothing.
      epsilon: added to the standard deviation.
      ddof: 1 for the standard deviation of a sample.

    Raises:
      ValueError: as `grpo`.
    """
    if rewards.ndim != 3:
        raise ValueError(f"rewards must be [groups, samples, steps], got {rewards.shape}")
    flat = (rewards.shape[0], rewards.shape[1] * rewards.shape[2])
    each = grpo(rewards.reshape(flat), mask.reshape(flat), epsilon=epsilon, ddof=ddof).reshape(rewards.shape)
    to_come = jnp.flip(jnp.cumsum(jnp.flip(each, -1), -1), -1)
    return jnp.where(mask, to_come, 0)


def _checked(rewards: Rewards, mask: Mask, *, negative: bool = True) -> tuple[Array, Array]:
    """Rewards in float32 or wider, 0 where there is no sample, and the mask; values are checked unless traced."""
    array = jnp.asarray(rewards)
    array = array.astype(jnp.promote_types(array.dtype, jnp.float32))
    exists = jnp.ones(array.shape, bool) if mask is None else jnp.asarray(mask)
    if array.ndim != 2 or exists.shape != array.shape:
        raise ValueError(f"rewards must be [groups, samples], and mask the same, got {array.shape} and {exists.shape}")
    array = jnp.where(exists, array, 0)
    if not isinstance(array, jax.core.Tracer):
        wrong = ~jnp.isfinite(array) | (jnp.zeros_like(exists) if negative else array < 0)
        if wrong.any():
            group, sample = (int(i[0]) for i in jnp.nonzero(wrong))
            wanted = "finite" if negative else "finite and not negative"
            raise ValueError(f"rewards must be {wanted}, got {array[group, sample]} for sample {sample}, group {group}")
    return array, exists


def _mean(values: Array, mask: Array, axis: int | None) -> Array:
    """Over the samples that exist, dimensions kept; 0 of none."""
    count = mask.sum(axis, keepdims=True)
    return jnp.where(mask, values, 0).sum(axis, keepdims=True) / jnp.maximum(count, 1)


def _centred(rewards: Array, mask: Array) -> Array:
    return jnp.where(mask, rewards - _mean(rewards, mask, -1), 0)


def _std(centred: Array, mask: Array, axis: int | None, ddof: int) -> Array:
    """Standard deviation of what has mean 0 already; 0 of fewer samples than `ddof + 1`."""
    squares = jnp.where(mask, centred**2, 0).sum(axis, keepdims=True)
    return jnp.sqrt(squares / jnp.maximum(mask.sum(axis, keepdims=True) - ddof, 1))


def _spread(rewards: Array, mask: Array) -> Array:
    """Largest minus smallest reward of each group; −inf of no sample."""
    return jnp.where(mask, rewards, -jnp.inf).max(-1) - jnp.where(mask, rewards, jnp.inf).min(-1)


def _zero_without_signal(advantages: Array, rewards: Array, mask: Array) -> Array:
    """Exactly 0 where no sample is, and in groups of equal rewards: there r − mean is rounding, which ε magnifies."""
    return jnp.where(mask & (_spread(rewards, mask) > 0)[:, None], advantages, 0)
