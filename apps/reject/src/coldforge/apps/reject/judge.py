"""What replies are worth: their answers compared with the right ones by `coldforge.rewards`.

An answer counts where it belongs, between its tags: what is kept is trained on, so no fallback looks for it elsewhere.
Checks that hang or crash cost their sample. Nothing here computes by JAX, which comes with what the stages share.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import Any

from coldforge.apps.reject.config import GradingOptions
from coldforge.data import Question, ReasoningFormat, Tokenizer
from coldforge.data.rejection import Sampled
from coldforge.rewards import Grader, MathPool
from coldforge.stages.grade import response_of


class Judge:
    """Judges samples, from several threads if need be; its processes end with the context."""

    def __init__(self, tokenizer: Tokenizer, form: ReasoningFormat, options: GradingOptions) -> None:
        self._tokenizer = tokenizer
        self._pool = MathPool(seconds=options.timeout, workers=options.processes)
        self._grader = Grader(form, pool=self._pool)

    def __enter__(self) -> "Judge":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.close()

    def __call__(self, question: Question, samples: Sequence[Any]) -> list[Sampled]:
        """Judges samples of one question, as the sampler gives them.

        Raises:
            ValueError: The question's right answer is none, or its scorer is unknown.
        """
        responses = [response_of(question, sample, self._tokenizer) for sample in samples]
        return [
            Sampled(one.text, one.tokens, one.ended, str(one.verdict or "not judged"), one.answer, one.detail)
            for one in self._grader.judge(responses)
        ]
