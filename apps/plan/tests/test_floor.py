"""The model's products by formula, against counting them out."""

import numpy as np
import pytest

from coldforge.apps.plan.floor import kernel_flops, step_floor, visible_keys
from coldforge.modeling import gemma3_1b

V5E = 4 * 128 * 128 * 2


@pytest.mark.parametrize(("seq_len", "window"), [(7, None), (7, 3), (16, 16), (5, 9), (1, 1)])
def test_visible_keys(seq_len: int, window: int | None) -> None:
    distance = np.subtract.outer(np.arange(seq_len), np.arange(seq_len))
    mask = (distance >= 0) & (distance < (window or seq_len))
    assert visible_keys(seq_len, window) == pytest.approx(mask.sum() / seq_len)


def test_the_floor_of_1b_at_4096_tokens() -> None:
    model = gemma3_1b()
    body = model.num_params - model.vocab_size * model.embed_dim
    bare = step_floor(model, rows=1, seq_len=4096, rank=0)
    # 2 operations a weight, forward and back; the norms' 0.1 million scales are no products.
    expected = 4096 * (4 * body + 4 * model.vocab_size * model.embed_dim)
    assert bare.products == pytest.approx(expected, rel=1e-3)
    assert bare.products / V5E == pytest.approx(125e6, rel=0.01)
    adapted = step_floor(model, rows=1, seq_len=4096, rank=64)
    assert adapted.products - bare.products == pytest.approx(4096 * 6 * 52_183_040, rel=0.05)
    full = step_floor(model, rows=1, seq_len=4096, rank=None)
    assert full.products / bare.products == pytest.approx(1.5, rel=1e-3)


def test_the_floor_goes_with_tokens_and_devices() -> None:
    one = step_floor(gemma3_1b(), rows=1, seq_len=1024, rank=8)
    assert step_floor(gemma3_1b(), rows=4, seq_len=1024, rank=8).products == 4 * one.products
    assert step_floor(gemma3_1b(), rows=1, seq_len=1024, rank=8, devices_per_row=2).attention == one.attention / 2


def test_kernels() -> None:
    model = gemma3_1b()
    calls = {
        "splash_mha_fwd_segmented_residuals": 26,
        "splash_mha_dkv_no_residuals": 26,
        "splash_mha_dq_no_residuals": 26,
    }
    found = kernel_flops(model, calls, rows=1, seq_len=4096)
    floor = step_floor(model, rows=1, seq_len=4096, rank=64).attention
    assert found == pytest.approx(floor * 9 / 6)  # 2 + 3 + 4 products where 2 + 4 are the least
    assert kernel_flops(model, calls, rows=1, seq_len=4096, tensor=4) == pytest.approx(found / 4)
    assert kernel_flops(model, {"some_other_kernel": 5}, rows=1, seq_len=4096) == 0
