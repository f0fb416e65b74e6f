"""Each rule fires on a curve made for it, says what to change, and keeps silent on a healthy run."""

import json

import numpy as np
import pytest

from coldforge.grpo import RlLimits, rl_rules
from coldforge.training import Watchdog, WatchdogConfig


def healthy(step):
    """A rollout of a run that learns: noisy, some groups equal, lengths growing, entropy falling."""
    rng = np.random.default_rng(step)
    reward = 0.2 + 0.6 * min(step / 60, 1) + rng.normal(0, 0.04)
    return {
        "reward/total": reward, "reward/total_std": 0.4, "rollout/zero_variance": 0.3 + rng.uniform(0, 0.3),
        "rollout/correct": reward, "rollout/format": 0.95, "rollout/truncated": rng.uniform(0, 0.2),
        "rollout/length": 100.0 + step, "rollout/repetition": rng.uniform(0, 0.1), "policy/entropy": 0.9 - 0.005 * step,
        "policy/kl_k3": 0.001 * step, "policy/gap": 0.01, "policy/gap_kl": 1e-4, "train/loss": rng.normal(0, 0.1),
        "train/grad_norm": rng.uniform(0.1, 0.5), "train/learning_rate": 1e-4, "train/applied": 1.0,
    }  # fmt: skip


def kinds(curve, limits=None, steps=40):
    """What is found on `curve(step)`, kind → findings."""
    watchdog = Watchdog(rules=rl_rules(limits))
    found = {}
    for step in range(1, steps + 1):
        for finding in watchdog.observe(step, curve(step)):
            found.setdefault(finding.kind, []).append(finding)
    return found


def test_a_healthy_run_is_left_alone():
    assert kinds(healthy, steps=100) == {}
    noise = {"policy/entropy": 0.3, "reward/total": 0.5}
    assert kinds(lambda step: healthy(step) | noise, steps=50) == {}, "one that does not learn any more"


ILL = {
    "no_signal": {"rollout/zero_variance": 0.95},
    "no_reward": {"reward/total": 0.0, "reward/total_std": 0.0},
    "no_gradient": {"train/grad_norm": 0.0},
    "truncated": {"rollout/truncated": 0.6},
    "entropy_low": {"policy/entropy": 0.001},
    "entropy_high": {"policy/entropy": 7.0},
    "kl": {"policy/kl_k3": 2.0},
    "repetition": {"rollout/repetition": 0.8},
    "mismatch": {"policy/gap": 0.3},
    "not_finite": {"train/loss": float("nan"), "train/applied": 0.0},
    "not_finite_metric": {"policy/kl": float("inf")},
    "zero_learning_rate": {"train/learning_rate": 0.0},
    "memory": {"memory/device_peak_gib": 15.9, "memory/device_limit_gib": 16.0},
}


@pytest.mark.parametrize("kind", ILL)
def test_each_symptom_is_named(kind):
    found = kinds(lambda step: healthy(step) | (ILL[kind] if step > 10 else {}))
    assert found.keys() == {kind, *(["reward_falls"] if kind == "no_reward" else [])}
    [first, *_] = found[kind]
    assert first.step >= 11
    assert not first.fatal or kind == "not_finite"
    assert first.advice
    assert first.cause
    lasts = {"no_signal", "no_reward", "no_gradient", "truncated", "kl", "repetition", "mismatch"}
    once = kinds(lambda step: healthy(step) | (ILL[kind] if step == 11 else {}))
    assert not (lasts & once.keys()), "one rollout is none"


def test_a_reference_that_is_not_the_start_is_named_at_the_first_update():
    """The seed's run was held to the raw base, and began from the model that it had fine-tuned."""
    found = kinds(lambda step: healthy(step) | {"policy/kl_k3": 0.3}, RlLimits(stop=True))
    assert list(found) == ["reference"]
    [finding] = found["reference"]
    assert finding.step == 1
    assert finding.fatal
    assert "the reference is not the policy that the run starts from" in finding.cause
    assert kinds(lambda step: healthy(step) | {"policy/kl_k3": 0.3 if step > 1 else 0.0}) == {}


def test_a_small_gap_may_imply_a_large_kl():
    assert "mismatch" in kinds(lambda step: healthy(step) | {"policy/gap": 0.05, "policy/gap_kl": 0.1})


def falling(step):
    return healthy(step) | {"reward/total": 0.2 + 0.6 * min(step / 15, 1) - (0.5 if step > 25 else 0)}


def test_a_reward_that_falls():
    found = kinds(falling)
    assert list(found) == ["reward_falls"]
    assert 26 < found["reward_falls"][0].step <= 28, "as soon as the median of five has fallen"
    assert "and was 0.8" in found["reward_falls"][0].saw


@pytest.mark.parametrize(
    "kind", ["no_signal", "no_reward", "no_gradient", "truncated", "entropy_high", "kl", "repetition", "mismatch"]
)
def test_what_makes_going_on_useless_stops_if_asked(kind):
    ill = ILL[kind] | {"no_signal": {"rollout/zero_variance": 1.0, "reward/total_std": 0.0},
                       "truncated": {"rollout/truncated": 1.0}}.get(kind, {})  # fmt: skip
    found = kinds(lambda step: healthy(step) | ill, RlLimits(stop=True))
    assert any(finding.fatal for finding in found[kind])
    assert found[kind][-1].fatal
    assert not any(one.fatal for ones in kinds(lambda step: healthy(step) | ill).values() for one in ones)


def test_it_stops_for_a_falling_reward_and_not_for_a_low_entropy():
    assert kinds(falling, RlLimits(stop=True))["reward_falls"][0].fatal
    low = kinds(lambda step: healthy(step) | ILL["entropy_low"], RlLimits(stop=True))
    assert not any(finding.fatal for finding in low["entropy_low"])


@pytest.mark.parametrize(
    ("also", "cause"),
    [
        ({"rollout/correct": 0.99}, "too easy"),
        ({"rollout/correct": 0.0, "rollout/format": 0.1}, "few samples have the form"),
        ({"rollout/correct": 0.0}, "too hard"),
    ],
)
def test_why_there_is_no_signal(also, cause):
    found = kinds(lambda step: healthy(step) | ILL["no_signal"] | also)
    assert cause in found["no_signal"][0].cause


def test_updates_within_a_rollout_are_no_rollouts():
    """Three updates with a gap are one rollout; metrics of rollouts come with its first update."""

    def later(step):
        full = healthy(step) | {"policy/gap": 0.3, "policy/entropy": 9.0, "policy/kl_k3": 9.0}
        return full if step % 16 == 1 else {k: v for k, v in full.items() if not k.startswith(("rollout/", "reward/"))}

    limits = RlLimits(first_kl=10.0)
    assert kinds(later, limits, steps=32) == {}
    assert set(kinds(later, limits, steps=48)) == {"mismatch", "entropy_high", "kl"}


def test_an_evaluation_is_no_rollout():
    def with_evaluations(step):
        return healthy(step) if step % 2 else {"eval/correct": 0.5}

    assert kinds(with_evaluations, steps=80) == {}


@pytest.mark.parametrize("stopped", [12, 13, 27])
def test_its_memory_goes_through_json(stopped):
    """A watchdog that goes on finds what it would have found."""

    def curve(step):
        return falling(step) | (ILL["truncated"] | ILL["no_signal"] if step > 11 else {})

    def new():
        return Watchdog(WatchdogConfig(cooldown=4), rules=rl_rules())

    def watch(watchdog, steps):
        return [str(finding) for step in steps for finding in watchdog.observe(step, curve(step))]

    whole = new()
    wanted = watch(whole, range(1, 41))
    first, second = new(), new()
    found = watch(first, range(1, stopped))
    second.from_dict(json.loads(json.dumps(first.to_dict())))
    found += watch(second, range(stopped, 41))
    assert found == wanted
    assert len(wanted) > 5
    assert second.to_dict() == whole.to_dict()


def test_limits_are_checked():
    with pytest.raises(ValueError, match="gap must be positive, got 0"):
        RlLimits(gap=0.0)
