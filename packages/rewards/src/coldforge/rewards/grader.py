"""Judges replies: finds each one's answer, and says whether it is right.

`Grader.judge` gives reward functions what they need to know of a reply, once for all of them. An answer is compared
with the right one (`equality`), or given to the task's own scorer (`Scorer`), which runs in the pool: a scorer that
hangs on an answer costs that answer. `meta` of a response may say more of it:

- "kind": what the right answer is ("number", "choice", …); for "code" and "proof" there is no verdict,
- "choices": the words of a multiple choice, A first,
- "scorer": a scorer's name, and what that scorer needs; for "reasoning-gym" "task" (the data set's name) and "entry".
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from coldforge.rewards.equality import Compared, Equality, Kind, Pair, equal_many, shared_pool
from coldforge.rewards.extraction import Fallback, extract, reasoning_of
from coldforge.rewards.pool import MathPool, Outcome
from coldforge.rewards.replies import Form, Judged, Response, Verdict

UNGRADED = ("code", "proof")


@dataclass(frozen=True)
class Scorer:
    """A task's own judgement of an answer.

    Attributes:
        function: "package.module:function" (or the function, of a module that can be imported). It is called with the
            answer and what it `needs`, and returns what the answer is worth, 0 to 1.
        needs: Keys of a response's `meta`, in the order in which the function takes their values.
        right: From which worth on an answer is right.
    """

    function: str | Callable[..., float]
    needs: Sequence[str] = ()
    right: float = 1.0


REASONING_GYM = Scorer("coldforge.rewards.gym:score", needs=("task", "entry"))


@dataclass(frozen=True)
class Grader:
    """How replies are judged.

    Attributes:
        form: The tags of a reply.
        fallbacks: Where to look for an answer that is not between its tags; see `extract`.
        equality: What counts as equal.
        kind: What right answers are, unless `meta` says so; "auto": seen from each.
        scorers: By name.
        pool: For computer algebra and scorers. None: one that all share, started when it is first needed.
        cut_off: Whether a reply that was cut off can be well formed.
    """

    form: Form
    fallbacks: Sequence[Fallback] = ()
    equality: Equality = field(default_factory=Equality)
    kind: Kind = "auto"
    scorers: Mapping[str, Scorer] = field(default_factory=dict)
    pool: MathPool | None = None
    cut_off: bool = False

    def __post_init__(self) -> None:
        """Puts Reasoning Gym's scorers beside those given, and tries the fallbacks' names."""
        object.__setattr__(self, "scorers", {"reasoning-gym": REASONING_GYM, **self.scorers})
        extract("", self.form, self.fallbacks)

    def judge(self, responses: Sequence[Response]) -> list[Judged]:
        """Judges replies, all checks that need a process at the same time.

        Raises:
            ValueError: A right answer is empty or not of its kind; a scorer is unknown, lacks what it needs, or returns
                what is no worth.
            RuntimeError: The pool cannot start.
        """
        answers = [extract(response.text, self.form, self.fallbacks) for response in responses]
        verdicts: dict[int, tuple[Compared, float]] = {}
        self._by_scorers(responses, answers, verdicts)
        self._by_comparison(responses, answers, verdicts)
        return [self._judged(*both, verdicts.get(i)) for i, both in enumerate(zip(responses, answers, strict=True))]

    def _judged(self, response: Response, answer: str | None, found: tuple[Compared, float] | None) -> Judged:
        verdict = found[0].verdict if found else None
        return Judged(
            **{each.name: getattr(response, each.name) for each in fields(Response)},
            reasoning=reasoning_of(response.text, self.form),
            answer=answer,
            well_formed=self.form.is_well_formed(response.text) and (response.ended or self.cut_off),
            verdict=verdict,
            credit=found[1] if found else 0.0,
            detail=found[0].detail if found else "",
        )

    def _by_comparison(
        self, responses: Sequence[Response], answers: Sequence[str | None], verdicts: dict[int, tuple[Compared, float]]
    ) -> None:
        places, pairs = [], []
        for i, (response, answer) in enumerate(zip(responses, answers, strict=True)):
            kind = response.meta.get("kind", self.kind)
            if "scorer" not in response.meta and response.gold is not None and kind not in UNGRADED:
                places.append(i)
                pairs.append(Pair(answer, response.gold, kind, response.meta.get("choices", ())))
        for i, compared in zip(places, equal_many(pairs, self.equality, self.pool), strict=True):
            verdicts[i] = (compared, float(compared.verdict is Verdict.RIGHT))

    def _by_scorers(
        self, responses: Sequence[Response], answers: Sequence[str | None], verdicts: dict[int, tuple[Compared, float]]
    ) -> None:
        calls: dict[str, dict[int, tuple[Any, ...]]] = {}
        for i, (response, answer) in enumerate(zip(responses, answers, strict=True)):
            if (name := response.meta.get("scorer")) is None:
                continue
            arguments = self._arguments(name, response)
            if answer is None:
                verdicts[i] = (Compared(Verdict.NO_ANSWER), 0.0)
            else:
                calls.setdefault(name, {})[i] = (answer, *arguments)
        for name, waiting in calls.items():
            scorer = self.scorers[name]
            outcomes = (self.pool or shared_pool()).run(scorer.function, list(waiting.values()))
            for i, outcome in zip(waiting, outcomes, strict=True):
                verdicts[i] = _scored(name, scorer, outcome)

    def _arguments(self, name: str, response: Response) -> list[Any]:
        if name not in self.scorers:
            raise ValueError(f"there is no scorer {name!r}; there are {', '.join(self.scorers)}.")
        needs = self.scorers[name].needs
        if missing := [key for key in needs if key not in response.meta]:
            raise ValueError(f"the scorer {name!r} needs {missing[0]!r} in meta; there are {', '.join(response.meta)}.")
        return [response.meta[key] for key in needs]


def _scored(name: str, scorer: Scorer, outcome: Outcome) -> tuple[Compared, float]:
    if outcome.fault:
        return Compared(Verdict(outcome.fault), outcome.detail), 0.0
    worth = outcome.value
    if isinstance(worth, bool) or not isinstance(worth, int | float) or not math.isfinite(worth) or not 0 <= worth <= 1:
        raise ValueError(f"the scorer {name!r} returned {worth!r:.60}; wanted a number from 0 to 1.")
    return Compared(Verdict.RIGHT if worth >= scorer.right else Verdict.WRONG), float(worth)
