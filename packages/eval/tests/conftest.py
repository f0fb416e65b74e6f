"""Tasks of sums, and a model whose every sample follows from its seed, its question and its number."""

import dataclasses
import random

import pytest

from coldforge.data.records import Question, question_id
from coldforge.eval.prompts import STYLES
from coldforge.eval.records import Reply, Sampling
from coldforge.eval.run import evaluate
from coldforge.eval.task import Task


@pytest.fixture
def make_task():
    """A task of sums. `prefix`: other questions; what else is given goes to the task."""

    def make(name="sums", count=6, *, prefix="What is", categories=("",), **options):
        questions = []
        for i in range(count):
            text = f"{prefix} {i} + {i + 1}?"
            meta = {"category": category} if (category := categories[i % len(categories)]) else {}
            questions.append(Question(question_id(name, text), text, str(2 * i + 1), "number", name, meta))
        prompt = options.pop("prompt", STYLES["reasoning"])
        given = {"version": "1", "samples": 2, "verifier": prompt.verifier(questions)} | options
        return Task(name=name, questions=tuple(questions), prompt=prompt, **given)

    return make


@dataclasses.dataclass
class Model:
    """Right with a chance of `skill`; remembers what it was asked. `order`: of the places that it returns."""

    skill: float = 0.5
    seed: int = 0
    order: int = 1
    asked: list = dataclasses.field(default_factory=list)

    def __call__(self, asks):
        self.asked += asks
        for place in range(len(asks))[:: self.order]:
            ask = asks[place]
            yield place, [self.reply(ask, ask.first + i) for i in range(ask.n)]

    def reply(self, ask, number):
        draw = random.Random(f"{self.seed} {ask.seed} {number}")
        a, b = (int(word.strip("?")) for word in ask.prompt[-1]["content"].split() if word.strip("?").isdigit())
        answer = a + b if draw.random() < self.skill else a + b + draw.randrange(1, 9)
        kind, tokens = draw.random(), draw.randrange(5, 400)
        if kind < 0.1:
            return Reply("<reasoning>and so on", tokens, False)
        if kind < 0.2:
            return Reply("I do not know.", tokens, True)
        return Reply(f"<reasoning>so\u2028it is</reasoning><answer>{answer}</answer>", tokens, True)


@pytest.fixture
def make_model():
    return Model


@pytest.fixture
def run(make_task):
    """Evaluates quietly and without a page; what is not given is as always."""

    def run(directory, generate=None, tasks=None, **options):
        given = {"model": {"name": "fake"}, "sampling": Sampling(max_new_tokens=400)}
        quiet = {"say": lambda _: None, "report": False}
        return evaluate(tasks or [make_task()], generate or Model(), directory, **given | quiet | options)

    return run
