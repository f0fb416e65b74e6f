"""One rollout: questions are asked, samples judged while others are still being made, equal groups replaced.

    experience, position = collect(params, number=3, position=96, parts=parts, config=config)

Questions come in an endless order, of which `position` is the place. They are asked in waves: the first has the
rollout's questions; with dynamic sampling (DAPO, arXiv:2503.14476, section 3.2) the next ones have as many as there are
groups without signal, until all groups have some or `resample` is used up. Groups that were replaced are counted, and
used again if too few others were found, so that a rollout always has its size.

Judging runs in threads beside the sampler. With several processes all of them sample, the first one judges, and what it
finds goes to the others at the end of a wave: a check with a time limit need not end alike everywhere.

Counts (`Experience.counts`): "asked" groups; "equal", those of them without signal; "kept_equal", those without signal
that are in the experience; "seconds" and "waited" of the sampler and for the judge after it; "tokens" sampled in all.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from coldforge.grpo.config import GrpoConfig
from coldforge.grpo.experience import Experience, Judgement, Sampled, Steps
from coldforge.losses.advantages import has_signal

JUDGES = 2  # threads: one group is prepared while the processes of another work


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
Judge = Callable[[int, Sequence[Any]], Judgement]  # (position, samples) → what they are worth


class StoppedError(Exception):
    """The run was told to stop while it was sampling; the message is the reason."""


class JudgeError(RuntimeError):
    """The first process could not judge; its message says why."""


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
      ValueError: the sampler returned too few samples or groups, or a log-probability that is no number.
      Exception: whatever a judge raised, at once.
    """
    groups: list[Group] = []
    judged: list[Judgement] = []
    counts = dict.fromkeys(("asked", "equal", "seconds", "waited", "tokens"), 0.0)
    limit = max(config.questions, int(config.resample * config.questions))
    wanted = config.questions
    while True:
        asks = [
            Ask(len(groups) + i, prompt(position + i), config.group_size, seed_of(config.seed, number, position + i))
            for i in range(wanted)
        ]
        new, said = _wave(params, asks, position, sample, judge, config, counts, stop, progress)
        groups += new
        judged += said
        position += wanted
        good = [i for i, one in enumerate(judged) if _differs(one, config)]
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
    futures: dict[int, Future[Judgement]] = {}
    judging = jax.process_index() == 0
    began = time.perf_counter()
    pool = ThreadPoolExecutor(JUDGES, thread_name_prefix="judge")
    try:
        for index, samples in sample(params, asks):
            place = position + index - first
            _check(samples, place, config)
            groups[index] = Group(place, asks[index - first].prompt, list(samples))
            if judging:
                futures[index] = pool.submit(judge, place, samples)
                _raise_early(futures)
            progress(first + len(groups), first + len(asks))
            if (reason := stop()) is not None:
                raise StoppedError(reason)
        if missing := {ask.index for ask in asks} - groups.keys():
            raise ValueError(
                f"the sampler returned {len(groups)} of {len(asks)} groups; group {min(missing)} is absent"
            )
        sampled = time.perf_counter()
        judged = _shared([futures[ask.index] for ask in asks] if judging else None, config)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    counts["seconds"] += sampled - began
    counts["waited"] += time.perf_counter() - sampled
    counts["tokens"] += sum(len(one.tokens) for group in groups.values() for one in group.samples)
    return [groups[ask.index] for ask in asks], judged


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


def _raise_early(futures: dict[int, Future[Judgement]]) -> None:
    """Raises what a judge raised, before more is sampled in vain."""
    if jax.process_count() == 1:  # several processes must fail together, in `_shared`
        for future in futures.values():
            if future.done() and (error := future.exception()) is not None:
                raise error


def _shared(futures: Sequence[Future[Judgement]] | None, config: GrpoConfig) -> list[Judgement]:
    """What the first process's judges found, in all processes."""
    if jax.process_count() == 1:
        assert futures is not None
        return [_checked(future.result(), config) for future in futures]
    found: list[Judgement] = []
    error: Exception | None = None
    if futures is not None:
        try:
            found = [_checked(future.result(), config) for future in futures]
        except Exception as raised:
            error = raised
    if not bool(multihost_utils.broadcast_one_to_all(np.int32(error is None))):
        raise error or JudgeError("the first process could not judge the samples; its message says why")
    return _broadcast(found, futures is not None)


def _broadcast(found: list[Judgement], here: bool) -> list[Judgement]:
    """Judgements as bytes from the first process: names of rewards and numbers of steps are not known elsewhere."""
    data = np.frombuffer(json.dumps(found).encode(), np.uint8) if here else np.zeros(0, np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    padded = np.zeros(size, np.uint8)
    padded[: len(data)] = data
    whole = bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded)))
    judged = [Judgement(*fields) for fields in json.loads(whole)]
    return [one._replace(steps=None if one.steps is None else [Steps(*s) for s in one.steps]) for one in judged]


def _checked(judgement: Judgement, config: GrpoConfig) -> Judgement:
    """The judgement in plain numbers, one per sample, all of them finite.

    Raises:
      ValueError: for too few or too many numbers, or a reward that is not finite.
    """
    n = config.group_size
    rewards = [float(value) for value in judgement.rewards]
    parts = {name: [float(value) for value in values] for name, values in judgement.parts.items()}
    for name, values in {"reward": rewards, **parts}.items():
        if len(values) != n:
            raise ValueError(f"a judge returned {len(values)} values of {name!r} for {n} samples; wanted one for each")
        if not np.isfinite(values).all():
            raise ValueError(f"a judge returned {values} of {name!r}; wanted finite numbers")
    unknown = [float("nan")] * n
    fields: dict[str, Any] = {
        name: unknown if (values := getattr(judgement, name)) is None else [float(value) for value in values]
        for name in ("correct", "well_formed")
    }
    if config.advantage == "process" and (judgement.steps is None or len(judgement.steps) != n):
        raise ValueError("advantage 'process' needs the judge to give `steps` for each sample")
    return judgement._replace(rewards=rewards, parts=parts, **fields)


def _differs(judgement: Judgement, config: GrpoConfig) -> bool:
    return bool(has_signal([list(judgement.rewards)], tolerance=config.tolerance)[0])


def _experience(
    groups: Sequence[Group], judged: Sequence[Judgement], counts: dict[str, float], config: GrpoConfig
) -> Experience:
    samples = [one for group in groups for one in group.samples]

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
        parts={name: np.array([v for one in judged for v in one.parts[name]], np.float64) for name in judged[0].parts},
        correct=joined("correct"),
        well_formed=joined("well_formed"),
        counts=counts,
        steps=listed("steps"),
        texts=listed("texts"),
        notes=listed("notes"),
    )
