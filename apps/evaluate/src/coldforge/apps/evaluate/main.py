"""`coldforge-evaluate`: tasks asked of a model, and models compared.

    coldforge-evaluate --model PATH [--adapter RUN] --tasks gsm8k math500 --out DIR
    coldforge-evaluate --endpoint URL --model NAME --tasks gsm8k --out DIR
    coldforge-evaluate compare A B [C ...] --out DIR
    coldforge-evaluate show DIR --only wrong
    coldforge-evaluate lm-eval run --model coldforge --model_args adapter=RUN --tasks arc_easy

In this order: the command line; the model is found and tasks are read; the model is loaded, or a server is to be asked;
questions, grading, results (all of it `coldforge.eval.evaluate`). Standard output holds the results; all else goes to
standard error. Exit codes: 0; 2 something was given that is wrong; 75 it stopped in time (SIGTERM, Ctrl-C,
--max-hours), 130 Ctrl-C at another moment: the same command goes on.
"""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from rich.console import Console

from coldforge.apps.evaluate import reading
from coldforge.apps.evaluate.options import EndpointOptions, LocalOptions, Options, task_specs
from coldforge.apps.evaluate.progress import Bars
from coldforge.data import ReasoningFormat, render_chat
from coldforge.eval import Generate, Prompt, Sampling, Task, evaluate, open_task
from coldforge.eval.settings import foresee
from coldforge.stages.program import PASSED, STOPPED, margin, run_program, stopped

if TYPE_CHECKING:
    from coldforge.apps.evaluate.local import Found

PROG = "coldforge-evaluate"


def main(args: Sequence[str] | None = None) -> None:
    """The program. `args`: instead of the command line's."""
    words = sys.argv[1:] if args is None else list(args)
    run_program(PROG, _command(words))


def _command(words: list[str]) -> Callable[[], int]:
    """What the command line asks for."""
    name, rest = (words[0], words[1:]) if words else ("", words)
    if name == "lm-eval":
        return lambda: _harness(rest)
    if name in reading.COMMANDS:
        options, work = reading.COMMANDS[name]
        chosen = tyro.cli(options, args=rest, prog=f"{PROG} {name}")
        return lambda: work(chosen)
    evaluation = tyro.cli(Options, args=words, prog=PROG)
    return lambda: run(evaluation)


def run(options: Options) -> int:
    """Evaluates, and returns the exit code."""
    sampling = _sampling(options)
    task_specs(options.tasks)  # refused before a model is looked for
    if options.endpoint is not None:
        return _run_served(options, sampling)
    from coldforge.apps.evaluate.local import StoppedError, find_local, load_local
    from coldforge.stages import devices
    from coldforge.training import Stopper

    logging.getLogger("absl").setLevel(logging.CRITICAL)
    devices.join(options.distributed)
    local_options = _local(options)
    found = find_local(local_options)
    form = found.form if options.form is None else reading.read_form(options.form)
    tasks: list[Task] = []

    def ask() -> int:
        tasks.extend(read_tasks(options, form))
        foresee(options.out, tasks, sampling)  # it may hold another evaluation
        return PASSED

    if (code := devices.first_does(ask)) != PASSED:  # before the others wait for this one's share of the model
        return code
    mesh = devices.make_mesh(options.mesh)
    with Console(stderr=True).status("loading"):
        local = load_local(found, local_options, mesh)
    with Stopper(options.max_hours, margin=margin(options.max_hours)) as local.stopper:
        if not devices.first():
            return PASSED if local.follow() else STOPPED
        try:
            return _evaluate(
                options, sampling, tasks, local.generate, {"name": _name(options, found), **local.identity}
            )
        except StoppedError:
            stopped(local.stopper.reason, "What was sampled is kept.", Console(stderr=True, highlight=False))
            return STOPPED
        finally:
            local.finish()


def _run_served(options: Options, sampling: Sampling) -> int:
    from coldforge.apps.evaluate.endpoint import Endpoint

    if options.model is None or options.adapter is not None:
        raise ValueError("--endpoint wants --model NAME, what the server calls the model, and takes no --adapter")
    if options.max_hours is not None:
        raise ValueError("--max-hours is for a model on this machine; a served one may be ended at any time")
    assert options.endpoint is not None
    how = EndpointOptions(endpoint=options.endpoint, model=options.model, **vars(options.served))
    served = Endpoint(how)
    identity = served.identity | ({} if options.name is None else {"name": options.name, "model": options.model})
    form = ReasoningFormat() if options.form is None else reading.read_form(options.form)
    return _evaluate(options, sampling, read_tasks(options, form), served.generate, identity, apart=True)


def _evaluate(
    options: Options, sampling: Sampling, tasks: Sequence[Task], generate: Generate, identity: Mapping[str, object],
    *, apart: bool = False,
) -> int:  # fmt: skip
    notes = Console(stderr=True, markup=False, highlight=False)
    with Bars(tasks, sampling, notes) as bars:
        results = evaluate(
            tasks, generate, options.out, model=identity, sampling=sampling, render=_as_given,
            say=lambda text: notes.print(text, style="dim"), on_progress=bars, apart=apart,
        )  # fmt: skip
    print(results.text)
    notes.print(str(options.out / "report.html"), soft_wrap=True)
    return PASSED


def read_tasks(options: Options, form: ReasoningFormat) -> list[Task]:
    """The tasks that the command line names.

    Args:
        options: The command line.
        form: Of the prompt "reasoning": the model's own, or what --form names.

    Raises:
        ValueError: As `task_specs` and `open_task`; --form is given with another prompt.
    """
    tagged = options.prompt in (None, "reasoning")
    given = form if tagged or options.form is not None else None  # the model has a form, but is not asked for it
    return [
        open_task(
            spec,
            prompt=options.prompt,
            limit=options.limit,
            seed=options.task_seed,
            samples=options.samples,
            form=given,
        )
        for spec in task_specs(options.tasks)
    ]


def _sampling(options: Options) -> Sampling:
    if options.greedy:
        if options.samples not in (None, 1):
            raise ValueError(f"--greedy draws one sample, and --samples is {options.samples}")
        return Sampling.greedy(max_new_tokens=options.max_new_tokens, seed=options.seed)
    return Sampling(
        temperature=options.temperature, top_p=options.top_p, top_k=options.top_k,
        max_new_tokens=options.max_new_tokens, samples=options.samples, seed=options.seed,
    )  # fmt: skip


def _local(options: Options) -> LocalOptions:
    model = None if options.model is None else Path(options.model)
    return LocalOptions(model=model, adapter=options.adapter, tokenizer=options.tokenizer, **vars(options.device))


def _name(options: Options, found: "Found") -> str:
    """What the model is called."""
    if options.name is not None:
        return options.name
    place = found.weights if options.adapter is None else options.adapter
    return "gemma3-270m" if options.adapter is None and options.model is None else place.resolve().name


def _as_given(prompt: Prompt) -> str:
    """A prompt as the model reads it."""
    return prompt if isinstance(prompt, str) else render_chat(prompt)


def _harness(words: Sequence[str]) -> int:
    try:
        from coldforge.apps.evaluate import harness
    except ModuleNotFoundError as error:
        if error.name != "lm_eval":
            raise
        raise ModuleNotFoundError(
            "lm-evaluation-harness is not installed: pip install 'coldforge-app-evaluate[lm-eval]'"
        ) from error
    harness.run(words)
    return PASSED


if __name__ == "__main__":
    main()
