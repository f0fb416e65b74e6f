"""In which order questions are asked: without end, each once an epoch, from a position alone.

    order(len(questions), seed=0, position=state)      # the index of the question to ask; state + 1 is all there is

An epoch's permutation follows from seed, count and epoch, so that any position is had at once, in any order, in any
process. The last two permutations are kept: 8 bytes a question each; a million take 0.1 s to make.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from coldforge.data.packing import shuffled

_KEY = 2  # packing's shuffles of the same seed and epoch have 0 and 1


@dataclass(frozen=True, slots=True)
class Place:
    """Where a position is.

    Attributes:
        epoch: How often every question was asked before, from 0.
        index: Of the question to ask.
    """

    epoch: int
    index: int


def place(count: int, seed: int, position: int) -> Place:
    """Says which question is asked at a position, and in which epoch that is.

    Args:
        count: How many questions there are.
        seed: Of the order; 0 or more.
        position: How many were asked before, from 0.

    Raises:
        ValueError: One of them is out of its range.
    """
    for name, value, least in (("count", count, 1), ("seed", seed, 0), ("position", position, 0)):
        if value < least:
            raise ValueError(f"{name} is {value}; wanted {least} or more.")
    epoch, rest = divmod(position, count)
    return Place(epoch, int(_permutation(count, seed, epoch)[rest]))


def order(count: int, seed: int, position: int) -> int:
    """Returns the index of the question at a position; see `place`.

    >>> sorted(order(5, 0, position) for position in range(5, 10))
    [0, 1, 2, 3, 4]
    """
    return place(count, seed, position).index


@lru_cache(maxsize=2)  # two, as a batch may reach into the next epoch
def _permutation(count: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    return shuffled(count, seed, epoch, _KEY)
