"""From the rewards of an experience to an advantage for each token, and to the weights of an update.

    experience = with_advantages(experience, config)
    weights, denominator = update_weights(experience, chosen, config)

A group without signal (`has_signal`) gets advantages of exactly 0, whichever function it is. The functions themselves
are `coldforge.losses.advantages` and `aggregation_weights`; here is which one takes what.
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from coldforge.grpo.config import GrpoConfig
from coldforge.grpo.experience import Experience, Judgement
from coldforge.losses import advantages, aggregation_weights


def has_signal(judgement: Judgement, config: GrpoConfig) -> bool:
    """Whether a group has anything to teach: what its advantages are made of differs by more than the tolerance.

    That is the rewards, for "gdpo" one of them that has a weight, for "process" the rewards of the steps. Compared in
    float32, in which advantages are computed.
    """
    if config.advantage == "gdpo":
        weights = dict(config.reward_weights)
        compared = [values for name, values in judgement.parts.items() if weights.get(name, 1.0) != 0]
    elif config.advantage == "process":
        compared = [[reward for one in judgement.steps or () for reward in one.rewards]]
    else:
        compared = [judgement.rewards]
    return any(np.ptp(np.asarray(values, np.float32)) > config.tolerance for values in compared if len(values))


def with_advantages(experience: Experience, config: GrpoConfig) -> Experience:
    """The experience with an advantage for each token: that of its sample, or of its step ("process").

    Raises:
      ValueError: "gdpo" without rewards to take one by one, or weights of rewards that there are not; "process" with
        steps that do not cover the tokens.
    """
    if config.advantage == "process":
        spread = _of_steps(experience)
    else:
        by_reward = advantages.BY_NAME.get(config.advantage)
        found = _gdpo(experience, config) if by_reward is None else by_reward(experience.grouped_rewards)
        flat = np.asarray(found, np.float32).reshape(-1)
        spread = [np.full(len(ids), value, np.float32) for ids, value in zip(experience.tokens, flat, strict=True)]
    for group in range(experience.groups):
        if not has_signal(_judgement(experience, group), config):
            for i in range(group * experience.group_size, (group + 1) * experience.group_size):
                spread[i] = np.zeros_like(spread[i])
    return dataclasses.replace(experience, advantages=spread)


def _judgement(experience: Experience, group: int) -> Judgement:
    """What was said of a group, as far as its advantages depend on it."""
    own = slice(group * experience.group_size, (group + 1) * experience.group_size)
    return Judgement(
        experience.rewards[own].tolist(),
        {name: values[own].tolist() for name, values in experience.parts.items()},
        steps=None if experience.steps is None else experience.steps[own],
    )


def _gdpo(experience: Experience, config: GrpoConfig) -> jnp.ndarray:
    weights = dict(config.reward_weights)
    if not experience.parts:
        raise ValueError("advantage 'gdpo' normalises each reward by itself, and the judge names none (parts)")
    if unknown := weights.keys() - experience.parts.keys():
        raise ValueError(f"reward_weights names {min(unknown)!r}; the rewards are {', '.join(experience.parts)}")
    shape = (experience.groups, experience.group_size)
    parts = np.stack([values.reshape(shape) for values in experience.parts.values()])
    return advantages.gdpo(parts, [weights.get(name, 1.0) for name in experience.parts])


def _of_steps(experience: Experience) -> list[np.ndarray]:
    """DeepSeekMath, arXiv:2402.03300, section 4.1.3: a token's advantage is that of its step."""
    if experience.steps is None:
        raise ValueError("advantage 'process' needs a judge that gives `steps`")
    longest = max(len(one.rewards) for one in experience.steps)
    most = 1 << max(longest - 1, 0).bit_length()  # powers of two: each shape is compiled for itself
    shape = (experience.groups, experience.group_size, most)
    rewards, mask = np.zeros(shape), np.zeros(shape, bool)
    for i, one in enumerate(experience.steps):
        group, sample = divmod(i, experience.group_size)
        n, ends = len(experience.tokens[i]), list(one.ends)
        if len(ends) != len(one.rewards) or not ends or ends != sorted(ends) or ends[-1] != n:
            raise ValueError(
                f"steps end at {ends} with {len(one.rewards)} rewards; wanted rising ends up to {n} tokens"
            )
        rewards[group, sample, : len(ends)], mask[group, sample, : len(ends)] = one.rewards, True
    found = np.asarray(advantages.process(rewards, mask), np.float32).reshape(-1, most)
    spread = []
    for i, one in enumerate(experience.steps):
        sizes = np.diff([0, *one.ends])
        spread.append(np.repeat(found[i, : len(sizes)], sizes))
    return spread


def update_weights(
    experience: Experience, chosen: Sequence[int] | np.ndarray, config: GrpoConfig
) -> tuple[np.ndarray, float]:
    """What each token of a chosen sample weighs, float64 `[chosen]`, and the update's denominator.

    Samples that add nothing to the gradient (no advantage, and neither KL nor entropy bonus in the loss) get the weight
    0, and are not computed at all; the denominator is what it would be with them. What `overlong_filter` and
    `drop_equal_groups` leave out is in neither.
    """
    assert experience.advantages is not None
    index = np.asarray(chosen, np.int64)
    teaches = np.array([own.any() for own in experience.advantages], bool)
    signal = np.repeat(teaches.reshape(experience.groups, -1).any(1), experience.group_size)
    trained = experience.ended.copy() if config.overlong_filter else np.ones(experience.samples, bool)
    if config.drop_equal_groups:
        trained &= signal
    found = aggregation_weights(
        experience.lengths[index],
        config.aggregation,
        length=config.max_new_tokens if config.aggregation == "constant" else None,
        trained=trained[index],
    )
    weights = found.weights.copy()
    if not config.policy.needs_reference and not config.policy.needs_entropy:
        weights[~teaches[index]] = 0.0
    return weights, found.denominator


def minibatches(samples: int, number: int, config: GrpoConfig) -> list[np.ndarray]:
    """The rollout's samples split at random, for each of its updates in turn; a function of (seed, rollout).

    `minibatches(4, 0, …)` of two minibatches may be `[[2, 0], [3, 1]]`; each inner epoch splits anew.
    """
    found: list[np.ndarray] = []
    for epoch in range(config.inner_epochs):
        key = np.random.SeedSequence([config.seed, number, epoch])
        order = np.argsort(np.random.PCG64(key).random_raw(samples), kind="stable")  # streams that numpy keeps
        found += list(np.split(order, config.minibatches))
    return found
