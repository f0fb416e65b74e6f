"""Where the tokens and the vocabulary lie on a mesh, and how a function runs on each device's share of them.

Rows of tokens are split over the batch axes, the embedding's rows over the vocabulary axis and its columns over the
embed axis (`fsdp`, one of the batch axes, for weights that do not fit: columns are gathered for a block of rows at a
time). `shared` runs a function once per device under `jax.shard_map`, with the collectives written out: this package
needs few of them, and XLA, left to itself, would answer the sorting of tokens by gathering all of them onto every chip.

The mesh is the context's (`jax.set_mesh`). Without one, and inside somebody else's `shard_map`, a function simply runs
on what it is given, whole. As in coldforge's rules table, a dimension that its mesh axes do not divide stays whole.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
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
      embed: axes that split the embedding's columns: one or none.
    """

    active: bool = False
    batch: tuple[str, ...] = ()
    vocab: tuple[str, ...] = ()
    embed: tuple[str, ...] = ()

    def vocab_sum(self, x: Array) -> Array:
        """The sum of each device's part of the vocabulary."""
        return jax.lax.psum(x, self.vocab) if self.vocab else x

    def vocab_max(self, x: Array) -> Array:
        """The maximum over all parts of the vocabulary."""
        return jax.lax.pmax(x, self.vocab) if self.vocab else x

    def whole(self, rows: Array) -> Array:
        """Rows of the embedding with all of their columns."""
        return jax.lax.all_gather(rows, self.embed, axis=1, tiled=True) if self.embed else rows

    def rows_of(self, embedding: Array, index: Array) -> Array:
        """`[tokens, embed]`: whole rows of this device's part of the vocabulary; 0 where `index` is none of them."""
        rows = embedding.shape[0]
        index = jnp.where((index >= 0) & (index < rows), index, rows)
        if not self._tokens_differ_by_column:
            return self.whole(embedding.at[index].get(mode="fill", fill_value=0))
        everybodys = jax.lax.all_gather(index, self.embed, tiled=True)
        found = embedding.at[everybodys].get(mode="fill", fill_value=0)
        return jax.lax.all_to_all(found, self.embed, split_axis=0, concat_axis=1, tiled=True)

    def batch_sum(self, rows: Array) -> Array:
        """This device's columns of whole rows of the embedding's gradient, summed over all parts of the batch."""
        if self._tokens_differ_by_column:
            rows = jax.lax.psum_scatter(rows, self.embed, scatter_dimension=1, tiled=True)
        elif self.embed:
            columns = rows.shape[1] // jax.lax.axis_size(self.embed)
            rows = jax.lax.dynamic_slice_in_dim(rows, jax.lax.axis_index(self.embed) * columns, columns, axis=1)
        others = tuple(axis for axis in self.batch if axis not in self.embed)
        return jax.lax.psum(rows, others) if others else rows

    @property
    def _tokens_differ_by_column(self) -> bool:
        """Whether devices with different columns have different tokens too: `fsdp` splits both."""
        return bool(set(self.embed) & set(self.batch))

    def first_row(self, rows: int) -> Array | int:
        """The number in the whole vocabulary of this device's first of `rows` rows of the embedding."""
        return jax.lax.axis_index(self.vocab) * rows if self.vocab else 0


def platform() -> str:
    """What a trace is for: the platform of the context's mesh ("tpu" also ahead of time), else the default one."""
    mesh = jax.sharding.get_abstract_mesh()
    device = None if mesh.empty else mesh.abstract_device
    return jax.default_backend() if device is None else device.platform


def placement(
    batch: int, vocab: int, embed: int, *, batch_axes: Sequence[str], vocab_axis: str, embed_axis: str | None
) -> Placement:
    """Which axes of the context's mesh split `batch` rows of tokens and an embedding `[vocab, embed]`."""
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

    def splits(axis: str | None, size: int) -> tuple[str, ...]:
        ways = 1 if axis is None else sizes.get(axis, 1)
        return (axis,) if axis is not None and ways > 1 and size % ways == 0 else ()

    return Placement(True, tuple(chosen), splits(vocab_axis, vocab), splits(embed_axis, embed))


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
    specs = {TOKENS: PartitionSpec(place.batch), VOCAB: PartitionSpec(place.vocab, place.embed), WHOLE: PartitionSpec()}
    return jax.shard_map(
        function,
        in_specs=tuple(specs[kind] for kind in inputs),
        out_specs=jax.tree.map(specs.__getitem__, outputs),
        # JAX cannot see that results are equal on devices that share tokens. Gradients do not pass through here.
        check_vma=False,
    )
