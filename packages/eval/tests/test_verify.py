"""Verifiers: lm-eval's filters give lm-eval's scores; forms; one spelling for equal answers; what describes them."""

import json
import time
from pathlib import Path

import pytest

from coldforge.data.records import Question
from coldforge.eval.prompts import STYLES
from coldforge.eval.verify import (
    MEASURES,
    Boxed,
    ExactMatch,
    Extraction,
    Marked,
    answer_key,
    describe_verifier,
)
from coldforge.rewards import Equality, Grader, MathPool, Response, Scorer, Tags, Verdict

HERE = Path(__file__).parent
TABLE = HERE.parents[1] / "rewards" / "tests" / "cases.tsv"
MATH_VERIFY = json.loads((HERE / "data" / "math_verify_cases.json").read_text(encoding="utf-8"))
LM_EVAL = json.loads((HERE / "data" / "lm_eval_tasks.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pool():
    with MathPool(workers=2, seconds=20) as pool:
        yield pool


def question(text="?", answer="1", kind="auto", **meta):
    return Question(text, text, answer, kind, "test", meta)


def response(text, gold="1", **meta):
    return Response(text, 5, True, gold=gold, meta=meta)


@pytest.mark.parametrize("name", ["gsm8k", "gsm8k_cot"])
def test_scores_are_those_of_lm_evals_filters(name):
    """731 texts, with both of its filters."""
    texts, scores = LM_EVAL["texts"], LM_EVAL["scores"][name]
    verifier = STYLES[f"lm-eval:{name}"].verifier([question()])
    found = verifier.judge([response(each["text"], each["gold"]) for each in texts])
    for filter_name, digits in scores.items():
        ours = "".join(str(judged.meta[MEASURES][filter_name][0]) for judged in found)
        assert ours == digits
    assert [judged.correct for judged in found] == [digit == "1" for digit in scores["strict-match"]]
    assert 20 < scores["strict-match"].count("1") < scores["flexible-extract"].count("1") < len(texts) - 20


def test_exact_match_says_what_each_filter_found():
    verifier = STYLES["lm-eval:gsm8k"].verifier([question()])
    [none, strict] = verifier.judge([response("It is 1", "1"), response("#### 2\nor 1", "1")])
    assert (none.verdict, none.answer, none.well_formed) == (Verdict.NO_ANSWER, None, False)
    assert none.meta[MEASURES] == {"strict-match": (0, 1), "flexible-extract": (1, 1)}
    assert (strict.verdict, strict.answer, strict.well_formed) == (Verdict.WRONG, "2", True)
    assert strict.detail == "strict-match: wrong (2); flexible-extract: right (1)"
    with pytest.raises(ValueError, match="no right answer"):
        verifier.judge([response("1", None)])


def test_exact_match_ignores_what_it_is_told_to():
    loose = ExactMatch(filters=(Extraction("all", "(?s)(.*)"),), punctuation=False)
    strict = ExactMatch(filters=(Extraction("all", "(?s)(.*)"),), case=True)
    assert [each.judge([response("(b).", "B")])[0].correct for each in (loose, strict)] == [True, False]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"So \boxed{3}.", "3"),
        (r"<think>\boxed{4}</think> It is \boxed{ \frac{1}{2} }.", r"\frac{1}{2}"),
        (r"\boxed{0}, no, wait: \boxed{(1, 2)} \quad \text{and} \quad $\boxed{(3, 4)}$", "(1, 2), (3, 4)"),
        (r"\boxed{1}. Then \boxed{1}", "1"),
        (r"\boxed{1} and \boxed{2}. So 2 and 1.", "1, 2"),
        (r"\boxed{} \boxed{3}", "3"),
        (r"\boxed{4 \boxed{\{5\}}", r"\{5\}"),
        (r"\boxed{1} apples and \boxed{2} pears", "2"),
        (r"\boxed{ }", None),
        (r"\boxed{3", None),
        (r"<think>\boxed{4}</think> four", None),
        ("3", None),
    ],
)
def test_boxes(text, answer):
    form = Boxed()
    assert form.is_well_formed(text) == (answer is not None)
    if answer is not None:
        assert form.parse(text).answer == answer


def test_replies_that_repeat_themselves_cost_no_time():
    start = time.process_time()
    assert not Boxed().is_well_formed(r"\boxed{" * 4000)
    verifier = STYLES["lm-eval:gsm8k"].verifier([question()])
    for text in ("1" * 30_000, "#### " * 6000, "1," * 15_000, "$" * 30_000):
        verifier.judge([response(text)])
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("style", "text", "answer"),
    [
        ("simple-evals", "Thinking.\nAnswer: B", "B"),
        ("simple-evals", "Answer: A? No.\n**Answer:** $C$", "C"),
        ("simple-evals", "Answer: \\boxed{\\text{D}}", "D"),
        ("simple-evals", "Answer: (A)", "A"),
        ("simple-evals", "<answer>B</answer>", "B"),
        ("simple-evals", "answer: because of it", "because of it"),
        ("lm-eval:mmlu", " B", "B"),
        ("lm-eval:mmlu", "\n(C) 12", "C"),
        ("lm-eval:mmlu", " x2", "x2"),
        ("lm-eval:mmlu", " Being of more than five words", None),
        ("reasoning", "<reasoning>x</reasoning><answer>C</answer>", "C"),
        ("reasoning", "I say the answer is (D).", "(D)"),
        ("reasoning", "Of 3 and 4 I choose none.", None),
        ("boxed", r"It is \boxed{\text{A}}", r"\text{A}"),
    ],
)
def test_choices_are_found(style, text, answer):
    asked = [question(answer="A", kind="choice", choices=["x1", "x2", "x3", "x4"])]
    found = STYLES[style].verifier(asked).judge([response(text, "A", kind="choice", choices=asked[0].meta["choices"])])
    assert found[0].answer == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So.\n\nAnswer: $\\frac{1}{2}$", "$\\frac{1}{2}$"),
        ("**Answer:** 12 apples  ", "12 apples"),
        ("Answer: 1\nAnswer: 2\n", "2"),
        ("Thus \\boxed{7}", "7"),
    ],
)
def test_simple_evals_numbers(text, answer):
    [found] = STYLES["simple-evals"].verifier([question()]).judge([response(text)])
    assert found.answer == answer


def test_minervas_sentence_is_read(pool):
    verifier = STYLES["lm-eval:minerva_math"].verifier([question()], pool)
    full, cut = "Final Answer: The final answer is $\\frac{1}{2}$. I hope it is correct.", "The final answer is $0.5$"
    found = verifier.judge([response(full, r"\frac12"), response(cut, r"\frac12")])
    assert [(each.verdict, each.well_formed) for each in found] == [(Verdict.RIGHT, True), (Verdict.RIGHT, False)]


def test_a_pattern_has_one_group():
    with pytest.raises(ValueError, match="2 groups; wanted one"):
        Marked("(a)(b)")


@pytest.mark.parametrize(
    ("first", "second", "more"),
    [
        ("1,234.50", r"\$\frac{2469}{2}", {}),
        ("12 apples", "12.0", {}),
        (r"\dfrac{x}{2}", r"\frac{x}{2}", {}),
        ("(b)", "B) Paris", {"kind": "choice"}),
        ("paris", "B", {"kind": "choice", "choices": ["London", "Paris"]}),
        ("a  b", "a b", {"kind": "text"}),
    ],
)
def test_same_answers_have_one_key(first, second, more):
    assert answer_key(first, **more) == answer_key(second, **more)


@pytest.mark.parametrize(
    ("first", "second", "more"),
    [
        ("12", "12%", {}),
        ("1/3", "0.333", {}),
        ("x", "y", {}),
        ("A", "B", {"kind": "choice"}),
        ("a b", "ab", {"kind": "exact"}),
    ],
)
def test_other_answers_have_others(first, second, more):
    assert answer_key(first, **more) != answer_key(second, **more)


def test_a_description_holds_what_decides_verdicts_and_nothing_else(pool):
    plain = Grader(Tags())
    same = describe_verifier(plain)
    assert describe_verifier(Grader(Tags(), pool=pool)) == same
    others = [
        Grader(Tags(answer=("<a>", "</a>"))),
        Grader(Tags(), fallbacks=("boxed",)),
        Grader(Tags(), equality=Equality(tolerance=0.1)),
        Grader(Tags(), scorers={"mine": Scorer("my.module:score")}),
        Grader(Boxed()),
    ]
    described = [json.dumps(describe_verifier(each), sort_keys=True) for each in (plain, *others)]
    assert len(set(described)) == len(described)
    assert json.loads(json.dumps(same)) == same
