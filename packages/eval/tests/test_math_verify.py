"""Math-Verify's own cases, through the verifier that a task with a boxed answer is given."""

import json
from pathlib import Path

import pytest

from coldforge.data.records import Question
from coldforge.eval.prompts import STYLES
from coldforge.eval.verify import Boxed
from coldforge.rewards import MathPool, Response, Verdict

pytestmark = pytest.mark.whole

MATH_VERIFY = json.loads((Path(__file__).parent / "data" / "math_verify_cases.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pool():
    with MathPool(workers=1, seconds=20) as pool:
        yield pool


# Right answer → why we and Math-Verify differ; all other cases must come out as its tests want them.
DECIMAL_COMMA = "a comma parts lists or thousands here, unless decimal=',' is asked for"
NO_FORM = "the answer stands in prose; we want a box, tags, or words that announce it"
EXACT = "rounded: wrong unless a tolerance is asked for"
GOLD = "the right answer is written as no task writes it"
SPELLING = "a spelling that rewards does not know"
DIFFERENT = {
    ("1000.99", "1000,99"): DECIMAL_COMMA,
    ("1,22", "1.22"): DECIMAL_COMMA,
    ("2.74", "Soucis : 2,74 $ a.."): DECIMAL_COMMA,
    ("0,111", "0.111"): DECIMAL_COMMA,
    ("$28\\%$", "$28$ %"): SPELLING,
    ("$125$ miles", "The distance is $\\boxed{125\\textnormal{ miles}}.$"): SPELLING,
    (" So the answer is: \\[ \\boxed{11111111100} \\]", "is $\\boxed{11,\\! 111,\\! 111,\\! 100}$"): SPELLING,
    (" So the answer is: \\[ \\boxed{32349} \\]", "is $\\boxed{32,\\! 349}$"): SPELLING,
    ("$\\frac{1}{12}$", "$0.0833333333333333$"): EXACT,
    ("$(\\frac{3}{5},\\frac{8}{3}]$", "$(0.6,2.6667]$"): EXACT,
    ("$(\\begin{pmatrix}\\frac{1}{3}\\\\ \\frac{1}{5} \\end{pmatrix})$",
     "$\\begin{pmatrix}0.33\\\\0.2 \\end{pmatrix}$"): EXACT,
    ("$(1,3)$", "${1,3}$"): "a pair is no set",
    ("$x \\in [-2,7]$", "$-2 \\\\le x \\\\le 7$"): "relations may be written as sets; its test turns that off",
    ("$f(x)$", "$f(y)$"): "names of variables count; its test turns that off",
    ("$\\\\boxed{35 cm} ++++++ \\\\boxed{4}$", "${35 cm,4}$"): GOLD,
    ("$(11,7)or(7,11)$", "$\\boxed{(7,11),\\ (11,7)}$"): GOLD,
    ("$S_{MBCN}:S=7:32$", "$\\boxed{7:32}$"): GOLD,
    ("$\\frac{NO}{BO}=\\frac{1}{\\sqrt{6}}$", "$\\frac{1}{\\sqrt{6}}$"): GOLD,
    ("$1$ and $2$ and $3$", "$\\boxed{1,2,3}$"): GOLD,
    ("$21,16$ or $11$", "$21,16,11$"): GOLD,
    ("\\\\boxed{W(n) = 1 \\\\text{ and } W(n) = -1", "W(x)=1orW(x)=-1"): GOLD,
    ("\\boxed{1} papers and \\boxed{2} bins", "$\\boxed{1,2}$"): GOLD,
    ("$$(3, 3), (1, 1)$$", "$$\\boxed{(3, 3)} \\text{ for part (a) and } \\boxed{(1, 1)}$$"): NO_FORM,
    ("$1 - \\frac{1}{\\mathrm{e}}$", "$1 + \\frac{1}{\\mathrm{e}}$"): "its test calls them equal, which they are not",
}  # fmt: skip
# In prose without any form it takes the last expression; of these functions all answers are in prose.
PROSE = ("Answer ", "Therefore ", "We find ", "Thus ", "The ", "Here ", "Special ", "Matrix ", "When ", "Final ", "\\(")


def reply_of(answer):
    """Bare answers stand between tags, as our models are taught; others are replies as they are."""
    bare = answer.strip()
    wrapped = bare.startswith(("$", "\\[", "\\(")) and bare.rstrip(".").endswith(("$", "\\]", "\\)"))
    return answer if "\\boxed" in answer or not (wrapped or len(bare.split()) <= 2) else f"<answer>{answer}</answer>"


def gold_of(text):
    """A right answer in a solution is in its box, as MATH has them."""
    return Boxed().parse(text).answer if Boxed().is_well_formed(text) else text


@pytest.mark.parametrize("part", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_math_verifys_own_cases(pool, part):
    """A third of them, of each kind, at a time: computer algebra takes 0.1 s for one."""
    grader = STYLES["boxed"].verifier([Question("?", "?", "1", "auto", "test")], pool)
    cases = MATH_VERIFY[part::3]
    replies = [Response(reply_of(answer), 5, True, gold=gold_of(gold)) for _, _, gold, answer, *_ in cases]
    disagreed, agreed = [], {True: 0, False: 0}
    for (_, _, gold, answer, wanted, _), judged in zip(cases, grader.judge(replies), strict=True):
        if (judged.verdict is Verdict.RIGHT) == wanted:
            agreed[wanted] += 1
        elif (gold, answer) not in DIFFERENT and not answer.startswith(PROSE):
            disagreed.append((gold, answer, wanted, judged.detail))
    assert disagreed == []
    assert agreed[True] >= 45
    assert agreed[False] >= 10
