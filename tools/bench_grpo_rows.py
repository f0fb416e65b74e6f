"""What both sides of the GRPO benchmark share: prompts, lengths, the reward, the clock, and the machine's own rate.

Coldforge (`bench_grpo.py`) and the peer (`bench_tunix_grpo.py`) run in environments of their own and import this file,
which needs numpy and jax only. Prompts are token ids from a seed, as in `bench_prompts`; no token ends a sample, so
that each has exactly the length that its scenario gives it, and both sides do the same work:

- equal: 2 prompts of 64 tokens x 4 samples of 64 new tokens.
- spread: 8 prompts of 16 to 128 tokens x 8 samples of 10 to 256 new tokens, both evenly spread, then shuffled.

The reward is the share of even token ids: it costs nothing, and differs between samples, so that advantages are not 0.

`StepClock` prints one line of JSON for each step (seconds of each phase, of the whole step, and of the processors; peak
memory so far) and at the end one line of medians, the first step, which compiles, apart.
"""

import contextlib
import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bench_measure import cpu_seconds, reset_peak, status_gb
from bench_prompts import BOS, FIRST_ID, LAST_ID

DTYPES = {"f32": jnp.float32, "bf16": jnp.bfloat16}
RANK = 64
BETA = 0.001
LEARNING_RATE = 1e-5


@dataclass(frozen=True)
class Scenario:
    """Prompts `[prompts]` of int32 ids, and the new tokens of each sample, `[prompts, samples]`."""

    prompts: list[np.ndarray]
    limits: np.ndarray

    @property
    def group_size(self) -> int:
        return int(self.limits.shape[1])

    @property
    def longest_prompt(self) -> int:
        return max(map(len, self.prompts))

    @property
    def longest_sample(self) -> int:
        return int(self.limits.max())

    def summary(self) -> dict[str, int]:
        prompt_tokens = sum(map(len, self.prompts))
        return {
            "samples": self.limits.size,
            "prompt_tokens": prompt_tokens,
            "new_tokens": int(self.limits.sum()),
            "tokens": int(self.limits.sum()) + prompt_tokens * self.group_size,
        }


def scenario(name: str, seed: int = 0) -> Scenario:
    rng = np.random.default_rng(seed)
    if name == "equal":
        lengths, limits = np.full(2, 64), np.full((2, 4), 64)
    elif name == "spread":
        lengths = rng.permutation(np.linspace(16, 128, 8).round().astype(int))
        limits = rng.permutation(np.linspace(10, 256, 64).round().astype(int)).reshape(8, 8)
    else:
        raise ValueError(f"the scenarios are equal and spread, got {name!r}")
    prompts = [rng.integers(FIRST_ID, LAST_ID, length, dtype=np.int32) for length in lengths]
    for ids in prompts:
        ids[0] = BOS
    return Scenario(prompts, limits)


def reward(ids: Sequence[int] | np.ndarray) -> float:
    """The share of even ids."""
    return float(np.mean(np.asarray(ids) % 2 == 0))


def product_gflops(dtype: str, repeats: int = 5) -> float:
    """GFLOP/s of the best of a few products of two 2048 x 2048 matrices."""
    rng = np.random.default_rng(0)
    a = jnp.asarray(rng.standard_normal((2048, 2048), dtype=np.float32), DTYPES[dtype])
    product = jax.jit(lambda x: x @ x)
    jax.block_until_ready(product(a))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(product(a))
        seconds.append(time.perf_counter() - start)
    return round(2 * 2048**3 / min(seconds) / 1e9, 1)


@dataclass
class StepClock:
    """Seconds of phases and steps. Phases do not overlap; each may be entered more than once in a step."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    _phases: dict[str, float] = field(default_factory=dict)
    _beside: dict[str, float] = field(default_factory=dict)
    _start: tuple[float, float] = (0.0, 0.0)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What runs in it must be done, not only dispatched, when it is left."""
        start = time.perf_counter()
        yield
        self._phases[name] = self._phases.get(name, 0.0) + time.perf_counter() - start

    def within(self, name: str, seconds: float) -> None:
        """Seconds of something that runs beside a phase: told, but not part of the sum."""
        self._beside[name] = self._beside.get(name, 0.0) + seconds

    def begin(self) -> None:
        """A step begins."""
        if not self.steps:
            reset_peak()
        self._phases, self._beside = {}, {}
        self._start = time.perf_counter(), cpu_seconds()

    def end(self, extra: Mapping[str, Any]) -> None:
        """A step has ended: prints it, and `extra` with it."""
        total, cpu = time.perf_counter() - self._start[0], cpu_seconds() - self._start[1]
        seconds = self._phases | self._beside | {"other": total - sum(self._phases.values()), "total": total}
        line = {f"{name}_s": round(value, 3) for name, value in seconds.items()}
        line |= {"cpu_s": round(cpu, 2), "rss_peak_gb": round(status_gb("VmHWM"), 2)}
        self.steps.append(line)
        print(json.dumps({"step": len(self.steps)} | line | dict(extra)), flush=True)

    def summary(self, new_tokens: int) -> dict[str, Any]:
        """Medians of all steps but the first."""
        first, *steady = self.steps
        found: dict[str, Any] = {"first_step_s": first["total_s"], "steady_steps": len(steady)}
        if steady:
            names = [name for name in steady[0] if name.endswith("_s")]
            found |= {name: round(statistics.median(s[name] for s in steady), 3) for name in names}
            found |= {"min_total_s": min(s["total_s"] for s in steady)}
            found |= {"new_tokens_per_s": round(new_tokens / found["total_s"], 2)}
        return found | {"rss_peak_gb": self.steps[-1]["rss_peak_gb"]}
