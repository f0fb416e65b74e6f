"""The gate: rates and their intervals, the paired comparison, what passes and what does not."""

import dataclasses
import json
import math
import re
from itertools import product

import numpy as np
import pytest

from coldforge.sft.gate import GateLimits, Graded, Rate, examples, judge, paired, rates


def reply(
    prompt: object, *, right: bool | None = True, good: bool = True, cut: bool = False, tokens: int = 10
) -> Graded:
    return Graded(
        prompt=str(prompt), text="…", tokens=tokens, well_formed=good, ended=not cut, truncated=cut, correct=right,
        fault="" if good else "</answer> occurs 0 times",
    )  # fmt: skip


def replies(n: int, *, right: int, good: int | None = None, cut: int = 0) -> list[Graded]:
    """n replies, the first `right` of them right and the first `good` well formed, the last `cut` cut off."""
    good = n if good is None else good
    return [reply(i, right=i < right, good=i < good, cut=i >= n - cut) for i in range(n)]


def failed(result) -> list[str]:
    return [check.name for check in result.checks if not check.passed]


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),  # Wilson's interval as statsmodels 0.14 has it
    [(95, 100, 0.88825, 0.97846), (0, 10, 0.0, 0.27753), (73, 73, 0.95001, 1.0), (1, 3, 0.06149, 0.79234)],
)
def test_intervals_are_wilsons(hits, n, low, high):
    assert Rate(hits, n).interval == pytest.approx((low, high), abs=1e-5)


def test_the_least_number_of_prompts_is_the_smallest_that_can_show_the_limit():
    limits = GateLimits()
    assert Rate(limits.min_prompts, limits.min_prompts).interval[0] >= limits.format
    assert Rate(limits.min_prompts - 1, limits.min_prompts - 1).interval[0] < limits.format


def test_intervals_cover_the_true_rate():
    rng = np.random.default_rng(0)
    for p in (0.5, 0.95):
        intervals = [Rate(int(k), 100).interval for k in rng.binomial(100, p, 2000)]
        assert 0.93 < np.mean([low <= p <= high for low, high in intervals]) < 0.98


def test_rates_count_what_they_say():
    some = [
        reply(0, tokens=10),
        reply(1, right=False, tokens=30),
        reply(2, right=True, good=False, tokens=20),
        reply(3, right=None, good=False, cut=True, tokens=100),
    ]
    found = rates(some)
    assert (found.format, found.ended, found.truncated) == ((2, 4), (3, 4), (1, 4))
    assert (found.accuracy, found.in_form) == ((2, 3), (1, 3))
    assert (found.length, found.length_right, found.length_wrong) == (40, 15, 30)
    assert found.faults == {"</answer> occurs 0 times": 2}


def test_a_fall_like_the_seeds_is_seen_and_named():
    """59.38 % before, 0 % after, on 32 questions; here on 80."""
    result = judge(replies(80, right=47), replies(80, right=0), GateLimits())
    assert failed(result) == ["accuracy"]
    assert not result.passed
    [why] = [check.why for check in result.checks if not check.passed]
    assert "58.8 % before, 0.0 % after" in why
    assert "not by chance" in why
    assert result.accuracy.interval[1] < -0.4


def test_a_model_that_keeps_everything_passes():
    result = judge(replies(100, right=40, good=10, cut=60), replies(100, right=38), GateLimits())
    assert result.passed, result.checks
    assert result.base.format == (10, 100), "the base need not have the form"


@pytest.mark.parametrize(
    ("tuned", "wanted"),
    [
        ({"good": 94}, ["format"]),
        ({"good": 95}, []),
        ({"cut": 6}, ["ended", "truncated"]),
        ({"cut": 5}, []),
        ({"right": 40}, []),  # 10 points fewer: the limit itself
        ({"right": 39}, ["accuracy"]),
        ({"right": 100}, []),
    ],
)
def test_each_limit_holds_to_the_last_reply(tuned, wanted):
    assert failed(judge(replies(100, right=50), replies(100, **({"right": 50} | tuned)), GateLimits())) == wanted


def test_limits_are_options():
    base, tuned = replies(100, right=50), replies(100, right=20, good=60, cut=30)
    lenient = GateLimits(format=0.6, ended=0.7, truncated=0.3, accuracy_drop=0.3, min_prompts=100)
    assert judge(base, tuned, lenient).passed


def test_few_prompts_show_nothing():
    result = judge(replies(3, right=3), replies(3, right=3), GateLimits())
    assert failed(result) == ["prompts"]
    assert "fewer than 73" in result.checks[0].why
    assert judge(replies(3, right=3), replies(3, right=3), GateLimits(min_prompts=3)).passed
    assert not judge([], [], GateLimits(min_prompts=1)).passed


def test_a_drop_that_may_be_chance_says_so():
    result = judge(replies(80, right=5), [reply(i, right=i == 0) for i in range(80)], GateLimits(accuracy_drop=0.02))
    [check] = [check for check in result.checks if not check.passed]
    assert "may be chance (p = 0.12)" in check.why


def test_answers_that_cannot_be_graded_are_left_out_and_counted():
    base = [reply(i, right=None if i % 2 else True) for i in range(80)]
    result = judge(base, base, GateLimits())
    assert result.passed
    assert result.accuracy.n == 40
    assert any("40 of 80 prompts" in note for note in result.notes)
    code = [reply(i, right=None) for i in range(80)]
    nothing = judge(code, code, GateLimits())
    assert nothing.passed
    assert "not judged" in nothing.checks[-1].why


def test_notes_say_what_so_many_prompts_cannot_show():
    few = judge(replies(80, right=40), [reply(i, right=i % 2 == 0) for i in range(80)], GateLimits(accuracy_drop=0.2))
    assert few.accuracy.detectable > 0.2
    assert any("graded prompts show a drop of" in note for note in few.notes)
    none = judge(replies(80, right=2), replies(80, right=1), GateLimits())
    assert any("no accuracy to lose" in note for note in none.notes)


def test_the_comparison_is_by_prompt():
    base = [reply("a", right=True), reply("b", right=False), reply("c", right=True)]
    tuned = [reply("c", right=False), reply("a", right=True), reply("b", right=True)]
    found = paired(base, tuned)
    assert (found.n, found.gained, found.lost, found.difference) == (3, 1, 1, 0.0)
    with pytest.raises(ValueError, match="1 have one reply only, the first: 'c'"):
        paired(base, tuned[1:])
    with pytest.raises(ValueError, match="occurs twice"):
        paired(base, [*tuned, reply("a")])


def test_p_values_are_those_of_the_exact_test():
    """Against counting all outcomes of the coins."""
    for gained, lost in [(0, 0), (0, 5), (3, 1), (4, 4)]:
        outcomes = [sum(coins) for coins in product((0, 1), repeat=gained + lost)]
        far = abs(gained - lost)
        wanted = np.mean([abs(2 * heads - (gained + lost)) >= far for heads in outcomes])
        base = [reply(i, right=i < lost) for i in range(gained + lost)]
        tuned = [reply(i, right=i >= lost) for i in range(gained + lost)]
        assert paired(base, tuned).p_value == pytest.approx(wanted)


@pytest.mark.whole
def test_the_interval_of_the_difference_covers_the_truth_also_for_few_prompts():
    rng = np.random.default_rng(1)
    for n, up, down in [(40, 0.05, 0.15), (100, 0.02, 0.02), (80, 0.0, 0.5)]:
        covered = []
        for _ in range(400):
            sides = rng.choice(3, n, p=[up, down, 1 - up - down])
            base = [reply(i, right=bool(side != 0)) for i, side in enumerate(sides)]
            tuned = [reply(i, right=bool(side != 1)) for i, side in enumerate(sides)]
            low, high = paired(base, tuned).interval
            covered.append(low <= up - down <= high)
        assert np.mean(covered) > 0.92, (n, up, down)


def test_the_detectable_drop_is_found_four_times_in_five():
    """Prompts change sides as often as in the comparison that named it, and a drop of that size is then significant."""
    rng = np.random.default_rng(2)
    n, changing = 200, 0.3
    found = paired([reply(i, right=i < 30) for i in range(n)], [reply(i, right=30 <= i < 60) for i in range(n)])
    drop = found.detectable
    lost, gained = rng.multinomial(n, [(changing + drop) / 2, (changing - drop) / 2, 1 - changing], size=2000).T[:2]
    difference, error = (gained - lost) / n, np.sqrt(gained + lost - (gained - lost) ** 2 / n) / n
    assert 0.75 < np.mean(difference + 1.96 * error < 0) < 0.85


def test_a_manifest_can_hold_the_result():
    result = judge(replies(80, right=30), replies(80, right=0, good=3, cut=80), GateLimits())
    found = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert found["passed"] is False
    assert [check["name"] for check in found["checks"]] == ["prompts", "format", "ended", "truncated", "accuracy"]
    assert found["tuned"]["format"]["hits"] == 3
    assert found["limits"] == dataclasses.asdict(GateLimits())
    json.dumps(judge([], [], GateLimits()).to_dict(), allow_nan=False)


def test_failures_say_what_was_measured_and_most_often_wrong():
    result = judge(replies(80, right=0), replies(80, right=0, good=3), GateLimits())
    [check] = [check for check in result.checks if check.name == "format"]
    assert check.limit == "≥ 95 %"
    assert re.fullmatch(r"3\.8 % \(1–10\)", check.measured)
    assert check.why == "3 of 80 replies; most often (77 times): </answer> occurs 0 times"


def test_turns_that_do_not_end_are_told_apart_by_what_is_wrong_with_them():
    """A reply that is whole and goes on has not learnt where to stop; one that never becomes whole has learnt less."""
    on = [reply(i, cut=True, good=False) for i in range(80)]
    after = [dataclasses.replace(one, fault="it goes on after </answer>") for one in on[:79]]
    [why] = [check.why for check in judge(on, [*after, on[79]], GateLimits()).checks if check.name == "ended"]
    assert why.startswith(
        "0 of 80 replies; of those that do not end, most often (79 times): it goes on after </answer>. Where a whole "
        "reply goes on, where to stop was not learnt: is there an <end_of_turn>"
    )
    whole = [reply(i, cut=True) for i in range(80)]
    [why] = [check.why for check in judge(on, whole, GateLimits()).checks if check.name == "ended"]
    assert "(80 times): a whole reply. Where" in why


def test_examples_show_failures_first_and_every_kind():
    base = [reply(i, right=i < 5) for i in range(10)]
    tuned = [
        *[reply(i, right=True) for i in range(3)],
        reply(3, right=False),
        reply(4, right=False, good=False),
        reply(5, right=False),
        *[reply(i, right=False, good=False, cut=True) for i in range(6, 10)],
    ]
    assert [new.prompt for _, new in examples(base, tuned, 5)] == ["4", "6", "3", "5", "0"]
    assert len(examples(base, tuned, 100)) == 10
    assert examples([], [], 3) == []


@pytest.mark.parametrize("wrong", [{"format": 1.2}, {"truncated": -0.1}, {"accuracy_drop": math.nan}])
def test_limits_that_are_no_shares_are_refused(wrong):
    with pytest.raises(ValueError, match=f"limit {next(iter(wrong))} is .*; wanted a share"):
        GateLimits(**wrong)


def test_a_gate_on_nothing_is_refused():
    with pytest.raises(ValueError, match="min_prompts is 0"):
        GateLimits(min_prompts=0)
