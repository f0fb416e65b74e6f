"""What is asked of the sampler and what it gives: requests, samples, groups, and the checks before any work.

A sample's random numbers come from a hash of (seed, prompt's tokens, its number), and the token's index: not from the
order of requests, the slot it runs in, or what else runs beside it.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

type FinishReason = Literal["stop", "length"]
type Prompt = Sequence[int] | np.ndarray  # token ids
type Until = Callable[[np.ndarray], int | None]


@dataclass(frozen=True)
class Sample:
    """One generated text.

    Attributes:
      tokens: the new tokens, the stop token included.
      logprobs: of each token, under softmax(logits / temperature) before top-k and top-p (temperature 0: under 1).
      finish_reason: "stop" (ended with a stop id, or by the request's `until`) or "length" (cut off at max_new_tokens).
    """

    tokens: np.ndarray
    logprobs: np.ndarray
    finish_reason: FinishReason


@dataclass(frozen=True)
class Request:
    """`n` samples of one prompt.

    Attributes:
      id: names the request in its result and in errors; unique within a run. It has no influence on the samples.
      prompt: token ids.
      n: how many samples.
      seed: same seed and same prompt, same samples. Two requests with one prompt want two seeds.
      max_new_tokens: ends this request's samples, or (a sequence) each of them; None takes that of the parameters.
      first: number of the first sample: `n=2, first=4` are samples 4 and 5 of what `n=6` gives.
      until: ends samples by more than stop ids, as by a text: given the new tokens so far, it says how many of them to
        keep, or None to go on. Asked every few tokens, so the answer must not depend on those behind the end.
    """

    id: int
    prompt: Prompt
    n: int = 1
    seed: int = 0
    max_new_tokens: int | Sequence[int] | None = None
    first: int = 0
    until: Until | None = None


class Group(NamedTuple):
    """All samples of a request, by their numbers."""

    id: int
    samples: list[Sample]


class Work(NamedTuple):
    """A checked request."""

    id: int
    prompt: np.ndarray  # int32
    n: int
    seed: int
    limits: Sequence[int]  # most new tokens of each sample
    first: int
    until: Until | None


def check_request(
    request: Request, *, vocab: int, max_prompt_tokens: int, max_new_tokens: int, max_tokens: int, limit: int
) -> Work:
    """The request ready to run.

    Args:
      request: as the user gave it.
      vocab, max_prompt_tokens, max_new_tokens, max_tokens: what the engine takes.
      limit: new tokens where the request does not say.

    Raises:
      ValueError: for what the engine cannot run; the message names the request.
    """
    name = f"request {request.id}"
    prompt = check_prompt(request.prompt, vocab, f"the prompt of {name}")
    if prompt.size > max_prompt_tokens:
        raise ValueError(
            f"the prompt of {name} has {prompt.size} tokens, more than max_prompt_tokens={max_prompt_tokens}: shorten "
            "or drop it, or raise the limit"
        )
    if request.n < 1 or request.first < 0:
        raise ValueError(f"{name} asks for n={request.n} samples from number {request.first}: n must be at least 1")
    if not 0 <= request.seed < 2**32:
        raise ValueError(f"the seed of {name} must be in [0, 2**32), got {request.seed}")
    new = limit if request.max_new_tokens is None else request.max_new_tokens
    limits = [new] * request.n if isinstance(new, int) else list(new)
    if len(limits) != request.n or not all(1 <= one <= max_new_tokens for one in limits):
        raise ValueError(
            f"{name} asks for max_new_tokens={new}; it must be 1 to {max_new_tokens} (what the caches hold), or "
            f"{request.n} such numbers"
        )
    if prompt.size + max(limits) > max_tokens:
        raise ValueError(
            f"{name} has a prompt of {prompt.size} tokens and asks for max_new_tokens={new}; together they must be "
            f"{max_tokens} at most (what the caches hold)"
        )
    return Work(request.id, prompt, request.n, request.seed, limits, request.first, request.until)


def check_prompt(prompt: Any, vocab: int, name: str) -> np.ndarray:
    """The prompt as int32, or a ValueError that begins with `name`."""
    ids = np.asarray(prompt)
    if ids.ndim != 1 or ids.size == 0 or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"{name} must be a non-empty sequence of token ids, got shape {ids.shape} of {ids.dtype}")
    if ids.min() < 0 or ids.max() >= vocab:
        bad = ids[(ids < 0) | (ids >= vocab)][0]
        raise ValueError(f"{name} has the id {bad}, outside the vocabulary of {vocab}")
    return ids.astype(np.int32)


def sample_key(prompt: np.ndarray, seed: int, number: int) -> np.ndarray:
    """Random key data `[2]` of one sample."""
    salt = seed.to_bytes(4, "little") + number.to_bytes(8, "little")
    digest = hashlib.blake2b(prompt.astype("<i4").tobytes(), digest_size=8, salt=salt)
    return np.frombuffer(digest.digest(), np.uint32)
