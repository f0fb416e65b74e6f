"""What does not fit together is refused with what would, before anything is sampled."""

import pytest
from jaxtyping import TypeCheckError

from coldforge.grpo import GrpoConfig
from coldforge.losses import PolicyLoss


def make(**options):
    return GrpoConfig(**({"steps": 4, "questions": 4, "group_size": 4} | options))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"minibatches": 0}, "minibatches must be at least 1"),
        ({"checkpoint_every": -1}, "checkpoint_every must be 0 or more, got -1"),
        ({"tolerance": float("nan")}, "tolerance must be 0 or more"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"group_size": 1}, "an advantage compares a sample with its group"),
        ({"resample": 0.5}, "resample is a multiple of the rollout's questions"),
        ({"aggregation": "constant"}, "divides by max_new_tokens: give it"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"minibatches": 3}, "4 questions × 4 samples = 16 do not split into 3"),
        ({"refresh_reference": 400}, "policy.beta is 0.0: without a KL there is no reference to refresh"),
        ({"old_policy": "on_policy", "minibatches": 2}, "one update per rollout, and there are 2"),
        (
            {"old_policy": "sampler", "policy": PolicyLoss(correction="truncate"), "minibatches": 2},
            "it needs old_policy 'trainer'",
        ),
    ],
)
def test_configs_are_checked(wrong, said):
    with pytest.raises(ValueError, match=said):
        make(**wrong)


@pytest.mark.parametrize("name", ["advantage", "aggregation", "old_policy", "on_nan"])
def test_unknown_names_are_refused(name):
    """With shapes checked, as in tests, it is the type that is wrong; from a command line it need not be checked."""
    with pytest.raises((ValueError, TypeCheckError), match="nonsense"):
        make(**{name: "nonsense"})


def test_numbers_that_follow_from_others():
    r1 = GrpoConfig(steps=1600, questions=512, group_size=16, minibatches=16)
    assert (r1.samples, r1.updates, r1.old) == (8192, 16, "sampler")
    assert make().old == "on_policy"
    assert make(inner_epochs=3).updates == 3
    assert make(minibatches=2, policy=PolicyLoss(correction="mask")).old == "trainer"
    assert make(old_policy="trainer").old == "trainer"
