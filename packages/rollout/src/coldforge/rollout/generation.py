"""Generation: token ids in, samples out.

    samples = generate(model, prompts, SamplingParams(max_new_tokens=64), n=4)     # samples[i][j]: sample j of prompt i

What happens, in order:
  1. check every argument (nothing is compiled before that);
  2. pack the prompts into rows by segment ids and prefill them, a fixed number of tokens per call, each prompt once:
  its
     keys and values go to its cache row, its last hidden state is kept;
  3. copy that row for each of its n samples;
  4. decode all rows together: logits → token → model, until all rows have ended (one compiled loop, no host in
  between).
Shapes are rounded up to a few sizes (`_bucket`, `_row_count`), so that calls of similar size share their compilation.

A sample's random numbers depend on the seed, its prompt's tokens, which sample of that prompt it is, and the index of
the token: not on the order of prompts nor on what else is in the batch.
Left out: refilling finished rows from a queue. The pieces here (packed prefill into chosen cache rows, rows that forget
what they held when a new text starts, per-row parameters and positions, a resumable decode loop) are what it takes.
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, UInt32

from coldforge.modeling import Gemma3, KVCache, init_cache, model_mesh, named_sharding
from coldforge.rollout.sampling import RowParams, SamplingParams, is_stop, sample

PREFILL_TOKENS = 2048  # per call of the prefill program
FinishReason = Literal["stop", "length"]
type Prompt = Sequence[int] | np.ndarray  # token ids


@dataclasses.dataclass(frozen=True)
class Sample:
    """One generated text.

    Attributes:
      tokens: the new tokens, the stop token included.
      logprobs: of each token, under softmax(logits / temperature) before top-k and top-p (temperature 0: under 1).
      finish_reason: "stop" (ended with a stop id) or "length" (cut off at max_new_tokens).
    """

    tokens: np.ndarray
    logprobs: np.ndarray
    finish_reason: FinishReason


class DecodeState(NamedTuple):
    """What the decode loop carries; one row per sample."""

    cache: KVCache
    hidden: Float[Array, "batch embed"]  # of the last token: the next one is drawn from it
    position: Int[Array, " batch"]  # of the next token
    done: Bool[Array, " batch"]
    made: Int[Array, " batch"]  # new tokens so far
    tokens: Int[Array, "batch new"]
    logprobs: Float[Array, "batch new"]
    key: UInt32[Array, "batch key"]  # random key data of the sample
    limit: Int[Array, " batch"]  # most new tokens
    params: RowParams
    stop_ids: Int[Array, " stops"]


def generate(model: Gemma3, prompts: Sequence[Prompt], params: SamplingParams, *, n: int = 1) -> list[list[Sample]]:
    """`n` samples for each prompt.

    Args:
      model: with or without LoRA; on a mesh, rows are split over `data` and `fsdp`. On a mesh of several processes,
        each calls this with the same arguments and gets all samples.
      prompts: token ids, of any mixture of lengths.
      params: sampling parameters, the same for all.

    Raises:
      ValueError: for an empty prompt, an id outside the vocabulary, or a prompt that with `max_new_tokens` exceeds the
        model's context; the message names the prompt.
    """
    state = _start(model, prompts, params, n)
    state = _decode(model, state, params.max_new_tokens)
    counts, tokens, logprobs, done = _fetch((state.made, state.tokens, state.logprobs, _stopped(state)))
    rows = [
        Sample(tokens[r, :c].copy(), logprobs[r, :c].copy(), "stop" if done[r] else "length")
        for r, c in enumerate(counts[: len(prompts) * n])
    ]
    return [rows[i * n : (i + 1) * n] for i in range(len(prompts))]


def stream(model: Gemma3, prompt: Prompt, params: SamplingParams) -> Iterator[int]:
    """The tokens of one sample as they are made, the stop token included. Same tokens as `generate`."""
    state = _start(model, [prompt], params, 1)
    graph, weights = nnx.split(model)  # once: it costs 10 ms of the host's time, a tenth of a token on a CPU
    with _mesh_context(model_mesh(model)):
        for index in range(params.max_new_tokens):
            state = _decode_loop(graph, weights, state, np.int32(1))
            token, done = _fetch((state.tokens[0, index], state.done[0]))
            yield int(token)
            if done:
                return


def check_prompts(model: Gemma3, prompts: Sequence[Prompt], params: SamplingParams, n: int) -> list[np.ndarray]:
    """The prompts as int32 arrays, or a ValueError that names the first bad one."""
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if not prompts:
        raise ValueError("there are no prompts")
    config, arrays = model.config, []
    for i, prompt in enumerate(prompts):
        ids = np.asarray(prompt)
        if ids.ndim != 1 or ids.size == 0 or not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(
                f"prompt {i} must be a non-empty sequence of token ids, got shape {ids.shape} of {ids.dtype}"
            )
        if ids.min() < 0 or ids.max() >= config.vocab_size:
            bad = ids[(ids < 0) | (ids >= config.vocab_size)][0]
            raise ValueError(f"prompt {i} has the id {bad}, outside the vocabulary of {config.vocab_size}")
        if ids.size + params.max_new_tokens > config.max_seq_len:
            raise ValueError(
                f"prompt {i} has {ids.size} tokens; with max_new_tokens={params.max_new_tokens} that exceeds the "
                f"model's context of {config.max_seq_len}: shorten the prompt or lower max_new_tokens"
            )
        arrays.append(ids.astype(np.int32))
    return arrays


def _start(model: Gemma3, prompts: Sequence[Prompt], params: SamplingParams, n: int) -> DecodeState:
    """Checks, prefills, and lays out one row per sample."""
    ids = check_prompts(model, prompts, params, n)
    mesh = model_mesh(model)
    length = _bucket(max(p.size for p in ids) + params.max_new_tokens)
    cache, hidden = _prefill(model, ids, length, mesh)
    rows = _row_count(len(ids) * n, model.dtype, mesh)
    # rows beyond the samples repeat the last prompt, and are done from the start
    source = np.minimum(np.arange(rows) // n, len(ids) - 1)
    capacity = _round_up(params.max_new_tokens, 64)
    host = {
        "position": np.array([ids[s].size for s in source], np.int32),
        "done": np.arange(rows) >= len(ids) * n,
        "made": np.zeros(rows, np.int32),
        "tokens": np.zeros((rows, capacity), np.int32),
        "logprobs": np.zeros((rows, capacity), np.float32),
        "key": _sample_keys(ids, params.seed, n, rows),
        "limit": np.full(rows, params.max_new_tokens, np.int32),
        "stop_ids": np.asarray(params.stop_ids, np.int32).reshape(-1),
    }
    sampling = {"temperature": np.float32, "top_k": np.int32, "top_p": np.float32}
    per_row = {name: np.full(rows, getattr(params, name), dtype) for name, dtype in sampling.items()}
    with _mesh_context(mesh):
        cache, hidden = _expand(cache, hidden, source.astype(np.int32))
        placed = _place(host, mesh)
        return DecodeState(cache=cache, hidden=hidden, params=RowParams(**_place(per_row, mesh)), **placed)


def _prefill(model: Gemma3, prompts: list[np.ndarray], length: int, mesh: Mesh | None) -> tuple[KVCache, Array]:
    """A cache with one row per prompt (rounded up), and the hidden state of each prompt's last token."""
    graph, weights = nnx.split(model)
    longest = max(p.size for p in prompts)
    width = _bucket(longest if longest * len(prompts) < 512 else max(512, longest))
    packs = pack_rows([p.size for p in prompts], width)
    calls = -(-len(packs) // max(1, PREFILL_TOKENS // width))
    per_call = _row_count(-(-len(packs) // calls), None, mesh)  # calls of equal size: one compilation, little padding
    with _mesh_context(mesh):
        rows = _row_count(_round_up(len(prompts), 8) if len(prompts) > 1 else 1, None, mesh)
        cache, hidden = _empty(graph, weights, rows=rows, length=length)
        for first in range(0, len(packs), per_call):
            batch = _packed_batch(prompts, packs[first : first + per_call], per_call, width, rows)
            cache, hidden = _prefill_call(graph, weights, cache, hidden, *batch)
    return cache, hidden


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


def _packed_batch(prompts, packs, height: int, width: int, rows: int):
    """Arrays of one prefill call: tokens, positions (-1: padding), segment ids, cache rows, and where prompts end."""
    tokens, segments, owner = (np.zeros((height, width), np.int32) for _ in range(3))
    positions = np.full((height, width), -1, np.int32)
    last = np.full((rows, 2), -1, np.int32)
    for r, pack in enumerate(packs):
        start = 0
        for segment, i in enumerate(pack, start=1):
            span = slice(start, start + prompts[i].size)
            tokens[r, span], segments[r, span], owner[r, span] = prompts[i], segment, i
            positions[r, span] = np.arange(prompts[i].size)
            start = span.stop
            last[i] = r, start - 1
    return tokens, positions, segments, owner, last


def _sample_keys(prompts: list[np.ndarray], seed: int, n: int, rows: int) -> np.ndarray:
    """Random key data per row, from the seed, the prompt's tokens, and which sample of that prompt it is."""
    seen: dict[bytes, int] = {}
    keys = np.zeros((rows, 2), np.uint32)
    for i, prompt in enumerate(prompts):
        text = prompt.astype("<i4").tobytes()
        for j in range(n):
            index = seen[text] = seen.get(text, -1) + 1
            digest = hashlib.blake2b(text, digest_size=8, salt=seed.to_bytes(4, "little") + index.to_bytes(8, "little"))
            keys[i * n + j] = np.frombuffer(digest.digest(), np.uint32)
    return keys


def _stopped(state: DecodeState) -> Bool[Array, " batch"]:
    last = jnp.take_along_axis(state.tokens, jnp.maximum(state.made - 1, 0)[:, None], axis=1)[:, 0]
    return is_stop(last, state.stop_ids) & (state.made > 0)


def _bucket(length: int) -> int:
    """Lengths that programs are compiled for: 64, 128, 256, 512, 1,024, then multiples of 1,024.

    Slots beyond a row's own cost little: only global layers, every sixth, have them.
    """
    return max(64, 1 << (length - 1).bit_length()) if length <= 1024 else _round_up(length, 1024)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _row_count(rows: int, dtype, mesh: Mesh | None) -> int:
    """Rows that a program is compiled for: a few sizes, divisible by the devices that share them."""
    if rows > 8:
        rows = _round_up(rows, 8)
    elif dtype == jnp.bfloat16 and jax.default_backend() == "cpu":
        rows = 8  # XLA:CPU multiplies fewer bf16 rows more than ten times slower than 8
    return rows if mesh is None else _round_up(rows, mesh.shape["data"] * mesh.shape["fsdp"])


def _place(host: dict, mesh: Mesh | None) -> dict:
    """Arrays of one row per sample on the devices, rows split as the model's batch is."""
    if mesh is None:
        return jax.device_put(host)

    def put(array: np.ndarray) -> Array:
        axes = ("batch", *[None] * (array.ndim - 1))
        return jax.device_put(array, named_sharding(axes, array.shape, mesh))

    return jax.tree.map(put, host)


def _fetch(arrays: tuple[Array, ...]) -> tuple[np.ndarray, ...]:
    """The arrays on the host, whole, also where other processes hold parts of them."""
    if all(array.is_fully_addressable for array in arrays):
        return jax.device_get(arrays)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(arrays, tiled=True)


def _mesh_context(mesh: Mesh | None):
    return jax.set_mesh(mesh) if mesh is not None else contextlib.nullcontext()


@partial(jax.jit, static_argnames=("graph", "rows", "length"))
def _empty(graph, weights, *, rows: int, length: int):
    model = nnx.merge(graph, weights)
    cache = init_cache(model.config, rows, length, dtype=model.dtype)
    return cache, jnp.zeros((rows, model.config.embed_dim), model.dtype)


@partial(jax.jit, static_argnames="graph", donate_argnames=("cache", "hidden"))
def _prefill_call(graph, weights, cache: KVCache, hidden, tokens, positions, segment_ids, rows, last):
    model = nnx.merge(graph, weights)
    out, cache = model(tokens, positions, segment_ids, cache=cache, rows=rows)
    ends = out[last[:, 0], last[:, 1]]
    return cache, jnp.where(last[:, :1] >= 0, ends, hidden)


@jax.jit
def _expand(cache: KVCache, hidden, source: Int[Array, " batch"]):
    """A row per sample: row i of the result is row `source[i]`."""
    return jax.tree.map(lambda x: x[source], (cache, hidden))


def _decode(model: Gemma3, state: DecodeState, steps: int) -> DecodeState:
    """Up to `steps` new tokens for every row that is not done."""
    graph, weights = nnx.split(model)
    with _mesh_context(model_mesh(model)):
        return _decode_loop(graph, weights, state, np.int32(steps))


@partial(jax.jit, static_argnames="graph", donate_argnames="state")
def _decode_loop(graph, weights, state: DecodeState, steps) -> DecodeState:
    def body(carry):
        step, state = carry
        model = nnx.merge(graph, weights)  # here, not outside: qwix notes things on the modules while it traces
        token, logprob = sample(model.logits(state.hidden), _uniform(state), state.params)
        row = jnp.arange(token.shape[0])
        place = jnp.where(state.done, state.tokens.shape[1], state.made)  # done rows write nothing
        made = state.made + ~state.done
        done = state.done | is_stop(token, state.stop_ids) | (made >= state.limit)
        position = jnp.where(state.done, -1, state.position)
        hidden, cache = model(token[:, None], position[:, None], cache=state.cache)
        return step + 1, state._replace(
            cache=cache,
            hidden=hidden[:, 0],
            position=state.position + 1,
            done=done,
            made=made,
            tokens=state.tokens.at[row, place].set(token, mode="drop"),
            logprobs=state.logprobs.at[row, place].set(logprob, mode="drop"),
        )

    return jax.lax.while_loop(lambda c: (c[0] < steps) & ~jnp.all(c[1].done), body, (jnp.int32(0), state))[1]


def _uniform(state: DecodeState) -> Float[Array, " batch"]:
    def draw(key, index):
        return jax.random.uniform(jax.random.fold_in(jax.random.wrap_key_data(key), index))

    return jax.vmap(draw)(state.key, state.made)
