"""Slots and buckets by example, and the bytes of a slot against the arrays that a program makes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coldforge.modeling import gemma3_1b, make_mesh
from coldforge.rollout import programs
from coldforge.rollout.packing import fit_shape, pack_rows, packed_prompts, prefill_shapes
from coldforge.rollout.sizes import GIB, Demand, describe, make_sizes, row_buckets, slots_in


def demand(**change) -> Demand:
    values = {"dtype": jnp.bfloat16, "kv": jnp.bfloat16, "mesh": None, "prompt_tokens": 500, "prefill_chunk": 2048}
    return Demand(**{"model": gemma3_1b(), "length": 8192 + 512} | values | change)


def test_a_slot_of_1b_takes_what_its_arrays_take():
    one = demand()
    slots = jax.eval_shape(
        lambda: programs.empty_slots(one.model, rows=4, length=one.length, dtype=one.dtype, kv=one.kv)
    )
    cache = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(slots.cache))
    assert one.slot_bytes == cache // 4 + 20 * one.model.vocab_size


@pytest.mark.parametrize(("length", "slots"), [(8192, 128), (32768, 80)])
def test_slots_of_1b_with_12_gib(length, slots):
    """One of 8 chips with replicated weights: rings of 22 local layers, all places in 4 global ones."""
    one = demand(length=length)
    assert slots_in(12, one) == slots  # 128 is the most on a CPU
    assert one.once_bytes + slots * one.slot_bytes <= 12 * GIB


def test_a_mesh_multiplies_slots_and_int8_caches_do_too():
    assert slots_in(4, demand(mesh=make_mesh(data=8))) >= 8 * slots_in(4, demand())  # prompts are shared too
    assert slots_in(4, demand(kv=jnp.int8)) > 1.6 * slots_in(4, demand())
    assert slots_in(0.67, demand()) == 2  # fewer than 8 are not rounded
    sizes = make_sizes(demand(mesh=make_mesh(data=8)), slots=100, shrink=True)
    assert sizes.slots == 104
    assert all(rows % 8 == 0 for rows in sizes.buckets)
    assert sizes.store_rows % 8 == 0
    assert "104 slots of 8,704 tokens" in describe(sizes)


@pytest.mark.parametrize(
    ("slots", "mesh", "buckets"),
    [(64, None, (64, 48, 32, 24, 16, 8)), (3, None, (3,)), (16, {"data": 8}, (16, 8)), (24, {"fsdp": 8}, (24, 16, 8))],
)
def test_row_buckets_by_example(slots, mesh, buckets):
    assert row_buckets(slots, demand(mesh=mesh and make_mesh(**mesh))) == buckets


def test_prefill_shapes_by_example():
    assert prefill_shapes(256, 1024, 1) == [(1, 64), (1, 128), (1, 256), (2, 256), (4, 256)]
    assert prefill_shapes(64, 32, 8) == [(8, 64)]
    shapes = prefill_shapes(256, 1024, 1)
    assert fit_shape([60, 60], shapes) == (1, 128)
    assert fit_shape([200, 200, 50], shapes) == (2, 256)
    assert fit_shape([200] * 5, shapes) is None


@pytest.mark.parametrize(("sizes", "width"), [([5, 3, 2], 5), ([1] * 10, 4), ([7, 7, 7], 7), ([4, 4, 2, 2, 1], 6)])
def test_packs_hold_every_text_once_and_fit(sizes, width):
    packs = pack_rows(sizes, width)
    assert sorted(i for pack in packs for i in pack) == list(range(len(sizes)))
    assert all(sum(sizes[i] for i in pack) <= width for pack in packs)


def test_packed_prompts_by_example():
    packed = packed_prompts([np.array([7, 8]), np.array([5, 6, 9])], height=1, width=6, cache_rows=3)
    assert packed.tokens.tolist() == [[5, 6, 9, 7, 8, 0]]
    assert packed.positions.tolist() == [[0, 1, 2, 0, 1, -1]]
    assert packed.segments.tolist() == [[1, 1, 1, 2, 2, 0]]
    assert packed.owner.tolist() == [[1, 1, 1, 0, 0, 0]]
    assert packed.last.tolist() == [[0, 4], [0, 2], [-1, -1]]


def test_attention_behind_a_prefix_is_bounded() -> None:
    short = demand(prompt_tokens=900)  # a store of 1,024
    assert short.shared_shapes == (
        (1, 64),
        (1, 128),
        (1, 256),
        (2, 256),
        (4, 256),
        (8, 256),
        (1, 512),
        (1, 1024),
        (2, 1024),
    )
    long = demand(prompt_tokens=32_000, length=33_000)
    assert (1, 256) in long.shared_shapes
    assert max(height * width for height, width in long.shared_shapes) <= 512
    assert all(long.score_bytes(shape) <= 2**29 for shape in long.shared_shapes)
    assert demand(share=False).shared_shapes == ()
    assert demand(share=False).once_bytes < demand().once_bytes
