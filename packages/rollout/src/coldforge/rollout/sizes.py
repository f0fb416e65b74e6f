"""Slots, cache lengths and buckets: from what is asked for, a mesh and a memory budget to the shapes of all programs.

What a slot takes on its device: its rings and its places in the global layers' caches, and what choosing a token out of
the vocabulary takes meanwhile. The prompt store and one prefill call take their share once.

Each sample has a copy of its prompt's keys and values. Sharing them would save (n - 1) / n of the prompt's places in
global layers only, since a ring is as long whatever its prompt was: 512 prompt tokens before 32,768 new ones are 1.4 %
of a slot of 1B, 512 before 512 are 13 % (the rings of 22 local layers weigh more than 1,024 places in 4 global ones),
and every decode step would have to gather them.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from coldforge.modeling import Gemma3Config, cache_bytes
from coldforge.rollout.packing import prefill_shapes

STORE_ROWS = 16  # prompts prefilled together, at most
ENTRIES = 16  # samples that enter slots in one call
REST = 256  # tokens of a row of what follows a shared prefix: there, attention computes all pairs of a row
SCORES = 2**29  # bytes, at most, of those pairs and of those with the prefix, in one layer
CHOOSING = 20  # bytes a slot for each token of the vocabulary: logits and what is made of them (XLA:TPU: 18 to 22)
GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Demand:
    """What sizes follow from.

    Attributes:
      model, dtype: the model's sizes and its dtype.
      kv: dtype of caches.
      mesh: the model's, or None.
      prompt_tokens: the longest prompt.
      length: the longest prompt and its longest sample.
      prefill_chunk: tokens of one prefill call, over all devices.
      share: prefill once what prompts have in common.
    """

    model: Gemma3Config
    dtype: Any
    kv: Any
    mesh: Mesh | None
    prompt_tokens: int
    length: int
    prefill_chunk: int
    share: bool = True

    @property
    def devices(self) -> int:
        """Devices that share the rows of a batch."""
        return 1 if self.mesh is None else self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    @property
    def platform(self) -> str:
        """What programs are compiled for."""
        return jax.default_backend() if self.mesh is None else self.mesh.devices.flat[0].platform

    @property
    def store_length(self) -> int:
        """Places for a prompt."""
        return min(bucket_length(self.prompt_tokens), self.length)

    @property
    def slot_bytes(self) -> int:
        """Bytes on its device of one slot: its cache, and what choosing a token takes."""
        cache = cache_bytes(self.model, 1, self.length, dtype=self.kv) // ways(self.mesh, self.model.num_kv_heads)
        return cache + CHOOSING * self.model.vocab_size // ways(self.mesh, self.model.vocab_size)

    @property
    def once_bytes(self) -> int:
        """Bytes on each device of the prompt store and of one prefill call."""
        model, size = self.model, jnp.dtype(self.dtype).itemsize
        store = round_up(STORE_ROWS, self.devices) // self.devices
        tokens = max(self.store_length, self.prefill_chunk // self.devices)
        width = 4 * model.embed_dim + 4 * model.num_heads * model.head_dim + 3 * model.mlp_dim
        kept = store * cache_bytes(model, 1, self.store_length, dtype=self.kv)
        if self.share:
            kept += cache_bytes(model, 1, self.store_length, dtype=self.dtype)
        scores = max(map(self.score_bytes, self.shared_shapes), default=0)
        return kept + max(tokens * width * (size + 4), scores)

    def score_bytes(self, shape: tuple[int, int]) -> int:
        """Bytes on each device that attention behind a shared prefix takes: scores and what softmax makes of them."""
        height, width = shape
        pairs = height * width // self.devices * (self.store_length + width)
        return 8 * pairs * self.model.num_heads // ways(self.mesh, self.model.num_kv_heads)

    @property
    def shared_shapes(self) -> tuple[tuple[int, int], ...]:
        """Shapes of prefill calls behind a shared prefix, the narrow ones first; none where nothing is shared."""
        if not self.share:
            return ()
        narrow = prefill_shapes(min(REST, self.store_length), self.prefill_chunk, self.devices)
        wide = prefill_shapes(self.store_length, self.prefill_chunk, self.devices)
        shapes = narrow + [shape for shape in wide if shape[1] > REST]
        return tuple(shape for shape in shapes if self.score_bytes(shape) <= SCORES)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Shapes of all programs.

    Attributes:
      demand: what they follow from.
      slots: samples that run at the same time, over all devices.
      buckets: numbers of rows that decode programs may have, the largest first; the first is `slots`.
      store_rows: prompts that the store holds.
      prefill_shapes: of prefill calls, the smallest first.
      shared_shapes: likewise behind a prefix that prompts share; none: nothing is shared.
      entries: samples that enter slots in one call.
    """

    demand: Demand
    slots: int
    buckets: tuple[int, ...]
    store_rows: int
    prefill_shapes: tuple[tuple[int, int], ...]
    shared_shapes: tuple[tuple[int, int], ...]
    entries: int

    def bucket(self, live: int) -> int:
        """The smallest number of rows that holds `live` samples."""
        return min(rows for rows in self.buckets if rows >= live)


def make_sizes(demand: Demand, *, slots: int, shrink: bool) -> Sizes:
    """Sizes for so many slots, rounded up to what the devices and XLA take well."""
    slots = row_count(slots, demand)
    return Sizes(
        demand=demand,
        slots=slots,
        buckets=row_buckets(slots, demand) if shrink else (slots,),
        store_rows=round_up(min(STORE_ROWS, slots), demand.devices),
        prefill_shapes=tuple(prefill_shapes(demand.store_length, demand.prefill_chunk, demand.devices)),
        shared_shapes=demand.shared_shapes,
        entries=min(ENTRIES, slots),
    )


def describe(sizes: Sizes) -> str:
    """One line for people."""
    demand = sizes.demand
    memory = demand.once_bytes + sizes.slots // demand.devices * demand.slot_bytes
    shapes = ", ".join(f"{height} x {width}" for height, width in sizes.prefill_shapes)
    kv, mib = jnp.dtype(demand.kv).name, demand.slot_bytes / 2**20
    return (
        f"{sizes.slots} slots of {demand.length:,} tokens, {mib:.1f} MiB each with {kv} caches, on {demand.devices} "
        f"devices that share rows: about {memory / GIB:.2f} GiB on each beside the weights; rows "
        f"{', '.join(map(str, sizes.buckets))}; prefill calls {shapes}"
    )


def slots_in(memory_gib: float | int | None, demand: Demand) -> int:
    """Slots, over all devices, that a budget per device holds.

    Raises:
      ValueError: if not even one slot per device fits; the message says what it takes.
    """
    budget = GIB * (free_gib() if memory_gib is None else memory_gib)
    fit = int((budget - demand.once_bytes) // demand.slot_bytes)
    if fit < 1:
        raise ValueError(
            f"{budget / GIB:.2f} GiB hold no slot: one of {demand.length:,} tokens takes {demand.slot_bytes / GIB:.3f} "
            f"GiB, the prompts {demand.once_bytes / GIB:.3f}; raise memory_gib, lower max_new_tokens or prefill_chunk, "
            "or split the weights over more devices"
        )
    return demand.devices * min(fit if fit < 8 else fit // 8 * 8, 128 if demand.platform == "cpu" else 256)


def ways(mesh: Mesh | None, dimension: int) -> int:
    """Parts that `tensor` splits a dimension into."""
    tensor = 1 if mesh is None else mesh.shape["tensor"]
    return tensor if dimension % tensor == 0 else 1


def free_gib() -> float:
    """70 % of what is free on the fullest device of any process, or 2 where devices do not say."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    free = min(s["bytes_limit"] - s["bytes_in_use"] if s else int(2 * GIB / 0.7) for s in stats)
    if jax.process_count() > 1:  # all processes must build the same programs
        from jax.experimental import multihost_utils

        free = int(min(multihost_utils.process_allgather(jnp.int32(free >> 20)))) << 20
    return 0.7 * free / GIB


def row_count(rows: int, demand: Demand) -> int:
    """Rows that a program is compiled for: a few sizes, divisible by the devices that share them."""
    if rows > 8:
        rows = round_up(rows, 8)
    elif demand.dtype == jnp.bfloat16 and demand.platform == "cpu":
        rows = 8  # XLA:CPU multiplies fewer bf16 rows more than ten times slower than 8
    return round_up(rows, demand.devices)


def row_buckets(slots: int, demand: Demand) -> tuple[int, ...]:
    """Numbers of rows to shrink to as a queue runs dry: for 64 slots (64, 48, 32, 24, 16, 8) on a CPU.

    Each is a program to compile. On a CPU, where a step costs what its rows cost (270M in float32: 50 ms for 8, 153 for
    64), steps of a quarter pay; elsewhere a step costs the weights' reading too, and compiling takes longer: halves.
    """
    found = [slots]
    for eighths in (6, 4, 3, 2, 1) if demand.platform == "cpu" else (4, 2, 1):
        rows = round_up(max(8, slots * eighths // 8), max(8, demand.devices))
        if rows < found[-1]:
            found.append(rows)
    return tuple(found)


def bucket_length(length: int) -> int:
    """Lengths that programs are compiled for: 64, 128, 256, 512, 1,024, then multiples of 1,024."""
    return max(64, 1 << (length - 1).bit_length()) if length <= 1024 else round_up(length, 1024)


def round_up(value: int, multiple: int) -> int:
    """The next multiple."""
    return -(-value // multiple) * multiple
