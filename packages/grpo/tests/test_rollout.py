"""A rollout: who is asked, who judges, what is replaced, and what is wrong is named."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from coldforge.grpo import GrpoConfig, Judgement, Steps, StoppedError, collect
from coldforge.grpo.rollout import seed_of


def make(**options):
    return GrpoConfig(**({"steps": 4, "questions": 4, "group_size": 4} | options))


@pytest.fixture
def gather(toy):
    """`collect` with the toy's parts, any of them replaced."""

    def call(config, position=0, number=0, **other):
        parts = {"prompt": toy.prompt, "sample": toy.sampler, "judge": toy.judge} | other
        return collect(toy.make_params(), number, position, config=config, **parts)

    return call


def equal_at(positions):
    """A judge for whom all samples of some questions are worth the same."""

    def judge(position, samples):
        right = [0.0] * len(samples) if position in positions else [1.0, *[0.0] * (len(samples) - 1)]
        return Judgement(right, correct=right)

    return judge


def test_samples_are_in_the_order_of_the_questions(toy, gather):
    """The sampler and the judges finish groups in any order."""

    def slow_first(position, samples):
        time.sleep(0.05 if position == 10 else 0)
        return toy.judge(position, samples)

    found, position = gather(make(), position=10, judge=slow_first)
    assert position == 14
    assert found.positions.tolist() == [10, 11, 12, 13]
    for i in range(16):
        np.testing.assert_array_equal(found.prompt_of(i), toy.prompt(10 + i // 4))
        assert found.texts[i] == " ".join(map(str, found.tokens[i]))
        assert found.notes[i] == f"question {10 + i // 4}"
        assert found.parts["good"][i] == (found.tokens[i] == toy.GOOD).mean()
        assert found.ended[i] == (found.tokens[i][-1] == toy.EOS)
    assert found.counts["tokens"] == found.lengths.sum()
    assert found.advantages is None


def test_samples_depend_on_seed_rollout_and_question_alone(gather):
    first, _ = gather(make(), position=2)
    longer, _ = gather(make(questions=6), position=1)
    for i in range(12):
        np.testing.assert_array_equal(first.tokens[i], longer.tokens[i + 4])
    for other in ({"config": make(seed=1)}, {"config": make(), "number": 1}):
        found, _ = gather(position=2, **other)
        assert any(not np.array_equal(a, b) for a, b in zip(first.tokens, found.tokens, strict=True))
    seeds = {seed_of(s, n, p) for s in range(3) for n in range(30) for p in range(100)}
    assert len(seeds) == 9000
    assert max(seeds) < 2**32


def test_progress_is_told(gather):
    told = []
    gather(make(resample=2.0), judge=equal_at({1}), progress=lambda done, of: told.append((done, of)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4), (5, 5)]


def test_equal_groups_are_replaced(gather):
    asked = []

    def judge(position, samples):
        asked.append(position)
        return equal_at({1, 2, 5})(position, samples)

    found, position = gather(make(resample=3.0), judge=judge)
    assert sorted(asked) == list(range(7)), "four; two for 1 and 2; one for 5"
    assert position == 7
    assert found.positions.tolist() == [0, 3, 4, 6]
    assert {name: found.counts[name] for name in ("asked", "equal", "kept_equal")} == {
        "asked": 7, "equal": 3, "kept_equal": 0
    }  # fmt: skip
    assert found.counts["tokens"] > found.lengths.sum(), "what was replaced was sampled too"
    without, position = gather(make(), judge=judge)
    assert (position, without.counts["equal"], without.counts["kept_equal"]) == (4, 2, 2)


def test_replacing_is_bounded_and_falls_back(gather):
    """Twice the questions in all: then equal groups fill the rollout up, the earliest first."""
    found, position = gather(make(resample=2.0), judge=equal_at({*range(100)} - {2, 6}))
    assert position == 8
    assert found.positions.tolist() == [0, 1, 2, 6]
    assert {name: found.counts[name] for name in ("asked", "equal", "kept_equal")} == {
        "asked": 8, "equal": 6, "kept_equal": 2
    }  # fmt: skip


def test_what_counts_as_equal_follows_the_advantage(gather):
    def one_reward_differs(position, samples):
        return Judgement([1.0] * 4, parts={"a": [0.0, 1.0, 0.0, 1.0], "b": [1.0, 0.0, 1.0, 0.0]})

    assert gather(make(), judge=one_reward_differs)[0].counts["equal"] == 4
    assert gather(make(advantage="gdpo"), judge=one_reward_differs)[0].counts["equal"] == 0

    def steps_differ(position, samples):
        return Judgement([0.0] * 4, steps=[Steps([1, len(one.tokens)], [1.0, 0.0]) for one in samples])

    assert gather(make(advantage="process"), judge=steps_differ)[0].counts["equal"] == 0

    def by_rounding(position, samples):
        return Judgement([0.1 + 0.2, 0.3, 0.3, 0.3])

    assert gather(make(), judge=by_rounding)[0].counts["equal"] == 4
    assert gather(make(), judge=equal_at(()))[0].counts["equal"] == 0
    assert gather(make(tolerance=1.0), judge=equal_at(()))[0].counts["equal"] == 4


# --- judges


def test_what_a_judge_raises_is_raised_before_more_is_sampled(toy, gather):
    sampled, judged = [], threading.Event()

    def sample(params, asks):
        for index, group in toy.sampler(params, asks):
            if sampled:
                judged.wait(5)
            sampled.append(index)
            yield index, group

    def judge(position, samples):
        try:
            raise ZeroDivisionError("a rule with a bug")
        finally:
            threading.Timer(0.05, judged.set).start()

    with pytest.raises(ZeroDivisionError, match="a rule with a bug") as raised:
        gather(make(questions=50), sample=sample, judge=judge)
    assert "question at position" in raised.value.__notes__[0]
    assert len(sampled) == 2


@pytest.mark.parametrize(
    ("judgement", "said"),
    [
        (Judgement([0.0, 1.0, float("nan"), 0.0]), "nan.* of 'rewards'; wanted finite"),
        (Judgement([0.0] * 3), "3 values of 'rewards' for 4 samples"),
        (Judgement([0.0] * 4, {"form": [1.0]}), "1 values of 'form' for 4 samples"),
        (Judgement([0.0] * 4, {"form": [1.0, 1.0, 1.0, float("inf")]}), "inf.* of 'form'; wanted finite"),
        (Judgement([0.0] * 4, correct=[1.0] * 5), "5 values of 'correct'"),
        (Judgement([0.0] * 4, texts=["a"]), "1 values of 'texts'"),
        (Judgement([0.0] * 4, steps=[Steps([1], [1.0])]), "1 values of 'steps'"),
    ],
)
def test_what_a_judge_returns_is_checked(gather, judgement, said):
    with pytest.raises(ValueError, match=said):
        gather(make(), judge=lambda position, samples: judgement)


def test_a_judge_must_name_the_same_rewards_always_and_give_steps_if_needed(gather):
    def fickle(position, samples):
        return Judgement([0.0] * 4, {"form" if position else "style": [0.0] * 4})

    with pytest.raises(ValueError, match="named the rewards form for the question at position 1, and style before"):
        gather(make(), judge=fickle)
    with pytest.raises(ValueError, match="needs the judge to give `steps`"):
        gather(make(advantage="process"))


def test_judges_need_not_know_all(gather):
    found, _ = gather(make(), judge=lambda position, samples: Judgement(np.arange(4, dtype=np.float32)))
    assert np.isnan(found.correct).all()
    assert (found.texts, found.notes, found.steps, found.parts) == (None, None, None, {})


def test_a_stop_does_not_wait_for_a_judge_that_hangs(toy, gather):
    release, began = threading.Event(), time.monotonic()

    def hangs(position, samples):
        release.wait(60)
        return toy.judge(position, samples)

    def stop():
        return "SIGTERM" if time.monotonic() - began > 0.5 else None

    with pytest.raises(StoppedError, match="SIGTERM"):
        gather(make(), judge=hangs, stop=stop)
    assert time.monotonic() - began < 10
    release.set()


def test_a_process_ends_though_a_judge_hangs():
    """Threads of an executor would be waited for at exit, for ever."""
    code = f"""
import sys, threading, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
import conftest as toy
from coldforge.grpo import GrpoConfig, StoppedError, collect
began = time.monotonic()
try:
    collect(toy.make_params(), 0, 0, prompt=toy.prompt, sample=toy.sampler,
            judge=lambda position, samples: threading.Event().wait(),
            config=GrpoConfig(steps=1, questions=2, group_size=2),
            stop=lambda: "enough" if time.monotonic() - began > 0.3 else None)
except StoppedError as error:
    print("stopped:", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "stopped: enough\n"


def test_told_to_stop_it_samples_no_more(toy, gather):
    sampled = []

    def sample(params, asks):
        for index, group in toy.sampler(params, asks):
            sampled.append(index)
            yield index, group

    with pytest.raises(StoppedError, match="the time box"):
        gather(make(), sample=sample, stop=lambda: "the time box" if len(sampled) == 2 else None)
    assert len(sampled) == 2


# --- samplers and prompts


def broken(toy, spoil):
    """A sampler whose answers go through `spoil(list of (index, samples))`."""

    def sample(params, asks):
        yield from spoil(list(toy.sampler(params, asks)))

    return sample


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda groups: groups[1:], r"returned 3 of 4 groups; group \d is absent"),
        (lambda groups: [*groups, groups[0]], r"returned group \d, which was not asked for, or is there already"),
        (lambda groups: [(-1, groups[0][1])], "returned group -1, which was not asked for"),
        (lambda groups: [(9, groups[0][1])], "returned group 9, which was not asked for"),
        (lambda groups: [(i, samples[:3]) for i, samples in groups], r"question \d got 3 samples; wanted 4"),
        (
            lambda groups: [(i, [one._replace(logprobs=one.logprobs * np.nan) for one in s]) for i, s in groups],
            "log-probabilities that are not finite: the model gave NaN",
        ),
        (
            lambda groups: [(i, [type(s[0])(s[0].tokens[:0], s[0].logprobs[:0], "stop")] * 4) for i, s in groups],
            "has 0 tokens and 0 log-probabilities",
        ),
        (
            lambda groups: [(i, [one._replace(logprobs=one.logprobs[:-1]) for one in s]) for i, s in groups],
            r"has (\d) tokens and \d log-probabilities; wanted one for each",
        ),
    ],
)  # fmt: skip
def test_what_a_sampler_returns_is_checked(toy, gather, spoil, said):
    with pytest.raises(ValueError, match=said):
        gather(make(), sample=broken(toy, spoil))


def test_an_empty_prompt_is_named(gather):
    """Nothing would predict the first token of its completion."""
    with pytest.raises(ValueError, match=r"position 2 has shape \(0,\)"):
        gather(make(), prompt=lambda position: np.arange(position != 2, dtype=np.int32))
