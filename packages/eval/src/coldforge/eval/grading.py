"""Judges replies while the model writes the next ones.

`grade` judges a batch with each task's verifier; `Grading` does so in a thread of its own, one batch at a time, and
hands the outcome back to the thread that asks for it. A verifier that raises stops the evaluation, with the replies
kept on disk; one whose check of a reply hangs or fails costs that reply (the verdict says "timeout" or "error").
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from coldforge.data.records import Question
from coldforge.eval.records import NOT_JUDGED, Graded, Prompt
from coldforge.eval.store import Waiting
from coldforge.eval.task import Task
from coldforge.eval.verify import MEASURES
from coldforge.rewards import Judged

BATCH = 256  # replies: 15 ms of numbers, 6 s of expressions, which is what an interrupt may have to wait for


class Book:
    """The tasks of an evaluation and their questions, by name and id.

    Attributes:
        tasks: By name, in the order given.

    Raises:
        ValueError: No task, or two of the same name.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = {task.name: task for task in tasks}
        if not tasks:
            raise ValueError("there are no tasks; wanted at least one.")
        if len(self.tasks) < len(tasks):
            names = [task.name for task in tasks]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"two tasks are named {twice!r}; wanted another name for one: open_task(…, name=…).")
        self.questions = {task.name: {each.id: each for each in task.questions} for task in tasks}

    def question(self, task: str, question: str) -> Question:
        """Finds a question.

        Raises:
            ValueError: There is none of this name and id.
        """
        if (found := self.questions.get(task, {}).get(question)) is None:
            raise ValueError(f"there is a sample of question {question!r} of {task!r}, which is none of the tasks'.")
        return found

    def prompt(self, task: str, question: str) -> Prompt:
        """What a model is asked."""
        return self.tasks[task].ask(self.question(task, question))


def grade(book: Book, batch: Sequence[Waiting]) -> list[Graded]:
    """Judges replies, all of a task at a time.

    Returns:
        One for each, in their order.

    Raises:
        ValueError: A verifier returned too few or too many.
        Others: What a verifier raises.
    """
    places: dict[str, list[int]] = {}
    for place, waiting in enumerate(batch):
        places.setdefault(waiting.task, []).append(place)
    graded: dict[int, Graded] = {}
    for name, own in places.items():
        task = book.tasks[name]
        questions = [book.question(name, batch[place].question) for place in own]
        responses = [
            task.response(question, *batch[place].reply) for place, question in zip(own, questions, strict=True)
        ]
        found = task.verifier.judge(responses)
        if len(found) != len(own):
            raise ValueError(f"the verifier of {name} returned {len(found)} verdicts for {len(own)} replies.")
        for place, question, judged in zip(own, questions, found, strict=True):
            graded[place] = _graded(task, question, batch[place], judged)
    return [graded[place] for place in range(len(batch))]


def _graded(task: Task, question: Question, waiting: Waiting, judged: Judged) -> Graded:
    measures: Mapping[str, Any] = judged.meta.get(MEASURES, {})
    return Graded(
        task=task.name,
        question=question.id,
        number=waiting.number,
        category=str(question.meta.get("category", "")),
        text=waiting.reply.text,
        tokens=waiting.reply.tokens,
        ended=waiting.reply.ended,
        well_formed=judged.well_formed if task.formed else None,
        extracted=judged.answer,
        gold=question.answer,
        correct=bool(judged.correct),
        credit=judged.credit,
        verdict=NOT_JUDGED if judged.verdict is None else judged.verdict.value,
        why=judged.detail,
        measures={name: (hits, of) for name, (hits, of) in measures.items()},
        prompt=task.ask(question) if waiting.number == 0 else None,
    )


class Grading:
    """Judges in a thread. Use it as a context."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._waiting: list[Waiting] = []
        self._running: Future[list[Graded]] | None = None
        self._thread = ThreadPoolExecutor(1, "grading")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for the batch that is being judged, at most; what it gives is not lost, as its replies are kept."""
        self._thread.shutdown(cancel_futures=True)

    def add(self, replies: Sequence[Waiting]) -> None:
        """Takes replies to judge, and begins if nothing is being judged."""
        self._waiting += replies
        self._start()

    def collect(self, *, wait: bool = False) -> list[Graded]:
        """Returns what has been judged since the last call; with `wait`, the next batch, or nothing if none is left.

        Raises:
            Others: What a verifier raised.
        """
        if self._running is None or not (wait or self._running.done()):
            return []
        graded = self._running.result()
        self._running = None
        self._start()
        return graded

    def _start(self) -> None:
        if self._running is None and self._waiting:
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            self._running = self._thread.submit(grade, self._book, batch)
