"""What samples are worth: rewards made of options, tasks' own scorers, checks that hang."""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coldforge.apps.grpo.config import RewardOptions
from coldforge.apps.grpo.inputs import Inputs, question_at
from coldforge.apps.grpo.judge import Judge, weighted_rewards
from coldforge.apps.grpo.presets import tiny
from coldforge.data import ReasoningFormat, Tokenizer
from coldforge.data.questions import open_questions, split_questions
from coldforge.rollout import Sample

FORM = ReasoningFormat(template="Think, then answer.")
RIGHT = "<reasoning>\nIt is that.\n</reasoning>\n<answer>7</answer>"
WRONG = RIGHT.replace("7", "8")
BARE = "<answer>7</answer>"
NOTHING = "It is that."


@pytest.fixture(scope="session")
def seven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two questions with the answer 7."""
    path = tmp_path_factory.mktemp("seven") / "seven.jsonl"
    path.write_text("".join(json.dumps({"question": text, "answer": "7"}) + "\n" for text in ("Which?", "What?")))
    return path


@pytest.fixture
def judge(tokenizer: Path) -> Callable[..., Judge]:
    """A judge of some questions with some rewards."""

    def make(sources: Sequence[str], heldout: int = 1, **rewards: Any) -> Judge:
        questions = split_questions(open_questions(sources), heldout)
        config = dataclasses.replace(tiny(), rewards=RewardOptions(**rewards))
        manifest: Any = None  # nothing here asks for it
        return Judge(Inputs(manifest, None, None, Tokenizer.load(tokenizer), FORM, *questions), config)

    return make


def sampled(judging: Judge, *texts: str, ended: bool = True) -> list[Sample]:
    """Texts as the sampler returns them: with the token that ends a turn, unless they were cut off."""
    tokenizer = judging.inputs.tokenizer
    end = [tokenizer.stop_ids[-1]] if ended else []
    found = [np.array([*tokenizer.encode(text), *end], np.int32) for text in texts]
    return [Sample(ids, np.zeros(len(ids), np.float32), "stop" if ended else "length") for ids in found]


def test_each_reward_is_reported_and_their_weighted_sum_counts(judge: Callable[..., Judge], seven: Path) -> None:
    with judge([str(seven)], accuracy=2.0, format=0.5, language=0.25) as judging:
        samples = sampled(judging, RIGHT, WRONG, BARE, NOTHING)
        found = judging(0, samples)
    assert found.parts["accuracy"] == [1, 0, 1, 0]
    assert found.parts["format"] == [1, 1, 0, 0]
    assert list(found.parts) == ["accuracy", "format", "language"]
    for i, total in enumerate(found.rewards):
        assert (
            total == 2 * found.parts["accuracy"][i] + 0.5 * found.parts["format"][i] + 0.25 * found.parts["language"][i]
        )
    assert found.correct == [1, 0, 1, 0]
    assert found.well_formed == [1, 1, 0, 0]
    assert found.texts == [RIGHT, WRONG, BARE, NOTHING], "as it is trained on, without the end of the turn"
    assert found.notes == [
        "answer '7': right; wanted '7'", "answer '8': wrong; wanted '7'", "answer '7': right; wanted '7'",
        "no answer: no answer; wanted '7'",
    ]  # fmt: skip


def test_a_gate_pays_for_right_answers_in_form_only(judge: Callable[..., Judge], seven: Path) -> None:
    with judge([str(seven)], gate=True) as judging:
        found = judging(0, sampled(judging, RIGHT, BARE))
        assert (found.parts["accuracy"], found.correct) == ([1, 0], [1, 1])
        cut_off = judging(0, sampled(judging, RIGHT, ended=False))
        assert (cut_off.parts["accuracy"], cut_off.well_formed) == ([0], [0]), "a turn that does not end has no form"


def test_form_by_parts_pays_for_each_part(judge: Callable[..., Judge], seven: Path) -> None:
    with judge([str(seven)], accuracy=0.0, format_kind="parts") as judging:
        values = judging(0, sampled(judging, NOTHING, BARE, RIGHT)).rewards
    assert values[0] < values[1] < values[2] == 1


def test_answers_are_looked_for_elsewhere_only_if_asked(judge: Callable[..., Judge], seven: Path) -> None:
    boxed = r"So it is \boxed{7}"
    with judge([str(seven)]) as strict, judge([str(seven)], fallbacks=("boxed",)) as lenient:
        assert strict(0, sampled(strict, boxed)).correct == [0]
        assert lenient(0, sampled(lenient, boxed)).correct == [1]
        [held_out] = strict.graded(strict.inputs.heldout, sampled(strict, boxed))
        assert (held_out.correct, held_out.well_formed) == (True, False), "held-out replies are always read so"


def test_overlong_replies_are_counted_in_tokens(judge: Callable[..., Judge], seven: Path) -> None:
    limit = tiny().rollout.max_new_tokens
    with judge([str(seven)], accuracy=0.0, format=0.0, overlong=2.0, overlong_cache=16) as judging:
        words = sampled(judging, *(" ".join(["7"] * n) for n in range(3, 40, 4)))
        found = judging(0, words)
    for sample, total in zip(words, found.rewards, strict=True):
        assert total == pytest.approx(2 * min(0, max(-1, (limit - 16 - len(sample.tokens)) / 16)))
    assert found.rewards[0] == 0
    assert min(found.rewards) == -2


def test_rewards_are_those_of_weights_other_than_zero() -> None:
    made = weighted_rewards(RewardOptions(format=0.0, repetition=0.5, overlong=1.0), FORM, limit=100)
    assert [(one.name, one.weight) for one in made] == [("accuracy", 1.0), ("repetition", 0.5), ("overlong", 1.0)]
    assert made[-1].function.cache == 20, "a fifth of the limit"
    with pytest.raises(ValueError, match="all weights of rewards are 0"):
        weighted_rewards(RewardOptions(accuracy=0.0, format=0.0), FORM, limit=100)


def test_a_tasks_own_scorer_says_what_is_right(judge: Callable[..., Judge]) -> None:
    """Countdown has many right answers: 'the' answer is only one of them."""
    pytest.importorskip("reasoning_gym")
    with judge(["countdown:6"]) as judging:
        question = question_at(judging.inputs, judging.config, 0)
        target = question.meta["entry"]["metadata"]["target"]
        answers = (question.answer, f"({question.answer})", str(target))
        found = judging(0, sampled(judging, *(RIGHT.replace("7", str(answer)) for answer in answers)))
        assert found.correct == [1, 1, 0], "the target itself uses none of the numbers"
        assert found.parts["accuracy"][:2] == [1, 1]
        assert found.parts["accuracy"][2] < 0.1, "what the task pays for it"


@pytest.mark.whole
def test_a_check_that_hangs_costs_its_sample(judge: Callable[..., Judge], tmp_path: Path) -> None:
    path = tmp_path / "roots.jsonl"
    rows = ({"question": text, "answer": r"\sqrt{2}", "kind": "expression"} for text in ("Which root?", "What root?"))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with judge([str(path)], timeout=1.0, processes=1) as judging:
        assert judging.faults() == {}, "nothing has been judged"
        hangs = RIGHT.replace("7", "9^{9^{9^{9}}}")
        found = judging(0, sampled(judging, hangs, RIGHT.replace("7", r"\frac{2}{\sqrt 2}")))
        assert found.parts["accuracy"] == [0, 1]
        assert found.notes is not None
        assert ": timeout (" in found.notes[0]
        assert "1 s of processor time" in found.notes[0]
        assert all(map(math.isfinite, found.rewards))
        assert judging.faults() == {"rewards/timeouts": 1, "rewards/errors": 0}
        assert judging.faults() == {}, "they are told once"
        again = judging(0, sampled(judging, RIGHT.replace("7", r"2/\sqrt 2")))
        assert (again.correct, judging.faults()) == ([1], {"rewards/timeouts": 0, "rewards/errors": 0})
