"""Tasks: what a spec opens, what their hash covers, faults named."""

import dataclasses
import json

import datasets
import pytest

from coldforge.data.format import ReasoningFormat
from coldforge.data.questions import open_questions
from coldforge.data.records import Question
from coldforge.eval.gym import SUITES
from coldforge.eval.prompts import STYLES
from coldforge.eval.task import Task, open_task
from coldforge.rewards import Verdict

GSM8K = [{"question": f"What is {n} + {n}?", "answer": f"{n} + {n} = {2 * n}\n#### {2 * n}"} for n in range(20)]


@pytest.fixture
def gsm8k(tmp_path):
    path = tmp_path / "gsm8k" / "test.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(row) + "\n" for row in GSM8K))
    return path


def test_a_benchmark_from_a_file(gsm8k):
    task = open_task(f"gsm8k={gsm8k}")
    assert (task.name, task.samples, task.chance, task.published, len(task.questions)) == ("gsm8k", 4, 0.0, 1319, 20)
    assert task.ask(task.questions[0])[0]["content"] == ReasoningFormat().ask("What is 0 + 0?")
    assert task.formed
    described = json.loads(json.dumps(task.describe()))
    assert described["content_hash"] == task.content_hash
    assert described["source"] == str(gsm8k)
    assert described["prompt"]["name"] == "reasoning"


def test_replies_are_judged(gsm8k):
    task = open_task(f"gsm8k={gsm8k}")
    question = task.questions[3]
    texts = ["<reasoning>3 + 3</reasoning><answer>6</answer>", "It is 6.", "It is 7.", "Nothing."]
    found = task.verifier.judge([task.response(question, text, 5, True) for text in texts])
    right, wrong, none = Verdict.RIGHT, Verdict.WRONG, Verdict.NO_ANSWER
    assert [(each.verdict, each.well_formed) for each in found] == [
        (right, True), (right, False), (wrong, False), (none, False)
    ]  # fmt: skip
    strict = open_task(f"gsm8k={gsm8k}", fallbacks=())
    found = strict.verifier.judge([strict.response(question, text, 5, True) for text in texts])
    assert [each.verdict for each in found] == [right, none, none, none]
    assert task.key(question, "$6.00") == task.key(question, "6 apples")


def test_a_limit_takes_a_fair_sample_in_order(gsm8k):
    whole = open_task(f"gsm8k={gsm8k}")
    five, nine = (open_task(f"gsm8k={gsm8k}", limit=limit).questions for limit in (5, 9))
    order = [question.id for question in whole.questions]
    assert {each.id for each in five} < {each.id for each in nine} < set(order)
    places = [order.index(question.id) for question in nine]
    assert places == sorted(places)
    assert places != list(range(9))
    assert open_task(f"gsm8k={gsm8k}", limit=100).content_hash == whole.content_hash


def test_the_hash_covers_what_decides_scores(gsm8k, tmp_path):
    task = open_task(f"gsm8k={gsm8k}")
    parquet = tmp_path / "other.jsonl"
    parquet.write_text("".join(json.dumps(row | {"extra": 1}) + "\n" for row in GSM8K))
    assert open_task(f"gsm8k={parquet}", name="mine", samples=9).content_hash == task.content_hash
    other = [dict(row) for row in GSM8K]
    other[7]["answer"] = "#### 15"
    parquet.write_text("".join(json.dumps(row) + "\n" for row in other))
    changed = [
        open_task(f"gsm8k={parquet}"),
        open_task(f"gsm8k={gsm8k}", prompt="boxed"),
        open_task(f"gsm8k={gsm8k}", form=ReasoningFormat(answer=("<a>", "</a>"))),
        open_task(f"gsm8k={gsm8k}", fallbacks=()),
        open_task(f"gsm8k={gsm8k}", limit=19),
        dataclasses.replace(task, version="2"),
        dataclasses.replace(task, stop=("\n",)),
        dataclasses.replace(task, questions=task.questions[::-1]),
    ]
    assert len({each.content_hash for each in (task, *changed)}) == len(changed) + 1


def test_the_hash_does_not_change_from_day_to_day(gsm8k):
    """A change here means that stored results can no longer be compared: raise the benchmark's version with it."""
    assert open_task(f"gsm8k={gsm8k}").content_hash[:16] == "99814ad8accbed1d"


def test_a_solution_is_kept_for_decontamination_and_not_hashed(tmp_path):
    rows = [{"problem": "p?", "answer": "33", "id": 1}]
    path = tmp_path / "aime.jsonl"
    path.write_text(json.dumps(rows[0]))
    plain = open_task(f"aime24={path}")
    path.write_text(json.dumps(rows[0] | {"solution": "It is 33."}))
    worked = open_task(f"aime24={path}")
    assert worked.questions[0].meta["solution"] == "It is 33."
    assert worked.content_hash == plain.content_hash


def test_any_file_of_questions(tmp_path):
    path = tmp_path / "mine.v2.jsonl"
    rows = [
        {"question": "Capital of France?", "answer": "Paris", "category": "geo"},
        {"question": "1/3 of 12?", "answer": "4"},
        {"question": "Which?", "answer": "B", "choices": ["x", "y"]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = open_task(str(path), prompt="plain")
    assert (task.name, task.samples, task.chance) == ("mine", 4, pytest.approx(1 / 6))
    assert task.describe()["categories"] == {"geo": 1, "": 2}
    assert not task.formed
    judged = task.verifier.judge(
        [task.response(q, text, 1, True) for q, text in zip(task.questions, ["paris.", "4", "y"], strict=True)]
    )
    assert [each.correct for each in judged] == [True, True, True]


@pytest.mark.whole
def test_reasoning_gym_by_task_and_by_suite():
    task = open_task("chain_sum:5?max_terms=3")
    assert (task.name, len(task.questions), task.chance) == ("chain_sum", 5, 0.0)
    assert task.content_hash == open_task("chain_sum:5?max_terms=3").content_hash
    assert task.content_hash != open_task("chain_sum:5?max_terms=3", seed=1).content_hash
    question = task.questions[0]
    [judged] = task.verifier.judge([task.response(question, f"<answer>{question.answer}</answer>", 3, True)])
    assert judged.correct
    suite = open_task("gym:algebra:2")
    assert set(suite.describe()["categories"]) == set(SUITES["algebra"])
    assert len(suite.questions) == 2 * len(SUITES["algebra"])


@pytest.mark.whole
def test_evaluation_asks_other_questions_than_training():
    spec = "chain_sum:50"
    trained = {question.text for question in open_questions([spec])}
    asked = {question.text for question in open_task(spec).questions}
    assert not trained & asked


@pytest.mark.whole
@pytest.mark.parametrize("name", SUITES)
def test_every_suite_can_be_asked_without_a_hash_seed(monkeypatch, name):
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    task = open_task(f"gym:{name}:1")
    assert len(task.questions) == len(SUITES[name])
    assert json.loads(json.dumps(task.describe()))["questions"] == len(SUITES[name])


@pytest.mark.parametrize(
    ("spec", "options", "kind", "said"),
    [
        ("gsm9k", {}, FileNotFoundError, "no file and no task 'gsm9k'; wanted one of gsm8k, math500"),
        ("rows.jsonl", {}, FileNotFoundError, "no file and no task 'rows.jsonl'"),
        ("data/rows.jsonl", {}, FileNotFoundError, "no file and no task 'data/rows.jsonl'"),
        ("gsm8k=nowhere.jsonl", {}, FileNotFoundError, "there is no nowhere.jsonl"),
        ("gsm8k=a", {"path": "b"}, ValueError, "wanted one of them"),
        ("gym:algebra", {"path": "b"}, ValueError, "which is no benchmark"),
        ("gym:magic", {}, ValueError, "no suite 'magic'; there are arithmetic"),
        ("gym:algebra:0", {}, ValueError, "asks 0 questions"),
        ("chain_sum:0", {}, ValueError, "the count is 0"),
        ("chain_sum:5", {"seed": -1}, ValueError, "the seed is -1"),
        ("chain_sum:5", {"prompt": "cot"}, ValueError, "there is no prompt 'cot'"),
        ("chain_sum:5", {"limit": 0}, ValueError, "limit is 0"),
        ("chain_sum:5", {"samples": 0}, ValueError, "samples is 0"),
        ("chain_sum:5", {"prompt": "lm-eval:gsm8k"}, ValueError, "draws examples, which chain_sum has not; wanted one"),
        ("chain_sum:5", {"shots": "a.jsonl"}, ValueError, "the prompt 'reasoning' draws none"),
        ("chain_sum:5", {"fallbacks": ["guess"]}, ValueError, "'guess' is no fallback"),
    ],
)
def test_faults_are_named(spec, options, kind, said):
    with pytest.raises(kind, match=said):
        open_task(spec, **options)


def test_without_the_hub_local_files_are_named(monkeypatch):
    def load(*names, **options):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(ConnectionError) as caught:
        open_task("gpqa_diamond")
    assert caught.value.__notes__ == ["gpqa_diamond was asked of the hub; local files are named by gpqa_diamond=PATH."]


def test_examples_of_a_single_file_must_be_named(gsm8k):
    with pytest.raises(ValueError, match=r"from the split 'train' of gsm8k, and .*test\.jsonl is a single file"):
        open_task(f"gsm8k={gsm8k}", prompt="lm-eval:gsm8k")
    with pytest.raises(FileNotFoundError, match=r"no files of the split 'train', .* it has test\.jsonl"):
        open_task(f"gsm8k={gsm8k.parent}", prompt="lm-eval:gsm8k")
    gsm8k.rename(gsm8k.with_name("rows.jsonl"))  # of no split: taken for questions, and not for their examples
    assert len(open_task(f"gsm8k={gsm8k.parent}").questions) == 20
    with pytest.raises(FileNotFoundError, match=r"no files of the split 'train', .* it has rows\.jsonl"):
        open_task(f"gsm8k={gsm8k.parent}", prompt="lm-eval:gsm8k")
    gsm8k.with_name("rows.jsonl").rename(gsm8k)
    (gsm8k.parent / "more-test.jsonl").touch()
    with pytest.raises(FileNotFoundError, match="no files of the split 'train'"):
        open_task(f"gsm8k={gsm8k.parent}", prompt="lm-eval:gsm8k", split="test")


def make(questions, **options):
    given = {"name": "mine", "version": "1", "prompt": STYLES["plain"], "verifier": STYLES["plain"].verifier([])}
    return Task(questions=questions, **given | options)


def test_a_task_refuses_what_cannot_be_evaluated():
    question = Question("1", "q?", "1", "number", "test")
    with pytest.raises(ValueError, match="the task mine has no questions"):
        make([])
    with pytest.raises(ValueError, match=r"1 ids of the task mine occur more than once, the first: '1'"):
        make([question, question])
    proof = Question("2", "Prove it.", "…", "proof", "test")
    with pytest.raises(ValueError, match=r"'Prove it.' of the task mine wants proof"):
        make([question, proof])
    with pytest.raises(ValueError, match=r"chance is 1\.5"):
        make([question], chance=1.5)
