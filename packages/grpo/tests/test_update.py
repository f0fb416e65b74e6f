"""An update against a slow transcription of its formula in float64, however samples are packed and split."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from coldforge.grpo import GrpoConfig, grpo_loss, is_empty, make_score, pack, shape_for, update_weights
from coldforge.losses import PolicyLoss
from coldforge.training import init_state, make_train_step

pytestmark = pytest.mark.whole

RAGGED = ("advantages", "sampler_logprobs", "old_logprobs", "ref_logprobs")


@pytest.fixture
def experience(toy):
    """Log-probabilities near those of the policy, so that some ratios are clipped and some are not."""
    rng = np.random.default_rng(0)
    found = toy.make_experience(rng, groups=4, size=4)

    def near(scale):
        return [
            (toy.completion_logprobs(toy.make_params(), found.prompt_of(i), ids) + rng.normal(0, scale, len(ids)))
            for i, ids in enumerate(found.tokens)
        ]

    logprobs = {"sampler_logprobs": near(0.3), "old_logprobs": near(0.3), "ref_logprobs": near(0.5)}
    advantages = [rng.normal(size=len(ids)) for ids in found.tokens]
    rounded = {name: [x.astype(np.float32) for x in values] for name, values in logprobs.items()}
    return dataclasses.replace(found, advantages=[x.astype(np.float32) for x in advantages], **rounded)


def slow_objective(toy, params, fixed, experience, chosen, config):
    """Σ over samples and tokens, as the papers write it; `fixed` are the parameters that have no gradient."""
    policy, total = config.policy, 0.0
    trained = [i for i in chosen if experience.ended[i] or not config.overlong_filter]
    for i in trained:
        asked, said = experience.prompt_of(i), experience.tokens[i]
        new = toy.completion_logprobs(params, asked, said)
        now = toy.completion_logprobs(fixed, asked, said)
        olds = {"on_policy": now, "sampler": experience.sampler_logprobs[i], "trainer": experience.old_logprobs[i]}
        old = np.float64(olds[config.old])
        mean = np.exp((new - old).mean())
        loss = 0.0
        for t in range(len(said)):
            advantage, ratio = float(experience.advantages[i][t]), np.exp(new[t] - old[t])
            if policy.ratio == "sequence":
                ratio = mean
            if policy.objective == "cispo":
                gain = min(np.exp(now[t] - old[t]), policy.cispo_max) * advantage * new[t]
            else:
                bounded = min(max(ratio, 1 - policy.clip_low), 1 + policy.clip_high)
                gain = min(ratio * advantage, bounded * advantage)
                if policy.dual_clip is not None and advantage < 0:
                    gain = max(gain, policy.dual_clip * advantage)
            apart = float(experience.ref_logprobs[i][t]) - new[t]
            loss += -gain + policy.beta * (np.exp(apart) - 1 - apart)
        total += loss / {"sequence_mean": len(said), "constant": toy.LONGEST}.get(config.aggregation, 1)
    tokens = sum(len(experience.tokens[i]) for i in trained)
    return total / (tokens if config.aggregation == "token" else len(trained))


def update(toy, experience, chosen, config, rows=4, seq_len=24):
    """Loss, gradient and metrics of one update, by the very step that the loop takes; the gradient is what SGD did."""
    shape = shape_for(len(experience.tokens), toy.PROMPT + toy.LONGEST, rows=rows, seq_len=seq_len)
    weights, denominator = update_weights(experience, chosen, config)
    kept = np.flatnonzero(weights)
    batch, _ = pack(experience, np.asarray(chosen)[kept], weights[kept], denominator, shape)
    step = make_train_step(
        grpo_loss(toy.apply, config.policy, old=config.old), optax.sgd(1.0), lambda step: jnp.ones(()),
        accumulation=shape.accumulation, empty=is_empty,
    )  # fmt: skip
    state = init_state(jax.tree.map(jnp.asarray, toy.make_params()), optax.sgd(1.0), 0)
    state, metrics = step(state, toy.make_frozen(), batch)
    gradient = {name: before - np.asarray(state.params[name]) for name, before in toy.make_params().items()}
    return float(metrics["loss"]), gradient, {name: float(value) for name, value in metrics.items()}


FULL = PolicyLoss(beta=0.1, clip_low=0.2, clip_high=0.28, dual_clip=1.5)


@pytest.mark.parametrize(
    "options",
    [
        {"policy": FULL, "minibatches": 2},
        {"policy": FULL, "aggregation": "sequence_mean", "minibatches": 2, "old_policy": "trainer"},
        {"policy": FULL, "aggregation": "constant", "max_new_tokens": 8},
        {"policy": PolicyLoss(), "overlong_filter": True, "minibatches": 2},
        {
            "policy": PolicyLoss(ratio="sequence", clip_low=0.02, clip_high=0.02),
            "aggregation": "sequence_mean",
            "minibatches": 2,
        },
        {"policy": PolicyLoss(objective="cispo", cispo_max=1.2), "aggregation": "sequence_sum", "minibatches": 2},
    ],
    ids=["token", "sequence_mean", "constant", "overlong", "gspo", "cispo"],
)
def test_an_update_is_the_gradient_of_the_formula(toy, experience, options):
    config = GrpoConfig(steps=1, questions=4, group_size=4, **options)
    chosen = [3, 1, 14, 6, 8, 11, 2, 0]
    loss, gradient, metrics = update(toy, experience, chosen, config)
    fixed = {name: x.astype(np.float64) for name, x in toy.make_params().items()}

    def slow(params):
        return slow_objective(toy, params, fixed, experience, chosen, config)

    assert loss == pytest.approx(slow(fixed), rel=1e-5, abs=1e-6)
    rng, h = np.random.default_rng(1), 1e-5
    for _ in range(3):
        way = {name: rng.normal(size=x.shape) for name, x in fixed.items()}
        there, back = ({name: fixed[name] + sign * h * way[name] for name in fixed} for sign in (1, -1))
        slope = sum((gradient[name] * way[name]).sum() for name in fixed)
        assert slope == pytest.approx((slow(there) - slow(back)) / (2 * h), rel=1e-4, abs=1e-5)
    if config.policy == FULL and config.old != "on_policy":
        assert all(metrics[name] > 0 for name in ("clip_low", "clip_high", "clip_dual")), "each bound was at work"


def test_rows_lengths_micro_batches_and_order_make_no_difference(toy, experience):
    config = GrpoConfig(steps=1, questions=4, group_size=4, policy=FULL, minibatches=2)
    chosen = [3, 1, 14, 6, 8, 11, 2, 0]
    loss, gradient, metrics = update(toy, experience, chosen, config)
    for order, rows, seq_len in ((chosen[::-1], 4, 24), (chosen, 2, 12), (chosen, 8, 60)):
        other, found, seen = update(toy, experience, order, config, rows, seq_len)
        assert other == pytest.approx(loss, rel=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-7, rtol=1e-4), found, gradient)
        for name in ("ratio", "kl", "clip_high", "entropy", "gap"):
            assert seen[name] == pytest.approx(metrics[name], rel=1e-4), name
            assert seen[f"{name}_count"] == sum(len(experience.tokens[i]) for i in chosen)
        assert (seen["ratio_max"], seen["ratio_min"]) == pytest.approx((metrics["ratio_max"], metrics["ratio_min"]))


def test_ratios_of_a_policy_to_itself_are_exactly_one(toy, experience):
    config = GrpoConfig(steps=1, questions=4, group_size=4)
    _, _, metrics = update(toy, experience, range(16), config)
    assert metrics["ratio_max"] == -metrics["ratio_min"] == 1.0
    assert metrics["ratio"] == metrics["ratio_count"]


def test_samples_that_teach_nothing_are_not_computed_but_counted(toy, experience):
    """The same gradient as with them; with KL in the loss they have something to say."""
    experience.advantages[5][:] = 0
    config = GrpoConfig(steps=1, questions=4, group_size=4)
    weights, denominator = update_weights(experience, range(16), config)
    assert np.flatnonzero(weights == 0).tolist() == [5]
    assert denominator == experience.lengths.sum()
    with_kl = dataclasses.replace(config, policy=FULL)
    assert (update_weights(experience, range(16), with_kl)[0] > 0).all()


def test_scores_are_log_probabilities_of_the_policy(toy, experience):
    shape = shape_for(16, toy.PROMPT + toy.LONGEST, rows=4, seq_len=24)
    batch, places = pack(experience, range(16), np.ones(16), 1.0, shape)
    values = np.asarray(make_score(toy.apply)(toy.make_params(), toy.make_frozen(), batch))
    for place in places:
        found = values[place.micro, place.row, place.first : place.last]
        ids = experience.tokens[place.sample]
        wanted = toy.completion_logprobs(toy.make_params(), experience.prompt_of(place.sample), ids)
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_rows_without_the_log_probabilities_of_the_trainer_are_refused(toy, experience):
    config = GrpoConfig(steps=1, questions=4, group_size=4, old_policy="trainer")
    weights, denominator = update_weights(experience, np.arange(16), config)
    shape = shape_for(16, 14, rows=4, seq_len=32)
    bare = dataclasses.replace(experience, old_logprobs=None)
    batch, _ = pack(bare, np.arange(16), weights, denominator, shape)
    loss = grpo_loss(toy.apply, config.policy, old=config.old)
    with pytest.raises(ValueError, match="old is 'trainer', and the rows have no old_logprobs"):
        loss(toy.make_params(), None, jax.tree.map(lambda x: x[0], batch), jax.random.key(0))
