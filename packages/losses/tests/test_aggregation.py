"""Weights and denominators against the formulas they stand for, on samples of different lengths."""

import inspect

import numpy as np
import pytest

from coldforge.losses import aggregation_weights

LENGTHS = np.array([3, 1, 7, 4])
LOSSES = [np.random.default_rng(0).normal(size=n) for n in LENGTHS]

FORMULAS = {
    "token": lambda losses: np.concatenate(losses).mean(),
    "sequence_mean": lambda losses: np.mean([x.mean() for x in losses]),
    "sequence_sum": lambda losses: np.mean([x.sum() for x in losses]),
    "constant": lambda losses: np.mean([x.sum() / 8 for x in losses]),
}


def aggregated(kind, lengths=LENGTHS, losses=LOSSES, **masks):
    found = aggregation_weights(lengths, kind, length=8 if kind == "constant" else None, **masks)
    total = sum(w * x.sum() for w, x in zip(found.weights, losses, strict=True))
    return total / found.denominator


@pytest.mark.parametrize("kind", FORMULAS)
def test_each_is_its_formula(kind):
    assert aggregated(kind) == pytest.approx(FORMULAS[kind](LOSSES), abs=1e-14)


@pytest.mark.parametrize("kind", FORMULAS)
def test_filtered_is_the_subset(kind):
    """Overlong filtering: what is not trained leaves sum and denominator."""
    trained = np.array([True, False, True, False])
    kept = [x for x, keep in zip(LOSSES, trained, strict=True) if keep]
    assert aggregated(kind, trained=trained) == pytest.approx(FORMULAS[kind](kept), abs=1e-14)


@pytest.mark.parametrize("kind", ["sequence_mean", "sequence_sum", "constant"])
def test_filtered_may_stay_in_the_denominator(kind):
    trained = np.array([True, False, True, False])
    masked = [x * keep for x, keep in zip(LOSSES, trained, strict=True)]
    found = aggregated(kind, trained=trained, counted=np.ones(4, bool))
    assert found == pytest.approx(FORMULAS[kind](masked), abs=1e-14)


def test_groups_without_signal_may_leave_the_denominator_alone():
    found = aggregation_weights(LENGTHS, "token", counted=np.array([True, True, False, False]))
    np.testing.assert_array_equal(found.weights, 1)
    assert found.denominator == 4


def test_a_place_without_a_sample_counts_nowhere():
    lengths = np.array([3, 0, 7, 4])
    for kind in FORMULAS:
        found = aggregation_weights(lengths, kind, length=8 if kind == "constant" else None, counted=np.ones(4, bool))
        assert found.weights[1] == 0
        assert found.denominator == (14 if kind == "token" else 3)


def test_nothing_counted():
    found = aggregation_weights(LENGTHS, "token", trained=np.zeros(4, bool))
    assert found.denominator == 0
    assert not found.weights.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "tokens"}, "one of token, sequence_mean, sequence_sum, constant, got 'tokens'"),
        ({"kind": "constant"}, "'constant' needs a length of at least 1"),
        ({"kind": "constant", "length": 0}, "'constant' needs a length of at least 1"),
        ({"kind": "token", "length": 3}, "no other kind has one; got 'token', 3"),
        ({"kind": "token", "lengths": np.array([1, -2])}, "none negative"),
        ({"kind": "token", "trained": np.ones(3, bool)}, r"trained must be one bool per sample, got bool \(3,\)"),
        ({"kind": "token", "counted": np.ones(4)}, r"counted must be one bool per sample, got float64"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(aggregation_weights)(**({"lengths": LENGTHS} | arguments))  # without the type checks of tests
