"""Which tokens get which advantage, and who weighs what in an update."""

import dataclasses

import numpy as np
import pytest

from coldforge.grpo import GrpoConfig, Steps, minibatches, update_weights, with_advantages
from coldforge.losses import PolicyLoss


def make(**options):
    return GrpoConfig(**({"steps": 4, "questions": 3, "group_size": 4} | options))


@pytest.fixture
def experience(toy):
    """Three groups: all right, some right, all wrong but by rounding."""
    rewards = np.array([1, 1, 1, 1, 1, 0, 0, 1, 0.1 + 0.2, 0.3, 0.3, 0.3])
    return toy.make_experience(np.random.default_rng(0), rewards=rewards, ended=np.arange(12) % 3 > 0)


def values(experience):
    """Each sample's advantage, which all of its tokens share."""
    assert [len(own) for own in experience.advantages] == [len(ids) for ids in experience.tokens]
    assert all(len(set(own.tolist())) == 1 for own in experience.advantages)
    return np.array([own[0] for own in experience.advantages])


def test_a_sample_is_worth_what_it_is_above_its_group(experience):
    found = values(with_advantages(experience, make()))
    np.testing.assert_allclose(found[4:8], np.array([1, -1, -1, 1]) * 0.5 / (np.std([1, 0, 0, 1], ddof=1) + 1e-4))
    assert (found[[0, 1, 2, 3, 8, 9, 10, 11]] == 0).all(), "a difference of rounding is none"


def test_groups_within_the_tolerance_teach_nothing(experience):
    rewards = experience.rewards.copy()
    rewards[:4] = [1, 1, 1, 1.01]
    near = dataclasses.replace(experience, rewards=rewards)
    assert (values(with_advantages(near, make()))[:4] != 0).all()
    config = make(tolerance=0.05, drop_equal_groups=True)
    near = with_advantages(near, config)
    assert (values(near)[:4] == 0).all()
    assert update_weights(near, range(12), config)[1] == experience.lengths[4:8].sum()


def test_gdpo_normalises_each_reward_by_itself(experience):
    parts = {"right": experience.rewards, "form": np.array([0, 0, 0, 1.0, 0, 0, 0, 0, 1, 1, 1, 1])}
    both = dataclasses.replace(experience, parts=parts)
    config = make(advantage="gdpo", reward_weights=(("form", 0.5),))
    found = values(with_advantages(both, config))

    def grpo(group):
        return (group - group.mean()) / (group.std(ddof=1) + 1e-4)

    wanted = np.zeros(12)
    wanted[:4], wanted[4:8] = 0.5 * grpo(parts["form"][:4]), grpo(parts["right"][4:8])
    np.testing.assert_allclose(found, wanted / (wanted.std(ddof=1) + 1e-4), rtol=1e-5, atol=1e-7)
    assert (found[8:] == 0).all(), "exactly, so that it is not computed"
    right_alone = make(advantage="gdpo", reward_weights=(("form", 0.0),))
    assert (values(with_advantages(both, right_alone))[:4] == 0).all()
    with pytest.raises(ValueError, match="the judge names none"):
        with_advantages(experience, config)
    with pytest.raises(ValueError, match="reward_weights names 'wit'; the rewards are right, form"):
        with_advantages(both, make(advantage="gdpo", reward_weights=(("wit", 1.0),)))


def test_with_process_supervision_a_token_has_its_steps_advantage(toy):
    """One group of two samples: steps worth 1, 0 and 0, −1."""
    tokens = [np.arange(1, n + 1, dtype=np.int32) for n in (5, 3)]
    steps = [Steps([2, 5], [1.0, 0.0]), Steps([1, 3], [0.0, -1.0])]
    experience = toy.make_experience(
        np.random.default_rng(0), groups=1, size=2, tokens=tokens, steps=steps, rewards=np.zeros(2)
    )
    config = GrpoConfig(steps=1, questions=1, group_size=2, advantage="process")
    found = with_advantages(experience, config)
    scale = np.std([1, 0, 0, -1], ddof=1) + 1e-4
    np.testing.assert_allclose(found.advantages[0], np.array([1, 1, 0, 0, 0]) / scale, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.advantages[1], np.array([-1, -1, -1]) / scale, rtol=1e-5)
    for wrong in (Steps([2, 4], [1.0, 0.0]), Steps([2, 5], [1.0]), Steps([5, 2], [1.0, 0.0]), Steps([], [])):
        with pytest.raises(ValueError, match="wanted rising ends up to 5 tokens"):
            with_advantages(dataclasses.replace(experience, steps=[wrong, steps[1]]), config)
    with pytest.raises(ValueError, match="needs a judge that gives `steps`"):
        with_advantages(dataclasses.replace(experience, steps=None), config)


def test_who_is_in_the_denominator(experience):
    """By default all samples; samples cut off and groups without signal leave it by option."""
    lengths, ended = experience.lengths, experience.ended
    cases = {
        (): np.ones(12, bool),
        ("overlong_filter",): ended,
        ("drop_equal_groups",): np.arange(12) // 4 == 1,
        ("overlong_filter", "drop_equal_groups"): ended & (np.arange(12) // 4 == 1),
    }
    for options, counted in cases.items():
        config = make(**dict.fromkeys(options, True))
        weights, denominator = update_weights(with_advantages(experience, config), range(12), config)
        assert denominator == lengths[counted].sum()
        np.testing.assert_array_equal(weights > 0, counted & (np.arange(12) // 4 == 1))
        config = dataclasses.replace(config, policy=PolicyLoss(beta=0.1), aggregation="sequence_mean")
        weights, denominator = update_weights(with_advantages(experience, config), range(12), config)
        np.testing.assert_allclose(weights, np.where(counted, 1 / lengths, 0))
        assert denominator == counted.sum()


def test_minibatches_are_a_random_split_that_never_changes():
    config = make(minibatches=3, inner_epochs=2, seed=5)
    found = minibatches(12, 7, config)
    assert [len(part) for part in found] == [4] * 6
    for epoch in (found[:3], found[3:]):
        assert sorted(np.concatenate(epoch)) == list(range(12))
    assert not np.array_equal(np.concatenate(found[:3]), np.concatenate(found[3:]))
    assert not np.array_equal(found[0], minibatches(12, 8, config)[0])
    again = minibatches(12, 7, config)
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))
    assert found[0].tolist() == [6, 9, 4, 10], "checkpoints within a rollout depend on it"
