"""What travels in an evaluation: how to sample, what is asked, what comes back, and what a grader found.

    ask ──Generate──► replies ──verifier──► Graded, one per sample: a line of samples.jsonl

A `Generate` is all that this package wants of a model: a function that is given asks and yields, in any order and as
they are done, the place of an ask with its replies. `from_function` makes one of any function from prompts to texts.
Left out: chat templates and stop tokens, which are the model's own and so the generator's business.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

from coldforge.data.chat import Message

type Prompt = str | tuple[Message, ...]
"""Messages, which a chat template goes around; or raw text, which nothing goes around."""

NOT_JUDGED = "not judged"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How samples are drawn. The defaults are DeepSeek-R1's for reasoning models (2501.12948v2, D.1).

    Attributes:
        temperature: 0: the likeliest token each time.
        top_p: Nucleus sampling; 1: off.
        top_k: Only from so many likeliest tokens; 0: off.
        max_new_tokens: Where a reply is cut off.
        samples: Per question; None: the task's own number (64 for AIME, 16 for MATH-500).
        seed: A sample's randomness follows from it, the question's id and the sample's number.

    Raises:
        ValueError: A value is out of its range; or greedy with more than one sample, which would all be the same.
    """

    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int = 0
    max_new_tokens: int = 32_768
    samples: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature is {self.temperature}; wanted 0 (greedy) or more.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; wanted more than 0 and at most 1 (off).")
        if self.top_k < 0 or self.seed < 0:
            raise ValueError(f"top_k is {self.top_k}, seed is {self.seed}; wanted 0 or more.")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}; wanted at least 1.")
        if self.samples is not None and self.samples < 1:
            raise ValueError(f"samples is {self.samples}; wanted at least 1, or None for each task's own number.")
        if self.is_greedy and self.samples != 1:
            raise ValueError(
                f"temperature is 0 with samples={self.samples}; greedy samples of a question are all the same: "
                "wanted samples=1, as Sampling.greedy() has it."
            )

    @classmethod
    def greedy(cls, *, max_new_tokens: int = 32_768, seed: int = 0) -> Self:
        """The likeliest token each time, one sample a question."""
        return cls(temperature=0.0, top_p=1.0, max_new_tokens=max_new_tokens, samples=1, seed=seed)

    @property
    def is_greedy(self) -> bool:
        """Whether nothing is drawn."""
        return self.temperature == 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return dataclasses.asdict(self)


class Ask(NamedTuple):
    """A question put to a model.

    Attributes:
        task: The task's name.
        question: The question's id.
        prompt: What the model is given.
        first: The number of the first sample that is wanted; not 0 where an evaluation goes on.
        n: How many are wanted: numbers first … first + n − 1.
        seed: This question's own. A sample's randomness should follow from `seed` and its number alone, so that it does
            not matter what it is batched with, nor whether the evaluation was interrupted.
        sampling: How to sample.
        stop: Texts at which a reply ends; they are not part of it.
    """

    task: str
    question: str
    prompt: Prompt
    first: int
    n: int
    seed: int
    sampling: Sampling
    stop: tuple[str, ...] = ()


class Reply(NamedTuple):
    """One sample.

    Attributes:
        text: What the model wrote, without the token or text that ended it.
        tokens: Its tokens, with the one that ended it.
        ended: Whether the model ended it (or a stop text did); False: it was cut off.
    """

    text: str
    tokens: int
    ended: bool


type Generate = Callable[[Sequence[Ask]], Iterable[tuple[int, Sequence[Reply]]]]
"""Yields (place in the asks, its n replies in the order of their numbers), in any order, as they are done."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Graded:
    """One sample and what was found in it: a line of `samples.jsonl`.

    Attributes:
        task, question, number: Which sample it is: the task's name, the question's id, the sample's number from 0.
        category: The question's part of the task ("algebra"), or "".
        text, tokens, ended: The reply.
        well_formed: Whether it has the form that was asked for; None: none was.
        extracted: The answer that was found in it; None: none.
        gold: The right answer; None: only the task's own scorer can tell.
        correct: Whether it is right. A check that timed out or failed counts as not right; `verdict` says so.
        credit: What it is worth, 0 to 1.
        verdict: "right", "wrong", "no answer", "timeout", "error", or "not judged".
        why: Why, where there is something to say.
        measures: Further scores of the task's verifier, each as (hits, of): "instructions strict": (2, 3).
        prompt: What was asked; stored with sample 0 of a question only.
    """

    task: str
    question: str
    number: int
    category: str = ""
    text: str
    tokens: int
    ended: bool
    well_formed: bool | None = None
    extracted: str | None = None
    gold: str | None = None
    correct: bool
    credit: float = 0.0
    verdict: str
    why: str = ""
    measures: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    prompt: Prompt | None = None

    @property
    def truncated(self) -> bool:
        """Whether it was cut off at the limit of new tokens."""
        return not self.ended


def question_seed(seed: int, question: str) -> int:
    """Returns `Ask.seed`, 0 to 2³¹ − 1: the same for a question whatever else is asked."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{question}".encode(), digest_size=4).digest()) >> 1


def as_text(prompt: Prompt) -> str:
    r"""Returns a prompt as one text: what its messages say, an empty line between them, without a chat template.

    >>> as_text(({"role": "system", "content": "Be brief."}, {"role": "user", "content": "3 × 4?"}))
    'Be brief.\n\n3 × 4?'
    """
    return prompt if isinstance(prompt, str) else "\n\n".join(message["content"] for message in prompt)


def from_function(
    function: Callable[[list[str]], Sequence[str]], *, batch: int = 64, count: Callable[[str], int] | None = None,
    render: Callable[[Prompt], str] = as_text,
) -> Generate:  # fmt: skip
    """Makes a `Generate` of any function from prompts to texts.

    The function is given a prompt once for each of its samples. It samples as it likes: temperature and seed are not
    passed on, and every reply counts as ended by the model.

    Args:
        function: Returns a text for each prompt.
        batch: How many prompts the function is given at a time.
        count: The tokens of a text; None: words are counted.
        render: A prompt as the function wants it.

    Raises:
        ValueError: `batch` is less than 1; when it runs: the function returned too few or too many texts.
        TypeError: When it runs: the function returned something else than texts.
    """
    if batch < 1:
        raise ValueError(f"batch is {batch}; wanted at least 1.")
    tokens_of = count or (lambda text: len(text.split()))

    def generate(asks: Sequence[Ask]) -> Iterator[tuple[int, Sequence[Reply]]]:
        owners = [place for place, ask in enumerate(asks) for _ in range(ask.n)]
        replies: dict[int, list[Reply]] = {}
        for start in range(0, len(owners), batch):
            some = owners[start : start + batch]
            texts = _checked(function([render(asks[place].prompt) for place in some]), len(some))
            for place, text in zip(some, texts, strict=True):
                replies.setdefault(place, []).append(Reply(text, tokens_of(text), ended=True))
                if len(replies[place]) == asks[place].n:
                    yield place, replies.pop(place)

    return generate


def _checked(texts: Sequence[str], n: int) -> Sequence[str]:
    if isinstance(texts, str) or not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"the function returned {type(texts).__name__} {texts!r:.60}; wanted a list of texts.")
    if len(texts) != n:
        raise ValueError(f"the function returned {len(texts)} texts for {n} prompts; wanted one each, in their order.")
    return texts
