"""policy_loss against a float64 transcription in loops over samples, its gradient against finite differences.

Then packing, masks, micro-batches, meshes, on-policy, metrics, extremes, bad input."""

import dataclasses
import inspect
import operator
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from coldforge.losses import PolicyLoss, aggregation_weights, importance, policy_loss
from coldforge.losses.sequences import sequence_means, sequence_sums

pytestmark = pytest.mark.whole

KEYS = ("new", "old", "advantages", "ref", "sampler", "entropy")
LENGTHS = np.array([5, 1, 9, 3, 7, 2, 4, 6])


@pytest.fixture
def samples():
    """One dict of arrays per sample, each of the sample's length; advantages differ from token to token."""
    rng = np.random.default_rng(0)
    result = []
    for n in LENGTHS:
        old = -rng.exponential(size=n)
        result.append({
            "old": old, "new": old + 0.4 * rng.normal(size=n), "ref": old + 0.5 * rng.normal(size=n),
            "sampler": old + 0.4 * rng.normal(size=n), "entropy": rng.exponential(size=n),
            "advantages": rng.normal(size=n),
        })  # fmt: skip
    return result


def transcription(samples, weights, c: PolicyLoss, at=None):
    """The loss as the papers write it, sample by sample; `at` has what stop-gradients see (default: `samples`)."""
    total = 0.0
    for i, (s, w) in enumerate(zip(samples, weights, strict=True)):
        fixed = s if at is None else at[i]
        n = len(s["new"])
        per_token = np.exp(s["new"] - s["old"])
        if c.ratio == "token":
            ratio = per_token
        elif c.ratio == "sequence":
            ratio = np.full(n, np.prod(per_token) ** (1 / n))
        else:
            ratio = np.prod(np.exp(fixed["new"] - s["old"])) ** (1 / n) * np.exp(s["new"] - fixed["new"])
        a = s["advantages"]
        if c.objective == "cispo":
            value = np.exp(fixed["new"] - s["old"]) if c.ratio == "token" else ratio
            surrogate = np.clip(value, c.cispo_min, c.cispo_max) * a * s["new"]
        else:
            surrogate = np.minimum(ratio * a, np.clip(ratio, 1 - c.clip_low, 1 + c.clip_high) * a)
            if c.dual_clip is not None:
                surrogate = np.where(a < 0, np.maximum(surrogate, c.dual_clip * a), surrogate)
        if c.correction != "none":
            q = np.exp(s["old"] - s["sampler"])
            q = {"token": q, "sequence": np.full(n, q.prod()), "geometric": np.full(n, q.prod() ** (1 / n))}
            q = q[c.correction_level]
            if c.correction == "truncate":
                surrogate = surrogate * np.clip(q, c.correction_min, c.correction_max)
            else:
                surrogate = surrogate * np.where((q < c.correction_min) | (q > c.correction_max), 0, q)
        if c.off_policy_limit is not None:
            gap = (s["sampler"] - fixed["new"]).mean()
            surrogate = np.where((a < 0) & (gap > c.off_policy_limit), 0, surrogate)
        r = np.exp(s["ref"] - s["new"])
        kl = {"k1": -np.log(r), "k2": np.log(r) ** 2 / 2, "k3": r - np.log(r) - 1}
        kl["unbiased_k3"] = per_token * kl["k3"]
        total += (w * (-surrogate + c.beta * kl[c.kl] - c.entropy_bonus * s["entropy"])).sum()
    return total


def packed(samples, weights, rows, *, seed=0, prompts=True):
    """Samples in rows, each after a prompt; where nothing counts there is nan. Also (row, first) of each sample."""
    rng = np.random.default_rng(seed)
    places, used, order = {}, [0] * rows, rng.permutation(len(samples))
    segments = [[] for _ in range(rows)]
    for k, i in enumerate(order):
        row = k % rows
        prompt = int(rng.integers(1, 4)) if prompts else 0
        places[i] = (row, used[row] + prompt)
        n = len(samples[i]["new"])
        segments[row] += [len(set(segments[row])) + 1] * (prompt + n)
        used[row] += prompt + n
    seq = 48  # the same for all, so that operations are compiled once
    ids = np.array([s + [0] * (seq - len(s)) for s in segments], np.int32)
    arrays = {key: np.full((rows, seq), np.nan) for key in KEYS}
    token_weights = np.zeros((rows, seq))
    for i, (row, first) in places.items():
        here = slice(first, first + len(samples[i]["new"]))
        token_weights[row, here] = weights[i]
        for key in KEYS:
            arrays[key][row, here] = samples[i][key]
    return {"weights": token_weights, "segment_ids": ids, **arrays}, places


def loss_of(batch, config, *, new=None, on_policy=False):
    b = {key: jnp.asarray(value) for key, value in batch.items()}
    return policy_loss(
        b["new"] if new is None else new, None if on_policy else b["old"], b["advantages"], b["weights"],
        b["segment_ids"], ref_logprobs=b["ref"], sampler_logprobs=b["sampler"], entropy=b["entropy"], config=config,
    )  # fmt: skip


def terms_and_gradient(batch, config, **options):
    def loss(new):
        terms = loss_of(batch, config, new=new, **options)
        return terms.loss, terms

    (_, terms), gradient = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(batch["new"]))
    return terms, gradient


def unpacked(array, places, samples):
    """What belongs to each sample."""
    return [np.asarray(array)[places[i][0], places[i][1] :][: len(s["new"])] for i, s in enumerate(samples)]


CONFIGS = {
    "clip": PolicyLoss(),
    "clip-higher": PolicyLoss(clip_high=0.28),
    "dual clip": PolicyLoss(dual_clip=1.4),
    "r1": PolicyLoss(clip_low=10.0, clip_high=10.0, dual_clip=3.0, beta=0.001),
    "k1": PolicyLoss(kl="k1", beta=0.3),
    "k2": PolicyLoss(kl="k2", beta=0.3),
    "k3": PolicyLoss(kl="k3", beta=0.3),
    "unbiased k3": PolicyLoss(kl="unbiased_k3", beta=0.3),
    "entropy": PolicyLoss(entropy_bonus=0.1),
    "gspo": PolicyLoss(ratio="sequence", clip_low=0.05, clip_high=0.08),
    "gspo-token": PolicyLoss(ratio="sequence_token", clip_low=0.05, clip_high=0.08),
    "gspo unbiased k3": PolicyLoss(ratio="sequence", kl="unbiased_k3", beta=0.3),
    "cispo": PolicyLoss(objective="cispo", cispo_max=1.2),
    "cispo both": PolicyLoss(objective="cispo", cispo_min=0.9, cispo_max=1.2),
    "tis": PolicyLoss(correction="truncate", correction_max=1.3),
    "tis of samples": PolicyLoss(correction="truncate", correction_level="sequence", correction_min=0.5),
    "icepop": PolicyLoss(correction="mask", correction_min=0.7, correction_max=1.3),
    "mis": PolicyLoss(correction="mask", correction_level="sequence", correction_max=1.5),
    "geometric": PolicyLoss(correction="mask", correction_level="geometric", correction_min=0.9, correction_max=1.1),
    "off-policy mask": PolicyLoss(off_policy_limit=0.05),
    "everything": PolicyLoss(
        ratio="sequence_token", clip_high=0.28, dual_clip=2.0, kl="unbiased_k3", beta=0.2, entropy_bonus=0.05,
        correction="mask", correction_level="sequence", correction_max=1.5, off_policy_limit=0.3,
    ),
}  # fmt: skip
run_everything = jax.jit(lambda batch: terms_and_gradient(batch, CONFIGS["everything"]))
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


# --- the formula


@pytest.mark.usefixtures("float64")
@every_config
def test_loss_and_gradient_are_the_transcriptions(samples, config):
    """Packed at random against loops over samples; gradient by central differences, stop-gradients held still."""
    weights = aggregation_weights(LENGTHS, "sequence_mean").weights
    batch, places = packed(samples, weights, rows=3)
    terms, gradient = terms_and_gradient(batch, config)
    assert terms.loss == pytest.approx(transcription(samples, weights, config), abs=1e-12)
    step = 1e-6
    for i, found in enumerate(unpacked(gradient, places, samples)):
        for t, slope in enumerate(found):
            sides = []
            for sign in (1, -1):
                moved = samples[i] | {"new": samples[i]["new"].copy()}
                moved["new"][t] += sign * step
                sides.append(transcription([moved], weights[i : i + 1], config, at=[samples[i]]))
            assert slope == pytest.approx((sides[0] - sides[1]) / (2 * step), abs=1e-8)
    assert float(abs(np.where(batch["weights"] == 0, gradient, 0)).max()) == 0


@pytest.mark.usefixtures("float64")
def test_gspo_is_its_sequence_objective(samples):
    """1/G Σ_i min(s_i A_i, clip(s_i) A_i) and its gradient, where a sample has one advantage; GSPO-token equals it."""
    for s in samples:
        s["advantages"][:] = s["advantages"][0]
    found = aggregation_weights(LENGTHS, "sequence_mean")
    low, high, expected = 0.05, 0.08, []
    for s in samples:
        ratio, a = np.exp((s["new"] - s["old"]).mean()), s["advantages"][0]
        expected.append(min(ratio * a, np.clip(ratio, 1 - low, 1 + high) * a))
    gradients = []
    batch, places = packed(samples, found.weights, rows=3)
    for kind in ("sequence", "sequence_token"):
        config = PolicyLoss(ratio=kind, clip_low=low, clip_high=high)
        terms, gradient = terms_and_gradient(batch, config)
        assert terms.loss / found.denominator == pytest.approx(-np.mean(expected), abs=1e-12)
        gradients.append(gradient)
    np.testing.assert_allclose(gradients[0], gradients[1], atol=1e-12)
    for s, g in zip(samples, unpacked(gradients[0], places, samples), strict=True):
        np.testing.assert_allclose(g, g[0], atol=1e-12)  # every token of a sample has the same part of it
        assert len(g) == len(s["new"])


@pytest.mark.usefixtures("float64")
def test_entropy_has_its_gradient(samples):
    weights = aggregation_weights(LENGTHS, "token").weights
    batch, _ = packed(samples, weights, rows=3)
    b = {key: jnp.asarray(value) for key, value in batch.items()}

    def loss(entropy, bonus):
        config = PolicyLoss(entropy_bonus=bonus)
        return policy_loss(b["new"], b["old"], b["advantages"], b["weights"], entropy=entropy, config=config).loss

    np.testing.assert_allclose(jax.grad(loss)(b["entropy"], 0.1), -0.1 * batch["weights"], atol=1e-15)
    np.testing.assert_array_equal(jax.grad(loss)(b["entropy"], 0.0), 0)


def test_nothing_else_has_a_gradient(samples):
    batch, _ = packed(samples, np.ones(len(samples)), rows=3)
    b = {key: jnp.asarray(value, jnp.float32) for key, value in batch.items() if key != "segment_ids"}

    def loss(old, advantages, ref, sampler):
        config = CONFIGS["everything"]
        return policy_loss(
            b["new"], old, advantages, b["weights"], jnp.asarray(batch["segment_ids"]),
            ref_logprobs=ref, sampler_logprobs=sampler, entropy=b["entropy"], config=config,
        ).loss  # fmt: skip

    for gradient in jax.grad(loss, (0, 1, 2, 3))(b["old"], b["advantages"], b["ref"], b["sampler"]):
        np.testing.assert_array_equal(gradient, 0)


# --- sums: packing, masks, micro-batches, devices


@pytest.mark.usefixtures("float64")
@every_config
def test_packed_is_unpacked_and_masked_is_the_subset(samples, config):
    """The same loss, gradient and metrics one sample a row, and with further samples of weight 0 in between."""
    trained = np.array([True, False, True, True, False, True, True, True])
    weights = aggregation_weights(LENGTHS, "sequence_mean", trained=trained).weights
    kept = [s for s, keep in zip(samples, trained, strict=True) if keep]
    alone, alone_places = packed(kept, weights[trained], rows=len(kept), prompts=False)
    alone_terms, alone_gradient = terms_and_gradient(alone, config)
    expected = unpacked(alone_gradient, alone_places, kept)
    batch, places = packed(samples, weights, rows=3, seed=1)
    for key in KEYS:
        batch[key][batch["weights"] == 0] = np.nan
    terms, gradient = terms_and_gradient(batch, config)
    for a, b in zip(jax.tree.leaves(terms), jax.tree.leaves(alone_terms), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)
    found = [g for g, keep in zip(unpacked(gradient, places, samples), trained, strict=True) if keep]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", ["token", "sequence_mean", "sequence_sum", "constant"])
def test_micro_batches_add_up_to_the_whole(samples, kind):
    config, found = CONFIGS["everything"], aggregation_weights(LENGTHS, kind, length=9 if kind == "constant" else None)
    batch, _ = packed(samples, found.weights, rows=3)
    parts = [run_everything({key: value[r : r + 1] for key, value in batch.items()}) for r in range(3)]
    together = reduce(lambda a, b: a + b, [terms for terms, _ in parts])
    whole, gradient = run_everything(batch)
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)
    np.testing.assert_allclose(np.concatenate([of_part for _, of_part in parts]), gradient, atol=1e-12)
    per_sample = [transcription([s], [w], config) for s, w in zip(samples, found.weights, strict=True)]
    assert together.loss / found.denominator == pytest.approx(sum(per_sample) / found.denominator, abs=1e-12)


def test_the_same_on_eight_devices(samples):
    batch, _ = packed(samples, aggregation_weights(LENGTHS, "token").weights, rows=8)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    arrays = {k: jnp.asarray(v, jnp.int32 if k == "segment_ids" else jnp.float32) for k, v in batch.items()}
    split = {k: jax.device_put(v, NamedSharding(mesh, P("data"))) for k, v in arrays.items()}
    one = run_everything(arrays)
    with jax.set_mesh(mesh):
        eight = run_everything(split)
    for a, b in zip(jax.tree.leaves(eight), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_adding_anything_else_is_refused(samples):
    batch, _ = packed(samples, np.ones(len(samples)), rows=3)
    with pytest.raises(TypeError):
        operator.add(loss_of(batch, PolicyLoss()), (1.0, {}, {}, {}))


# --- on-policy


@pytest.mark.parametrize("kind", ["token", "sequence", "sequence_token"])
@pytest.mark.parametrize("objective", ["clip", "cispo"])
@pytest.mark.parametrize("given", [True, False])
def test_on_policy_the_ratio_is_one_and_the_gradient_is_reinforce(samples, kind, objective, given):
    """Exactly: −w A ∇ log π, in float32, whether the same log-probabilities are passed as old ones or none are."""
    for s in samples:
        s["advantages"][:] = s["advantages"][0]
        s["old"] = s["new"]
    batch, _ = packed(samples, aggregation_weights(LENGTHS, "token").weights, rows=3)
    batch = {k: v if k == "segment_ids" else v.astype(np.float32) for k, v in batch.items()}
    config = PolicyLoss(ratio=kind, objective=objective, clip_low=3e-4, clip_high=4e-4)
    terms, found = terms_and_gradient(batch, config, on_policy=not given)
    assert terms.maxima["ratio"] == terms.minima["ratio"] == terms.means["ratio"].mean() == 1
    assert terms.means["old_kl"].total == 0
    assert all(terms.means[f"clip_{name}"].total == 0 for name in ("low", "high", "dual"))
    expected = np.where(batch["weights"] > 0, -batch["weights"] * batch["advantages"], 0)
    if kind == "sequence":  # a sum over the sample divided by its length
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    else:
        np.testing.assert_array_equal(found, expected)


def test_beyond_the_clip_there_is_no_gradient():
    """A > 0: cut above; A < 0: cut below, and above with the dual clip; CISPO cuts none."""
    log_ratio = jnp.log(jnp.array([[0.5, 0.95, 1.05, 1.5, 9.0]]))
    ones, zeros = jnp.ones_like(log_ratio), jnp.zeros_like(log_ratio)

    def alive(advantage, **settings):
        def loss(new):
            return policy_loss(new, zeros, advantage * ones, ones, config=PolicyLoss(**settings)).loss

        return (jax.grad(loss)(log_ratio)[0] != 0).tolist()

    assert alive(1.0) == [True, True, True, False, False]
    assert alive(-1.0) == [False, True, True, True, True]
    assert alive(-1.0, dual_clip=3.0) == [False, True, True, True, False]
    assert alive(1.0, clip_high=0.6) == [True, True, True, True, False]
    assert alive(1.0, clip_low=10.0, clip_high=10.0) == [True] * 5
    assert alive(1.0, objective="cispo") == alive(-1.0, objective="cispo") == [True] * 5


# --- metrics


def test_metrics(samples):
    config = dataclasses.replace(CONFIGS["clip-higher"], dual_clip=1.4, correction="truncate", correction_max=1.3)
    weights = aggregation_weights(LENGTHS, "sequence_mean").weights
    batch, _ = packed(samples, weights, rows=3)
    terms = loss_of(batch, config)
    every = {key: np.concatenate([s[key] for s in samples]) for key in KEYS}
    ratio, a = np.exp(every["new"] - every["old"]), every["advantages"]
    weight, gap = np.exp(every["old"] - every["sampler"]), every["old"] - every["sampler"]
    expected = {
        "ratio": ratio.mean(),
        "clip_low": ((ratio < 0.8) & (a < 0)).mean(),
        "clip_high": ((ratio > 1.28) & (a > 0)).mean(),
        "clip_dual": ((ratio > 1.4) & (a < 0)).mean(),
        "old_kl": (ratio - 1 - np.log(ratio)).mean(),
        "kl": (np.exp(every["ref"] - every["new"]) - 1 - every["ref"] + every["new"]).mean(),
        "entropy": every["entropy"].mean(),
        "gap": abs(gap).mean(),
        "gap_kl": (weight - 1 - gap).mean(),
        "correction": weight.mean(),
        "correction_bounded": (weight > 1.3).mean(),
    }
    expected["kl_k3"] = expected["kl"]
    for name, value in expected.items():
        assert terms.means[name].mean() == pytest.approx(value, abs=1e-5), name
        assert terms.means[name].weight == LENGTHS.sum()
    assert min(expected[f"clip_{name}"] for name in ("low", "high", "dual")) > 0  # else nothing was tested
    assert terms.means.keys() == expected.keys() | {"loss"}
    assert terms.means["loss"].total == terms.loss
    assert terms.means["loss"].weight == pytest.approx(len(samples), abs=1e-5)
    for extreme, of in ((terms.maxima, np.max), (terms.minima, np.min)):
        assert extreme["ratio"] == pytest.approx(of(ratio), abs=1e-5)
        assert extreme["correction"] == pytest.approx(of(weight), abs=1e-5)
    assert terms.maxima["gap"] == pytest.approx(abs(gap).max(), abs=1e-5)


def test_metrics_of_other_settings(samples):
    batch, _ = packed(samples, np.ones(len(samples)), rows=3)
    every = {key: np.concatenate([s[key] for s in samples]) for key in KEYS}
    ratio = np.exp(every["new"] - every["old"])
    cispo = loss_of(batch, CONFIGS["cispo both"]).means
    assert cispo["clip_low"].total == (ratio < 0.9).sum()
    assert cispo["clip_high"].total == (ratio > 1.2).sum()
    left_out = sum(((s["advantages"] < 0) & ((s["sampler"] - s["new"]).mean() > 0.05)).sum() for s in samples)
    assert loss_of(batch, CONFIGS["off-policy mask"]).means["off_policy"].total == left_out > 0


def test_only_what_was_given_is_measured(samples):
    batch, _ = packed(samples, np.ones(len(samples)), rows=3)
    b = {key: jnp.asarray(value) for key, value in batch.items()}
    terms = policy_loss(b["new"], b["old"], b["advantages"], b["weights"])
    assert terms.means.keys() == {"loss", "ratio", "clip_low", "clip_high", "clip_dual", "old_kl"}
    assert terms.maxima.keys() == terms.minima.keys() == {"ratio"}


# --- extremes


@every_config
def test_extreme_log_ratios_are_finite(samples, config):
    """In float32, on either side of everything, with loss, metrics and gradients finite."""
    rng = np.random.default_rng(5)
    for s in samples:
        for key in ("new", "ref", "sampler"):
            s[key] = s["old"] + rng.choice([-1e4, -300.0, -30.0, 30.0, 300.0, 1e4], len(s["old"]))
    batch, _ = packed(samples, np.ones(len(samples)), rows=3)
    batch = {k: v if k == "segment_ids" else v.astype(np.float32) for k, v in batch.items()}
    for leaf in jax.tree.leaves(terms_and_gradient(batch, config)):
        assert np.isfinite(leaf).all()


def test_nothing_counted_is_zero(samples):
    batch, _ = packed(samples, np.zeros(len(samples)), rows=3)
    terms, gradient = terms_and_gradient(batch, CONFIGS["everything"])
    assert terms.loss == 0
    assert all(mean.total == 0 and mean.weight == 0 for mean in terms.means.values())
    assert (terms.maxima["ratio"], terms.minima["ratio"]) == (-np.inf, np.inf)
    np.testing.assert_array_equal(gradient, 0)


def test_nan_in_a_counted_token_shows(samples):
    samples[2]["new"][3] = np.nan
    batch, _ = packed(samples, np.ones(len(samples)), rows=3)
    assert np.isnan(loss_of(batch, PolicyLoss()).loss)


def test_low_precision_is_computed_in_float32(samples):
    batch, _ = packed(samples, np.ones(len(samples)), rows=3)
    b = {key: jnp.asarray(value, jnp.bfloat16) for key, value in batch.items() if key != "segment_ids"}
    terms = policy_loss(b["new"], b["old"], b["advantages"], b["weights"])
    assert {leaf.dtype for leaf in jax.tree.leaves(terms)} == {jnp.dtype(jnp.float32)}


# --- parts


def test_sums_over_sequences():
    values = jnp.asarray([[1.0, 2, 4, 8, 16], [1.0, 2, 4, 8, 16]])
    ids = jnp.asarray([[1, 1, 2, 2, 0], [900, 7, 7, 900, 900]])  # a change is what counts, not the number
    np.testing.assert_array_equal(sequence_sums(values, ids), [[3, 3, 12, 12, 16], [1, 6, 6, 24, 24]])
    np.testing.assert_array_equal(sequence_sums(values, None), np.full((2, 5), 31))
    mask = jnp.asarray([[True, False, True, True, False]] * 2)
    np.testing.assert_array_equal(sequence_means(values, mask, ids), [[1, 1, 6, 6, 0], [1, 4, 4, 8, 8]])


def test_sums_over_sequences_keep_digits_of_a_small_one_after_a_large_one():
    values = jnp.asarray([[1e8, 1e8, 0.1, 0.2]], jnp.float32)
    assert sequence_sums(values, jnp.asarray([[1, 1, 2, 2]]))[0, 3] == pytest.approx(0.3, rel=1e-6)


def test_bounds():
    weights = jnp.asarray([0.1, 0.5, 1.0, 2.0, 3.0])
    np.testing.assert_allclose(importance.bounded(weights, "truncate"), [0.1, 0.5, 1, 2, 2])
    np.testing.assert_allclose(importance.bounded(weights, "mask", low=0.5), [0, 0.5, 1, 2, 0])
    np.testing.assert_allclose(importance.bounded(weights, "none"), 1)


# --- bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "ppo"}, "objective must be one of clip, cispo, got 'ppo'"),
        ({"ratio": "gspo"}, "ratio must be one of token, sequence, sequence_token"),
        ({"kl": "kl"}, "kl must be one of k1, k2, k3, unbiased_k3"),
        ({"correction": "tis"}, "correction must be one of none, truncate, mask"),
        ({"correction_level": "row"}, "correction_level must be one of token, sequence, geometric"),
        ({"clip_low": -0.1}, "clip_low must not be negative"),
        ({"clip_high": float("nan")}, "clip_high must be finite"),
        ({"beta": -1.0}, "beta must not be negative"),
        ({"entropy_bonus": float("inf")}, "entropy_bonus must be finite"),
        ({"dual_clip": 1.0}, "must be above 1, got 1.0"),
        ({"cispo_min": 5.0}, "cispo_min must be below cispo_max, got 5.0 and 5.0"),
        ({"correction_min": 3.0}, "correction_min must be below correction_max"),
        ({"off_policy_limit": -0.5}, "off_policy_limit must not be negative"),
        ({"max_log_ratio": 0.0}, "above 0 and at most 40"),
        ({"max_log_ratio": 88.0}, "above 0 and at most 40"),
    ],
)
def test_bad_settings(settings, message):
    config = object.__new__(PolicyLoss)  # without the type checks of tests
    for field in dataclasses.fields(PolicyLoss):
        object.__setattr__(config, field.name, settings.get(field.name, field.default))
    with pytest.raises(ValueError, match=message):
        config.__post_init__()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.1}, "ref_logprobs must be given with beta=0.1"),
        ({"entropy_bonus": 0.1}, "entropy must be given with entropy_bonus=0.1"),
        ({"correction": "mask"}, "sampler_logprobs must be given with correction='mask'"),
        ({"off_policy_limit": 0.5}, "sampler_logprobs must be given with .*off_policy_limit=0.5"),
    ],
)
def test_what_the_settings_need_must_be_given(settings, message):
    x = jnp.ones((1, 3))
    with pytest.raises(ValueError, match=message):
        policy_loss(x, x, x, x, config=PolicyLoss(**settings))


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"advantages must have the shape of logprobs, \(1, 3\), got \(1, 1\)"):
        inspect.unwrap(policy_loss)(jnp.ones((1, 3)), None, jnp.ones((1, 1)), jnp.ones((1, 3)))
