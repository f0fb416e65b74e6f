"""What a rollout and an update are said to be, against numbers worked out by hand; every name is explained."""

import dataclasses
import re

import numpy as np
import pytest

from coldforge.grpo import SCALARS, GrpoConfig, fit, repeated_share, rollout_scalars
from coldforge.grpo.experience import load, save
from coldforge.grpo.measures import texts
from coldforge.grpo.objective import means
from coldforge.losses import PolicyLoss
from coldforge.training import SCALARS as COMMON

NAN = float("nan")


@pytest.fixture
def experience(toy):
    """Two groups of three samples of 2, 4, 6, 1, 3, 8 tokens."""
    lengths = [2, 4, 6, 1, 3, 8]
    tokens = [np.arange(2, 2 + n, dtype=np.int32) for n in lengths]
    tokens[5] = np.full(8, 5, np.int32)
    found = toy.make_experience(np.random.default_rng(0), groups=2, size=3, tokens=tokens)
    return dataclasses.replace(
        found, rewards=np.array([1.0, 0, 0, 2, 0, 0]), parts={"form": np.array([1.0, 1, 1, 1, 0, 0])},
        correct=np.array([1, 0, NAN, 1, 0, NAN]), well_formed=np.array([1, 1, 1, 1, 0, 0.0]),
        ended=np.array([True, True, True, True, True, False]),
        texts=[f"text {i}" for i in range(6)], notes=["", "", "", "lucky", "", ""],
        counts={"asked": 8.0, "equal": 5.0, "kept_equal": 1.0, "seconds": 4.0, "waited": 0.5, "tokens": 100.0},
    )  # fmt: skip


def test_a_rollout_in_numbers(experience):
    assert rollout_scalars(experience) == pytest.approx(
        {
            "reward/total": 0.5, "reward/total_std": np.sqrt(7 / 12), "reward/form": 2 / 3,
            "reward/form_std": np.sqrt(2 / 9), "rollout/correct": 0.5, "rollout/format": 2 / 3,
            "rollout/truncated": 1 / 6, "rollout/zero_variance": 5 / 8, "rollout/kept_equal": 0.5, "rollout/asked": 8,
            "rollout/solved": 1.0, "rollout/length": 4.0, "rollout/length_right": 1.5, "rollout/length_wrong": 3.5,
            "rollout/length_max": 8, "rollout/repetition": 0.0, "rollout/tokens_per_second": 25.0,
            "time/rollout": 4.0, "time/rewards": 0.5,
        }
    )  # fmt: skip


def test_what_does_not_exist_is_left_out(experience):
    unknown = dataclasses.replace(experience, correct=np.full(6, NAN), well_formed=np.full(6, NAN))
    names = rollout_scalars(unknown).keys()
    assert not {"rollout/correct", "rollout/solved", "rollout/length_right", "rollout/format"} & names
    wrong = dataclasses.replace(experience, correct=np.array([0, 0, 0, NAN, NAN, NAN]))
    found = rollout_scalars(wrong)
    assert "rollout/length_right" not in found
    assert found["rollout/solved"] == 0.0
    solved = dataclasses.replace(experience, correct=np.array([0, 1, 0, NAN, NAN, NAN]))
    assert rollout_scalars(solved)["rollout/solved"] == 1.0, "of the other group nothing is known"


def test_repetition():
    assert repeated_share(np.array([1, 1, 1, 1]), run=2) == pytest.approx(2 / 3)
    assert repeated_share(np.arange(100)) == 0
    assert repeated_share(np.full(8, 3)) == 0, "one run of eight"
    assert repeated_share(np.tile(np.arange(10), 30)) > 0.95
    assert repeated_share(np.zeros(0, np.int32)) == 0


def test_texts_for_people(experience):
    found = texts(experience, 4, ["one?", "two?"], seed=1)
    assert list(found) == ["samples/best", "samples/worst", "samples/random_0", "samples/random_1"]
    assert found["samples/best"] == "reward 2 (form 1); 1 tokens, ended; lucky\n\ntwo?\n\ntext 3"
    assert found["samples/worst"].startswith("reward 0 (form 1); 4 tokens, ended\n\none?\n\n")
    assert len(set(found.values())) == 4, "none twice"
    assert texts(experience, 4, None, seed=1) == texts(experience, 4, None, seed=1)
    assert "cut off" in "".join(texts(experience, 99, None, seed=1).values())
    assert list(texts(experience, 1, None, seed=1)) == ["samples/best"]
    assert texts(experience, 0, None, seed=1) == {}
    assert texts(dataclasses.replace(experience, texts=None), 4, None, seed=1) == {}


def test_means_of_sums():
    sums = {"kl": 6.0, "kl_count": 3.0, "ratio_max": 2.0, "ratio_min": -0.5, "gap_max": -np.inf, "tokens": 9.0,
            "entropy": 0.0, "entropy_count": 0.0}  # fmt: skip
    assert means(sums) == {"policy/kl": 2.0, "policy/ratio_max": 2.0, "policy/ratio_min": 0.5}


def test_an_experience_on_the_disk_and_back(experience, tmp_path):
    rng = np.random.default_rng(0)
    whole = dataclasses.replace(experience, advantages=[rng.normal(size=n).astype("f4") for n in experience.lengths])
    for one in (whole, dataclasses.replace(whole, old_logprobs=None, ref_logprobs=None, parts={})):
        found = load(save(tmp_path / "new" / "rollout.npz", one))
        assert (found.texts, found.notes) == (None, None)
        for field in dataclasses.fields(one):
            a, b = getattr(found, field.name), getattr(one, field.name)
            if field.name not in ("texts", "notes"):
                np.testing.assert_equal(a, b)
                assert type(a) is type(b)
        assert [x.dtype for x in found.tokens] == [x.dtype for x in one.tokens]
        assert found.rewards.dtype == np.float64


def explained(name):
    """Whether somebody who reads the name finds what it means."""
    rewards = re.sub(r"reward/(?!total)\w+?(_std)?$", r"reward/NAME\1", name)
    return name in COMMON or name in SCALARS or rewards in SCALARS


def test_every_name_of_a_run_is_explained(toy, tmp_path):
    seen, names = set(), set()
    policies = [
        PolicyLoss(beta=0.01, correction="truncate", off_policy_limit=1.0, dual_clip=3.0),
        PolicyLoss(objective="cispo"),
    ]
    for minibatches, policy in zip((2, 1), policies, strict=True):
        config = GrpoConfig(steps=2, questions=4, group_size=4, minibatches=minibatches, policy=policy)
        log = toy.Rows()
        parts = toy.make_parts(
            config, tmp_path, log=log, evaluate=lambda params: {"eval/correct": 0.5},
            compiles=lambda: {"train": 1, "score": 1, "sample": 3}, memory=lambda: {"memory/host_gib": 1.0},
        )  # fmt: skip
        fit(toy.begin(parts, config), parts, config)
        seen |= {name for row in log.rows.values() for name in row}
    assert {name for name in seen if not explained(name)} == set()
    names = {name for name in SCALARS if "NAME" not in name} - {"train/empty"}
    assert names - seen == set(), "what is explained is there"


def test_what_an_update_is_said_to_be(toy, tmp_path):
    """Two updates of one rollout: tokens counted, the gap only while the policy is the one that sampled."""
    config = GrpoConfig(steps=2, questions=4, group_size=4, minibatches=2, policy=PolicyLoss(clip_high=0.001))
    log, batches = toy.Rows(), []
    parts = toy.make_parts(config, tmp_path, log=log)

    def place(batch):
        batches.append(batch)
        return batch

    parts = dataclasses.replace(parts, place=place)
    fit(toy.begin(parts, config), parts, config)
    for row, batch in zip((log.rows[1], log.rows[2]), batches, strict=True):
        assert row["train/tokens"] == (batch.segment_ids > 0).sum()
        assert row["train/trained_tokens"] == (batch.weights > 0).sum()
        assert row["data/padding_share"] == pytest.approx(
            1 - row["train/tokens"] / batch.tokens[(batch.segment_ids > 0).any((1, 2))].size
        )
        assert row["train/tokens_per_second"] == pytest.approx(row["train/tokens"] / row["time/update"])
    first, second = log.rows[1], log.rows[2]
    assert first["policy/ratio_max"] == pytest.approx(1, abs=1e-5)
    assert first["policy/gap"] < 1e-5
    assert "policy/gap" not in second
    assert second["policy/old_kl"] > first["policy/old_kl"]
    assert second["policy/clip_high"] > 0
    assert {name for name in second if name.startswith(("rollout/", "reward/"))} == set(), "once a rollout"
