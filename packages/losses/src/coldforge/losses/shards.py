"""Where the tokens and the vocabulary lie on a mesh, and how a function runs on each device's share of them.

Rows of tokens are split over the batch axes, the embedding's rows over the vocabulary axis. `shared` runs a function
once per device under `jax.shard_map`, with the collectives written out: this package needs few of them, and XLA, left
to itself, would answer the sorting of tokens by gathering all of them onto every chip.

The mesh is the context's (`jax.set_mesh`). Without one, and inside somebody else's `shard_map`, a function simply runs
on what it is given, whole. As in coldforge's rules table, a dimension that its mesh axes do not divide stays whole.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array

TOKENS, VOCAB, WHOLE = "tokens", "vocab", "whole"  # how an argument or a result is split along its first dimension


@dataclasses.dataclass(frozen=True)
class Placement:
    """The mesh axes in use.

    Attributes:
      active: whether there is a mesh to spread over at all.
      batch: axes that split the rows of tokens.
      vocab: axes that split the vocabulary: one or none.
    """

    active: bool = False
    batch: tuple[str, ...] = ()
    vocab: tuple[str, ...] = ()

    def vocab_sum(self, x: Array) -> Array:
        """The sum of each device's part of the vocabulary."""
        return jax.lax.psum(x, self.vocab) if self.vocab else x

    def vocab_max(self, x: Array) -> Array:
        """The maximum over all parts of the vocabulary."""
        return jax.lax.pmax(x, self.vocab) if self.vocab else x

    def batch_sum(self, x: Array) -> Array:
        """The sum over all parts of the batch."""
        return jax.lax.psum(x, self.batch) if self.batch else x

    def first_row(self, rows: int) -> Array | int:
        """The number in the whole vocabulary of this device's first of `rows` rows of the embedding."""
        return jax.lax.axis_index(self.vocab) * rows if self.vocab else 0

    def vocab_rows(self, rows: int) -> int:
        """The rows of the whole embedding, of which this device has `rows`."""
        return rows * jax.lax.axis_size(self.vocab) if self.vocab else rows

    def trips(self, trips: Array) -> Array:
        """How often a loop with collectives in it runs: as often on every device, or they would wait for ever.

        Costs nothing: the step ends with its slowest device anyway.
        """
        return jax.lax.pmax(trips, self.batch) if self.vocab and self.batch else trips


def placement(batch: int, vocab: int, *, batch_axes: Sequence[str], vocab_axis: str) -> Placement:
    """Which axes of the context's mesh split `batch` rows of tokens and `vocab` rows of the embedding."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or mesh.manual_axes:
        return Placement()
    sizes, ways, chosen = dict(mesh.shape), 1, []
    for axis in batch_axes:
        ways *= sizes.get(axis, 1)
        if batch % ways:
            break
        if sizes.get(axis, 1) > 1:
            chosen.append(axis)
    split = sizes.get(vocab_axis, 1) > 1 and vocab % sizes[vocab_axis] == 0
    return Placement(active=True, batch=tuple(chosen), vocab=(vocab_axis,) if split else ())


def shared(function: Callable[..., Any], place: Placement, inputs: Sequence[str], outputs: Any) -> Callable[..., Any]:
    """`function` run by each device on its share.

    Args:
      function: array function, free to use `place`'s collectives.
      place: from `placement`.
      inputs: TOKENS, VOCAB or WHOLE for each argument.
      outputs: the same for the results: one word, or a pytree prefix of them.
    """
    if not place.active:
        return function
    specs = {TOKENS: PartitionSpec(place.batch), VOCAB: PartitionSpec(place.vocab), WHOLE: PartitionSpec()}
    return jax.shard_map(
        function,
        in_specs=tuple(specs[kind] for kind in inputs),
        out_specs=jax.tree.map(specs.__getitem__, outputs),
        # JAX cannot see that results are equal on devices that share tokens. Gradients do not pass through here.
        check_vma=False,
    )
