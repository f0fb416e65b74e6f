"""The loop learns, and one update of every option is finite and changes the parameters."""

import jax
import numpy as np
import pytest

from coldforge.grpo import GrpoConfig, Judgement, Steps, fit
from coldforge.losses import PolicyLoss

pytestmark = pytest.mark.whole

FULL = PolicyLoss(beta=0.02, clip_high=0.28, dual_clip=3.0)


def run(toy, tmp_path, config, **other):
    log = toy.Rows()
    parts = toy.make_parts(config, tmp_path, log=log, **other)
    return fit(toy.begin(parts, config), parts, config), log


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"minibatches": 4, "policy": FULL, "refresh_reference": 8},
        {"minibatches": 2, "inner_epochs": 2, "old_policy": "trainer", "aggregation": "sequence_mean"},
    ],
    ids=["on-policy", "minibatches", "epochs"],
)
def test_the_reward_rises(toy, tmp_path, options):
    config = GrpoConfig(steps=40, questions=8, group_size=8, **options)
    result, log = run(toy, tmp_path, config)
    rewards = log.curve("reward/total")
    assert result.reason == "done"
    assert len(rewards) == 40 // config.updates
    assert np.mean(rewards[:2]) < 0.3
    assert np.mean(rewards[-2:]) > 0.6, rewards
    assert max(log.curve("policy/gap")) < 1e-5, "trainer and sampler are the same model"


def by_steps(position, samples):
    """Each token is a step, worth 1 if it is the good one."""
    return Judgement(
        [float((one.tokens == 3).mean()) for one in samples],
        steps=[Steps(range(1, len(one.tokens) + 1), (one.tokens == 3).astype(float)) for one in samples],
    )


@pytest.mark.parametrize(
    "options",
    [
        {"advantage": "dr_grpo", "aggregation": "constant", "max_new_tokens": 8},
        {"advantage": "maxrl"},
        {"advantage": "rloo", "aggregation": "sequence_sum"},
        {"advantage": "batch_scaled", "policy": PolicyLoss(objective="cispo", cispo_max=5.0)},
        {"advantage": "gdpo", "reward_weights": (("ended", 0.5),)},
        {"advantage": "process", "judge": by_steps},
        {
            "aggregation": "sequence_mean",
            "policy": PolicyLoss(ratio="sequence", clip_low=3e-4, clip_high=4e-4),
            "minibatches": 2,
        },
        {
            "policy": PolicyLoss(clip_high=0.28),
            "overlong_filter": True,
            "resample": 3.0,
            "drop_equal_groups": True,
            "minibatches": 2,
        },
        {"policy": PolicyLoss(entropy_bonus=0.01, correction="truncate"), "minibatches": 2},
        {"policy": PolicyLoss(kl="unbiased_k3", beta=0.01, correction="mask", off_policy_limit=0.1)},
    ],
    ids=["dr_grpo", "maxrl", "rloo", "cispo", "gdpo", "process", "gspo", "dapo", "corrected", "v3.2"],
)
def test_an_update_of_every_option(toy, tmp_path, options):
    other = {"judge": options["judge"]} if "judge" in options else {}
    config = GrpoConfig(steps=2, questions=4, group_size=4, **{k: v for k, v in options.items() if k != "judge"})
    result, log = run(toy, tmp_path, config, **other)
    before, after = toy.make_params(), jax.device_get(result.state.params)
    assert all(np.isfinite(x).all() for x in after.values())
    assert all((before[name] != after[name]).any() for name in before)
    assert log.curve("train/applied") == [1.0, 1.0]
    assert all(np.isfinite(value) for row in log.rows.values() for value in row.values())
