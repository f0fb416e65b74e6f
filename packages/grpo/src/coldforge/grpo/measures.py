"""What a rollout looked like, as numbers and as texts.

`rollout_scalars` gives the names that `SCALARS` explains; `texts` picks samples for people: the best, the worst, and
others at random.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from coldforge.grpo.experience import Experience

RUN = 8  # tokens: shorter runs recur in any worked solution

# Name → meaning and unit, beside `coldforge.training.SCALARS`.
SCALARS: dict[str, str] = {
    "reward/total": "mean total reward of the rollout's samples; reward/total_std its standard deviation",
    "reward/NAME": "the same of each reward by itself, and reward/NAME_std",
    "rollout/correct": "share of samples with a right answer, of those that were judged",
    "rollout/format": "share of well-formed samples",
    "rollout/truncated": "share of samples that were cut off",
    "rollout/zero_variance": "share of groups whose rewards are all equal, of all that were asked for",
    "rollout/kept_equal": "share of such groups in the update",
    "rollout/asked": "groups that were asked for, those replaced by dynamic sampling included",
    "rollout/solved": "share of groups in which some sample is right",
    "rollout/length": "mean tokens of a completion; also _right, _wrong, _max",
    "rollout/repetition": "mean share of runs of 8 tokens that occurred before in the same completion",
    "rollout/tokens_per_second": "tokens sampled per second of sampling, all devices",
    "policy/kl": "mean of the KL estimator in the loss to the reference, nats per token; policy/kl_k3 in any case k3",
    "policy/entropy": "mean entropy of the policy at completion tokens, nats",
    "policy/ratio": "mean of π_θ / π_old; also _min, _max",
    "policy/clip_low": "share of tokens whose gradient the lower bound cut; also clip_high, clip_dual",
    "policy/old_kl": "k3 of π_old to π_θ: how far this update has gone from the samples",
    "policy/gap": "mean |log π_trainer − log π_sampler| of the same weights, nats per token; also _max",
    "policy/gap_kl": "the KL that this gap implies",
    "time/rollout": "seconds of sampling",
    "time/rewards": "seconds spent waiting for rewards after the last sample",
    "time/score": "seconds of scoring samples under the reference, or the policy before the first update",
    "time/update": "seconds from an update's start to its numbers",
    "compiles/train": "programs compiled for updates so far; 1 is what it should stay at",
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
        found["rollout/solved"] = right.reshape(experience.groups, -1).any(1).mean()
        for name, which in (("right", right), ("wrong", known & ~right)):
            if which.any():
                found[f"rollout/length_{name}"] = lengths[which].mean()
    return {name: float(value) for name, value in found.items()}


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
