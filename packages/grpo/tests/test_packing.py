"""Packing: every token once, everything aligned with the token it speaks of, and room enough for any lengths."""

import dataclasses

import numpy as np
import pytest

from coldforge.grpo import BatchShape, is_empty, pack, shape_for
from coldforge.grpo.packing import padding_share, plan


def with_advantages(experience, rng):
    advantages = [rng.normal(size=len(ids)).astype(np.float32) for ids in experience.tokens]
    return dataclasses.replace(experience, advantages=advantages)


@pytest.mark.parametrize("seed", range(20))
def test_every_token_once_and_aligned(toy, seed):
    rng = np.random.default_rng(seed)
    experience = with_advantages(toy.make_experience(rng, groups=int(rng.integers(1, 6)), size=3), rng)
    chosen = rng.permutation(experience.samples)[: rng.integers(1, experience.samples + 1)]
    weights = rng.uniform(0.1, 1, len(chosen))
    shape = shape_for(len(chosen), toy.PROMPT + toy.LONGEST, rows=int(rng.integers(1, 5)), seq_len=30)
    batch, places = pack(experience, chosen, weights, 7.0, shape)
    assert batch.tokens.shape == shape
    assert sorted(place.sample for place in places) == sorted(chosen)
    assert batch.denominator.sum() == 7.0
    seen = np.zeros(shape, int)
    for micro, row, first, last, i in ((p.micro, p.row, p.first, p.last, p.sample) for p in places):
        asked, said = experience.prompt_of(i), experience.tokens[i]
        start, end = first + 1 - len(asked), last + 1
        at = (micro, row)
        np.testing.assert_array_equal(batch.tokens[at][start:end], np.concatenate([asked, said]))
        np.testing.assert_array_equal(batch.positions[at][start:end], np.arange(end - start))
        assert len(set(batch.segment_ids[at][start:end])) == 1
        np.testing.assert_array_equal(batch.targets[at][first:last], said)
        np.testing.assert_allclose(batch.weights[at][first:last], weights[list(chosen).index(i)])
        for name in ("advantages", "sampler_logprobs", "old_logprobs", "ref_logprobs"):
            np.testing.assert_array_equal(getattr(batch, name)[at][first:last], getattr(experience, name)[i])
        seen[at][start:end] += 1
    assert (seen == (batch.segment_ids > 0)).all(), "no position twice, none that belongs to nobody"
    assert (batch.weights > 0).sum() == experience.lengths[chosen].sum()
    for row in batch.segment_ids.reshape(-1, shape.seq_len):  # neighbours differ, and padding comes last
        ids = row[row > 0]
        assert (np.diff(ids) >= 0).all()
        assert (row[len(ids) :] == 0).all()


@pytest.mark.parametrize("seed", range(30))
def test_the_shape_holds_any_lengths(seed):
    """Also the worst: just over half a row, just over a third."""
    rng = np.random.default_rng(seed)
    seq_len = int(rng.integers(8, 40))
    longest, samples = int(rng.integers(1, seq_len + 1)), int(rng.integers(1, 60))
    shape = shape_for(samples, longest, rows=int(rng.integers(1, 9)), seq_len=seq_len)
    room = shape.accumulation * shape.rows
    evil = min(longest, seq_len // (seq_len // longest + 1) + 1)
    for lengths in (rng.integers(1, longest + 1, samples), np.full(samples, longest), np.full(samples, evil)):
        packs = plan(lengths.tolist(), seq_len)
        assert len(packs) <= room
        assert sorted(i for members in packs for i in members) == list(range(samples))
        assert all(sum(lengths[i] for i in members) <= seq_len for members in packs)
    worst = plan([longest] * samples, seq_len)
    assert room - len(worst) < shape.rows, "no micro-batch that the worst case does not need"


def test_what_is_not_needed_is_empty(toy):
    rng = np.random.default_rng(0)
    experience = with_advantages(toy.make_experience(rng, groups=2, size=2), rng)
    batch, _ = pack(experience, [0, 1], np.ones(2), 3.0, BatchShape(accumulation=3, rows=2, seq_len=30))
    assert [bool(is_empty(type(batch)(*(x[i] for x in batch)))) for i in range(3)] == [False, True, True]
    used = batch.segment_ids[0] > 0
    assert padding_share(batch) == pytest.approx(1 - used.mean())
    nothing, places = pack(experience, [], np.zeros(0), 3.0, BatchShape(2, 2, 30))
    assert places == []
    assert nothing.denominator.sum() == 0, "so that the step is not applied"
    assert padding_share(nothing) == 0


def test_what_does_not_fit_is_named(toy):
    experience = toy.make_experience(np.random.default_rng(0), groups=2, size=2, positions=np.array([40, 41]))
    with pytest.raises(ValueError, match=r"position 4[01] has \d+ tokens, prompt included; rows have 3"):
        pack(experience, range(4), np.ones(4), 1.0, BatchShape(4, 1, 3))
    with pytest.raises(ValueError, match=r"4 samples need \d rows of 14; the batch has 1"):
        pack(experience, range(4), np.ones(4), 1.0, BatchShape(1, 1, 14))
    with pytest.raises(ValueError, match="20 tokens, prompt included, does not fit into rows of 12"):
        shape_for(4, 20, rows=2, seq_len=12)
