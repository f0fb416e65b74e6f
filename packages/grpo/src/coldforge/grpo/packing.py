"""Samples packed into rows for the update: which share a row, and the arrays that the loss reads.

    shape = BatchShape(rows=8, seq_len=4096, accumulation=..)
    batch, places = pack(experience, chosen, weights, denominator, shape)      # arrays [accumulation, rows, seq]

Prompt and completion of a sample stand in one row, with a segment id of their own, so that no sample sees another. All
per-token arrays are aligned with the *prediction*: entry t speaks of the token after t. Hence `targets`, and hence a
sample's last token predicts nothing.

Shapes are fixed, so that nothing is compiled twice: `shape_for` says how many rows hold the worst case. What is not
needed stays empty, and the step skips empty micro-batches (`is_empty`).
"""

import bisect
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from coldforge.grpo.experience import Experience


class BatchShape(NamedTuple):
    """Sizes of an update's batch.

    Attributes:
      accumulation: micro-batches; see `shape_for`.
      rows: of a micro-batch, over all devices.
      seq_len: tokens of a row; at least the longest prompt and completion together.
    """

    accumulation: int
    rows: int
    seq_len: int


class Rows(NamedTuple):
    """A micro-batch `[rows, seq]`, or a batch with a leading `[accumulation]`; numpy, on devices, or abstract.

    Attributes:
      tokens, positions: ids, and positions in the sample, from 0; int32, as all ids.
      segment_ids: from 1 in each row; 0 is padding.
      targets: the token after each.
      weights: of the prediction in the loss, float32; 0 on prompts, padding and what does not count.
      advantages: of the target.
      sampler_logprobs: of the target.
      old_logprobs: None where the configuration has none.
      ref_logprobs: None where there is no reference.
      denominator: `[rows]`; their sum over the batch is what the update's loss is divided by.
    """

    tokens: Any
    positions: Any
    segment_ids: Any
    targets: Any
    weights: Any
    advantages: Any
    sampler_logprobs: Any
    old_logprobs: Any | None
    ref_logprobs: Any | None
    denominator: Any


class Place(NamedTuple):
    """Where a sample's completion is predicted: `batch[micro, row, first:last]`, one entry per token."""

    sample: int
    micro: int
    row: int
    first: int
    last: int


def shape_for(samples: int, longest: int, *, rows: int, seq_len: int) -> BatchShape:
    """The shape that holds `samples` samples of at most `longest` tokens, whatever their lengths.

    With k = seq_len // longest samples to a row in any case, best fit needs at most ⌈samples / k⌉ rows: a new row is
    begun only if every other is filled beyond seq_len − seq_len / k, which takes k samples.

    Raises:
      ValueError: if a sample may be longer than a row.
    """
    if longest > seq_len:
        raise ValueError(
            f"a sample of {longest} tokens, prompt included, does not fit into rows of {seq_len}: raise seq_len to "
            f"{longest}, or allow shorter prompts or completions"
        )
    needed = -(-samples // (seq_len // longest))
    return BatchShape(-(-needed // rows), rows, seq_len)


def plan(lengths: Sequence[int], seq_len: int) -> list[list[int]]:
    """Which samples share a row, best fit, longest first: `plan([5, 3, 2], 5)` is `[[0], [1, 2]]`."""
    packs: list[list[int]] = []
    room: list[tuple[int, int]] = []  # free tokens of a row, and which; sorted
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        best = bisect.bisect_left(room, (lengths[i], -1))
        if best < len(room):
            free, row = room.pop(best)
        else:
            free, row = seq_len, len(packs)
            packs.append([])
        packs[row].append(i)
        bisect.insort(room, (free - lengths[i], row))
    return packs


def pack(
    experience: Experience,
    chosen: Sequence[int] | np.ndarray,
    weights: Float[np.ndarray, " samples"],
    denominator: float,
    shape: BatchShape,
) -> tuple[Rows, list[Place]]:
    """The arrays of one update, and where each sample went.

    Args:
      experience: with advantages, or without them to score its samples.
      chosen: which of its samples.
      weights: what each token of a chosen sample weighs, in the order of `chosen`.
      denominator: of the update.
      shape: of the batch.

    Raises:
      ValueError: if the samples do not fit into the shape.
    """
    chosen = [int(i) for i in chosen]
    lengths = [len(experience.prompt_of(i)) + len(experience.tokens[i]) for i in chosen]
    if lengths and max(lengths) > shape.seq_len:
        place = experience.positions[chosen[int(np.argmax(lengths))] // experience.group_size]
        raise ValueError(
            f"a sample of the question at position {place} has {max(lengths)} tokens, prompt included; rows have "
            f"{shape.seq_len}: make rows longer, or allow shorter prompts or completions"
        )
    packs = plan(lengths, shape.seq_len)
    total = shape.accumulation * shape.rows
    if len(packs) > total:
        raise ValueError(f"{len(chosen)} samples need {len(packs)} rows of {shape.seq_len}; the batch has {total}")
    ints = [np.zeros((total, shape.seq_len), np.int32) for _ in range(4)]
    tokens, positions, segments, targets = ints
    optional = {name: getattr(experience, name) for name in ("old_logprobs", "ref_logprobs")}
    floats = {
        name: np.zeros((total, shape.seq_len), np.float32) for name in ("weights", "advantages", "sampler_logprobs")
    }
    floats |= {name: np.zeros_like(floats["weights"]) for name, values in optional.items() if values is not None}
    denominators = np.zeros(total, np.float32)
    denominators[: bool(packs)] = denominator  # as one number, not as a sum that rounds; without samples 0
    places = []
    # Rows one after the other over the micro-batches: the last ones stay empty as a whole, and are skipped.
    for row, members in enumerate(packs):
        start = 0
        for segment, member in enumerate(members, start=1):
            i = chosen[member]
            prompt, completion = experience.prompt_of(i), experience.tokens[i]
            end, said = start + lengths[member], start + len(prompt)
            whole = np.concatenate([prompt, completion])
            tokens[row, start:end], positions[row, start:end], segments[row, start:end] = (
                whole,
                np.arange(end - start),
                segment,
            )
            targets[row, start : end - 1] = whole[1:]
            span = slice(said - 1, end - 1)  # the positions that predict the completion
            floats["weights"][row, span] = weights[member]
            floats["sampler_logprobs"][row, span] = experience.sampler_logprobs[i]
            if experience.advantages is not None:
                floats["advantages"][row, span] = experience.advantages[i]
            for name, values in optional.items():
                if values is not None:
                    floats[name][row, span] = values[i]
            places.append(Place(i, row // shape.rows, row % shape.rows, said - 1, end - 1))
            start = end

    def split(array: np.ndarray) -> np.ndarray:
        return array.reshape(shape.accumulation, shape.rows, *array.shape[1:])

    found = {name: split(array) for name, array in floats.items()}
    return Rows(
        split(tokens), split(positions), split(segments), split(targets), found["weights"], found["advantages"],
        found["sampler_logprobs"], found.get("old_logprobs"), found.get("ref_logprobs"), split(denominators),
    ), places  # fmt: skip


def is_empty(batch: Rows) -> Bool[Array, ""]:
    """Whether a micro-batch holds nothing; `make_train_step(..., empty=is_empty)`."""
    return jnp.max(batch.segment_ids) == 0


def padding_share(batch: Rows) -> float:
    """The share of positions without text in the micro-batches that are not empty; 0 if all are."""
    used = batch.segment_ids.max(axis=(-2, -1)) > 0
    return float((batch.segment_ids[used] == 0).mean()) if used.any() else 0.0
