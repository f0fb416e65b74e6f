"""The loop of continuous batching: who waits, who is prefilled, who runs in which slot. It knows sizes, not budgets.

    for group in Batch(sizes, model, weights, queue, params, stats).run(): ...

One turn: fill free slots (prefilling the next waiting prompts when no prefilled one is left), start the decode call,
hand out groups that the last call completed (the devices work meanwhile), read what the call made, and, once nothing
waits any more, move the slots that still run into fewer rows.

A decode call ends by itself as soon as enough slots have ended (`_patience`), so nothing is polled, and every process
of several decides alike: decisions follow from what was made, never from clocks.
"""

import itertools
import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np

from coldforge.modeling import KVCache
from coldforge.rollout import programs
from coldforge.rollout.packing import fit_shape, packed_prompts
from coldforge.rollout.requests import Group, Sample, Work, sample_key
from coldforge.rollout.sampling import SamplingParams
from coldforge.rollout.sharing import begins, choose_prefix
from coldforge.rollout.sizes import Sizes


@dataclass
class Stats:
    """What an engine has done so far; all of it counts up.

    Attributes:
      samples, tokens: finished samples, and their tokens.
      prompt_tokens, prefill_tokens: tokens of prompts, and of the prefill calls that held them (with padding; what
        prompts share is held once).
      steps: of the decode loop.
      slot_steps: rows × steps. Each makes at most one token.
      prefill_seconds, decode_seconds: of the host's time, waiting for the devices and compiling included; not what they
        compute while the consumer of a group has the turn.
      compiles: programs compiled.
    """

    samples: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    prefill_tokens: int = 0
    steps: int = 0
    slot_steps: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    compiles: int = 0
    rows: dict[int, int] = field(default_factory=dict)  # steps by number of rows

    @property
    def occupancy(self) -> float:
        """Share of the decode loop's work that became tokens, in [0, 1]."""
        return self.tokens / self.slot_steps if self.slot_steps else 0.0


@dataclass
class _Running:
    """One sample on its way."""

    work: Work
    number: int
    tokens: list[np.ndarray] = field(default_factory=list)
    logprobs: list[np.ndarray] = field(default_factory=list)
    made: int = 0


class _Prefix(NamedTuple):
    """What some prompts begin with, prefilled."""

    tokens: np.ndarray
    store: programs.Store  # of one row, in the model's dtype


class Batch:
    """One run over a queue of requests."""

    def __init__(
        self,
        sizes: Sizes,
        graph: Any,
        weights: Any,
        queue: Iterator[Work],
        params: SamplingParams,
        stats: Stats,
    ):
        self.sizes, self.params, self.stats = sizes, params, stats
        self._model = graph, weights
        self._stop_ids = np.asarray(params.stop_ids, np.int32).reshape(-1)
        self._queue = queue
        self._waiting: deque[Work] = deque()
        self._exhausted = False
        self._prefix: _Prefix | None = None
        self._ready: deque[tuple[int, Work, int]] = deque()  # (row of the store, work, number within it)
        self._unfinished: dict[int, list[Sample | None]] = {}
        self._running: list[_Running | None] = [None] * self._first_rows()
        with self._counted():
            self._store, self._slots = empty(sizes, self.rows)

    def run(self) -> Iterator[Group]:
        """Groups in order of their completion."""
        done: list[Group] = []
        while True:
            self.fill()
            if not self.live:
                yield from done
                return
            pending = self.decode(self._interval())
            yield from done
            done = self.collect(pending)
            self.shrink()

    @property
    def rows(self) -> int:
        """Slots of the program that decodes now."""
        return len(self._running)

    @property
    def live(self) -> int:
        """Slots that run a sample."""
        return sum(one is not None for one in self._running)

    def fill(self) -> None:
        """Puts samples into free slots while there are both."""
        free = deque(i for i, one in enumerate(self._running) if one is None)
        begin = time.perf_counter()
        filled = False
        while free and (self._ready or self._prefill()):
            taken = [self._ready.popleft() for _ in range(min(len(free), len(self._ready), self.sizes.entries))]
            slots = [free.popleft() for _ in taken]
            with self._counted():
                self._slots = programs.admit(self._slots, self._store, self._entries(slots, taken))
            for slot, (_, work, number) in zip(slots, taken, strict=True):
                self._running[slot] = _Running(work, number)
            filled = True
        if filled:
            jax.block_until_ready(self._slots.hidden)
            self.stats.prefill_seconds += time.perf_counter() - begin

    def decode(self, steps: int) -> programs.Made:
        """Starts up to `steps` new tokens in every slot that runs."""
        begin = time.perf_counter()
        until = np.int32(self.rows - self.live + self._patience())
        with self._counted():
            self._slots, made = programs.decode(*self._model, self._slots, self._stop_ids, np.int32(steps), until)
        self.stats.decode_seconds += time.perf_counter() - begin
        return made

    def collect(self, pending: programs.Made) -> list[Group]:
        """Waits for a decode call, frees the slots that have ended, and gives the groups that are whole."""
        begin = time.perf_counter()
        made = jax.device_get(pending)
        self.stats.decode_seconds += time.perf_counter() - begin
        steps = int(made.steps)
        self.stats.steps += steps
        self.stats.slot_steps += steps * self.rows
        self.stats.rows[self.rows] = self.stats.rows.get(self.rows, 0) + steps
        groups, ended = [], np.zeros(self.rows, bool)
        for slot, one in enumerate(self._running):
            if one is None:
                continue
            new = int(made.made[slot]) - one.made
            one.made += new
            one.tokens.append(made.tokens[slot, :new].copy())
            one.logprobs.append(made.logprobs[slot, :new].copy())
            kept = None if one.work.until is None else one.work.until(np.concatenate(one.tokens))
            if made.done[slot] or kept is not None:
                self._running[slot] = None
                ended[slot] = not made.done[slot]
                group = self._finish(one, kept, stopped=bool(made.stopped[slot]))
                groups += [] if group is None else [group]
        if ended.any():
            with self._counted():
                self._slots = programs.retire(self._slots, ended)
        return groups

    def shrink(self) -> None:
        """Once nothing waits, moves the slots that run into the smallest number of rows that holds them."""
        if self._more_samples():
            return
        rows = self.sizes.bucket(self.live)
        if self.live and rows < self.rows:
            alive = [i for i, one in enumerate(self._running) if one is not None]
            idle = [i for i, one in enumerate(self._running) if one is None]
            source = np.asarray((alive + idle)[:rows], np.int32)
            with self._counted():
                self._slots = programs.compact(self._slots, source)
            self._running = [self._running[i] for i in source]

    def _first_rows(self) -> int:
        """As many as the requests take, where they take fewer than there are slots."""
        samples = 0
        while samples < self.sizes.slots and self._pull():
            samples += self._waiting[-1].n
        return self.sizes.bucket(min(samples, self.sizes.slots)) if self._exhausted else self.sizes.slots

    def _pull(self) -> bool:
        """Takes one more request from the queue, if there is one."""
        work = None if self._exhausted else next(self._queue, None)
        self._exhausted = work is None
        if work is not None:
            self._waiting.append(work)
        return work is not None

    def _more_samples(self) -> bool:
        return bool(self._ready) or self._more()

    def _more(self) -> bool:
        return bool(self._waiting) or self._pull()

    def _prefill(self) -> bool:
        """Prefills as many of the waiting prompts as one call holds; False if none waits."""
        if not self._more():
            return False
        sizes, chosen, shape = self.sizes, list[Work](), None
        shared = self._shared()
        start, shapes = (0, sizes.prefill_shapes) if shared is None else (shared.size, sizes.shared_shapes)
        while len(chosen) < sizes.store_rows and self._more():
            if shared is not None and not begins(self._waiting[0].prompt, shared):
                break
            fit = fit_shape([w.prompt.size - start for w in (*chosen, self._waiting[0])], shapes)
            if fit is None:
                break
            shape = fit
            chosen.append(self._waiting.popleft())
        if shape is None:
            return False
        packed = packed_prompts([w.prompt for w in chosen], *shape, sizes.store_rows, start)
        prefix = None if shared is None else self._prefilled(shared)
        with self._counted():
            self._store = programs.prefill(*self._model, self._store, packed, prefix)
        self.stats.prompt_tokens += sum(w.prompt.size for w in chosen)
        self.stats.prefill_tokens += shape[0] * shape[1]
        for row, work in enumerate(chosen):
            self._unfinished[work.id] = [None] * work.n
            self._ready.extend((row, work, number) for number in range(work.n))
        return True

    def _shared(self) -> np.ndarray | None:
        """What the next prompts begin with alike, if it pays to prefill it once for them."""
        sizes = self.sizes
        if not sizes.shared_shapes:
            return None
        while len(self._waiting) < sizes.store_rows and self._pull():
            pass
        prompts = [work.prompt for work in itertools.islice(self._waiting, sizes.store_rows)]
        held = None if self._prefix is None else self._prefix.tokens
        return choose_prefix(prompts, held, max(width for _, width in sizes.shared_shapes))

    def _prefilled(self, tokens: np.ndarray) -> KVCache:
        """The keys and values of a shared beginning: those of the last one, if it is the same."""
        demand = self.sizes.demand
        if self._prefix is None or not np.array_equal(self._prefix.tokens, tokens):
            shape = fit_shape([tokens.size], self.sizes.prefill_shapes)
            assert shape is not None  # it is shorter than a prompt
            with self._counted():
                store = programs.empty_store(
                    demand.model, rows=1, length=demand.store_length, dtype=demand.dtype, kv=demand.dtype
                )
                store = programs.prefill(*self._model, store, packed_prompts([tokens], *shape, 1))
            self._prefix = _Prefix(tokens, store)
            self.stats.prefill_tokens += shape[0] * shape[1]
        return self._prefix.store.cache

    def _entries(self, slots: list[int], taken: list[tuple[int, Work, int]]) -> programs.Entries:
        """Arguments of `admit`, padded to its one size."""
        size, params = self.sizes.entries, self.params

        def array(values: list[int], padding: int = 0) -> np.ndarray:
            return np.asarray(values + [padding] * (size - len(values)), np.int32)

        keys = np.zeros((size, 2), np.uint32)
        for i, (_, work, number) in enumerate(taken):
            keys[i] = sample_key(work.prompt, work.seed, work.first + number)
        return programs.Entries(
            slot=array(slots, self.rows),
            source=array([row for row, _, _ in taken]),
            position=array([work.prompt.size for _, work, _ in taken]),
            key=keys,
            limit=array([work.limits[number] for _, work, number in taken]),
            params=params.rows(size),
        )

    def _finish(self, one: _Running, kept: int | None, *, stopped: bool) -> Group | None:
        """Files a sample, of which `kept` tokens count if its `until` has ended it; the group, if it was the last."""
        tokens, logprobs = np.concatenate(one.tokens)[:kept], np.concatenate(one.logprobs)[:kept]
        if not np.all(np.isfinite(logprobs)):
            raise FloatingPointError(
                f"request {one.work.id}: the log-probability of new token {int(np.argmin(np.isfinite(logprobs)))} of "
                f"sample {one.work.first + one.number} is not finite: the weights, or the adapter, give NaN"
            )
        samples = self._unfinished[one.work.id]
        samples[one.number] = Sample(tokens, logprobs, "stop" if stopped or kept is not None else "length")
        self.stats.samples += 1
        self.stats.tokens += tokens.size
        if any(sample is None for sample in samples):
            return None
        return Group(one.work.id, [s for s in self._unfinished.pop(one.work.id) if s is not None])

    def _interval(self) -> int:
        """Steps of the next decode call.

        Where samples have an `until`, the host looks at them after each call, and what was made behind an end is lost:
        (k - 1) / 2 steps of s seconds each, for a call of c seconds every k steps. Both together are least, over a
        sample of n tokens, for k = sqrt(2 c n / s), about sqrt(n / 2) (`_patience` has c and s); n is what the longest
        that runs has made so far.
        """
        running = [one for one in self._running if one is not None]
        if all(one.work.until is None for one in running):
            return programs.INTERVAL
        return min(programs.INTERVAL, max(1, math.isqrt(max(one.made for one in running) // 2)))

    def _patience(self) -> int:
        """How many more slots must end before the decode call does.

        While samples wait, w of them: a call costs the host and the devices c seconds beside its steps of s seconds,
        and each slot that has ended idles (w - 1) / 2 × (mean length) / rows steps. Both together are least for w =
        rows × sqrt(2 c / (length × s)): 4 for 64 rows of 128 tokens on a CPU (c 40 ms, s 150 ms), 5 for 256 rows of
        2,000 tokens on a chip (c 5 ms, s 15 ms), and flat around that. When none waits, as many as let the rows become
        fewer, but no more than an eighth, for the sake of groups that wait for their last sample.
        """
        if self._more_samples():
            return min(self.live, max(1, self.rows // 32))
        smaller = max((rows for rows in self.sizes.buckets if rows < self.live), default=0)
        return min(self.live - smaller, max(1, self.rows // 8))

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Inside, the mesh is set; afterwards, what was compiled is counted."""
        before = programs.compiled()
        try:
            with programs.mesh_context(self.sizes.demand.mesh):
                yield
        finally:
            self.stats.compiles += programs.compiled() - before


def empty(sizes: Sizes, rows: int) -> tuple[programs.Store, programs.Slots]:
    """A store of prompts, and `rows` slots, that hold nothing."""
    demand = sizes.demand
    how: dict[str, Any] = {"dtype": demand.dtype, "kv": demand.kv}
    return (
        programs.empty_store(demand.model, rows=sizes.store_rows, length=demand.store_length, **how),
        programs.empty_slots(demand.model, rows=rows, length=demand.length, **how),
    )
