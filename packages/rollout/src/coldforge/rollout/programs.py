"""The compiled programs of the sampler, and what they keep on the devices.

    store = prefill(graph, weights, store, packed)                 # prompts → rows of the prompt store
    store = prefill(graph, weights, store, packed, prefix)         # the same behind a beginning that all of them share
    slots = admit(slots, store, entries)                           # rows of the store → slots, one per sample
    slots, made = decode(graph, weights, slots, stop_ids, …)        # new tokens in all slots, until enough have ended
    slots = retire(slots, ended)                                   # slots that the host has ended
    slots = compact(slots, source)                                 # the slots that still run, in fewer rows

Each is compiled once for each shape of its arguments. Everything that changes from sample to sample (temperature,
limit, random key, position) is an array with one entry per slot. `slots` and `store` are donated: no cache is copied.
On a mesh, rows are split over `data` and `fsdp`, key/value heads over `tensor`; what the host reads is on every device.
"""

import contextlib
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, UInt32

from coldforge.modeling import Gemma3Config, KVCache, init_cache
from coldforge.modeling.cache import EMPTY
from coldforge.modeling.sharding import constrain
from coldforge.rollout.packing import PackedPrompts
from coldforge.rollout.sampling import RowParams, is_stop, sample

INTERVAL = 64  # most steps of one `decode` call: the width of what it gives the host


class Store(NamedTuple):
    """Prefilled prompts, one per row."""

    cache: KVCache
    hidden: Float[Array, "rows embed"]  # of each prompt's last token


class Slots(NamedTuple):
    """What the decode loop carries; one row per slot."""

    cache: KVCache
    hidden: Float[Array, "rows embed"]  # of the last token: the next one is drawn from it
    position: Int[Array, " rows"]  # of the next token
    done: Bool[Array, " rows"]
    made: Int[Array, " rows"]  # new tokens so far
    key: UInt32[Array, "rows key"]  # random key data of the sample
    limit: Int[Array, " rows"]  # most new tokens
    params: RowParams


class Entries(NamedTuple):
    """Samples that enter slots, `[entries]` each; a slot out of range is padding."""

    slot: np.ndarray
    source: np.ndarray  # row of the store
    position: np.ndarray
    key: np.ndarray
    limit: np.ndarray
    params: RowParams


class Made(NamedTuple):
    """What one `decode` call made, on every device.

    Attributes:
      tokens, logprobs: `[rows, INTERVAL]`; a slot's are the first ones, as many as `made` has grown by.
      made, done: as in `Slots`; stopped: whether the last token of a slot is a stop id.
      steps: of the loop.
    """

    tokens: Int[Array, "rows steps"]
    logprobs: Float[Array, "rows steps"]
    made: Int[Array, " rows"]
    done: Bool[Array, " rows"]
    stopped: Bool[Array, " rows"]
    steps: Int[Array, ""]


def mesh_context(mesh: Mesh | None):
    """The mesh for what is compiled and run inside, or nothing."""
    return jax.set_mesh(mesh) if mesh is not None else contextlib.nullcontext()


def compiled() -> int:
    """Programs compiled so far by this process, over all engines."""
    programs: tuple[Any, ...] = (empty_store, empty_slots, prefill, admit, decode, _ended, _take)
    return sum(program._cache_size() for program in programs)


@partial(jax.jit, static_argnames=("config", "rows", "length", "dtype", "kv"))
def empty_store(config: Gemma3Config, *, rows: int, length: int, dtype, kv) -> Store:
    """A store for `rows` prompts of up to `length` tokens."""
    cache = init_cache(config, rows, length, dtype=kv)
    return _pin(Store(cache, jnp.zeros((rows, config.embed_dim), dtype)))


@partial(jax.jit, static_argnames=("config", "rows", "length", "dtype", "kv"))
def empty_slots(config: Gemma3Config, *, rows: int, length: int, dtype, kv) -> Slots:
    """Slots that run nothing."""
    zero = jnp.zeros(rows, jnp.int32)
    return _pin(
        Slots(
            cache=init_cache(config, rows, length, dtype=kv),
            hidden=jnp.zeros((rows, config.embed_dim), dtype),
            position=zero,
            done=jnp.ones(rows, bool),
            made=zero,
            key=jnp.zeros((rows, 2), jnp.uint32),
            limit=zero,
            params=RowParams(jnp.ones(rows), zero, jnp.ones(rows)),
        )
    )


@partial(jax.jit, static_argnames="graph", donate_argnames="store")
def prefill(graph, weights, store: Store, packed: PackedPrompts, prefix: KVCache | None = None) -> Store:
    """The store with the keys, values and last hidden states of packed prompts in their rows.

    With `prefix`, the cache of a store of one row in the model's dtype, `packed` holds what follows it.
    """
    model = nnx.merge(graph, weights)
    tokens, positions, segments, owner, last = packed
    out, cache = model(tokens, positions, segments, cache=store.cache, rows=owner, prefix=prefix)
    ends = out[last[:, 0], last[:, 1]]
    return _pin(Store(cache, jnp.where(last[:, :1] >= 0, ends, store.hidden)))


@partial(jax.jit, donate_argnames="slots")
def admit(slots: Slots, store: Store, entries: Entries) -> Slots:
    """Each entry's prompt in its slot; padding comes last.

    A prompt has the same places in a row of either cache: where the slot's ring is the longer one, the store's is as
    long as its prompts and has not wrapped. Caches take one entry at a time: a scatter of int8 rows makes XLA:TPU copy
    each cache twice to change its layout (1,214 M estimated cycles a call at 8,192 tokens where this takes
    about 8 M).
    """
    slot, source = entries.slot, entries.source

    def rows(old, new):
        return old.at[slot].set(new, mode="drop")

    def layer(old, new):
        prompts = new[source]

        def put(entry, old):
            row = jax.lax.dynamic_index_in_dim(prompts, entry, keepdims=True)
            return jax.lax.dynamic_update_slice(old, row, (slot[entry], *[0] * (old.ndim - 1)))

        return jax.lax.fori_loop(0, jnp.sum(slot < old.shape[0]), put, old)

    positions = {}
    for kind, old in slots.cache.positions.items():
        new = store.cache.positions[kind][source]
        positions[kind] = rows(old, jnp.pad(new, ((0, 0), (0, old.shape[1] - new.shape[1])), constant_values=EMPTY))
    cache = KVCache(
        keys=jax.tree.map(layer, slots.cache.keys, store.cache.keys),
        values=jax.tree.map(layer, slots.cache.values, store.cache.values),
        positions=positions,
    )
    zero = jnp.zeros_like(slot)
    return _pin(
        slots._replace(
            cache=cache,
            hidden=rows(slots.hidden, store.hidden[source]),
            position=rows(slots.position, entries.position),
            done=rows(slots.done, zero.astype(bool)),
            made=rows(slots.made, zero),
            key=rows(slots.key, entries.key),
            limit=rows(slots.limit, entries.limit),
            params=jax.tree.map(rows, slots.params, entries.params),
        )
    )


@partial(jax.jit, static_argnames="graph", donate_argnames="slots")
def decode(graph, weights, slots: Slots, stop_ids, steps, until) -> tuple[Slots, Made]:
    """New tokens for every slot that is not done: `steps` of them, or fewer if `until` slots are done before.

    `steps` is at most INTERVAL; both are numbers that compile nothing anew.
    """
    rows = slots.done.shape[0]

    def body(carry):
        step, slots, tokens, logprobs = carry
        model = nnx.merge(graph, weights)  # here, not outside: qwix notes things on the modules while it traces
        token, logprob = sample(model.logits(slots.hidden), _uniform(slots), slots.params)
        made = slots.made + ~slots.done
        done = slots.done | is_stop(token, stop_ids) | (made >= slots.limit)
        position = jnp.where(slots.done, EMPTY, slots.position)  # slots that are done write nothing
        hidden, cache = model(token[:, None], position[:, None], cache=slots.cache)
        slots = slots._replace(cache=cache, hidden=hidden[:, 0], position=slots.position + 1, done=done, made=made)
        return step + 1, _pin(slots), tokens.at[:, step].set(token), logprobs.at[:, step].set(logprob)

    def go(carry):
        step, slots, *_ = carry
        ended = jnp.sum(slots.done)
        return (step < steps) & (ended < until) & (ended < rows)

    empty = jnp.zeros((rows, INTERVAL), jnp.int32), jnp.zeros((rows, INTERVAL), jnp.float32)
    before = slots.made
    step, slots, tokens, logprobs = jax.lax.while_loop(go, body, (jnp.int32(0), slots, *empty))
    index = jnp.maximum(slots.made - before - 1, 0)
    last = jnp.take_along_axis(tokens, index[:, None], axis=1)[:, 0]
    stopped = is_stop(last, stop_ids) & (slots.made > before)
    made = Made(tokens, logprobs, slots.made, slots.done, stopped, step)
    return slots, jax.tree.map(lambda x: constrain(x, (None,) * x.ndim), made)


def retire(slots: Slots, ended: np.ndarray) -> Slots:
    """The slots with those done that are `ended`, bool `[rows]`."""
    return slots._replace(done=_ended(slots.done, ended))


@jax.jit
def _ended(done: Bool[Array, " rows"], ended: Bool[Array, " rows"]) -> Bool[Array, " rows"]:
    return _pin(done | ended)


def compact(slots: Slots, source: np.ndarray) -> Slots:
    """Row i of the result is row `source[i]`.

    One array at a time, each old one deleted before the next is made: more than one layer's share is never there twice,
    so slots that fill the memory can be made fewer.
    """

    def take(leaf: Array) -> Array:
        kept = _take(leaf, source)
        leaf.delete()
        return kept

    return jax.tree.map(take, slots)


@jax.jit
def _take(leaf: Array, source: Int[Array, " rows"]) -> Array:
    return _pin(leaf[source])


def axes(x: Any) -> tuple[str | None, ...]:
    """Logical axes of an array of the store or the slots: its rows, and heads where it has them."""
    return ("batch", "kv_heads", None, None)[: x.ndim] if x.ndim > 2 else ("batch", None)[: x.ndim]


def _pin[T](tree: T) -> T:
    """Where each array of rows lies, said in every program, so that the next one finds it as it was compiled for."""
    return jax.tree.map(lambda x: constrain(x, axes(x)), tree)


def _uniform(slots: Slots) -> Float[Array, " rows"]:
    def draw(key, index):
        return jax.random.uniform(jax.random.fold_in(jax.random.wrap_key_data(key), index))

    return jax.vmap(draw)(slots.key, slots.made)
