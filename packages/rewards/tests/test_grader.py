"""Replies become judged ones, by comparison or by a task's own scorer."""

import os
import warnings

import pytest

from coldforge.rewards import Equality, Grader, MathPool, Response, Scorer, Tags

FORM = Tags()


def reply(answer, gold=None, *, ended=True, **meta):
    return Response(f"<reasoning>so</reasoning><answer>{answer}</answer>", 10, ended, "How many?", gold, meta)


def judged(*responses, **settings):
    return Grader(FORM, **settings).judge(responses)


def test_comparison():
    texts = ["<answer>12</answer>", "12", "<reasoning>a</reasoning><answer>12.0</answer>", "<answer>13</answer>"]
    found = judged(*(Response(text, 5, True, gold="12") for text in texts))
    assert [(one.answer, one.verdict, one.correct, one.credit, one.well_formed) for one in found] == [
        ("12", "right", True, 1.0, False),
        (None, "no answer", False, 0.0, False),
        ("12.0", "right", True, 1.0, True),
        ("13", "wrong", False, 0.0, False),
    ]
    assert [one.reasoning for one in found] == ["", "12", "a", ""]
    [loose] = judged(Response("12", 5, True, gold="12"), fallbacks=["last number"])
    assert loose.correct


def test_a_judged_reply_keeps_what_it_was():
    response = reply("12", "12", level=3)
    [found] = judged(response)
    assert (found.text, found.tokens, found.question, found.gold) == (response.text, 10, "How many?", "12")
    assert found.meta == {"level": 3}


def test_a_reply_that_was_cut_off_is_not_well_formed_unless_allowed():
    assert [one.well_formed for one in judged(reply("12", "12", ended=False))] == [False]
    assert [one.well_formed for one in judged(reply("12", "12", ended=False), cut_off=True)] == [True]


def test_without_a_right_answer_there_is_no_verdict():
    found = judged(reply("12"), reply("x", "def f(): …", kind="code"), reply("x", "Let x be…", kind="proof"))
    assert [(one.verdict, one.correct, one.credit) for one in found] == [(None, None, 0.0)] * 3


def test_kind_and_choices_come_from_meta_or_settings():
    found = judged(
        reply("3 + 4", "7", kind="number"),
        reply("Paris", "B", choices=["London", "Paris"]),
        reply("007", "7", kind="exact"),
        reply("5 m", "5 cm"),
        equality=Equality(units="ignore"),
    )
    assert [one.correct for one in found] == [False, True, False, True]


def test_expressions_and_a_hanging_check(caplog):
    with MathPool(workers=1, seconds=2) as pool:
        found = Grader(FORM, pool=pool).judge(
            [
                reply("(x+1)^2", "x^2+2x+1"),
                reply("9^{9^{9^{9}}}", r"\sqrt{2}"),
                reply(r"\frac{\sqrt 8}{2}", r"\sqrt{2}"),
            ]
        )
        assert [one.verdict for one in found] == ["right", "timeout", "right"]
        assert found[1].correct is False
        assert "of processor time" in found[1].detail
        assert pool.stats.timeouts == 1


def test_reasoning_gyms_own_scorer(pool):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import reasoning_gym
    entry = reasoning_gym.create_dataset("countdown", size=1, seed=3)[0]
    target = entry["metadata"]["target"]
    meta = {"scorer": "reasoning-gym", "task": "countdown", "entry": entry}
    found = Grader(FORM, pool=pool).judge(
        [
            reply(entry["answer"], **meta),
            reply(str(target), **meta),
            reply("nonsense", **meta),
            Response("no", 1, True, meta=meta),
        ]
    )
    assert [one.verdict for one in found] == ["right", "wrong", "wrong", "no answer"]
    assert found[0].credit == 1.0
    assert 0 < found[1].credit < 1  # part of the credit
    assert found[3].credit == 0.0


@pytest.mark.parametrize(
    ("scorer", "meta", "message"),
    [
        (None, {"scorer": "mine"}, "there is no scorer 'mine'; there are reasoning-gym"),
        (None, {"scorer": "reasoning-gym", "task": "countdown"}, "needs 'entry' in meta; there are scorer, task"),
        (Scorer("builtins:float"), {"scorer": "mine"}, "the scorer 'mine' returned 12.0; wanted a number from 0 to 1"),
        (Scorer("builtins:str"), {"scorer": "mine"}, "the scorer 'mine' returned '12'"),
        (Scorer("math:isfinite"), {"scorer": "mine"}, "the scorer 'mine' (returned|cannot)"),
    ],
)
def test_a_scorer_that_is_wrong_is_said(pool, scorer, meta, message):
    grader = Grader(FORM, scorers={"mine": scorer} if scorer else {}, pool=pool)
    if scorer and scorer.function == "math:isfinite":  # it raises on a string: that costs the check
        assert grader.judge([reply("12", **meta)])[0].verdict == "error"
        return
    with pytest.raises(ValueError, match=message):
        grader.judge([reply("12", **meta)])


def test_a_scorer_that_ends_its_process_costs_one_reply(pool):
    grader = Grader(FORM, scorers={"mine": Scorer("builtins:eval", right=0.5)}, pool=pool)
    found = grader.judge([reply(text, scorer="mine") for text in ("0.6", "__import__('os')._exit(1)", "0.4")])
    assert [(one.verdict, one.credit) for one in found] == [("right", 0.6), ("error", 0.0), ("wrong", 0.4)]
    assert os.getpid()
