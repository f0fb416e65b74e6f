"""Held-out questions put to the policy: before, on the way, and for the gate; and the sampler that training uses.

    sampler = Sampler(built, inputs)
    for index, samples in sampler(params, asks): ...      # of a rollout
    replies = ask(sampler, params, questions, judge)      # one graded reply to each held-out question

Imports JAX. All processes of a run sample together and get the same samples.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from coldforge.apps.grpo.build import Built
from coldforge.apps.grpo.inputs import Inputs
from coldforge.apps.grpo.judge import Judge
from coldforge.data.questions import Question
from coldforge.grpo import Ask
from coldforge.rollout import Request, Sample
from coldforge.sft import Graded, rates
from coldforge.stages.devices import from_first, use


class Sampler:
    """Samples for rollouts and for held-out questions, from engines whose programs are compiled once."""

    def __init__(self, built: Built, inputs: Inputs) -> None:
        self.built, self.inputs = built, inputs
        stop = inputs.tokenizer.stop_ids
        self.rollouts = built.engine(stop_ids=stop)
        self.heldout = built.engine(temperature=built.config.loop.eval_temperature, stop_ids=stop)
        self._known: tuple[Any, Sequence[Question], list[Sample]] | None = None

    def __call__(self, params: Any, asks: Sequence[Ask]) -> Iterator[tuple[int, list[Sample]]]:
        """Groups of a rollout, each as soon as it is whole."""
        requests = [Request(id=a.index, prompt=a.prompt, n=a.samples, seed=a.seed) for a in asks]
        with use(self.built.mesh):
            yield from self.rollouts.run(requests, weights=params)

    def replies(self, params: Any, questions: Sequence[Question]) -> list[Sample]:
        """One reply to each question, the same ones for the same parameters.

        Those of the last call are kept: the gate asks what the evaluation of the last step has just asked.
        """
        if self._known is not None and self._known[0] is params and self._known[1] is questions:
            return self._known[2]
        requests = [Request(id=i, prompt=self.inputs.prompt(question), seed=i) for i, question in enumerate(questions)]
        with use(self.built.mesh):
            found = {group.id: group.samples[0] for group in self.heldout.run(requests, weights=params)}
        self._known = params, questions, [found[i] for i in range(len(questions))]
        return self._known[2]

    @property
    def compiles(self) -> int:
        """Programs compiled for sampling so far."""
        return self.rollouts.compiles + self.heldout.compiles


def ask(sampler: Sampler, params: Any, questions: Sequence[Question], judge: Judge) -> list[Graded]:
    """One graded reply to each question; the first process grades, and all get what it found."""
    samples = sampler.replies(params, questions)
    graded = judge.graded(questions, samples) if jax.process_index() == 0 else []
    return _from_first(graded)


def shares(replies: Sequence[Graded]) -> dict[str, float]:
    """Of right, well-formed and cut-off replies, and their mean length in tokens, by their names in the log."""
    found = rates(replies)
    return {
        "eval/correct": found.accuracy.value, "eval/format": found.format.value,
        "eval/truncated": found.truncated.value, "eval/length": float(found.length or 0.0),
    }  # fmt: skip


def _from_first(replies: list[Graded]) -> list[Graded]:
    if jax.process_count() == 1:
        return replies
    data = np.frombuffer(json.dumps([dataclasses.asdict(r) for r in replies]).encode(), np.uint8)
    size = int(from_first(np.int64(len(data))))
    whole = from_first(data if jax.process_index() == 0 else np.zeros(size, np.uint8))
    return [Graded(**fields) for fields in json.loads(whole.tobytes())]
