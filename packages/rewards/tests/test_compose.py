"""Weighted sums, each part by itself; what is wrong with a reward is said, with the reply."""

import math
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from coldforge.rewards import (
    Accuracy,
    FormatStrict,
    Grader,
    Response,
    RewardError,
    Rewards,
    SoftOverlong,
    Tags,
    Weighted,
    each,
)

FORM = Tags()
GOOD = "<reasoning>3 × 4</reasoning>\n<answer>12</answer>"
RESPONSES = [
    Response(GOOD, 20, True, "How many?", "12"),
    Response("<answer>12</answer>", 95, True, "How many?", "12"),
    Response("I cannot say, but " + "it is long " * 300 + "at its end", 100, False, "How many?", "12", {"level": 3}),
]


def rewards(*parts, **more):
    return Rewards([Weighted(f"part{i}", 1.0, part) for i, part in enumerate(parts)], Grader(FORM), **more)


def test_the_total_is_the_weighted_sum_of_its_parts():
    parts = [
        Weighted("accuracy", 2.0, Accuracy()), Weighted("format", 0.5, FormatStrict()),
        Weighted("overlong", 1.0, SoftOverlong(100, 10)), Weighted("tokens", 0.0, each(lambda reply: reply.tokens)),
    ]  # fmt: skip
    scores = Rewards(parts, Grader(FORM)).score(RESPONSES)
    assert [score.total for score in scores] == [2.5, 1.5, -1.0]
    assert scores[1].parts == {"accuracy": 1.0, "format": 0.0, "overlong": -0.5, "tokens": 95.0}
    assert scores[1].notes == {"answer": "12", "verdict": "right", "correct": True, "well_formed": False, "detail": ""}
    assert [score.notes["verdict"] for score in scores] == ["right", "right", "no answer"]
    assert rewards(Accuracy()).score([]) == []


def test_replies_need_no_right_answer():
    [score] = rewards(FormatStrict()).score([Response(GOOD, 20, True)])
    assert (score.total, score.notes["verdict"], score.notes["correct"]) == (1.0, None, None)


def test_numpys_numbers_are_numbers():
    class Half:  # as numpy's: registered as a real number, not a float
        def __float__(self):
            return 0.5

    import numbers

    numbers.Real.register(Half)
    assert rewards(each(lambda reply: Half())).score(RESPONSES[:1])[0].parts == {"part0": 0.5}


def raises_on_the_long(replies):
    if any(len(reply.text) > 1000 for reply in replies):
        raise ZeroDivisionError("by nothing")
    return [0.0] * len(replies)


@pytest.mark.parametrize(
    ("reward", "problem", "culprit"),
    [
        (raises_on_the_long, "raised ZeroDivisionError: by nothing", 2),
        (each(lambda reply: math.nan if "cannot" in reply.text else 1), "returned nan; wanted a finite number", 2),
        (each(lambda reply: math.inf), "returned inf", 0),
        (each(lambda reply: None), "returned None; wanted a finite number", 0),
        (each(lambda reply: "1.0"), "returned '1.0'", 0),
        (each(lambda reply: 1j), "returned 1j", 0),
        (lambda replies: [1.0], "returned 1 values for 3 replies; wanted one for each", 0),
        (lambda replies: [1.0] * 4, "returned 4 values for 3 replies", 0),
        (lambda replies: 1.0, "returned 1.0; wanted a number for each reply", 0),
        (lambda replies: None, "returned None; wanted a number for each reply", 0),
    ],
)
def test_a_bad_reward_stops_with_the_reply(reward, problem, culprit):
    with pytest.raises(RewardError) as caught:
        rewards(FormatStrict(), reward).score(RESPONSES)
    message = str(caught.value)
    assert message.startswith(f"the reward 'part1' {problem}")
    assert caught.value.reward == "part1"
    assert caught.value.response.text == RESPONSES[culprit].text
    assert f"--- reply {culprit}: {RESPONSES[culprit].tokens} tokens" in message
    if culprit == 2:
        assert "cut off; right answer: '12'; meta: level" in message
        assert "I cannot say" in message
        assert "at its end\n---" in message
        assert "[…]" in message
        assert len(message) < 2000


def test_what_raises_keeps_its_cause():
    with pytest.raises(RewardError) as caught:
        rewards(raises_on_the_long).score(RESPONSES)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_batch_that_fails_only_as_one_is_said_without_a_reply():
    def only_alone(replies):
        if len(replies) > 1:
            raise ValueError("too many")
        return [0.0]

    with pytest.raises(RewardError, match=r"the reward .part0. raised ValueError: too many$") as caught:
        rewards(only_alone).score(RESPONSES)
    assert caught.value.response is None


def test_a_grader_that_fails_shows_the_reply():
    bad = Response(GOOD, 20, True, "How much?", "")
    with pytest.raises(RewardError, match="the reward 'grader' raised ValueError: the right answer is empty") as caught:
        rewards(Accuracy()).score([RESPONSES[0], bad])
    assert caught.value.response is bad


def test_a_reward_that_hangs():
    start = time.monotonic()
    with pytest.raises(RewardError, match=r"the reward 'part0' did not return within 0.2 s on 3 replies"):
        rewards(lambda replies: time.sleep(5), seconds=0.2).score(RESPONSES)
    assert time.monotonic() - start < 2
    assert rewards(FormatStrict(), seconds=None).score(RESPONSES)[0].total == 1


def test_threads():
    all_of_it = rewards(Accuracy(), FormatStrict())
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: all_of_it.score(RESPONSES), range(50)))
    assert found == [found[0]] * 50


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "there are no rewards"),
        ([Weighted("a", 1, Accuracy()), Weighted("a", 1, Accuracy())], "two rewards are called 'a'"),
        ([Weighted("a", math.nan, Accuracy())], "the weight of 'a' is nan; wanted a finite number"),
        ([Weighted("a", "1", Accuracy())], "the weight of 'a' is '1'"),
    ],
)
def test_settings_that_make_no_sense(parts, message):
    with pytest.raises(ValueError, match=message):
        Rewards(parts, Grader(FORM))
