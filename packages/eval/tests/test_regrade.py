"""Stored texts are graded again by graders of today, without the model."""

import dataclasses

import pytest

from coldforge.eval.regrade import regrade
from coldforge.eval.results import read_results
from coldforge.eval.store import read_samples
from coldforge.rewards import Verdict


class Lenient:
    """Everything is right."""

    def __init__(self, verifier):
        self.verifier = verifier

    def judge(self, responses):
        return [dataclasses.replace(each, verdict=Verdict.RIGHT, credit=1.0) for each in self.verifier.judge(responses)]


def test_verdicts_change_and_texts_stay(tmp_path, run, make_task):
    task = make_task(count=20)
    before = run(tmp_path, tasks=[task])
    texts = [(sample.question, sample.number, sample.text) for _, sample in read_samples(tmp_path / "samples.jsonl")]
    wrong = sum(not sample.correct for _, sample in read_samples(tmp_path / "samples.jsonl"))
    assert 0 < wrong < 40
    other = make_task(count=20, verifier=Lenient(task.verifier), version="2")
    results = regrade(tmp_path, [other])
    after = [sample for _, sample in read_samples(tmp_path / "samples.jsonl")]
    assert [(sample.question, sample.number, sample.text) for sample in after] == texts
    assert all(sample.correct for sample in after)
    assert results.tasks["sums"].metrics.accuracy.value == 1.0
    assert f"of 40 samples {wrong} have become right, and 0 no longer are" in results.notes[-1]
    assert read_results(tmp_path) == results
    assert (results.created, results.model, results.sampling) == (before.created, before.model, before.sampling)
    assert results.tasks["sums"].version == "2"
    assert (tmp_path / "report.html").exists()
    run(tmp_path, tasks=[other])  # goes on with the task of today
    with pytest.raises(ValueError, match=r"tasks.sums.version is '2' there and '1' here"):
        run(tmp_path, tasks=[task])


def test_the_same_grader_changes_nothing(tmp_path, run, make_task):
    run(tmp_path)
    before = (tmp_path / "samples.jsonl").read_bytes()
    results = regrade(tmp_path, [make_task()], report=False)
    assert (tmp_path / "samples.jsonl").read_bytes() == before
    assert "0 have become right, and 0 no longer are" in results.notes[0]


def test_what_does_not_fit_is_refused_and_changes_nothing(tmp_path, run, make_task):
    run(tmp_path / "x")
    before = {path.name: path.read_bytes() for path in (tmp_path / "x").iterdir()}
    reworded = make_task()
    reworded = dataclasses.replace(reworded, prompt=dataclasses.replace(reworded.prompt, ask="Now: {question}"))
    cases = [
        ([make_task("other")], "holds samples of sums; the tasks are other"),
        ([make_task(count=7)], r"there are no samples of 1 questions of sums, \w{16} among them"),
        ([make_task(count=5)], "which is none of the tasks'"),
        ([reworded], "Wanted the prompts that were used"),
    ]
    for tasks, named in cases:
        with pytest.raises(ValueError, match=named):
            regrade(tmp_path / "x", tasks)
    with pytest.raises(ZeroDivisionError):
        regrade(tmp_path / "x", [make_task(verifier=Broken())])
    assert {path.name: path.read_bytes() for path in (tmp_path / "x").iterdir()} == before
    with pytest.raises(FileNotFoundError, match="wanted a directory of an evaluation"):
        regrade(tmp_path / "y", [make_task()])


class Broken:
    def judge(self, responses):
        return [1 // 0]
