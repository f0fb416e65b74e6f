"""The loop: in which order things happen, updates that teach nothing or break, when it looks, saves and stops."""

import dataclasses
from collections import Counter

import jax
import numpy as np
import pytest

from coldforge.grpo import GrpoConfig, Judgement, Start, fit, grpo_loss, is_empty, make_score, resume
from coldforge.losses import PolicyLoss
from coldforge.training import Finding, make_optimizer, make_schedule, make_train_step

pytestmark = pytest.mark.whole

FULL = PolicyLoss(beta=0.02, clip_high=0.28)


def make(**options):
    return GrpoConfig(**({"steps": 4, "questions": 4, "group_size": 4} | options))


def run(toy, tmp_path, config, **other):
    parts = toy.make_parts(config, tmp_path, **other)
    return fit(toy.begin(parts, config), parts, config)


def nothing_differs(position, samples):
    return Judgement([1.0] * len(samples))


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


# --- updates


@pytest.mark.parametrize("policy", [PolicyLoss(), FULL], ids=["no KL", "KL"])
def test_an_update_without_signal_changes_nothing_and_is_logged(toy, tmp_path, policy):
    """With a KL in the loss it still pulls to the reference, unless equal groups leave the update."""
    log = toy.Rows()
    config = make(steps=2, policy=policy, drop_equal_groups=policy == FULL)
    result = run(toy, tmp_path, config, judge=nothing_differs, log=log)
    assert same(result.state.params, toy.make_params())
    assert int(result.state.step) == 2
    assert result.skipped == [], "nothing is broken"
    for step in (1, 2):
        row = log.rows[step]
        assert (row["train/empty"], row["train/grad_norm"], row["rollout/zero_variance"]) == (1.0, 0.0, 1.0)
        assert row["train/learning_rate"] > 0
        assert not {"train/loss", "train/applied", "policy/ratio", "train/tokens_per_second"} & row.keys()


def test_some_minibatches_may_be_empty(toy, tmp_path):
    """One question of eight differs: of eight minibatches some have none of its samples."""
    log = toy.Rows()

    def judge(position, samples):
        return Judgement([float(i == 0 and position % 8 == 3) for i in range(len(samples))])

    config = make(steps=8, questions=8, minibatches=8)
    result = run(toy, tmp_path, config, judge=judge, log=log)
    empty = [row.get("train/empty", 0.0) for _, row in sorted(log.rows.items())]
    assert 4 <= sum(empty) < 8
    assert not same(result.state.params, toy.make_params())


def test_the_reference_is_refreshed_from_the_next_rollout_on(toy, tmp_path):
    config = make(steps=8, minibatches=2, policy=FULL, refresh_reference=4)
    scored, log = [], toy.Rows()
    parts = toy.make_parts(config, tmp_path, log=log)

    def score(params, batch):
        scored.append(jax.device_get(params))
        return parts.score(params, batch)

    states = {0: toy.make_params()}

    def train(state, batch):
        state, metrics = parts.train(state, batch)
        states[int(state.step)] = jax.device_get(state.params)
        return state, metrics

    fit(toy.begin(parts, config), dataclasses.replace(parts, score=score, train=train), config)
    assert len(scored) == 8, "each rollout in lots of the size of a minibatch"
    for number, reference in enumerate((0, 0, 4, 4)):
        assert same(scored[2 * number], states[reference])
        assert not same(scored[2 * number], states[2 * number + 1])
    kl = log.curve("policy/kl")
    assert kl[0] == pytest.approx(0, abs=1e-9)
    assert kl[4] == pytest.approx(0, abs=1e-9)
    assert min(kl[1:4]) > 1e-6


def test_one_program_each_whatever_the_lengths(toy, tmp_path):
    """Rollouts of short and of long samples, minibatches with nothing in them, both scoring passes."""
    config = make(steps=12, minibatches=2, policy=FULL, old_policy="trainer", refresh_reference=2)
    optimizer = make_optimizer(toy.OPTIMIZER, toy.STEPS)
    shape = toy.shape_of(config)
    step = make_train_step(
        grpo_loss(toy.apply, FULL, old="trainer"), optimizer, make_schedule(toy.OPTIMIZER, toy.STEPS),
        accumulation=shape.accumulation, empty=is_empty,
    )  # fmt: skip
    score = make_score(toy.apply)
    frozen = jax.device_put(toy.make_frozen())
    lengths = []

    def sample(params, asks):
        for index, samples in toy.sampler(params, asks):
            cut = [one._replace(tokens=one.tokens[:n], logprobs=one.logprobs[:n]) for one in samples
                   for n in [1 + asks[0].seed % 8]]  # fmt: skip
            lengths.append(max(len(one.tokens) for one in cut))
            yield index, cut

    log = toy.Rows()
    parts = toy.make_parts(
        config, tmp_path, sample=sample, log=log, train=lambda state, batch: step(state, frozen, batch),
        score=lambda params, batch: score(params, frozen, batch),
        compiles=lambda: {"train": step.compiles(), "score": score._cache_size()},
    )  # fmt: skip
    fit(toy.begin(parts, config), parts, config)
    assert len(set(lengths)) > 2
    assert log.curve("compiles/train") == [1.0] * 12
    assert log.curve("compiles/score") == [1.0] * 12


def test_a_broken_update_is_kept_and_the_run_goes_on_or_stops(toy, tmp_path):
    config = make(steps=3)
    kept, log = [], toy.Rows()
    parts = toy.make_parts(config, tmp_path, log=log, keep=lambda *what: kept.append(what))
    healthy = parts.train

    def train(state, batch):
        if int(state.step) == 1:
            batch = batch._replace(advantages=batch.advantages * np.nan)
        return healthy(state, batch)

    parts = dataclasses.replace(parts, train=train)
    result = fit(toy.begin(parts, config), parts, config)
    assert (result.reason, result.skipped, result.step) == ("done", [2], 3)
    [(step, batch, scalars)] = kept
    assert (step, scalars["train/applied"]) == (2, 0.0)
    assert np.isnan(scalars["train/loss"])
    assert batch.tokens.shape == parts.shape
    assert isinstance(batch.tokens, np.ndarray), "as it was packed, and not on the devices"
    stops = make(steps=3, on_nan="stop")
    result = fit(toy.begin(parts, stops), parts, stops)
    assert (result.reason, result.step, result.skipped) == ("not finite", 2, [2])
    assert max(parts.checkpoints.saved) == 3, "and saved: 3 is of the run before"
    assert parts.checkpoints.saved[2][0]["position"] == 8


def test_prompts_that_are_too_long_are_named_before_anything_is_sampled(toy, tmp_path):
    def never(params, asks):
        raise AssertionError("sampled")

    config = make(max_new_tokens=8)
    long = np.full(20, 5, np.int32)
    said = "position 2 has 20 tokens; with a completion of 8 it does not fit into rows of 24"
    with pytest.raises(ValueError, match=said):
        run(toy, tmp_path, config, sample=never, prompt=lambda position: long[: 20 if position == 2 else 1])
    with pytest.raises(ValueError, match="24 tokens; with a completion of at least 1"):
        run(toy, tmp_path, make(), sample=never, prompt=lambda position: np.full(24, 5, np.int32))


@pytest.mark.parametrize(
    ("options", "other", "said"),
    [
        ({"policy": FULL}, {"score": None}, "needs a reference to start from"),
        ({"old_policy": "trainer"}, {"score": None}, "'trainer' scores samples: the loop needs `Parts.score`"),
    ],
)
def test_what_is_missing_is_named_at_the_start(toy, tmp_path, options, other, said):
    config = make(**options)
    parts = toy.make_parts(config, tmp_path, **other)
    with pytest.raises(ValueError, match=said):
        fit(toy.begin(parts, config), parts, config)


# --- looking, saving, stopping


def test_evaluations_and_checkpoints_come_when_they_are_due(toy, tmp_path):
    marks = iter([0.3, 0.5, 0.4])
    checkpoints, shown = toy.NoCheckpoints(), []
    result = run(
        toy, tmp_path, make(steps=6, eval_every=2, checkpoint_every=3), checkpoints=checkpoints,
        evaluate=lambda params: {"eval/correct": next(marks), "eval/other": 9.0},
        show=lambda step, scalars: shown.append((step, "eval/correct" in scalars)),
    )  # fmt: skip
    assert result.best == 0.5
    assert checkpoints.steps() == [3, 6]
    assert checkpoints.saved[3][1] == {}, "not the numbers of step 2: they are of another policy"
    assert checkpoints.saved[6][1] == {"eval/correct": 0.4, "eval/other": 9.0}
    assert checkpoints.saved[6][0]["best"] == 0.5
    assert [step for step, _ in shown] == [1, 2, 2, 3, 4, 4, 5, 6, 6]
    assert [step for step, evaluated in shown if evaluated] == [2, 4, 6]
    rare = toy.NoCheckpoints()
    run(toy, tmp_path, make(steps=3, checkpoint_every=0), checkpoints=rare, evaluate=lambda params: {})
    assert rare.steps() == [3]


def test_a_checkpoint_is_due_after_minutes_too(toy, tmp_path, monkeypatch):
    now = iter(range(0, 10_000, 50))
    monkeypatch.setattr("coldforge.grpo.loop.time.monotonic", lambda: float(next(now)))
    told, config = [], make(steps=6, checkpoint_every=0, checkpoint_minutes=2.0)
    checkpoints = toy.NoCheckpoints()
    run(toy, tmp_path, config, checkpoints=checkpoints, saved=told.append)
    assert checkpoints.steps() == told == [3, 6]
    never = toy.NoCheckpoints()
    run(toy, tmp_path, config, checkpoints=never, agree=lambda late: False)
    assert never.steps() == [6], "another process is not late"


def test_told_to_stop_it_saves_first_and_looks_later(toy, tmp_path):
    """At step 2 an evaluation is due. Its time comes in the next session; all is as if undisturbed."""
    config = make(steps=4, eval_every=2, policy=FULL)
    looked = []

    def parts(checkpoints, log, stop=lambda: None):
        def evaluate(params):
            looked.append(max(log.rows))
            return {"eval/correct": float(params["own"].sum())}

        return toy.make_parts(config, tmp_path, checkpoints=checkpoints, evaluate=evaluate, stop=stop, log=log)

    whole = toy.Rows()
    undisturbed = parts(toy.NoCheckpoints(), whole)
    wanted = fit(toy.begin(undisturbed, config), undisturbed, config)
    assert looked == [2, 4]

    log = toy.Rows()
    calls = Counter()

    def stop():  # asked after each of four groups and after the update
        calls["asked"] += 1
        return "SIGTERM" if calls["asked"] >= 10 else None

    with toy.make_checkpointer(tmp_path) as checkpoints:
        stopped = parts(checkpoints, log, stop)
        looked.clear()
        result = fit(toy.begin(stopped, config), stopped, config)
        assert (result.reason, result.step, looked) == ("SIGTERM", 2, [])
        again = parts(checkpoints, log)
        start = toy.begin(again, config)
        assert start.owed
        result = fit(start, again, config)
        assert looked == [2, 4]
        assert same(result.state.params, wanted.state.params)
        assert result.best == wanted.best
        assert {s: row["eval/correct"] for s, row in log.rows.items() if "eval/correct" in row} == {
            s: row["eval/correct"] for s, row in whole.rows.items() if "eval/correct" in row
        }
        assert not toy.begin(again, config).owed


def test_a_stop_after_the_last_step_is_no_stop(toy, tmp_path):
    config = make(steps=1)
    asked = Counter()

    def stop():
        asked["stop"] += 1
        return "SIGTERM" if asked["stop"] > 4 else None

    looked = []
    result = run(
        toy, tmp_path, config, stop=stop, evaluate=lambda params: looked.append(1) or {"eval/correct": 1.0}
    )  # fmt: skip
    assert (result.reason, result.step, result.best, looked) == ("done", 1, 1.0, [1])


def test_a_stop_while_sampling_drops_the_rollout(toy, tmp_path):
    asked = Counter()

    def stop():
        asked["stop"] += 1
        return "the time box" if asked["stop"] == 7 else None

    checkpoints = toy.NoCheckpoints()
    result = run(toy, tmp_path, make(steps=4), stop=stop, checkpoints=checkpoints)
    assert (result.reason, result.step) == ("the time box", 1)
    assert checkpoints.saved[1][0]["position"] == 4


def test_a_run_that_is_done_stays_as_it_is(toy, tmp_path):
    config = make(steps=2)
    checkpoints = toy.NoCheckpoints()
    parts = toy.make_parts(config, tmp_path, checkpoints=checkpoints)
    state = toy.new_state()
    result = fit(Start(state, step=2), parts, config)
    assert (result.state, result.reason, result.metrics, checkpoints.saved) == (state, "done", {}, {})


class Watch:
    """Speaks at the steps it is told to."""

    def __init__(self, at):
        self.at, self.seen = at, []

    def observe(self, step, metrics):
        self.seen.append(step)
        fatal = self.at.get(step)
        return [] if fatal is None else [Finding("odd", step, "a curve", "a cause", "advice", fatal=fatal)]

    def to_dict(self):
        return {"seen": list(self.seen)}

    def from_dict(self, state):
        self.seen = list(state["seen"])


def test_findings_are_told_and_a_fatal_one_ends_the_run(toy, tmp_path):
    told, log = [], toy.Rows()
    result = run(toy, tmp_path, make(steps=6, texts=0), watchdog=Watch({2: False, 3: True}), found=told.append, log=log)
    assert (result.reason, result.step) == ("watchdog", 3)
    assert [one.step for one in told] == [2, 3] == [one.step for one in result.findings]
    assert [(step, tag) for step, tag, _ in log.texts] == [(2, "watchdog"), (3, "watchdog")]
    last = run(toy, tmp_path, make(steps=3), watchdog=Watch({3: True}))
    assert (last.reason, last.step) == ("watchdog", 3), "also after the last step"


def test_texts_of_a_rollout_stand_at_its_first_update(toy, tmp_path):
    log = toy.Rows()
    config = make(steps=6, minibatches=2, texts=3, texts_every=2)
    run(toy, tmp_path, config, log=log, question=lambda position: f"what is {position}?")
    tags = ["samples/best", "samples/worst", "samples/random_0"]
    assert [(step, tag) for step, tag, _ in log.texts] == [(s, tag) for s in (1, 5) for tag in tags]
    assert "what is " in log.texts[0][2]


def test_long_things_are_announced(toy, tmp_path):
    said = []

    class Doing:
        def __init__(self, what):
            self.what = what

        def __enter__(self):
            said.append(self.what)

        def __exit__(self, *_):
            said.append(f"end of {self.what}")

    run(
        toy, tmp_path, make(steps=1, policy=FULL, old_policy="trainer"), doing=Doing,
        evaluate=lambda params: {"eval/correct": 1.0},
    )  # fmt: skip
    assert said[::2] == ["sampling", "scoring under the reference", "scoring under the policy",
                         "held-out questions", "saving", "saving"]  # fmt: skip
    assert all(end == f"end of {what}" for what, end in zip(said[::2], said[1::2], strict=True))


def test_samples_are_kept_only_for_checkpoints_within_their_rollout(toy, tmp_path):
    """An old best checkpoint that stays has none, for its rollout is done."""
    config = make(steps=11, questions=6, minibatches=3, checkpoint_every=1, eval_every=3)
    found, marks = {}, iter([0.9, 0.5, 0.1, 0.1])
    best = {"keep_best": 1, "best_metric": "eval/correct", "best_mode": "max"}
    with toy.make_checkpointer(tmp_path, keep_last=2, **best) as checkpoints:
        parts = toy.make_parts(
            config, tmp_path, checkpoints=checkpoints, evaluate=lambda params: {"eval/correct": next(marks)},
            show=lambda step, _: found.setdefault(step, {path.stem[-1] for path in parts.rollouts.glob("*.npz")}),
        )  # fmt: skip
        fit(toy.begin(parts, config), parts, config)
        assert checkpoints.steps() == [3, 10, 11]
        assert {path.stem[-1] for path in parts.rollouts.glob("*.npz")} == {"3"}
    assert [found[step] for step in (1, 4, 5, 6, 8, 10)] == [
        {"0"},
        {"0", "1"},
        {"0", "1"},
        {"1"},
        {"1", "2"},
        {"2", "3"},
    ]


def test_missing_or_damaged_samples_are_named(toy, tmp_path):
    config = make(steps=4, minibatches=2)
    with toy.make_checkpointer(tmp_path) as checkpoints:
        parts = toy.make_parts(config, tmp_path, checkpoints=checkpoints)
        short = dataclasses.replace(config, steps=3)
        fit(toy.begin(parts, short), parts, short)
        file = parts.rollouts / "rollout_00000001.npz"
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=r"rollout_00000001\.npz is damaged"):
            fit(toy.begin(parts, config), parts, config)
        file.unlink()
        with pytest.raises(
            FileNotFoundError, match=r"of step 3 lies within a rollout, and its samples are gone: .*00001.npz"
        ):
            toy.begin(parts, config)
        file.write_bytes(whole)
        assert fit(toy.begin(parts, config), parts, config).reason == "done"


def test_resume_without_a_checkpoint_is_none(toy, tmp_path):
    assert resume(toy.make_parts(make(), tmp_path), toy.new_state(), make()) is None
