"""What samples add up to, against counting by hand."""

import dataclasses
import random

import pytest

from coldforge.eval.records import NOT_JUDGED, Graded
from coldforge.eval.tally import Metrics, Progress, Tally, category_accuracies, cautions, metrics_of


def sample(question, number, right, **values):
    given = {"text": "", "tokens": 10, "ended": True, "extracted": "1", "verdict": "right" if right else "wrong"}
    return Graded(task="t", question=question, number=number, correct=right, **given | values)


def tally_of(samples):
    tally = Tally("t")
    for each in samples:
        tally.add(each)
    return tally


def drawn(questions=40, samples=8, seed=0):
    random_ = random.Random(seed)
    return [
        sample(
            str(q), n, right := random_.random() < 0.3, tokens=random_.randrange(1, 500), ended=random_.random() < 0.9,
            extracted=random_.choice(["1", "2", None]) if not right else "3", well_formed=random_.random() < 0.5,
            category="ab"[q % 2],
        )
        for q in range(questions) for n in range(samples)
    ]  # fmt: skip


def test_metrics_are_what_is_counted():
    samples = drawn()
    metrics = metrics_of(tally_of(samples))
    n = len(samples)
    assert metrics.accuracy.value == pytest.approx(sum(each.correct for each in samples) / n)
    assert (metrics.accuracy.n, metrics.accuracy.samples) == (40, 320)
    assert list(metrics.pass_at) == [2, 4, 8]
    any_right = sum(any(each.correct for each in samples if each.question == str(q)) for q in range(40)) / 40
    assert metrics.pass_at[8].value == pytest.approx(any_right)
    assert metrics.truncated.value == pytest.approx(sum(each.truncated for each in samples) / n)
    assert metrics.well_formed.value == pytest.approx(sum(bool(each.well_formed) for each in samples) / n)
    assert metrics.no_answer.value == pytest.approx(sum(each.extracted is None for each in samples) / n)
    right = sorted(each.tokens for each in samples if each.correct)
    assert metrics.lengths["right"].mean.value == pytest.approx(sum(right) / len(right))
    assert metrics.lengths["right"].longest == right[-1]
    assert metrics.verdicts == {"wrong": n - len(right), "right": len(right)}


def test_one_sample_has_neither_pass_nor_majority():
    metrics = metrics_of(tally_of([sample("a", 0, True), sample("b", 0, False)]))
    assert (metrics.pass_at, metrics.majority, metrics.well_formed) == ({}, None, None)
    assert metrics_of(tally_of([sample("a", n, n == 0) for n in range(6)])).pass_at.keys() == {2, 4, 6}


def test_answers_of_one_spelling_are_one_vote_right_or_wrong(make_task):
    """Right ones are not put together by the right answer, which a vote does not know."""
    task = make_task(count=1)
    [question] = task.questions

    def voted(*row):
        tally = Tally("t", task)
        for n, (text, right) in enumerate(row):
            tally.add(sample(question.id, n, right, extracted=text))
        return metrics_of(tally)

    assert voted(("1/2", True), ("0.5", True), ("3", False), ("3.0", False), ("$0.50", True)).majority.value == 1.0
    tied = voted(("1/2", True), ("0.5", True), ("3", False), ("$3.00$", False))
    assert (tied.majority.value, tied.ties) == (0.5, 1.0)
    apart = voted(("\\sqrt{4}x", True), ("x\\sqrt{4}", True), ("2x", True), ("3x", False), ("3x", False))
    assert apart.majority.value == 0.0


@pytest.mark.parametrize(
    ("changes", "votes"),
    [
        ({}, True),
        ({"kind": "instructions"}, False),
        ({"meta": {"scorer": "coldforge.rewards.gym:score"}}, False),
    ],
)
def test_where_answers_differ_that_are_right_there_is_no_vote(make_task, changes, votes):
    task = make_task(count=2)
    task = dataclasses.replace(task, questions=[task.questions[0], dataclasses.replace(task.questions[1], **changes)])
    tally = Tally("t", task)
    for question in task.questions:
        for n in range(4):
            tally.add(sample(question.id, n, True))
    assert (metrics_of(tally).majority is not None) is votes


def test_measures_are_ratios_over_all_samples():
    samples = [
        sample("a", 0, True, measures={"strict": (1, 1), "loose": (1, 1)}),
        sample("b", 0, True, measures={"strict": (1, 3), "loose": (3, 3)}),
    ]
    found = metrics_of(tally_of(samples)).measures
    assert found["strict"].value == pytest.approx(2 / 4)
    assert found["loose"].value == 1.0
    with pytest.raises(ValueError, match="'strict' has 2 hits of 1"):
        metrics_of(tally_of([sample("a", 0, True, measures={"strict": (2, 1)})]))


@pytest.mark.parametrize("samples", [drawn(), [sample("a", 0, True, measures={"x": (1, 2)}, well_formed=True)]])
def test_metrics_are_read_as_they_were_written(samples):
    metrics = metrics_of(tally_of(samples))
    assert Metrics.from_dict(metrics.to_dict()) == metrics


def test_categories():
    found = category_accuracies(tally_of([sample("a", 0, True, category="y"), sample("b", 0, False, category="x")]))
    assert {name: each.value for name, each in found.items()} == {"x": 0.0, "y": 1.0}
    assert list(found) == ["x", "y"]
    assert category_accuracies(tally_of([sample("a", 0, True), sample("b", 0, False)])) == {}


def test_cautions_name_what_makes_a_score_doubtful():
    fine = metrics_of(tally_of([sample(str(q), 0, True) for q in range(30)]))
    assert cautions(fine) == []
    doubtful = [sample(str(q), 0, False) for q in range(16)]
    doubtful += [sample("x", 0, False, ended=False), sample("y", 0, False, extracted=None, verdict="no answer")]
    doubtful += [sample("z", 0, False, verdict="timeout"), sample("w", 0, False, verdict=NOT_JUDGED)]
    found = " ".join(cautions(metrics_of(tally_of(doubtful))))
    for words in ("5 % of the samples were cut off", "no answer was found", "1 checks took too long", "1 samples have"):
        assert words in found


def test_no_samples_are_no_metrics():
    with pytest.raises(ValueError, match="t has no samples"):
        metrics_of(Tally("t"))


def test_progress():
    tally = tally_of([sample("a", 0, True), sample("b", 0, False)])
    progress = Progress({"t": tally}, total=6, resumed=0)
    assert progress.done == 2
    assert progress.tallies["t"].accuracy().value == 0.5
    assert progress.seconds_left >= 0
    assert Progress({"t": tally}, total=6, resumed=2).seconds_left != progress.seconds_left  # nan: nothing done yet
