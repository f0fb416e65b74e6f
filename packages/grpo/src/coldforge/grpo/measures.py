"""What a rollout looked like, as numbers and as texts.

`rollout_scalars` gives the names that `SCALARS` explains; `texts` picks samples for people: the best, the worst, and
others at random.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from coldforge.grpo.experience import Experience

RUN = 8  # tokens: shorter runs recur in any worked solution

# Name → meaning and unit, beside `coldforge.training.SCALARS`. "NAME" stands for whatever the judge calls its rewards.
SCALARS: dict[str, str] = {
    "reward/total": "mean total reward of the rollout's samples",
    "reward/total_std": "its standard deviation",
    "reward/NAME": "mean of each reward by itself",
    "reward/NAME_std": "its standard deviation",
    "rollout/correct": "share of samples with a right answer, of those whose answer is known to be right or wrong",
    "rollout/format": "share of well-formed samples",
    "rollout/truncated": "share of samples that were cut off",
    "rollout/zero_variance": "share of groups without signal (equal rewards), of all that were asked for",
    "rollout/kept_equal": "share of such groups among those in the update",
    "rollout/asked": "groups that were asked for, those replaced by dynamic sampling included",
    "rollout/solved": "share of groups in which some sample is right, of those in which that is known",
    "rollout/length": "mean tokens of a completion",
    "rollout/length_right": "of right ones",
    "rollout/length_wrong": "of wrong ones",
    "rollout/length_max": "the longest",
    "rollout/repetition": "mean share of runs of 8 tokens that occurred before in the same completion",
    "rollout/tokens_per_second": "tokens sampled per second of sampling, all devices",
    "train/empty": "1 for an update in which no sample had anything to teach; it changes nothing, and has no loss",
    "train/tokens": "tokens of the update's rows, prompts included, padding not",
    "train/trained_tokens": "completion tokens that weigh anything",
    "policy/kl": "mean of the KL estimator in the loss to the reference, nats per token",
    "policy/kl_k3": "the same by k3, whatever is in the loss",
    "policy/entropy": "mean entropy of the policy at completion tokens, nats",
    "policy/ratio": "mean of π_θ / π_old",
    "policy/ratio_min": "the smallest",
    "policy/ratio_max": "the largest",
    "policy/clip_low": "share of tokens whose gradient the lower bound cut",
    "policy/clip_high": "share of tokens whose gradient the upper bound cut",
    "policy/clip_dual": "share of tokens whose gradient the dual clip cut",
    "policy/old_kl": "k3 of π_old to π_θ: how far this update is from the samples",
    "policy/gap": "mean |log π_trainer − log π_sampler| of the same weights, nats per token",
    "policy/gap_max": "the largest",
    "policy/gap_kl": "the KL that the gap implies",
    "policy/correction": "mean of π_old / π_sampler before its bounds",
    "policy/correction_min": "the smallest",
    "policy/correction_max": "the largest",
    "policy/correction_bounded": "share of tokens outside of the correction's bounds",
    "policy/off_policy": "share of tokens in samples that the off-policy limit left out",
    "time/rollout": "seconds of sampling",
    "time/rewards": "seconds spent waiting for rewards after the last sample",
    "time/score": "seconds of scoring samples under the reference, or the policy before the first update",
    "time/update": "seconds from an update's start to its numbers",
    "compiles/train": "programs compiled for updates so far; 1 is what it should stay at",
    "compiles/score": "programs compiled for scoring so far",
    "compiles/sample": "programs compiled for the sampler so far",
    "eval/correct": "share of held-out questions answered right",
}


def rollout_scalars(experience: Experience) -> dict[str, float]:
    """The numbers of a rollout; those that do not exist (no right sample, nothing judged) are left out."""
    lengths, counts = experience.lengths, experience.counts
    found: dict[str, Any] = {"reward/total": experience.rewards.mean(), "reward/total_std": experience.rewards.std()}
    for name, values in experience.parts.items():
        found |= {f"reward/{name}": values.mean(), f"reward/{name}_std": values.std()}
    found |= {
        "rollout/truncated": 1 - experience.ended.mean(),
        "rollout/length": lengths.mean(),
        "rollout/length_max": lengths.max(),
        "rollout/zero_variance": counts["equal"] / counts["asked"],
        "rollout/kept_equal": counts["kept_equal"] / experience.groups,
        "rollout/asked": counts["asked"],
        "rollout/repetition": np.mean([repeated_share(ids) for ids in experience.tokens]),
        "time/rollout": counts["seconds"],
        "time/rewards": counts["waited"],
    }
    if counts["seconds"] > 0:
        found["rollout/tokens_per_second"] = counts["tokens"] / counts["seconds"]
    if (known := ~np.isnan(experience.well_formed)).any():
        found["rollout/format"] = experience.well_formed[known].mean()
    if (known := ~np.isnan(experience.correct)).any():
        right = experience.correct == 1
        found["rollout/correct"] = experience.correct[known].mean()
        found["rollout/solved"] = _some(right, experience)[_some(known, experience)].mean()
        for name, which in (("right", right), ("wrong", known & ~right)):
            if which.any():
                found[f"rollout/length_{name}"] = lengths[which].mean()
    return {name: float(value) for name, value in found.items()}


def _some(samples: np.ndarray, experience: Experience) -> np.ndarray:
    """Whether it is so of some sample of a group, bool `[groups]`."""
    return samples.reshape(experience.groups, -1).any(1)


def repeated_share(ids: np.ndarray, run: int = RUN) -> float:
    """The share of runs of `run` tokens that occurred before in the same text; 0 for a shorter text.

    `repeated_share([1, 1, 1, 1], run=2)` is 2/3: three runs, one of them new.
    """
    total = len(ids) - run + 1
    if total < 2:
        return 0.0
    runs = np.lib.stride_tricks.sliding_window_view(np.asarray(ids), run)
    return 1 - len({row.tobytes() for row in np.ascontiguousarray(runs)}) / total


def texts(experience: Experience, count: int, questions: Sequence[str] | None, seed: int) -> dict[str, str]:
    """At most `count` samples for people, by name: best, worst, then others at random; none without texts.

    Args:
      experience: with `texts`.
      count: how many.
      questions: of each group, or None.
      seed: of the choice.
    """
    if experience.texts is None or count < 1:
        return {}
    order = np.argsort(experience.rewards, kind="stable")
    others = np.random.default_rng(seed).permutation(experience.samples)
    chosen = {"best": int(order[-1]), "worst": int(order[0])}
    rest = [int(i) for i in others if i not in chosen.values()]
    chosen |= {f"random_{n}": i for n, i in enumerate(rest[: max(0, count - 2)])}
    return {f"samples/{name}": _told(experience, i, questions) for name, i in list(chosen.items())[:count]}


def _told(experience: Experience, i: int, questions: Sequence[str] | None) -> str:
    assert experience.texts is not None
    rewards = ", ".join(f"{name} {values[i]:.3g}" for name, values in experience.parts.items())
    head = f"reward {experience.rewards[i]:.3g}" + (f" ({rewards})" if rewards else "")
    end = "ended" if experience.ended[i] else "cut off"
    note = f"; {experience.notes[i]}" if experience.notes is not None and experience.notes[i] else ""
    asked = f"{questions[i // experience.group_size]}\n\n" if questions is not None else ""
    return f"{head}; {len(experience.tokens[i])} tokens, {end}{note}\n\n{asked}{experience.texts[i]}"
