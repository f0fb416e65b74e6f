"""An evaluation ends with the same files whatever interrupts it, and takes nothing else than what it asked for."""

import itertools
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from coldforge.eval.records import Reply, Sampling, from_function
from coldforge.eval.results import read_results
from coldforge.eval.run import GenerateError, evaluate
from coldforge.eval.settings import foresee
from coldforge.eval.store import BusyError, locked, read_samples

pytestmark = pytest.mark.whole


def samples_in(directory):
    return [sample for _, sample in read_samples(Path(directory) / "samples.jsonl")]


def test_a_directory_says_all_of_it(tmp_path, run, make_task, make_model):
    tasks = [make_task("a", 5, samples=3), make_task("b", 4, samples=1)]
    said, progress = [], []
    results = run(
        tmp_path, make_model(order=-1), tasks, model={"name": "fake", "lora": {"rank": 8}}, say=said.append,
        on_progress=lambda each: progress.append((each.done, each.total)), software={"jax": "0.12"},
        report=True,
    )  # fmt: skip
    found = {path.name for path in tmp_path.iterdir()}
    assert found == {"evaluation.json", "samples.jsonl", "results.json", "report.html", "plots", ".lock"}
    samples = samples_in(tmp_path)
    wanted = [(task.name, each.id, i) for task in tasks for each in task.questions for i in range(task.samples)]
    assert [(sample.task, sample.question, sample.number) for sample in samples] == wanted
    assert all((sample.prompt is not None) == (sample.number == 0) for sample in samples)
    assert samples[0].prompt == tasks[0].ask(tasks[0].questions[0])
    assert results.tasks["a"].metrics.accuracy.samples == 15
    mean = sum(sample.correct for sample in samples[:15]) / 15
    assert results.tasks["a"].metrics.accuracy.value == pytest.approx(mean)
    assert results.software["jax"] == "0.12"
    assert read_results(tmp_path).to_dict() == json.loads(json.dumps(results.to_dict()))
    assert progress[-1] == (19, 19)
    assert [text.split(":")[0] for text in said] == ["a", "b"]
    assert tasks[0].questions[0].text in said[0]
    assert results.tasks["a"].first_prompt in said[0]


def test_what_is_asked(tmp_path, run, make_task, make_model):
    tasks = [make_task("a", 2, samples=3, max_new_tokens=50, stop=("Q:",)), make_task("b", 1)]
    model = make_model()
    run(tmp_path, model, tasks, sampling=Sampling(max_new_tokens=100))
    first, _, last = model.asked
    assert (first.task, first.first, first.n, first.stop) == ("a", 0, 3, ("Q:",))
    assert first.sampling.max_new_tokens == 50  # the task's protocol allows less
    assert last.sampling.max_new_tokens == 100
    assert len({ask.seed for ask in model.asked}) == 3
    again = make_model()
    run(tmp_path / "greedy", again, tasks, sampling=Sampling.greedy(max_new_tokens=100))
    assert [ask.n for ask in again.asked] == [1, 1, 1]
    assert [ask.seed for ask in again.asked] == [ask.seed for ask in model.asked]


def test_an_evaluation_that_ended_is_not_done_again(tmp_path, run, make_model):
    results = run(tmp_path, make_model())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    model = make_model(skill=1.0)
    assert run(tmp_path, model, software={"jax": "new"}) == results
    assert model.asked == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_part_of_a_benchmark_is_named(tmp_path, run, make_task):
    assert "6 questions; 1,319 were published" in run(tmp_path / "a", tasks=[make_task(published=1319)]).text
    assert "published" not in run(tmp_path / "b", tasks=[make_task(published=6)]).text


@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_model_that_fails_costs_only_what_it_had_not_returned(tmp_path, run, make_model, count):
    run(tmp_path / "whole", make_model())

    def failing(asks):
        yield from itertools.islice(make_model(order=-1)(asks), count)
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        run(tmp_path / "parts", failing)
    assert not (tmp_path / "parts/results.json").exists()
    model = make_model()
    run(tmp_path / "parts", model)
    assert len(model.asked) == 6 - count
    assert (tmp_path / "parts/samples.jsonl").read_bytes() == (tmp_path / "whole/samples.jsonl").read_bytes()


def test_samples_may_be_asked_for_apart(tmp_path, run, make_model):
    run(tmp_path / "whole")
    model = make_model()
    run(tmp_path / "apart", model, apart=True)
    assert [(ask.first, ask.n) for ask in model.asked] == [(0, 1), (1, 1)] * 6
    assert (tmp_path / "apart/samples.jsonl").read_bytes() == (tmp_path / "whole/samples.jsonl").read_bytes()


def _slow(asks):
    def function(prompts):
        time.sleep(0.02)
        return ["<reasoning>x</reasoning><answer>3</answer>" for _ in prompts]

    return from_function(function, batch=3)(asks)


def _evaluate_slowly(directory, task):
    evaluate([task], _slow, directory, model={"name": "slow"}, say=lambda _: None, report=False)


def comparable(directory):
    """All that does not depend on when it was done."""
    results = json.loads((directory / "results.json").read_bytes())
    return {name: each for name, each in results.items() if name not in ("created", "finished")}


def test_killed_in_the_middle_it_goes_on_to_the_same_files(tmp_path, make_task):
    """By SIGKILL, twice, in a process of its own; batches of 3 cut through the 4 samples of a question."""
    task = make_task(count=30, samples=4)
    context = multiprocessing.get_context("fork")  # the modules are there already: no 2 s of imports each time
    replies = tmp_path / "cut/replies.jsonl"
    for wanted in (20, 60):
        child = context.Process(target=_evaluate_slowly, args=(tmp_path / "cut", task))
        child.start()
        while not replies.exists() or replies.read_bytes().count(b"\n") < wanted:
            assert child.is_alive()
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode == -signal.SIGKILL
    with replies.open("ab") as file:
        file.write(b'{"task": "sums", "question"')
    with (tmp_path / "cut/samples.jsonl").open("ab") as file:
        file.write(b'{"task": "su')
    asked = []

    def counting(asks):
        asked.extend(asks)
        return _slow(asks)

    evaluate([task], counting, tmp_path / "cut", model={"name": "slow"}, say=lambda _: None, report=False)
    assert 0 < sum(ask.n for ask in asked) <= 120 - 60
    _evaluate_slowly(tmp_path / "whole", task)
    assert (tmp_path / "cut/samples.jsonl").read_bytes() == (tmp_path / "whole/samples.jsonl").read_bytes()
    assert comparable(tmp_path / "cut") == comparable(tmp_path / "whole")
    assert not replies.exists()


def test_samples_that_are_missing_in_between_are_asked_by_number(tmp_path, run, make_task, make_model):
    task = make_task(count=1, samples=6)
    run(tmp_path, make_model(), [task])
    path = tmp_path / "samples.jsonl"
    whole = path.read_bytes()
    path.write_bytes(b"".join(line for i, line in enumerate(whole.splitlines(keepends=True)) if i not in (1, 2, 5)))
    model = make_model()
    run(tmp_path, model, [task])
    assert [(ask.first, ask.n) for ask in model.asked] == [(1, 2), (5, 1)]
    assert path.read_bytes() == whole


def test_other_options_are_refused_by_name(tmp_path, run, make_task):
    run(tmp_path)
    cases = [
        (
            {"sampling": Sampling(max_new_tokens=400, temperature=1.0)},
            r"sampling.temperature is 0.6 there and 1.0 here",
        ),
        ({"sampling": Sampling(max_new_tokens=400, samples=3)}, "sampling.samples is None there and 3 here"),
        ({"model": {"name": "other"}}, "model.name is 'fake' there and 'other' here"),
        ({"model": {"name": "fake", "adapter": "x"}}, "model.adapter is 'nothing' there and 'x' here"),
        ({"tasks": [make_task(version="2")]}, "tasks.sums.version is '1' there and '2' here"),
        ({"tasks": [make_task(count=7)]}, "tasks.sums.questions is 6 there and 7 here"),
        ({"tasks": [make_task(samples=3)]}, "tasks.sums.samples is 2 there and 3 here"),
        ({"tasks": [make_task(prefix="How much is")]}, "tasks.sums.content_hash is"),
        ({"tasks": [make_task(), make_task("more")]}, "tasks.more is 'nothing' there"),
        ({"tasks": [make_task("more")]}, "tasks.sums is"),
    ]
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.json*")}
    for options, named in cases:
        with pytest.raises(ValueError, match=named):
            run(tmp_path, **options)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.json*")} == before


def test_a_file_of_questions_may_move(tmp_path, run, make_task, make_model):
    run(tmp_path, tasks=[make_task(source="here.jsonl")])
    model = make_model()
    run(tmp_path, model, tasks=[make_task(source="there.jsonl")])
    assert model.asked == []


def test_other_software_is_noted(tmp_path, run):
    run(tmp_path, software={"jax": "0.11"})
    (tmp_path / "results.json").unlink()
    assert run(tmp_path, software={"jax": "0.12"}).notes == ["Gone on with other software: jax 0.11 → 0.12."]


def forgets(asks, model):
    return list(model(asks))[1:]


def doubles(asks, model):
    return [*model(asks), *model(asks)]


def too_few(asks, model):
    return [(place, replies[:-1]) for place, replies in model(asks)]


def too_many(asks, model):
    return [(place, [*replies, replies[0]]) for place, replies in model(asks)]


def elsewhere(asks, model):
    return [(place + 1, replies) for place, replies in list(model(asks))[::-1]]


def names_it(asks, model):
    return [(asks[place].question, replies) for place, replies in model(asks)]


def texts_only(asks, model):
    return [(place, [(None, 3, True)] * 2) for place, _ in model(asks)]


def negative(asks, model):
    return [(place, [Reply("", -1, True)] * 2) for place, _ in model(asks)]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (forgets, r"ended without 1 of 6 asks, question \w{16} of sums among them"),
        (doubles, r"returned question \w{16} of sums twice"),
        (too_few, r"returned 1 replies to question \w{16} of sums; wanted 2"),
        (too_many, r"returned 3 replies to question \w{16} of sums; wanted 2"),
        (elsewhere, r"returned the place 6 of 6 asks"),
        (names_it, r"returned the place '\w{16}' of 6 asks"),
        (texts_only, r"wanted Reply\(text, tokens, ended\)"),
        (negative, r"returned -1 tokens to question"),
    ],
)
def test_a_model_that_returns_something_else_is_told_and_nothing_is_lost(tmp_path, run, make_model, wrong, named):
    run(tmp_path / "whole")
    with pytest.raises(GenerateError, match=named):
        run(tmp_path / "parts", lambda asks: wrong(asks, make_model()))
    assert not (tmp_path / "parts/results.json").exists()
    run(tmp_path / "parts")
    assert (tmp_path / "parts/samples.jsonl").read_bytes() == (tmp_path / "whole/samples.jsonl").read_bytes()


class Failing:
    """A verifier with a fault."""

    def __init__(self, verifier, fault):
        self.verifier, self.fault = verifier, fault

    def judge(self, responses):
        if self.fault == "raises":
            raise OSError("no pool")
        return self.verifier.judge(responses)[: -1 if self.fault == "forgets" else None]


@pytest.mark.parametrize(("fault", "error"), [("raises", OSError), ("forgets", ValueError)])
def test_a_verifier_that_fails_costs_no_reply(tmp_path, run, make_task, make_model, fault, error):
    """The replies are there when it is well again."""
    task = make_task()
    verifier = Failing(task.verifier, fault)
    with pytest.raises(error):
        run(tmp_path, tasks=[make_task(verifier=verifier)])
    kept = (tmp_path / "replies.jsonl").read_bytes().count(b"\n") // 2
    assert kept >= 1
    verifier.fault = None
    model = make_model()
    results = run(tmp_path, model, tasks=[make_task(verifier=verifier)])
    assert len(model.asked) == 6 - kept
    assert results.tasks["sums"].metrics.accuracy.samples == 12


def test_directories_of_something_else_are_refused(tmp_path, run, make_model):
    (tmp_path / "samples.jsonl").write_text("mine\n")
    with pytest.raises(ValueError, match=r"holds samples.jsonl without evaluation.json"):
        run(tmp_path)
    other = tmp_path / "other"
    run(other)
    settings = json.loads((other / "evaluation.json").read_text())
    (other / "evaluation.json").write_text(json.dumps(settings | {"schema": 2}))
    with pytest.raises(ValueError, match=r"evaluation.json has schema 2; this version of coldforge-eval reads 1"):
        run(other)
    (other / "evaluation.json").write_text("{")
    with pytest.raises(ValueError, match=r"evaluation.json is no JSON"):
        run(other)
    (other / "evaluation.json").write_text("[]")
    with pytest.raises(ValueError, match=r"evaluation.json has no schema"):
        run(other)


def test_samples_of_something_else_are_refused(tmp_path, run):
    run(tmp_path)
    path = tmp_path / "samples.jsonl"
    first = path.read_text().split("\n")[0]
    path.write_text(path.read_text() + first.replace('"number": 0', '"number": 7') + "\n")
    with pytest.raises(ValueError, match=r"sample 7 of question .* was not asked for"):
        run(tmp_path)


def test_two_do_not_work_in_one_directory(tmp_path, run, make_task):
    foresee(tmp_path, [make_task()], Sampling())  # nothing is there yet
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path):
        with pytest.raises(BusyError, match="another process evaluates"):
            run(tmp_path)
        with pytest.raises(BusyError, match="another process evaluates"):  # before a model is loaded
            foresee(tmp_path, [make_task()], Sampling())
    assert BusyError.__module__.startswith("coldforge.")  # which programs report in a line
    foresee(tmp_path, [make_task()], Sampling())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"model": {}}, "the model has no identity"),
        ({"model": {"name": {1, 2}}}, "cannot be written as JSON"),
        ({"model": {"loss": float("nan")}}, "cannot be written as JSON"),
    ],
)
def test_a_model_needs_an_identity(tmp_path, run, options, named):
    with pytest.raises(ValueError, match=named):
        run(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_tasks_need_names_of_their_own(tmp_path, run, make_task):
    with pytest.raises(ValueError, match="there are no tasks"):
        evaluate([], lambda asks: (), tmp_path / "new", model={"name": "fake"})
    with pytest.raises(ValueError, match="two tasks are named 'sums'"):
        run(tmp_path / "new", tasks=[make_task(), make_task(count=3)])
    assert not (tmp_path / "new").exists()


def test_grading_goes_on_beside_the_model(tmp_path, run, make_task, make_model):
    """The model waits for no verdict: its first reply is judged while it still writes."""
    task = make_task(count=3, samples=1)
    judged = []

    class Watching:
        def judge(self, responses):
            judged.append(len(responses))
            return task.verifier.judge(responses)

    def model(asks):
        for place, replies in make_model()(asks):
            yield place, replies
            if place == 0:
                until = time.monotonic() + 5
                while not judged and time.monotonic() < until:
                    time.sleep(0.005)
                assert judged == [1]

    run(tmp_path, model, [make_task(count=3, samples=1, verifier=Watching())])
    assert sum(judged) == 3
