"""Answers that are equal: the table that rewards are held to, and right answers, which must equal themselves."""

import json
from pathlib import Path

import pytest

from coldforge.data.records import Question
from coldforge.eval.prompts import STYLES
from coldforge.eval.verify import wrong_golds
from coldforge.rewards import Equality, Grader, MathPool, Response, Verdict

TABLE = Path(__file__).parents[2] / "rewards" / "tests" / "cases.tsv"


@pytest.fixture(scope="module")
def pool():
    with MathPool(workers=1, seconds=20) as pool:
        yield pool


def question(text="?", answer="1", kind="auto", **meta):
    return Question(text, text, answer, kind, "test", meta)


def table():
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            verdict, gold, answer, options, *_ = [*line.split("\t"), "", ""]
            yield verdict, gold, answer, json.loads(options or "{}")


@pytest.mark.whole
def test_the_table_of_answers_holds_for_tasks(pool):
    """The table that rewards are held to, through the verifier that a task with our format is given."""
    rows, wrong = list(table()), []
    for settings in {json.dumps({k: v for k, v in row[3].items() if k not in ("kind", "choices")}) for row in rows}:
        options = json.loads(settings)
        some = [row for row in rows if options == {k: v for k, v in row[3].items() if k not in ("kind", "choices")}]
        style = STYLES["reasoning"]
        plain = style.verifier([question()], pool)
        grader = Grader(plain.form, equality=Equality(**options), pool=pool)
        replies = [
            Response(
                f"<reasoning>?</reasoning>\n<answer>{answer}</answer>", 5, True, gold=gold,
                meta={name: more[name] for name in ("kind", "choices") if name in more},
            )
            for _, gold, answer, more in some
        ]  # fmt: skip
        for row, judged in zip(some, grader.judge(replies), strict=True):
            if (judged.verdict is Verdict.RIGHT) != (row[0] == "right"):
                wrong.append(row)
    assert len(rows) >= 340
    assert wrong == []


def test_right_answers_equal_themselves(pool):
    """Spellings as MATH has them; a broken one is found though it is spelled like itself."""
    golds = [
        r"\frac{3\sqrt{3}}{4}", r"\left( 3, \frac{\pi}{2} \right)", r"(-\infty, 2) \cup (3, \infty)", r"6 - 5i",
        r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"x^3 + 3x - 6", r"\text{Evelyn}", r"\text{(C)}", r"90^\circ",
        r"2k\pi", r"\{1\pm\sqrt{5},-2\}", r"5.4 \text{ cents}", r"[2,5)", "1,2,3",
    ]  # fmt: skip
    grader = STYLES["reasoning"].verifier([question()], pool)
    assert wrong_golds([question(str(place), gold) for place, gold in enumerate(golds)], grader) == []
    broken = [question("1", r"\frac{1}{2"), question("2", "3"), question("3", None, scorer="reasoning-gym")]
    [(found, why)] = wrong_golds(broken, grader)
    assert (found.text, "cannot read" in why) == ("1", True)
