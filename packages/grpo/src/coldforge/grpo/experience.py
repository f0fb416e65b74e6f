"""What one rollout brought: samples, what they are worth, and what the update needs of them; on the disk and back.

An `Experience` holds groups of equal size, flat: sample i belongs to group i // group_size. `Judgement` is what a judge
says of the samples of one group. `save` and `load` keep an experience beside the checkpoints, so that a run that is
killed between two updates goes on with the same samples.
"""

import dataclasses
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from coldforge.training import load_batch, save_batch


@runtime_checkable
class Sampled(Protocol):
    """One sample, as `coldforge.rollout.Sample` is.

    Attributes:
      tokens: the completion's ids, the stop token included; int `[n]`, n at least 1.
      logprobs: of each token as it was sampled, under softmax(logits / temperature).
      finish_reason: "stop", or "length" for one that was cut off.
    """

    @property
    def tokens(self) -> np.ndarray: ...
    @property
    def logprobs(self) -> np.ndarray: ...
    @property
    def finish_reason(self) -> str: ...


class Steps(NamedTuple):
    """A sample judged step by step (process supervision).

    Attributes:
      ends: the token after the last one of each step, rising; the last is the number of tokens.
      rewards: of each step.
    """

    ends: Sequence[int]
    rewards: Sequence[float]


class Judgement(NamedTuple):
    """What the samples of a group are worth.

    Attributes:
      rewards: the total of each sample.
      parts: each reward by itself, by name.
      correct: 1 or 0, nan where nobody knows.
      well_formed: 1 or 0.
      texts: the completions, for people.
      notes: why, for people.
      steps: of each sample, for process supervision.
    """

    rewards: Sequence[float]
    parts: Mapping[str, Sequence[float]] = {}
    correct: Sequence[float] | None = None
    well_formed: Sequence[float] | None = None
    texts: Sequence[str] | None = None
    notes: Sequence[str] | None = None
    steps: Sequence[Steps] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experience:
    """One rollout, judged. Arrays are `[samples]` or lists of one array per sample unless said otherwise.

    Attributes:
      group_size: samples of a question.
      positions: places in the endless order of the questions, int64 `[groups]`.
      prompts: of each group, int32.
      tokens: completions.
      sampler_logprobs: as sampled, float32.
      ended: False for a sample that was cut off.
      rewards: totals, float64.
      parts: each reward by itself.
      correct: 1, 0, or nan.
      well_formed: 1, 0, or nan.
      counts: how the rollout went: see `coldforge.grpo.rollout`.
      advantages: of each token, float32; None before they are computed.
      old_logprobs: of the policy that sampled, by the trainer; None where they are not computed.
      ref_logprobs: of the reference.
      steps: of process supervision.
      texts, notes: for people, in memory only.
    """

    group_size: int
    positions: np.ndarray
    prompts: list[np.ndarray]
    tokens: list[np.ndarray]
    sampler_logprobs: list[np.ndarray]
    ended: np.ndarray
    rewards: np.ndarray
    parts: dict[str, np.ndarray]
    correct: np.ndarray
    well_formed: np.ndarray
    counts: dict[str, float]
    advantages: list[np.ndarray] | None = None
    old_logprobs: list[np.ndarray] | None = None
    ref_logprobs: list[np.ndarray] | None = None
    steps: list[Steps] | None = None
    texts: list[str] | None = None
    notes: list[str] | None = None

    @property
    def samples(self) -> int:
        return len(self.tokens)

    @property
    def groups(self) -> int:
        return len(self.prompts)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each completion, int64."""
        return np.array([len(ids) for ids in self.tokens], np.int64)

    @property
    def grouped_rewards(self) -> np.ndarray:
        """`[groups, group_size]`."""
        return self.rewards.reshape(self.groups, self.group_size)

    def prompt_of(self, sample: int) -> np.ndarray:
        return self.prompts[sample // self.group_size]


RAGGED = ("prompts", "tokens", "sampler_logprobs", "advantages", "old_logprobs", "ref_logprobs")


def save(path: Path, experience: Experience) -> Path:
    """Writes an experience as one .npz, under its name when all is written.

    Left out are `texts` and `notes`, which are for people, and `steps`: what they said is in the advantages.

    Raises:
      OSError: the disk is full; what was there before stays.
    """
    arrays: dict[str, np.ndarray] = {}
    for name in RAGGED:
        if (parts := getattr(experience, name)) is not None:
            arrays[name] = np.concatenate(parts)
            arrays[f"{name}_ends"] = np.cumsum([len(part) for part in parts])
    for name in ("positions", "ended", "rewards", "correct", "well_formed"):
        arrays[name] = getattr(experience, name)
    arrays |= {f"part_{index}": values for index, values in enumerate(experience.parts.values())}
    extra = {"group_size": experience.group_size, "parts": list(experience.parts), "counts": experience.counts}
    return save_batch(path, arrays, extra)


def load(path: Path) -> Experience:
    """What `save` wrote.

    Raises:
      FileNotFoundError, ValueError: there is no such file, or it is another one, or damaged.
    """
    if path.exists() and not zipfile.is_zipfile(path):  # cut short, say
        raise ValueError(f"{path} is damaged; delete the newest checkpoint, to go on from one before it")
    arrays, extra = load_batch(path)
    fields: dict[str, Any] = {
        name: arrays[name] for name in ("positions", "ended", "rewards", "correct", "well_formed")
    }
    for name in RAGGED:
        if name in arrays:
            fields[name] = np.split(arrays[name], arrays[f"{name}_ends"][:-1])
    parts = {name: arrays[f"part_{index}"] for index, name in enumerate(extra["parts"])}
    return Experience(group_size=extra["group_size"], parts=parts, counts=extra["counts"], **fields)
