r"""What the nano model is pretrained on: sums, products, legs and short conversations, all made by a program.

    texts = documents(300_000, seed=0)

Of the questions only those of the split "pretrain" occur, in whatever notation: no sum and no list of animals that the
later stages ask about. A document is one of eleven kinds, drawn by weight:

| kind | as in |
|---|---|
| facts | "98 + 93 = 191\n12 - 40 = -28\n…": the steps of sums, in any order |
| worked | "98 + 93 - 77\n98 + 93 = 191\n191 - 77 = 114", in four notations |
| direct | "98 + 93 - 77 = 114": too much for the model at once, most of the time |
| products | "4 * 10 = 40" |
| animals | "A crab has 10 legs." |
| legs | "4 crabs, 1 butterfly\n4 * 10 = 40\n1 * 6 = 6\n40 + 6 = 46" |
| counts | "4 crabs, 1 butterfly = 46" |
| chat | a user's turn with a question, and the bare answer as the model's: so the base answers a little when asked |
| asked | the same with the instruction of the later stages in front, which the model does not follow |
| small | the same with a single step: "What is 98 + 93?" |
| formed | the instruction of the later stages, followed: the tags and their place are rare, but not unheard of |
"""

import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from coldforge.data import ReasoningFormat
from coldforge.nano.problem import Problem, animal_legs, problems

WEIGHTS = {
    "facts": 30, "worked": 16, "direct": 8, "products": 5, "animals": 4, "legs": 8, "counts": 4,
    "chat": 8, "asked": 9, "small": 7, "formed": 1,
}  # fmt: skip

INSTRUCTIONS = (
    ReasoningFormat().instruction,
    "Think about the problem, then provide the final answer.",
    "Solve the problem.",
)


class Document(NamedTuple):
    """A text; or, with a reply, a conversation of one turn."""

    kind: str
    text: str
    reply: str | None = None


def documents(count: int, seed: int) -> Iterator[Document]:
    """So many documents; the same seed gives the same ones."""
    corpus = _Corpus(seed)
    names, weights = list(WEIGHTS), list(WEIGHTS.values())
    for _ in range(count):
        [kind] = corpus.chance.choices(names, weights)
        yield corpus.make(kind)


class _Corpus:
    def __init__(self, seed: int) -> None:
        self.chance = random.Random(f"corpus {seed}")
        self.legs = animal_legs()
        self._stream = problems("pretrain", seed)
        self._waiting: dict[str, list[Problem]] = {"chain_sum": [], "leg_counting": []}

    def make(self, kind: str) -> Document:
        kinds: dict[str, Callable[[], tuple[str, str | None]]] = {
            "facts": self._facts, "worked": self._worked, "direct": self._direct, "products": self._products,
            "animals": self._animals, "legs": self._legs, "counts": self._counts,
            "chat": self._chat, "asked": self._asked, "small": self._small,
            "formed": self._formed,
        }  # fmt: skip
        return Document(kind, *kinds[kind]())

    def _next(self, task: str) -> Problem:
        while not self._waiting[task]:
            made = next(self._stream)
            self._waiting[made.task].append(made)
            for kept in self._waiting.values():  # a kind that is asked for rarely does not pile up
                del kept[:-64]
        return self._waiting[task].pop(0)

    def _facts(self) -> tuple[str, None]:
        lines = [line for _ in range(3) for line in self._next("chain_sum").steps]
        self.chance.shuffle(lines)
        return "\n".join(lines), None

    def _worked(self) -> tuple[str, None]:
        one = self._next("chain_sum")
        head = self.chance.choice(("{}", "{} = ?", "Work out {}", "Problem: {} ="))
        tail = self.chance.choice(("", "", f"\nSo the sum is {one.answer}.", f"\nThe answer is {one.answer}"))
        return "\n".join([head.format(one.subject), *one.steps]) + tail, None

    def _direct(self) -> tuple[str, None]:
        return "\n".join(self._next("chain_sum").quick for _ in range(3)), None

    def _products(self) -> tuple[str, None]:
        pairs = [(self.chance.randint(1, 9), self.chance.choice(sorted(set(self.legs.values())))) for _ in range(6)]
        return "\n".join(f"{a} * {b} = {a * b}" for a, b in pairs), None

    def _animals(self) -> tuple[str, None]:
        lines = []
        for name in self.chance.sample(sorted(self.legs), 4):
            form = self.chance.choice(("A {0} has {1} legs.", "{2} {0}s: {2} * {1} = {3}", "{0}: {1}"))
            count = self.chance.randint(2, 9)
            lines.append(form.format(name, self.legs[name], count, count * self.legs[name]))
        return "\n".join(lines), None

    def _legs(self) -> tuple[str, None]:
        one = self._next("leg_counting")
        head = self.chance.choice(("{}", "How many legs have {}?", "Legs of {}:"))
        return "\n".join([head.format(one.subject), *one.steps]), None

    def _counts(self) -> tuple[str, None]:
        return "\n".join(self._next("leg_counting").quick for _ in range(2)), None

    def _chat(self) -> tuple[str, str]:
        one = self._any()
        return one.question, one.answer

    def _asked(self) -> tuple[str, str]:
        one = self._any()
        return f"{self.chance.choice(INSTRUCTIONS)}\n\n{one.question}", one.answer

    def _small(self) -> tuple[str, str]:
        step = self.chance.choice(self._any().steps)
        fact, _, result = step.partition(" = ")
        return self.chance.choice(("What is {}?", "{} =", "Calculate {}")).format(fact), result

    def _formed(self) -> tuple[str, str]:
        one, form = self._any(), ReasoningFormat()
        return form.ask(one.question), form.render("\n".join(one.steps), one.answer)

    def _any(self) -> Problem:
        return self._next(self.chance.choice(("chain_sum", "chain_sum", "leg_counting")))
