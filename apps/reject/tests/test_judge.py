"""Replies are judged by the rules, each with what the next step asks of it."""

import numpy as np

from coldforge.apps.reject.config import GradingOptions
from coldforge.apps.reject.judge import Judge
from coldforge.data import Question, ReasoningFormat, Tokenizer
from coldforge.rollout import Sample

FORM = ReasoningFormat(template="Think, then answer.")


def test_replies_are_judged_where_the_answer_belongs(tokenizer) -> None:
    loaded = Tokenizer.load(tokenizer)
    question = Question("0" * 16, "Say 0 1 2", "12", "auto", "numbers")

    def sampled(text: str, *, ended: bool = True) -> Sample:
        ids = loaded.encode(text) + [loaded.end_of_turn_id] * ended
        return Sample(np.array(ids, np.int32), np.zeros(len(ids), np.float32), "stop" if ended else "length")

    texts = (FORM.render("It is 0 1 2", "12"), FORM.render("It is 0 1 2", "13"), "It is 12", FORM.render("x", "12.0"))
    with Judge(loaded, FORM, GradingOptions(processes=1)) as judge:
        found = judge(question, [*map(sampled, texts), sampled(texts[0], ended=False)])
    assert [one.verdict for one in found] == ["right", "wrong", "no answer", "right", "right"]
    assert [one.text for one in found] == [*texts, texts[0]]
    assert [one.ended for one in found] == [True] * 4 + [False]
    assert found[0].tokens == len(loaded.encode(texts[0])) + 1
    assert found[1].answer == "13"
