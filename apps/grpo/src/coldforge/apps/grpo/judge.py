"""What samples are worth: rewards put together from the options, and the judge that the loop calls.

    with Judge(inputs, config) as judge:
        judge(position, samples)               # a Judgement for the samples of one question
        judge.graded(questions, samples)       # replies to held-out questions, for the gate

Held-out replies are graded as the cold start's gate grades them, with all fallbacks, so that figures before and after
mean the same whatever the rewards are. Checks that hang or crash cost their sample, and are counted. Nothing here
computes by JAX, which comes with the loops' packages.
"""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from coldforge.apps.grpo.config import GrpoRunConfig, RewardOptions
from coldforge.apps.grpo.inputs import Inputs, question_at
from coldforge.data import ReasoningFormat
from coldforge.data.questions import Question
from coldforge.grpo import Judgement
from coldforge.rewards import (
    Accuracy,
    FormatParts,
    FormatStrict,
    Grader,
    LanguageConsistency,
    MathPool,
    Repetition,
    Reward,
    Rewards,
    SoftOverlong,
    Verdict,
    Weighted,
)
from coldforge.sft import Graded
from coldforge.stages.grade import grade, response_of


class Judge:
    """Judges samples; its processes end with the context."""

    def __init__(self, inputs: Inputs, config: GrpoRunConfig) -> None:
        self.inputs, self.config = inputs, config
        self.pool = MathPool(seconds=config.rewards.timeout, workers=config.rewards.processes)
        grader = Grader(inputs.form, fallbacks=config.rewards.fallbacks, pool=self.pool)
        self.rewards = Rewards(weighted_rewards(config.rewards, inputs.form, config.rollout.max_new_tokens), grader)
        self._verdicts: Counter[str | None] = Counter()  # since `faults` was asked
        self._lock = threading.Lock()  # two groups are judged at a time

    def __enter__(self) -> "Judge":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pool.close()

    def __call__(self, position: int, samples: Sequence[Any]) -> Judgement:
        """What the samples of the question at `position` are worth.

        Raises:
            RewardError: A reward failed; the sample is shown.
        """
        question = question_at(self.inputs, self.config, position)
        responses = [response_of(question, sample, self.inputs.tokenizer) for sample in samples]
        scores = self.rewards.score(responses)
        with self._lock:
            self._verdicts.update(score.notes["verdict"] for score in scores)
        right = [score.notes["correct"] for score in scores]
        return Judgement(
            rewards=[score.total for score in scores],
            parts={name: [score.parts[name] for score in scores] for name in scores[0].parts},
            correct=[float("nan") if one is None else float(one) for one in right],
            well_formed=[float(score.notes["well_formed"]) for score in scores],
            texts=[response.text for response in responses],
            notes=[_note(score.notes, question) for score in scores],
        )

    def faults(self) -> dict[str, float]:
        """Samples judged since it was last asked whose check took too long, or crashed; nothing, if none was judged."""
        with self._lock:
            verdicts, self._verdicts = self._verdicts, Counter()
        if not verdicts:
            return {}
        return {
            "rewards/timeouts": float(verdicts[Verdict.TIMEOUT]), "rewards/errors": float(verdicts[Verdict.ERROR]),
        }  # fmt: skip

    def graded(self, questions: Sequence[Question], samples: Sequence[Any]) -> list[Graded]:
        """One graded reply to each question."""
        responses = [response_of(*pair, self.inputs.tokenizer) for pair in zip(questions, samples, strict=True)]
        return grade(responses, self.inputs.form, self.pool)


def weighted_rewards(options: RewardOptions, form: ReasoningFormat, limit: int) -> list[Weighted]:
    """The rewards of weights other than 0, by name.

    Args:
        options: Weights, and how each is made.
        form: Of the replies.
        limit: Tokens at which a sample is cut off.

    Raises:
        ValueError: All weights are 0.
    """
    cache = max(1, limit // 5) if options.overlong_cache is None else options.overlong_cache
    made: dict[str, Callable[[], Reward]] = {
        "accuracy": lambda: Accuracy(gate=options.gate),
        "format": lambda: FormatStrict() if options.format_kind == "strict" else FormatParts(form),
        "language": lambda: LanguageConsistency(options.target),
        "repetition": Repetition,
        "overlong": lambda: SoftOverlong(limit, cache),
    }
    chosen = [Weighted(name, getattr(options, name), make()) for name, make in made.items() if getattr(options, name)]
    if not chosen:
        raise ValueError("all weights of rewards are 0: there is nothing to learn. Set rewards.accuracy, say")
    return chosen


def _note(notes: dict[str, Any], question: Question) -> str:
    found = f"answer {notes['answer']!r:.60}" if notes["answer"] is not None else "no answer"
    verdict = notes["verdict"] or "not judged"
    detail = f" ({notes['detail']})" if notes["detail"] else ""
    return f"{found}: {verdict}{detail}; wanted {question.answer!r:.60}"
