"""How likely texts are: log-probabilities of continuations under a model, and whether each is its first choice.

    scorer = Scorer(model, mesh)
    for place, scored in scorer.score([(context, continuation), ...]): ...    # token ids; in any order

Texts are packed into rows by segment ids, the longest first, so that nothing but the end of a call is padding; logits
exist for `CHUNK` tokens at a time and for tokens of continuations only. Sizes of calls are few. Imports JAX.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from coldforge.modeling import Gemma3
from coldforge.rollout.packing import pack_rows
from coldforge.stages.devices import use

CHUNK = 64  # tokens whose logits exist at a time: 67 MB in float32 for Gemma3's vocabulary
TOKENS = 2048  # of one call, unless a text is longer
WIDTHS = tuple(64 << i for i in range(12))


class Scored(NamedTuple):
    """A continuation under the model.

    Attributes:
        logprobs: Of each of its tokens, in nats, float32 `[tokens]`.
        greedy: Whether every token is the likeliest one.
    """

    logprobs: np.ndarray
    greedy: bool


class _Call(NamedTuple):
    """Arguments of one call of the program; `owners` says which (text, tokens) the targets belong to, in order."""

    tokens: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    targets: np.ndarray
    owners: list[tuple[int, int]]


class Scorer:
    """Scores texts under one model.

    Args:
        model: With or without an adapter.
        mesh: That it lies on; None: a single device.

    Attributes:
        calls, tokens, places: Calls so far, tokens of texts in them, and places for tokens.
    """

    def __init__(self, model: Gemma3, mesh: Mesh | None) -> None:
        self._graph, self._weights = nnx.split(model)
        self._mesh, self._context, self._vocab = mesh, model.config.max_seq_len, model.config.vocab_size
        self._ways = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
        self.calls = self.tokens = self.places = 0

    def score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Iterator[tuple[int, Scored]]:
        """Each continuation's log-probabilities, as they come: its place in `pairs` and what was found.

        Args:
            pairs: Token ids of context and continuation. The context has at least one (<bos>).

        Raises:
            ValueError: A part is empty, an id is none of the vocabulary, or both are longer than the model's context.
            FloatingPointError: The model gives NaN.
        """
        for place, pair in enumerate(pairs):
            self._check(place, *pair)
        order = sorted(range(len(pairs)), key=lambda place: -len(pairs[place][0]) - len(pairs[place][1]))
        sizes = [len(pairs[i][0]) + len(pairs[i][1]) - 1 for i in order]
        start = 0
        while start < len(order):
            size, height, width = self._next(sizes, start)
            some = order[start : start + size]
            yield from self._scored(_call([pairs[i] for i in some], some, height, width))
            start += size

    def _check(self, place: int, context: Sequence[int], continuation: Sequence[int]) -> None:
        if not len(context) or not len(continuation):
            raise ValueError(
                f"text {place} has a context of {len(context)} and a continuation of {len(continuation)} tokens; "
                "wanted at least one each (<bos> for a context that is empty)"
            )
        if len(context) + len(continuation) - 1 > self._context:
            raise ValueError(
                f"text {place} has {len(context)} + {len(continuation)} tokens; the model's context is {self._context}:"
                " cut it, or leave it out"
            )
        ids = [*context, *continuation]
        if not 0 <= min(ids) <= max(ids) < self._vocab:
            raise ValueError(f"text {place} has ids {min(ids)} to {max(ids)}; wanted 0 to {self._vocab - 1:,}")

    def _next(self, sizes: Sequence[int], start: int) -> tuple[int, int, int]:
        """How many of the texts from `start` on (longest first) the next call takes, and its height and width."""
        width = next((w for w in WIDTHS if w >= sizes[start]), sizes[start])
        height = self._ways * max(1, TOKENS // (self._ways * width))
        fits, total = 0, 0
        while start + fits < len(sizes) and total + sizes[start + fits] <= height * width:
            total += sizes[start + fits]
            fits += 1
        while len(pack_rows(sizes[start : start + fits], width)) > height:  # one text always fits
            fits -= 1
        return fits, height, width

    def _scored(self, call: _Call) -> Iterator[tuple[int, Scored]]:
        *arrays, owners = call
        with use(self._mesh):
            found = jax.device_get(_score(self._graph, self._weights, *arrays))
        self.calls += 1
        self.tokens += int((call.positions >= 0).sum())
        self.places += call.tokens.size
        at = 0
        for place, count in owners:
            logprobs, first = (values[at : at + count] for values in found)
            at += count
            if not np.isfinite(logprobs).all():
                raise FloatingPointError(f"the log-probabilities of text {place} are not finite: the weights give NaN")
            yield place, Scored(np.array(logprobs), bool(first.all()))


def _call(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], places: Sequence[int], height: int, width: int
) -> _Call:
    """Packs texts; the last token of each is a target only."""
    texts = [np.array([*context, *continuation], np.int32) for context, continuation in pairs]
    tokens, segments = np.zeros((height, width), np.int32), np.zeros((height, width), np.int32)
    positions = np.full((height, width), -1, np.int32)
    rows: list[np.ndarray] = []
    columns: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    owners = []
    for row, pack in enumerate(pack_rows([len(text) - 1 for text in texts], width)):
        start = 0
        for segment, i in enumerate(pack, start=1):
            size, context = len(texts[i]) - 1, len(pairs[i][0])
            span = slice(start, start + size)
            tokens[row, span], segments[row, span], positions[row, span] = texts[i][:-1], segment, np.arange(size)
            wanted = np.arange(start + context - 1, start + size)
            rows.append(np.full(len(wanted), row))
            columns.append(wanted)
            targets.append(texts[i][context:])
            owners.append((places[i], len(wanted)))
            start = span.stop
    count = sum(map(len, targets))
    padded = CHUNK << max(0, -(-count // CHUNK) - 1).bit_length()  # powers of two: few programs

    def joined(parts: list[np.ndarray]) -> np.ndarray:
        return np.pad(np.concatenate(parts), (0, padded - count)).astype(np.int32)

    return _Call(tokens, positions, segments, joined(rows), joined(columns), joined(targets), owners)


@partial(jax.jit, static_argnames="graph")
def _score(graph: Any, weights: Any, tokens: Any, positions: Any, segments: Any, rows: Any, columns: Any, targets: Any):  # type: ignore[no-untyped-def]
    hidden = nnx.merge(graph, weights)(tokens, positions, segments)[rows, columns]

    def chunk(_: None, part: tuple[jax.Array, jax.Array]) -> tuple[None, tuple[jax.Array, jax.Array]]:
        states, wanted = part
        logits = nnx.merge(graph, weights).logits(states).astype(jnp.float32)
        own = jnp.take_along_axis(logits, wanted[:, None], axis=1)[:, 0]
        return None, (own - jax.nn.logsumexp(logits, axis=1), logits.argmax(axis=1) == wanted)

    parts = hidden.reshape(-1, CHUNK, hidden.shape[-1]), targets.reshape(-1, CHUNK)
    logprobs, first = jax.lax.scan(chunk, None, parts)[1]
    return logprobs.reshape(-1), first.reshape(-1)
