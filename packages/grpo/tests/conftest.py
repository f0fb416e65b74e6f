"""What the tests share: a language model of twelve tokens, its exact sampler, a judge, and all of it tied together.

The model sees a token, the one before it in the same text, and the position: so a text that is packed wrongly is seen.
Scripts that tests start as processes import this file too; how many devices there are is up to them.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coldforge.grpo import (
    Ask,
    BatchShape,
    Experience,
    FitResult,
    GrpoConfig,
    Judgement,
    Parts,
    RlLimits,
    Start,
    fit,
    grpo_loss,
    is_empty,
    make_score,
    new_start,
    resume,
    rl_rules,
    shape_for,
)
from coldforge.losses import PolicyLoss
from coldforge.training import (
    Checkpointer,
    MetricLog,
    OptimizerConfig,
    TrainState,
    TrainStep,
    Watchdog,
    WatchdogConfig,
    abstract_state,
    init_state,
    make_optimizer,
    make_schedule,
    make_train_step,
)

VOCAB, EMBED, PLACES, EOS, GOOD = 12, 12, 64, 1, 3
LONGEST, PROMPT = 8, 4  # tokens of a completion and of a prompt, at most
OPTIMIZER = OptimizerConfig(learning_rate=0.1, warmup=0.0, weight_decay=0.0, max_grad_norm=None)
STEPS = 40  # of the learning rate's schedule


def make_params(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 0.3, (EMBED, EMBED)).astype(np.float32) for name in ("own", "before")}


@cache
def make_frozen() -> dict[str, np.ndarray]:
    place = np.random.default_rng(1).normal(0, 0.3, (PLACES, EMBED))
    return {"embedding": 2 * np.eye(VOCAB, dtype=np.float32), "place": place.astype(np.float32)}


def apply(params: Any, frozen: Any, tokens: Any, positions: Any, segment_ids: Any) -> tuple[Any, Any]:
    embedded = frozen["embedding"][tokens]
    same = jnp.pad(segment_ids[:, 1:] == segment_ids[:, :-1], ((0, 0), (1, 0)))
    before = jnp.where(same[..., None], jnp.roll(embedded, 1, 1), 0)
    hidden = 2 * jnp.tanh(embedded @ params["own"] + before @ params["before"] + frozen["place"][positions])
    return hidden, frozen["embedding"]


def logits(params: dict[str, Any], ids: np.ndarray) -> np.ndarray:
    """The same model in numpy, float64: `[texts, tokens]` → `[texts, tokens, vocab]`."""
    frozen = {name: x.astype(np.float64) for name, x in make_frozen().items()}
    own, before = (np.asarray(params[name], np.float64) for name in ("own", "before"))
    embedded = frozen["embedding"][ids]
    shifted = np.pad(embedded[:, :-1], ((0, 0), (1, 0), (0, 0)))
    hidden = 2 * np.tanh(embedded @ own + shifted @ before + frozen["place"][: ids.shape[1]])
    return hidden @ frozen["embedding"].T


def log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def completion_logprobs(params: Any, prompt: np.ndarray, tokens: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """log p of each completion token, float64."""
    ids = np.concatenate([prompt, tokens])
    logp = log_softmax(logits(params, ids[None])[0] / temperature)
    return logp[np.arange(len(prompt) - 1, len(ids) - 1), tokens]


class Sample(NamedTuple):
    tokens: np.ndarray
    logprobs: np.ndarray
    finish_reason: str


def sample_group(params: Any, ask: Ask, temperature: float = 1.0) -> list[Sample]:
    """Exactly from the model, at most `LONGEST` tokens each."""
    rng = np.random.default_rng(ask.seed)
    ids = np.tile(ask.prompt, (ask.samples, 1))
    said: list[np.ndarray] = []
    for _ in range(LONGEST):
        logp = log_softmax(logits(params, ids)[:, -1] / temperature)
        chosen = (rng.random((ask.samples, 1)) > np.exp(logp).cumsum(-1)[:, :-1]).sum(-1)
        said.append(logp[np.arange(ask.samples), chosen])
        ids = np.concatenate([ids, chosen[:, None].astype(np.int32)], 1)
    samples = []
    for row, logprobs in zip(ids[:, len(ask.prompt) :], np.stack(said, 1), strict=True):
        ends = np.flatnonzero(row == EOS)
        length = int(ends[0]) + 1 if len(ends) else LONGEST
        samples.append(Sample(row[:length], logprobs[:length], "stop" if len(ends) else "length"))
    return samples


def sampler(params: Any, asks: Sequence[Ask]) -> Iterator[tuple[int, list[Sample]]]:
    """Groups in an order of its own, as a sampler with continuous batching gives them."""
    host = jax.device_get(params)
    for ask in sorted(asks, key=lambda ask: ask.seed):
        yield ask.index, sample_group(host, ask)


def prompt(position: int) -> np.ndarray:
    rng = np.random.default_rng([7, position])
    return rng.integers(2, VOCAB, rng.integers(1, PROMPT + 1)).astype(np.int32)


def judge(position: int, samples: Sequence[Any]) -> Judgement:
    """The share of token 3, and a little for ending."""
    good = [float((one.tokens == GOOD).mean()) for one in samples]
    ended = [float(one.finish_reason == "stop") for one in samples]
    return Judgement(
        rewards=[a + 0.1 * b for a, b in zip(good, ended, strict=True)],
        parts={"good": good, "ended": ended},
        correct=[float(value > 0) for value in good],
        well_formed=ended,
        texts=[" ".join(map(str, one.tokens)) for one in samples],
        notes=[f"question {position}"] * len(samples),
    )


@cache
def compiled(policy: PolicyLoss, old: Any, accumulation: int) -> tuple[TrainStep, Any]:
    """Step and scoring pass; made once for all tests of the same policy and shape."""
    step = make_train_step(
        grpo_loss(apply, policy, old=old), make_optimizer(OPTIMIZER, STEPS), make_schedule(OPTIMIZER, STEPS),
        accumulation=accumulation, empty=is_empty,
    )  # fmt: skip
    return step, make_score(apply)


def new_state(params: Any = None) -> TrainState:
    params = jax.tree.map(jnp.asarray, make_params() if params is None else params)
    return init_state(params, make_optimizer(OPTIMIZER, STEPS), 0)


class NoCheckpoints:
    """For tests that do not go on."""

    def __init__(self) -> None:
        self.saved: dict[int, Any] = {}

    def save(self, step: int, state: Any, data_state: Any, metrics: Any) -> None:
        self.saved[step] = (data_state, dict(metrics))

    def restore_latest(self, abstract_state: Any) -> None:
        return None

    def steps(self) -> list[int]:
        return sorted(self.saved)

    def wait(self) -> None:
        pass


class Rows:
    """A log in memory: scalars by step, and texts."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float]] = {}
        self.texts: list[tuple[int, str, str]] = []

    def scalars(self, step: int, values: Any) -> None:
        self.rows[step] = self.rows.get(step, {}) | dict(values)

    def text(self, step: int, tag: str, text: str) -> None:
        self.texts.append((step, tag, text))

    def sync(self) -> None:
        pass

    def curve(self, name: str) -> list[float]:
        return [row[name] for _, row in sorted(self.rows.items()) if name in row]


def shape_of(config: GrpoConfig, rows: int = 4, seq_len: int = 24) -> BatchShape:
    return shape_for(config.samples // config.minibatches, PROMPT + LONGEST, rows=rows, seq_len=seq_len)


def make_parts(config: GrpoConfig, directory: Path, *, shape: BatchShape | None = None, **other: Any) -> Parts:
    """All that the loop needs; anything of it may be replaced."""
    shape = shape_of(config) if shape is None else shape
    step, score = compiled(config.policy, config.old, shape.accumulation)
    frozen = jax.tree.map(jnp.asarray, make_frozen())
    given: dict[str, Any] = {
        "prompt": prompt, "sample": sampler, "judge": judge, "shape": shape, "checkpoints": NoCheckpoints(),
        "train": lambda state, batch: step(state, frozen, batch), "place": jax.device_put,
        "score": lambda params, batch: score(params, frozen, batch), "rollouts": directory / "rollouts",
    }  # fmt: skip
    return Parts(**(given | other))


def begin(parts: Parts, config: GrpoConfig) -> Start:
    """Where the newest checkpoint is, or at the beginning."""
    abstract = abstract_state(make_params(), make_optimizer(OPTIMIZER, STEPS))
    return resume(parts, abstract, config) or new_start(new_state(), config)


def make_checkpointer(directory: Path, **other: Any) -> Checkpointer:
    return Checkpointer(directory / "checkpoints", identity={}, **other)


RESUMED = GrpoConfig(
    steps=8, questions=4, group_size=4, minibatches=2, policy=PolicyLoss(beta=0.05, entropy_bonus=0.01), seed=3,
    resample=2.0, refresh_reference=3, eval_every=3, checkpoint_every=2, texts=3,
)  # fmt: skip
ON_DEVICES = GrpoConfig(
    steps=6, questions=8, group_size=4, minibatches=2, policy=PolicyLoss(beta=0.05, clip_high=0.28), seed=3,
    resample=2.0, refresh_reference=3, old_policy="trainer", checkpoint_every=0,
)  # fmt: skip
ALARMED = RlLimits(rollouts=1, window=2, truncated=0.01, equal_groups=0.01, repetition=0.01, gap=1e-9, kl=1e-9)


def some_equal(position: int, samples: Sequence[Any]) -> Judgement:
    """As `judge`; every third question is worth the same in any case."""
    found = judge(position, samples)
    return found._replace(rewards=[0.5] * len(samples)) if position % 3 == 0 else found


class Session(NamedTuple):
    """What is left of a session that has ended."""

    result: FitResult
    first: int
    watchdog: dict[str, Any]
    reference: Any


def session(
    directory: Path, *, disturb: Callable[[str], None] = lambda what: None, stop: Callable[[], str | None] | None = None
) -> Session:
    """A session of the run in `directory`, as a program has it: real checkpoints, log and watchdog.

    `disturb` is told of everything that begins, and may raise, or kill the process.
    """
    config = RESUMED
    watchdog = Watchdog(WatchdogConfig(cooldown=3), rules=rl_rules(ALARMED))

    def disturbed(what: str, function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            disturb(what)
            return function(*arguments)

        return call

    def sample(params: Any, asks: Sequence[Ask]) -> Any:
        for answer in sampler(params, asks):
            disturb("sample")
            yield answer

    def evaluate(params: Any) -> dict[str, float]:
        return {"eval/correct": float(jax.device_get(params)["own"].sum())}

    with make_checkpointer(directory) as checkpoints:
        parts = make_parts(
            config, directory, checkpoints=checkpoints, watchdog=watchdog, sample=sample,
            judge=disturbed("judge", some_equal), evaluate=disturbed("evaluate", evaluate),
            question=lambda position: f"question {position}", **({} if stop is None else {"stop": stop}),
        )  # fmt: skip
        checkpoints.save = disturbed("save", checkpoints.save)  # type: ignore[method-assign]
        start = begin(parts, config)
        with MetricLog(directory, step=start.step or None) as log:
            parts = dataclasses.replace(parts, log=log, train=disturbed("train", parts.train))
            result = fit(start, parts, config)
        abstract = abstract_state(make_params(), make_optimizer(OPTIMIZER, STEPS))
        again = resume(parts, abstract, config)
        assert again is not None
        return Session(result, start.step, watchdog.to_dict(), jax.device_get(again.reference))


def make_experience(
    rng: np.random.Generator, groups: int = 3, size: int = 4, longest: int = LONGEST, **other: Any
) -> Experience:
    """Samples of random lengths and rewards, with all that an update may need but advantages."""
    lengths = rng.integers(1, longest + 1, groups * size)

    def ragged(values: Callable[[int], np.ndarray]) -> list[np.ndarray]:
        return [values(int(n)) for n in lengths]

    def logprobs() -> list[np.ndarray]:
        return ragged(lambda n: rng.normal(-2, 0.5, n).astype(np.float32))

    given: dict[str, Any] = {
        "group_size": size, "positions": np.arange(groups),
        "prompts": [prompt(i) for i in range(groups)],
        "tokens": ragged(lambda n: rng.integers(1, VOCAB, n).astype(np.int32)),
        "sampler_logprobs": logprobs(), "old_logprobs": logprobs(), "ref_logprobs": logprobs(),
        "ended": rng.random(groups * size) < 0.7, "rewards": rng.normal(size=groups * size), "parts": {},
        "correct": np.full(groups * size, np.nan), "well_formed": np.full(groups * size, np.nan),
        "counts": {
            "asked": float(groups), "equal": 0.0, "kept_equal": 0.0, "seconds": 2.0, "waited": 1.0, "tokens": 10.0
        },
    }  # fmt: skip
    return Experience(**(given | other))


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    """This file's functions and sizes, for tests, which cannot import it by a name."""
    return sys.modules[__name__]
