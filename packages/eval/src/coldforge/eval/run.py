"""`evaluate`: asks a model the tasks' questions, grades what it replies, and leaves a directory that says all of it.

    evaluation.json   what was asked for: model, sampling, tasks with their hashes; see `settings`
    samples.jsonl     every sample: prompt, text, extracted answer, verdict, why; see `store`
    results.json      metrics with intervals; see `results`
    report.html       the same to look at, with plots/*.png; see `report`

In this order: what is asked for is written, or compared with what an earlier call wrote there; what is graded already
is read; what is missing is asked, replies are kept as they come and graded beside; the samples are put into the tasks'
order; the results are written. Killed at any moment, the same call goes on and ends with the same samples. A model
that returns too little, too much or the same twice is an error, named by question; nothing that it gave is lost.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from coldforge.eval.grading import Book, Grading
from coldforge.eval.records import Ask, Generate, Graded, Prompt, Reply, Sampling, as_text, question_seed
from coldforge.eval.report import write_report
from coldforge.eval.results import Results, read_results, results_of, write_results
from coldforge.eval.settings import RESULTS, agree, now, samples_of, settings_of, software_versions
from coldforge.eval.store import Key, Store, Waiting, locked
from coldforge.eval.tally import Progress, Tally
from coldforge.eval.task import Task


class GenerateError(RuntimeError):
    """A `Generate` did not return what it was asked for."""


def evaluate(
    tasks: Sequence[Task], generate: Generate, out: str | Path, *, model: Mapping[str, Any],
    sampling: Sampling | None = None, software: Mapping[str, str] | None = None,
    render: Callable[[Prompt], str] = as_text, say: Callable[[str], None] = print,
    on_progress: Callable[[Progress], None] | None = None, report: bool = True, apart: bool = False,
) -> Results:  # fmt: skip
    """Evaluates a model, or goes on where an earlier call with the same arguments was ended.

    After one that was not ended, there is nothing to do: its results are read.

    Args:
        tasks: As `open_task` gives them.
        generate: The model; see `records.Generate` and `from_function`. Asks come in the tasks' order.
        out: The directory; made if it is not there.
        model: What tells the model from others, as JSON holds it; "name" is what the report calls it.
        sampling: How to sample. None: DeepSeek-R1's protocol, the defaults of `Sampling`.
        software: Versions of what runs the model, for the record.
        render: A prompt as the model is given it, to show each task's first one exactly.
        say: Is told the first prompt of each task.
        on_progress: Is told, on the caller's thread, how far it is, whenever samples have been graded.
        report: Whether to write report.html.
        apart: Whether each sample is asked for by itself: for a model that makes them one by one, so that those of a
            question which are done are kept where another one fails. The samples are the same.

    Raises:
        ValueError: Tasks or model cannot be used; or `out` holds another evaluation (what differs is named), or a
            damaged one.
        BusyError: Another process is evaluating into `out`.
        GenerateError: The model returned something else than it was asked for.
        Others: What the model or a verifier raises. What was generated until then is kept.
    """
    directory, sampling = Path(out), sampling or Sampling()
    book = Book(tasks)
    wanted = settings_of(tasks, model, sampling)
    versions = software_versions(software)
    keys = [
        (task.name, question.id, number)
        for task in tasks
        for question in task.questions
        for number in range(samples_of(task, sampling))
    ]
    first = {task.name: render(task.ask(task.questions[0])) for task in tasks}
    with locked(directory):
        begun, notes = agree(directory, wanted, versions)
        for task in tasks:
            asked = f"{len(task.questions):,} questions × {samples_of(task, sampling)}"
            say(f"{task.name}: {asked}. The first prompt is\n{first[task.name]}")
        tallies, new = _gather(book, keys, generate, directory, sampling, on_progress, apart)
        if not new and (directory / RESULTS).exists():
            return read_results(directory)
        results = results_of(
            tasks, tallies, model=wanted["model"], sampling=sampling, first_prompts=first, software=versions,
            created=begun, finished=now(), notes=notes,
        )  # fmt: skip
        write_results(results, directory)
        if report:
            write_report(directory)
    return results


def _gather(
    book: Book, keys: Sequence[Key], generate: Generate, directory: Path, sampling: Sampling,
    on_progress: Callable[[Progress], None] | None, apart: bool,
) -> tuple[dict[str, Tally], int]:  # fmt: skip
    """Sees to it that there is a graded sample for each of the keys, in their order; counts those that were not."""
    tallies = {name: Tally(name, task) for name, task in book.tasks.items()}
    wanted = set(keys)

    def take(sample: Graded) -> None:
        if (sample.task, sample.question, sample.number) not in wanted:
            raise ValueError(
                f"{directory} holds sample {sample.number} of question {sample.question} of {sample.task}, which "
                "was not asked for; the directory is damaged."
            )
        tallies[sample.task].add(sample)

    with Store.open(directory, take) as (store, waiting), Grading(book) as grading:
        progress = Progress(tallies, total=len(keys), resumed=len(store.kept))

        def collect(*, wait: bool) -> bool:
            if graded := grading.collect(wait=wait):
                store.add_samples(graded)
                for sample in graded:
                    take(sample)
                if on_progress:
                    on_progress(progress)
            return bool(graded)

        grading.add(waiting)
        asks = _asks(book, keys, store.kept.keys() | {found[:3] for found in waiting}, sampling, apart)
        for ask, replies in _replies(asks, generate):
            store.add_replies(ask.task, ask.question, ask.first, replies)
            grading.add([Waiting(ask.task, ask.question, ask.first + i, reply) for i, reply in enumerate(replies)])
            collect(wait=False)
        while collect(wait=True):
            pass
        store.finish(keys)
    return tallies, len(keys) - progress.resumed


def _asks(book: Book, keys: Sequence[Key], done: set[Key], sampling: Sampling, apart: bool) -> list[Ask]:
    """What is missing: an ask for each run of samples of a question, or for each sample."""
    asks: list[Ask] = []
    for (name, question), own in itertools.groupby((key for key in keys if key not in done), lambda key: key[:2]):
        task = book.tasks[name]
        limit = sampling.max_new_tokens
        if task.max_new_tokens is not None:
            limit = min(limit, task.max_new_tokens)
        how = dataclasses.replace(sampling, max_new_tokens=limit)
        numbers, prompt = [number for _, _, number in own], book.prompt(name, question)
        for _, run in itertools.groupby(enumerate(numbers), lambda pair: pair[1] if apart else pair[1] - pair[0]):
            some = [number for _, number in run]
            asks.append(
                Ask(
                    name, question, prompt, some[0], len(some),
                    question_seed(sampling.seed, question), how, tuple(task.stop),
                )
            )  # fmt: skip
    return asks


def _replies(asks: Sequence[Ask], generate: Generate) -> Iterator[tuple[Ask, list[Reply]]]:
    """Yields each ask with its replies, once they are seen to be what was asked for."""
    open_places = set(range(len(asks)))
    for place, replies in generate(asks) if asks else ():
        if place not in open_places:
            known = isinstance(place, int) and 0 <= place < len(asks)
            what = f"{_named(asks[place])} twice" if known else f"the place {place!r} of {len(asks)} asks"
            raise GenerateError(f"the model returned {what}; wanted each ask once.")
        ask = asks[place]
        checked = [_checked(ask, reply) for reply in replies]
        if len(checked) != ask.n:
            raise GenerateError(f"the model returned {len(checked)} replies to {_named(ask)}; wanted {ask.n}.")
        open_places.remove(place)
        yield ask, checked
    if open_places:
        forgotten = _named(asks[min(open_places)])
        raise GenerateError(
            f"the model ended without {len(open_places)} of {len(asks)} asks, {forgotten} among them; wanted all. What "
            "it returned is kept: the same call asks only for the rest."
        )


def _checked(ask: Ask, reply: Reply) -> Reply:
    reply = Reply(*reply)
    if not isinstance(reply.text, str) or not isinstance(reply.ended, bool):
        raise GenerateError(f"the model returned {reply!r:.120} to {_named(ask)}; wanted Reply(text, tokens, ended).")
    if isinstance(reply.tokens, bool) or not isinstance(reply.tokens, int) or reply.tokens < 0:
        raise GenerateError(f"the model returned {reply.tokens!r} tokens to {_named(ask)}; wanted 0 or more.")
    return reply


def _named(ask: Ask) -> str:
    return f"question {ask.question} of {ask.task}"
