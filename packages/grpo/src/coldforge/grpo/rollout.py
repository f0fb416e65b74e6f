"""One rollout: questions are asked, samples judged while others are still being made, equal groups replaced.

    experience, position = collect(params, 3, 96, prompt=prompt, sample=sample, judge=judge, config=config)

Questions come in an endless order, of which `position` is the place. They are asked in waves: the first has the
rollout's questions; with dynamic sampling (DAPO, arXiv:2503.14476, section 3.2) the next ones have as many as there are
groups without signal, until all groups have some or `resample` is used up. Groups that were replaced are counted, and
used again if too few others were found, so that a rollout always has its size.

Judging runs beside the sampler (`judging`). With several processes all of them sample, and the first one judges.

Counts (`Experience.counts`): "asked" groups; "equal", those of them without signal; "kept_equal", those without signal
that are in the experience; "seconds" and "waited" of the sampler and for the judge after it; "tokens" sampled in all.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from coldforge.grpo.advantage import has_signal
from coldforge.grpo.config import GrpoConfig
from coldforge.grpo.experience import Experience, Judgement, Sampled
from coldforge.grpo.judging import Judge, Judging, StoppedError


@dataclass(frozen=True)
class Ask:
    """What the sampler is asked for.

    Attributes:
      index: names the group in the answer; rising from 0 in a rollout.
      prompt: ids, int32.
      samples: how many.
      seed: of this group, below 2**32; another one wherever rollout or position differ.
    """

    index: int
    prompt: np.ndarray
    samples: int
    seed: int


class Group(NamedTuple):
    """A group as the rollout keeps it."""

    position: int
    prompt: np.ndarray
    samples: list[Sampled]


Prompt = Callable[[int], np.ndarray]  # position in the endless order → the prompt's ids
Sample = Callable[[Any, Sequence[Ask]], Iterator[tuple[int, list[Any]]]]


def collect(
    params: Any,
    number: int,
    position: int,
    *,
    prompt: Prompt,
    sample: Sample,
    judge: Judge,
    config: GrpoConfig,
    stop: Callable[[], str | None] = lambda: None,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> tuple[Experience, int]:
    """Samples and judges one rollout.

    Args:
      params: of the policy, handed to `sample`.
      number: of the rollout, from 0.
      position: of its first question.
      prompt, sample, judge: see above; `judge` is called in threads, in the first process only.
      config: sizes, seed, dynamic sampling.
      stop: asked after every group, alike in all processes.
      progress: told how many groups are done, of how many that have been asked for.

    Returns:
      The experience, without advantages, and the position of the next rollout's first question.

    Raises:
      StoppedError: `stop` gave a reason; nothing of the rollout is kept.
      ValueError: a prompt has no tokens; the sampler returned too few samples or groups, one that was not asked for, or
        a log-probability that is no number; the judge gave too few or too many values, one that is not finite, no steps
        where advantages are made of them, or other rewards than before.
      JudgeError: in other processes than the first, where a judge raised.
      Exception: whatever a judge raised, at once; with several processes at the end of a wave.
    """
    groups: list[Group] = []
    judged: list[Judgement] = []
    counts = dict.fromkeys(("asked", "equal", "seconds", "waited", "tokens"), 0.0)
    limit = max(config.questions, int(config.resample * config.questions))
    wanted = config.questions
    while True:
        asks = [
            Ask(
                len(groups) + i, _asked(prompt, position + i), config.group_size,
                seed_of(config.seed, number, position + i),
            )
            for i in range(wanted)
        ]  # fmt: skip
        new, said = _wave(params, asks, position, sample, judge, config, counts, stop, progress)
        groups += new
        judged += said
        position += wanted
        good = [i for i, one in enumerate(judged) if has_signal(one, config)]
        wanted = min(config.questions - len(good), limit - len(groups))
        if config.resample == 0 or wanted <= 0:
            break
    counts["asked"] = float(len(groups))
    counts["equal"] = float(len(groups) - len(good))
    if config.resample:
        rest = [i for i in range(len(groups)) if i not in set(good)]
        chosen = sorted((good + rest)[: config.questions])
    else:
        chosen = list(range(config.questions))
    counts["kept_equal"] = float(len(set(chosen) - set(good)))
    return _experience([groups[i] for i in chosen], [judged[i] for i in chosen], counts, config), position


def seed_of(seed: int, number: int, position: int) -> int:
    """Seed of a group: a hash of the run's seed, the rollout and the question's place, below 2**32."""
    text = f"{seed} {number} {position}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "little")


def _wave(
    params: Any,
    asks: Sequence[Ask],
    position: int,
    sample: Sample,
    judge: Judge,
    config: GrpoConfig,
    counts: dict[str, float],
    stop: Callable[[], str | None],
    progress: Callable[[int, int], None],
) -> tuple[list[Group], list[Judgement]]:
    """Groups of one wave in the order of the asks, judged; adds to the counts."""
    first = asks[0].index
    groups: dict[int, Group] = {}
    began = time.perf_counter()
    with Judging(judge, config, stop) as judging:
        for index, samples in sample(params, asks):
            if not first <= index < first + len(asks) or index in groups:
                raise ValueError(f"the sampler returned group {index}, which was not asked for, or is there already")
            place = position + index - first
            _check(samples, place, config)
            groups[index] = Group(place, asks[index - first].prompt, list(samples))
            judging.submit(index, place, samples)
            judging.raise_early()
            progress(first + len(groups), first + len(asks))
            if (reason := stop()) is not None:
                raise StoppedError(reason)
        if missing := {ask.index for ask in asks} - groups.keys():
            raise ValueError(
                f"the sampler returned {len(groups)} of {len(asks)} groups; group {min(missing)} is absent"
            )
        sampled = time.perf_counter()
        judged = judging.results()
    counts["seconds"] += sampled - began
    counts["waited"] += time.perf_counter() - sampled
    counts["tokens"] += sum(len(one.tokens) for group in groups.values() for one in group.samples)
    return [groups[ask.index] for ask in asks], judged


def _asked(prompt: Prompt, place: int) -> np.ndarray:
    """The prompt at a place; its last token predicts the completion's first, so there must be one."""
    ids = np.asarray(prompt(place), np.int32)
    if ids.ndim != 1 or len(ids) == 0:
        raise ValueError(f"the prompt of the question at position {place} has shape {ids.shape}; wanted [n], n above 0")
    return ids


def _check(samples: Sequence[Sampled], place: int, config: GrpoConfig) -> None:
    if len(samples) != config.group_size:
        raise ValueError(f"question {place} got {len(samples)} samples; wanted {config.group_size}")
    for one in samples:
        if len(one.tokens) == 0 or len(one.tokens) != len(one.logprobs):
            raise ValueError(
                f"a sample of question {place} has {len(one.tokens)} tokens and {len(one.logprobs)} log-probabilities; "
                "wanted one for each token, at least one"
            )
        if not np.isfinite(one.logprobs).all():
            raise ValueError(
                f"a sample of question {place} has log-probabilities that are not finite: the model gave NaN"
            )


def _experience(
    groups: Sequence[Group], judged: Sequence[Judgement], counts: dict[str, float], config: GrpoConfig
) -> Experience:
    samples = [one for group in groups for one in group.samples]
    names = list(judged[0].parts)
    for group, one in zip(groups, judged, strict=True):
        if one.parts.keys() != set(names):
            raise ValueError(
                f"the judge named the rewards {', '.join(one.parts) or 'none'} for the question at position "
                f"{group.position}, and {', '.join(names) or 'none'} before; wanted the same for all"
            )

    def joined(name: str) -> np.ndarray:
        return np.array([value for one in judged for value in getattr(one, name)], np.float64)

    def listed(name: str) -> Any:
        return (
            [x for one in judged for x in getattr(one, name)]
            if all(getattr(j, name) is not None for j in judged)
            else None
        )

    return Experience(
        group_size=config.group_size,
        positions=np.array([group.position for group in groups], np.int64),
        prompts=[np.asarray(group.prompt, np.int32) for group in groups],
        tokens=[np.asarray(one.tokens, np.int32) for one in samples],
        sampler_logprobs=[np.asarray(one.logprobs, np.float32) for one in samples],
        ended=np.array([one.finish_reason == "stop" for one in samples], bool),
        rewards=joined("rewards"),
        parts={name: np.array([v for one in judged for v in one.parts[name]], np.float64) for name in names},
        correct=joined("correct"),
        well_formed=joined("well_formed"),
        counts=counts,
        steps=listed("steps"),
        texts=listed("texts"),
        notes=listed("notes"),
    )
