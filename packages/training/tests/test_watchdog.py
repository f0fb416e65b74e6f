"""The watchdog: each symptom is found at its step, healthy curves are left in peace, a restart changes nothing."""

import json
import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coldforge.training.watchdog import RULES, Finding, Rule, Watchdog, WatchdogConfig

VOCAB = 262_144
STEPS = 500


def healthy(seed, steps=STEPS, noise=None, final=0.1):
    """Metrics of a run as they should look: a noisy power law, warm-up and cosine, norms that are clipped at times."""
    rng = np.random.default_rng(seed)
    height, floor, power, scale = rng.uniform((0.3, 0.15, 0.2, 3), (2.5, 1.2, 0.6, 30))
    noise = rng.uniform(0.01, 0.12) if noise is None else noise
    speed, norm, warm = rng.uniform(1e3, 1e5), rng.uniform(0.03, 0.1), max(round(0.1 * steps), 1)
    for step in range(1, steps + 1):
        mean = floor + height * (1 + (step - min(step, warm) / 2) / scale) ** -power
        loss, reasoning, answer, wobble = mean * np.exp(noise * rng.normal(size=4))
        cosine = final + (1 - final) * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))
        rate = 2e-4 * (step / warm if step < warm else cosine)
        before = norm * (1 + 5 * math.exp(-step / 10)) * math.exp(0.5 * rng.normal())
        metrics = {
            "train/loss": loss, "train/loss_reasoning": reasoning,
            "train/loss_answer": 0.1 + 0.8 * answer * (1 + step / 20) ** -0.3,
            "train/grad_norm": before, "train/grad_norm_clipped": min(before, 0.1), "train/update_norm": rate,
            "train/learning_rate": rate, "train/applied": 1, "train/weight": 8000.0,
            "train/tokens_per_second": speed * wobble / mean, "data/padding_share": 0.03 * rng.random(),
        }  # fmt: skip
        if step % 50 == 0:
            metrics["eval/loss"] = 1.02 * mean * (1 + 0.002 * rng.normal())
        yield step, metrics


def watch(change, steps=STEPS, seed=3, watchdog=None, **options):
    """Kind → steps at which it was found, in a healthy run that `change(step, metrics)` makes sick."""
    watchdog = watchdog or Watchdog(WatchdogConfig(vocab_size=VOCAB, **options))
    found = {}
    for step, metrics in healthy(seed, steps, noise=0.05):
        change(step, metrics)
        for finding in watchdog.observe(step, metrics):
            assert isinstance(finding, Finding)
            assert finding.step == step
            found.setdefault(finding.kind, []).append(finding)
    return found


def steps_of(found):
    return {kind: [finding.step for finding in findings] for kind, findings in found.items()}


def from_step(first, **values):
    """Sets metrics from `first` on; underscores stand for the slash."""

    def change(step, metrics):
        if step >= first:
            metrics.update({name.replace("_", "/", 1): value for name, value in values.items()})

    return change


@pytest.mark.parametrize("seed", range(30))
def test_healthy_runs_are_left_in_peace(seed):
    watchdog = Watchdog(WatchdogConfig(vocab_size=VOCAB))
    found = [f for step, metrics in healthy(seed) for f in watchdog.observe(step, metrics)]
    assert found == []


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    steps=st.sampled_from([50, 200, 1000]),
    noise=st.floats(0, 0.15),
    final=st.floats(0, 0.5),
)
@pytest.mark.whole
def test_healthy_runs_of_many_shapes_are_left_in_peace(seed, steps, noise, final):
    watchdog = Watchdog(WatchdogConfig(vocab_size=VOCAB))
    found = [str(f) for step, metrics in healthy(seed, steps, noise, final) for f in watchdog.observe(step, metrics)]
    assert found == []


@pytest.mark.parametrize(("values", "saw"), [
    ({"train_loss": math.nan}, "loss nan"),
    ({"train_loss": math.inf}, "loss inf"),
    ({"train_grad_norm": math.nan, "train_applied": 0}, "gradient norm nan"),
])  # fmt: skip
def test_a_step_that_was_not_applied(values, saw):
    def change(step, metrics):
        if step in (60, 61, 80):
            from_step(0, **values)(step, metrics)

    found = watch(change)
    assert steps_of(found) == {"not_finite": [60, 61, 80]}  # each of them, whatever the cool-down
    assert saw in found["not_finite"][0].saw
    assert "2 in a row, 2 of the last 61" in found["not_finite"][1].saw
    assert not any(f.fatal for f in found["not_finite"])


def test_several_in_a_row_are_fatal():
    found = watch(from_step(60, train_loss=math.nan, train_applied=0), steps=66)["not_finite"]
    assert [f.fatal for f in found] == [False] * 4 + [True] * 3


def test_many_of_a_hundred_are_fatal():
    def change(step, metrics):
        if step % 3 == 0:
            metrics["train/applied"] = 0

    found = watch(change, steps=70)["not_finite"]
    assert [f.step for f in found if f.fatal] == [60, 63, 66, 69]


def test_a_batch_without_weights_has_its_own_name():
    found = watch(from_step(60, train_loss=math.nan, train_applied=0, train_weight=0), steps=61)
    assert steps_of(found) == {"no_weight": [60, 61]}
    assert "reasoning_weight" in found["no_weight"][0].advice


def test_other_numbers_that_are_not_finite():
    found = watch(from_step(60, eval_loss=math.inf, train_update_norm=math.nan), steps=61)
    assert steps_of(found) == {"not_finite_metric": [60]}
    assert "eval/loss is inf" in found["not_finite_metric"][0].saw
    assert "train/update_norm is nan" in found["not_finite_metric"][0].saw


@pytest.mark.parametrize(("loss", "vocab", "saw"), [
    (12.4, VOCAB, "guessing among 262,144 tokens gives 12.48"),
    (30.0, VOCAB, "guessing"),
    (8.0, 4096, "guessing among 4,096"),
    (8.0, None, "a pretrained model starts at 1 to 4"),
    (7.0, VOCAB, "a pretrained model starts at 1 to 4"),
    (0.01, VOCAB, "nearly nothing is left to learn"),
])  # fmt: skip
def test_the_first_loss(loss, vocab, saw):
    [finding] = Watchdog(WatchdogConfig(vocab_size=vocab)).observe(1, {"train/loss": loss})
    assert finding.kind == "first_loss"
    assert saw in finding.saw


@pytest.mark.parametrize("loss", [0.3, 1.0, 2.5, 4.0])
def test_usual_first_losses(loss):
    assert Watchdog(WatchdogConfig(vocab_size=VOCAB)).observe(1, {"train/loss": loss}) == []


def test_the_first_loss_is_judged_at_the_first_step_only():
    watchdog = Watchdog()
    assert watchdog.observe(400, {"train/loss": 9.0}) == []
    assert watchdog.observe(1, {"train/loss": 9.0}) == []


def test_a_spike():
    def change(step, metrics):
        if 300 <= step < 310:
            metrics["train/loss"] *= 1 + 2 * math.exp(-(step - 300) / 4)

    found = watch(change)
    assert steps_of(found) == {"spike": [300]}
    assert "gradient norm" in found["spike"][0].saw
    assert "lower learning_rate (now 9.4e-05)" in found["spike"][0].advice


@pytest.mark.parametrize(("odd", "want"), [({100: 1.8}, []), ({100: 1.8, 101: 1.8}, [101]), ({100: 2.3}, [100])])
def test_a_smaller_spike_needs_a_second_step(odd, want):
    watchdog, found = Watchdog(), []
    for step in range(1, 130):
        loss = odd.get(step, 0.95 if step % 2 else 1.05)  # median 1, deviation 0.074, so the limit is 0.59 above it
        found += watchdog.observe(step, {"train/loss": loss})
    assert [(f.kind, f.step) for f in found if f.kind != "plateau"] == [("spike", step) for step in want]


def test_divergence():
    def change(step, metrics):
        metrics["train/loss"] *= 1 + max(0, step - 200) / 150

    found = steps_of(watch(change, steps=350))
    assert found.keys() == {"rising"}
    assert 240 <= found["rising"][0] <= 280


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.05])
def test_a_plateau_from_the_start(noise):
    rng = np.random.default_rng(0)
    found = watch(lambda step, m: m.update({"train/loss": 1.5 * math.exp(noise * rng.normal())}))
    first, *rest = steps_of(found).pop("plateau")
    assert 150 <= first <= 160  # 50 steps of warm-up and 100 after it
    assert len(rest) <= 2
    assert "raise learning_rate" in found["plateau"][0].advice


def test_a_plateau_later():
    rng = np.random.default_rng(0)

    def change(step, metrics):
        metrics["train/loss"] = (1.2 + 1.2 * math.exp(-step / 20)) * math.exp(0.02 * rng.normal())

    found = watch(change, steps=2000)
    assert found.keys() == {"plateau"}
    assert 300 <= found["plateau"][0].step <= 350
    assert "% (± " in found["plateau"][0].saw


def test_a_flat_loss_that_is_low_or_at_a_low_rate_is_no_plateau():
    low = watch(from_step(0, train_loss=0.4))
    end = watch(from_step(0, train_loss=1.4, train_learning_rate=1e-6), watchdog=watchdog_after_peak())
    assert (low, end) == ({}, {})


def watchdog_after_peak():
    watchdog = Watchdog()
    watchdog.observe(0, {"train/loss": 2.0, "train/learning_rate": 1e-3})
    return watchdog


def test_memorising_is_told_once():
    assert steps_of(watch(from_step(100, train_loss=0.05, eval_loss=0.05))) == {"low_loss": [110]}


def test_a_gradient_that_is_always_clipped():
    def change(step, metrics):
        metrics["train/grad_norm"] *= 20
        metrics["train/grad_norm_clipped"] = 0.1

    found = watch(change)
    assert steps_of(found) == {"clipped": [100, 200, 400]}
    assert "clipped in 100 of the last 100 steps" in found["clipped"][0].saw
    assert "the limit 0.1" in found["clipped"][0].saw
    assert "set max_grad_norm to about" in found["clipped"][0].advice


def test_nothing_is_trained():
    found = watch(from_step(1, train_grad_norm=0.0, train_grad_norm_clipped=0.0, train_update_norm=0.0), steps=3)
    assert [(f.step, f.fatal) for f in found["zero_gradient"]] == [(1, False), (3, True)]
    found = watch(from_step(1, train_update_norm=0.0), steps=3)
    assert [(f.step, f.fatal) for f in found["zero_update"]] == [(1, False), (3, True)]


def test_no_update_at_a_rate_of_0_is_no_fault_of_the_optimizer():
    assert watch(from_step(1, train_update_norm=0.0, train_learning_rate=0.0), steps=5) == {}


def test_a_learning_rate_of_0():
    rate = watch(from_step(101, train_learning_rate=0.0, train_update_norm=0.0), steps=120)
    assert steps_of(rate) == {"zero_learning_rate": [110]}


def test_an_answer_that_is_not_learnt():
    rng = np.random.default_rng(0)
    found = watch(lambda step, m: m.update({"train/loss_answer": 0.9 * math.exp(0.1 * rng.normal())}))
    assert found.keys() == {"answer_stuck"}
    assert 100 <= found["answer_stuck"][0].step <= 130
    assert "raise answer_weight" in found["answer_stuck"][0].advice


@pytest.mark.parametrize("value", [math.nan, 0.0])
def test_answers_that_are_never_there(value):
    found = watch(from_step(1, train_loss_answer=value), steps=130)
    assert steps_of(found) == {"no_answer": [20, 120]}


def test_over_fitting():
    def change(step, metrics):
        if "eval/loss" in metrics:
            metrics["eval/loss"] = 1.0 - 0.1 * step / 200 if step <= 200 else 0.9 + 0.1 * (step - 200) / 100

    found = watch(change)
    assert steps_of(found) == {"over_fitting": [300, 400]}
    assert "from 0.9 at step 200 to 1" in found["over_fitting"][0].saw
    assert "step 200" in found["over_fitting"][0].advice


def test_padding():
    assert steps_of(watch(from_step(1, data_padding_share=0.4))) == {"padding": [20]}


def test_a_run_that_gets_slow():
    found = watch(from_step(101, train_tokens_per_second=100.0, time_data=0.9, time_step=1.0), steps=150)
    assert steps_of(found) == {"slow": [110]}
    assert "of which 90 % waiting for data" in found["slow"][0].saw


def test_a_device_that_is_full():
    found = watch(from_step(5, memory_device_peak_gib=15.7, memory_device_limit_gib=16.0))
    assert steps_of(found) == {"memory": [5]}


def test_nothing_is_judged_without_its_metric():
    watchdog = Watchdog(WatchdogConfig(vocab_size=VOCAB))
    names = list(next(healthy(0))[1])
    for step in range(1, 400):
        for name in names:
            assert watchdog.observe(step, {name: 3 * step**-0.5 if name == "train/loss" else 0.2}) == [], name
        assert watchdog.observe(step, {}) == []


def sick(step, metrics):
    """A run with several faults."""
    if step in (60, 61, 200):
        metrics.update({"train/loss": math.nan, "train/applied": 0, "train/grad_norm": math.inf})
    if step > 150:
        metrics["train/loss"] *= 1 + (step - 150) / 150
    if step in (130, 131):
        metrics["train/loss"] *= 3
    metrics["train/grad_norm"] *= 20
    metrics["data/padding_share"] = 0.5


@pytest.mark.parametrize("stop", [1, 19, 60, 130, 131, 211, 300])
def test_a_restart_changes_nothing(stop):
    whole, before = Watchdog(), Watchdog()
    resumed = Watchdog()
    found = {"whole": [], "parts": []}
    for step, metrics in healthy(1, 400):
        sick(step, metrics)
        found["whole"] += whole.observe(step, metrics)
        found["parts"] += (before if step <= stop else resumed).observe(step, metrics)
        if step == stop:
            state = json.dumps(before.to_dict(), allow_nan=False)
            resumed.from_dict(json.loads(state))
            before.observe(step + 1, metrics)  # the saved state is a copy
            assert json.dumps(resumed.to_dict()) == state
    assert found["parts"] == found["whole"]
    assert Counter(f.kind for f in found["whole"])["not_finite"] == 3
    assert {"spike", "rising", "clipped", "padding"} <= {f.kind for f in found["whole"]}


def test_the_state_is_small_and_stays_so():
    watchdog, sizes = Watchdog(), {}
    for step, metrics in healthy(0, 3000):
        watchdog.observe(step, metrics)
        sizes[step] = len(json.dumps(watchdog.to_dict())) if step in (1000, 3000) else 0
    assert sizes[3000] < 1.2 * sizes[1000] < 30_000


def test_a_state_of_another_version_is_taken_as_far_as_it_goes():
    state = Watchdog().to_dict()
    state["rules"]["Retired"] = {"count": 3}
    del state["rules"]["Spike"]
    state["rules"]["LowLoss"]["unknown"] = 1
    state["rules"]["ZeroRate"]["in_a_row"] = 7
    watchdog = Watchdog()
    watchdog.from_dict(state)
    assert watchdog.to_dict()["rules"]["ZeroRate"] == {"in_a_row": 7}
    assert watchdog.to_dict()["rules"].keys() == {rule.__name__ for rule in RULES}


def test_every_finding_says_what_why_and_what_to_do():
    found = watch(sick)
    for finding in (f for findings in found.values() for f in findings):
        assert all((finding.saw, finding.cause, finding.advice))
        assert str(finding) == (
            f"step {finding.step}: {finding.saw}. Likely cause: {finding.cause}. What to do: {finding.advice}."
        )


@pytest.mark.parametrize(
    "option", [{"cooldown": 0}, {"low_loss": -1.0}, {"vocab_size": 0}, {"cooldown": -1}, {"spike_share": math.nan}]
)
def test_bad_thresholds_are_named(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} must be positive, got"):
        WatchdogConfig(**option)


def test_other_rules_can_take_the_place_of_these():
    @dataclass
    class Over(Rule):
        limits: float = 2.0
        seen: int = 0

        def observe(self, step, m):
            self.seen += 1
            if m["x"] > self.limits:
                yield Finding("over", step, "too much", "x", "less")

    watchdog = Watchdog(rules=[Over(WatchdogConfig(), limits=5.0)])
    assert watchdog.observe(1, {"x": 3.0, "train/loss": math.nan}) == []
    [finding] = watchdog.observe(2, {"x": 6.0})
    assert finding.kind == "over"
    assert watchdog.to_dict()["rules"] == {"Over": {"seen": 2}}
