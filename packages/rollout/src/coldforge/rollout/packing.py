"""Prompts packed into the rows of a prefill call, and the few shapes that such calls have."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class PackedPrompts(NamedTuple):
    """Arguments of one prefill call.

    Attributes:
      tokens, positions, segments: `[height, width]`; position -1 is padding.
      owner: the cache row that each token goes to, `[height, width]`.
      last: where the prompt of each cache row ends, `[cache rows, 2]`; -1 for rows that keep what they hold.
    """

    tokens: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    owner: np.ndarray
    last: np.ndarray


def pack_rows(sizes: Sequence[int], width: int) -> list[list[int]]:
    """Which texts share a row of `width` tokens, longest first: `pack_rows([5, 3, 2], 5)` is `[[0], [1, 2]]`."""
    packs: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        row = next((r for r, free in enumerate(room) if free >= sizes[i]), len(packs))
        if row == len(packs):
            packs.append([])
            room.append(width)
        packs[row].append(i)
        room[row] -= sizes[i]
    return packs


def prefill_shapes(width: int, chunk: int, devices: int) -> list[tuple[int, int]]:
    """Shapes `(height, width)` of prefill calls, smallest first.

    `prefill_shapes(256, 1024, 1)` is (1, 64), (1, 128), (1, 256), (2, 256), (4, 256).

    Args:
      width: of the longest prompt.
      chunk: tokens per call, at most, unless one row per device of that width is more.
      devices: that share the rows; a height is a multiple of it.
    """
    shapes = [(devices, 64 << i) for i in range(20) if 64 << i < width] + [(devices, width)]
    while 2 * shapes[-1][0] * width <= chunk:
        shapes.append((2 * shapes[-1][0], width))
    return shapes


def fit_shape(sizes: Sequence[int], shapes: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """The smallest shape that holds texts of these sizes, or None."""
    for height, width in shapes:
        if max(sizes) <= width and sum(sizes) <= height * width and len(pack_rows(sizes, width)) <= height:
            return height, width
    return None


def packed_prompts(
    prompts: Sequence[np.ndarray], height: int, width: int, cache_rows: int, start: int = 0
) -> PackedPrompts:
    """Prompt i, without its first `start` tokens, goes to cache row i."""
    prompts = [prompt[start:] for prompt in prompts]
    tokens, segments, owner = (np.zeros((height, width), np.int32) for _ in range(3))
    positions = np.full((height, width), -1, np.int32)
    last = np.full((cache_rows, 2), -1, np.int32)
    for r, pack in enumerate(pack_rows([p.size for p in prompts], width)):
        place = 0
        for segment, i in enumerate(pack, start=1):
            span = slice(place, place + prompts[i].size)
            tokens[r, span], segments[r, span], owner[r, span] = prompts[i], segment, i
            positions[r, span] = start + np.arange(prompts[i].size)
            place = span.stop
            last[i] = r, place - 1
    return PackedPrompts(tokens, positions, segments, owner, last)
