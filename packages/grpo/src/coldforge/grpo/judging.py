"""Judges at work beside the sampler: in threads, in the first process; what they find goes to all processes.

    with Judging(judge, config, stop) as judging:
        judging.submit(0, place, samples)      # the samples of group 0; judged while others are still being made
        judging.raise_early()
        judgements = judging.results()         # in the order of the groups' numbers

A judge may hang. So its threads are daemons: neither a stop, nor Ctrl-C, nor the end of the process waits for them.
With several processes the first one judges, for a check with a time limit need not end alike everywhere.
"""

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from queue import SimpleQueue
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from coldforge.grpo.config import GrpoConfig
from coldforge.grpo.experience import Judgement, Steps

JUDGES = 2  # threads: one group is prepared while the processes of another work
PATIENCE = 0.2  # seconds between two looks at `stop`

Judge = Callable[[int, Sequence[Any]], Judgement]  # (position, samples) → what they are worth


class StoppedError(Exception):
    """The run was told to stop while it was sampling; the message is the reason."""


class JudgeError(RuntimeError):
    """The first process could not judge; its message says why."""


class _Job(NamedTuple):
    place: int
    samples: Sequence[Any]
    answer: Future[Judgement]


class Judging:
    """The judgements of one wave of groups.

    Args:
      judge: called in threads, in the first process only.
      config: sizes, and what a judgement must hold.
      stop: asked while it waits, alike in all processes.
    """

    def __init__(self, judge: Judge, config: GrpoConfig, stop: Callable[[], str | None]) -> None:
        self._judge, self._config, self._stop = judge, config, stop
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._answers: dict[int, Future[Judgement]] = {}
        self._here = jax.process_index() == 0

    def __enter__(self) -> "Judging":
        for _ in range(JUDGES if self._here else 0):
            threading.Thread(target=self._work, name="judge", daemon=True).start()
        return self

    def __exit__(self, *raised: object) -> None:
        for answer in self._answers.values():
            answer.cancel()
        for _ in range(JUDGES):
            self._jobs.put(None)

    def submit(self, index: int, place: int, samples: Sequence[Any]) -> None:
        """Gives the samples of group `index`, of the question at `place`, to the judges."""
        if self._here:
            self._answers[index] = Future()
            self._jobs.put(_Job(place, samples, self._answers[index]))

    def raise_early(self) -> None:
        """Raises what a judge raised, before more is sampled in vain; several processes must fail together, later."""
        if jax.process_count() == 1:
            for answer in self._answers.values():
                if answer.done():
                    answer.result()

    def results(self) -> list[Judgement]:
        """All judgements, in the order of the groups' numbers, in all processes; texts in the first alone.

        Raises:
          StoppedError: it was told to stop while it waited.
          JudgeError: in other processes than the first, which raises the judge's own error.
        """
        while not _of_first(int(self._finished())):
            if (reason := self._stop()) is not None:
                raise StoppedError(reason)
        answers = [self._answers[number] for number in sorted(self._answers)]
        if jax.process_count() == 1:
            return [answer.result() for answer in answers]
        error = next((error for answer in answers if answer.done() and (error := answer.exception())), None)
        if not _of_first(int(error is None)):
            raise error or JudgeError("the first process could not judge the samples; its message says why")
        return _shared([answer.result() for answer in answers])

    def _finished(self) -> bool:
        """In the first process: whether all is judged, or something raised; takes at most `PATIENCE` to say no."""
        done, rest = wait(self._answers.values(), timeout=PATIENCE, return_when=FIRST_EXCEPTION)
        return not rest or any(answer.exception() is not None for answer in done)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if job.answer.set_running_or_notify_cancel():
                try:
                    job.answer.set_result(checked(self._judge(job.place, job.samples), self._config))
                except BaseException as error:  # whoever waits for the answer raises it
                    error.add_note(f"(while the samples of the question at position {job.place} were judged)")
                    job.answer.set_exception(error)


def checked(judgement: Judgement, config: GrpoConfig) -> Judgement:
    """The judgement in plain numbers, one per sample; rewards finite, unknown verdicts nan.

    Raises:
      ValueError: for too few or too many numbers, or a reward that is not finite.
    """
    n = config.group_size
    fields: dict[str, Any] = {"rewards": [float(value) for value in judgement.rewards]}
    parts = {name: [float(value) for value in values] for name, values in judgement.parts.items()}
    for name in ("correct", "well_formed"):
        values = getattr(judgement, name)
        fields[name] = [float("nan")] * n if values is None else [float(value) for value in values]
    for name in ("texts", "notes", "steps"):
        values = getattr(judgement, name)
        fields[name] = None if values is None else list(values)
    for name, values in (fields | parts).items():
        if values is not None and len(values) != n:
            raise ValueError(f"a judge returned {len(values)} values of {name!r} for {n} samples; wanted one for each")
    for name, values in {"rewards": fields["rewards"], **parts}.items():
        if not np.isfinite(values).all():
            raise ValueError(f"a judge returned {values} of {name!r}; wanted finite numbers")
    if fields["steps"] is not None:
        fields["steps"] = [
            Steps([int(e) for e in one.ends], [float(r) for r in one.rewards]) for one in judgement.steps or ()
        ]
    elif config.advantage == "process":
        raise ValueError("advantage 'process' needs the judge to give `steps` for each sample")
    return Judgement(parts=parts, **fields)


def _of_first(value: int) -> int:
    """The first process's number, in all of them."""
    return value if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def _shared(found: list[Judgement]) -> list[Judgement]:
    """The first process's judgements as bytes: names of rewards and numbers of steps are not known elsewhere."""
    bare = [one._replace(texts=None, notes=None) for one in found]
    data = np.frombuffer(json.dumps(bare).encode(), np.uint8)
    padded = np.zeros(_of_first(len(data)), np.uint8)
    padded[: len(data)] = data[: len(padded)]
    whole = bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded)))
    if found:
        return found
    judged = [Judgement(*fields) for fields in json.loads(whole)]
    return [one._replace(steps=None if one.steps is None else [Steps(*s) for s in one.steps]) for one in judged]
