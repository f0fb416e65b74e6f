"""A batch that broke a step comes back as it was, with what belongs to it."""

from typing import NamedTuple

import numpy as np
import pytest

from coldforge.training.batches import load_batch, save_batch


class Tokens(NamedTuple):
    tokens: np.ndarray
    weights: np.ndarray


def test_a_batch_comes_back(tmp_path):
    batch = Tokens(np.arange(24, dtype=np.int32).reshape(2, 3, 4), np.full((2, 3, 4), np.nan, np.float32))
    extra = {
        "step": 12,
        "loss": np.float32("nan"),
        "ids": np.arange(3),
        "source": ["gsm", "é"],
        "deep": {"x": (1, 2.5)},
    }
    path = save_batch(tmp_path / "bad" / "step_12.npz", batch, extra)
    arrays, back = load_batch(path)
    assert arrays.keys() == {"tokens", "weights"}
    np.testing.assert_array_equal(arrays["tokens"], batch.tokens)
    np.testing.assert_array_equal(arrays["weights"], batch.weights)
    assert arrays["tokens"].dtype == np.int32
    assert back == {"step": 12, "loss": "NaN", "ids": [0, 1, 2], "source": ["gsm", "é"], "deep": {"x": [1, 2.5]}}
    assert [p.name for p in path.parent.iterdir()] == ["step_12.npz"]


def test_numpy_alone_opens_it(tmp_path):
    path = save_batch(tmp_path / "b.npz", {"a": {"b": np.ones(2)}, "file": np.zeros(1)}, {})
    with np.load(path) as file:
        assert set(file.files) == {"a.b", "file", "extra_json"}


def test_what_cannot_be_saved_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"as \.npz, got"):
        save_batch(tmp_path / "b.npy", {}, {})
    with pytest.raises(ValueError, match="'extra_json' is where"):
        save_batch(tmp_path / "b.npz", {"extra_json": np.ones(1)}, {})
    assert list(tmp_path.iterdir()) == []
    np.savez(tmp_path / "other.npz", a=np.ones(1))
    with pytest.raises(ValueError, match=r"other\.npz was not written by save_batch"):
        load_batch(tmp_path / "other.npz")
