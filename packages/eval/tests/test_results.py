"""Results are read as they were written, and those of different tasks are not compared."""

import json

import pytest

from coldforge.eval.results import compare_evaluations, names_of, open_evaluation, read_results


def evaluated(run, directory, *args, **options):
    run(directory, *args, **options)
    return open_evaluation(directory)


def test_results_are_read_as_they_were_written(tmp_path, run, make_task):
    results = run(tmp_path, tasks=[make_task("a", 9, categories=("x", "y")), make_task("b", samples=1)])
    found = read_results(tmp_path)
    assert found == results
    assert found.tasks["a"].categories.keys() == {"x", "y"}
    assert found.name == "fake"


def test_text_has_an_interval_for_every_accuracy(tmp_path, run, make_task):
    text = run(tmp_path, tasks=[make_task(samples=4), make_task("b", samples=1, count=9, chance=0.25)]).text
    assert "sums, 6 questions: avg@4" in text
    assert "b, 9 questions: accuracy" in text
    assert text.count("(") >= 4
    assert "! 6 questions: the 95 % interval is ±" in text


def test_other_schemas_and_damage_are_named(tmp_path, run):
    with pytest.raises(FileNotFoundError, match="wanted a directory of an evaluation"):
        read_results(tmp_path)
    (tmp_path / "samples.jsonl").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="the evaluation has not ended"):
        read_results(tmp_path)
    (tmp_path / "samples.jsonl").unlink()
    run(tmp_path)
    path = tmp_path / "results.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"schema": 7}))
    with pytest.raises(ValueError, match=r"schema 7; this version of coldforge-eval reads 1. Read it with the version"):
        read_results(tmp_path)
    del values["tasks"]["sums"]["metrics"]["accuracy"]
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"results.json is damaged: KeyError 'accuracy'"):
        read_results(tmp_path)


def test_samples_must_be_those_of_the_results(tmp_path, run):
    run(tmp_path)
    path = tmp_path / "samples.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    with pytest.raises(ValueError, match="holds 11 samples of sums; its results are of 12"):
        open_evaluation(tmp_path)
    path.write_bytes(b"".join(lines).replace(b'"task": "sums"', b'"task": "other"', 1))
    with pytest.raises(ValueError, match="a sample of other, of which there are no results"):
        open_evaluation(tmp_path)


def test_samples_are_found_by_place(tmp_path, run):
    evaluation = evaluated(run, tmp_path)
    for question, row in evaluation.tallies["sums"].rows.items():
        for entry in row:
            sample = evaluation.sample(entry.place)
            assert (sample.question, sample.number, sample.tokens) == (question, entry.number, entry.tokens)


def test_comparison_is_paired_and_signed(tmp_path, run, make_task, make_model):
    tasks = [make_task(count=80)]
    worse = evaluated(run, tmp_path / "a", make_model(skill=0.2), tasks, model={"name": "worse"})
    better = evaluated(run, tmp_path / "b", make_model(skill=0.9, seed=1), tasks, model={"name": "better"})
    found = compare_evaluations(worse, better, "sums")
    assert found.names == ("worse", "better")
    assert found.difference > 0
    assert found.shown
    assert found.n == len(found.wins) + len(found.losses) + len(found.ties) == 80
    assert found.difference == pytest.approx(
        better.results.tasks["sums"].metrics.accuracy.value - worse.results.tasks["sums"].metrics.accuracy.value
    )


@pytest.mark.parametrize(
    ("options", "named", "common"),
    [
        ({"version": "2"}, "version is '1' there and '2' here", False),
        ({"version": "2"}, "version is '1' there and '2' here", True),
        ({"stop": ("Q:",)}, r"stop is \[\] there and \['Q:'\] here", False),
        ({"stop": ("Q:",)}, r"stop is \[\] there and \['Q:'\] here", True),
        ({"prefix": "How much is"}, "content_hash is", False),
        ({"count": 5}, "questions is 6 there and 5 here", False),
    ],
)
def test_results_of_different_tasks_are_not_compared(tmp_path, run, make_task, options, named, common):
    one = evaluated(run, tmp_path / "a", model={"name": "a"})
    other = evaluated(run, tmp_path / "b", model={"name": "b"}, tasks=[make_task(**options)])
    with pytest.raises(ValueError, match=f"a and b were not given the same sums: {named}"):
        compare_evaluations(one, other, "sums", common=common)


def test_common_questions_are_compared_where_one_was_asked_more(tmp_path, run, make_task):
    one = evaluated(run, tmp_path / "a")
    fewer = evaluated(run, tmp_path / "b", tasks=[make_task(count=4)])
    found = compare_evaluations(one, fewer, "sums", common=True)
    assert (found.n, found.left_out, len(found.ties)) == (4, 2, 4)
    others = evaluated(run, tmp_path / "c", tasks=[make_task(prefix="How much is")])
    assert compare_evaluations(one, others, "sums", common=True).n == 0
    path = tmp_path / "b/samples.jsonl"
    path.write_bytes(path.read_bytes().replace(b"What is 1 + 2", b"What is 1 + 3"))
    with pytest.raises(ValueError, match="is not the same for"):
        compare_evaluations(one, open_evaluation(tmp_path / "b"), "sums", common=True)


def test_a_task_must_be_there(tmp_path, run):
    one = evaluated(run, tmp_path)
    with pytest.raises(ValueError, match="has no results of 'gsm8k'; there are sums"):
        compare_evaluations(one, one, "gsm8k")


def test_models_of_one_name_are_told_apart_by_their_directories(tmp_path, run):
    ones = [evaluated(run, tmp_path / where) for where in ("a/x", "b/y", "c/y")]
    assert names_of(ones[:2]) == ["fake (x)", "fake (y)"]
    assert names_of(ones) == [f"fake ({tmp_path / where})" for where in ("a/x", "b/y", "c/y")]
