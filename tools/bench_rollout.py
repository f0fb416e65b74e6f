"""Continuous batching measured: 8 prompts × 8 samples of 10 to 256 new tokens on the real Gemma3 270M weights.

    python tools/bench_rollout.py engine --slots 64         # seconds, slot occupancy, tokens/s; --no-shrink
    python tools/bench_rollout.py steps                     # milliseconds of a decode step by number of rows
    python tools/bench_rollout.py gap --dtype bf16          # log-probs as sampled against the model's; --kv int8

Lengths are drawn once (seed 0, uniform) and set as limits, one per sample, so that every way does the same work.
`--no-shrink` with 64 slots is what a static batch does: all rows run until the longest sample ends. One line of JSON
per run.
"""

import argparse
import dataclasses
import json
import resource
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bench_sampler import load_model
from flax import nnx

from coldforge.data import Tokenizer
from coldforge.data.embedded import gemma3_270m
from coldforge.modeling import LoraConfig, add_lora
from coldforge.rollout import Engine, EngineConfig, Request, SamplingParams

PROMPTS, SAMPLES = 8, 8
TEXTS = (
    "The sun rises in the",
    "Question: Anna has 3 apples and buys 5 more. How many apples does she have?\nAnswer: Let us think step by step.",
    "def fibonacci(n):\n",
    "Water is made of hydrogen and",
)


def requests(seed: int) -> list[Request]:
    """The same prompts and lengths for every seed."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(1000, 200_000, 64) for _ in range(PROMPTS)]
    lengths = rng.integers(10, 257, (PROMPTS, SAMPLES))
    return [
        Request(i, prompt, SAMPLES, seed, max_new_tokens=[int(x) for x in own])
        for i, (prompt, own) in enumerate(zip(prompts, lengths, strict=True))
    ]


def step_times(model: Any, rows: list[int]) -> dict[str, float]:
    """Milliseconds of a decode step, by rows."""
    found = {}
    for count in rows:
        params = SamplingParams(max_new_tokens=256, stop_ids=())
        engine = Engine(model, params, EngineConfig(max_prompt_tokens=64, slots=count, shrink=False))
        one = [Request(0, np.arange(2, 40), count, max_new_tokens=4)]
        list(engine.run(one))
        before = dataclasses.replace(engine.stats)
        list(engine.run([dataclasses.replace(one[0], max_new_tokens=24)]))
        seconds = engine.stats.decode_seconds - before.decode_seconds
        found[str(count)] = round(1e3 * seconds / (engine.stats.steps - before.steps), 1)
    return found


def gap(model: Any, kv: str, weights: str) -> dict[str, float]:
    """Log-probabilities as sampled against one pass without a cache: |difference|, and the KL that it implies (k3)."""
    params = SamplingParams(max_new_tokens=96, stop_ids=(1,))
    config = EngineConfig(max_prompt_tokens=64, slots=32, kv=kv, weights=weights)
    tokenizer = Tokenizer.load(gemma3_270m())
    prompts = [np.asarray(tokenizer.encode(text, add_bos=True)) for text in TEXTS]
    found = Engine(model, params, config).run([Request(i, prompt, 8) for i, prompt in enumerate(prompts)])
    graph, state = nnx.split(model)

    @jax.jit
    def scores(state: nnx.State, tokens: jax.Array) -> jax.Array:
        whole = nnx.merge(graph, state)
        logits = whole.logits(whole(tokens))[:, :-1]
        return jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, 1:, None], axis=-1)[..., 0]

    differences = []
    for group in found:
        for sample in group.samples:
            whole = np.concatenate([prompts[group.id], sample.tokens])
            padded = np.zeros((1, 192), np.int32)
            padded[0, : whole.size] = whole
            own = np.asarray(scores(state, padded))[0, prompts[group.id].size - 1 : whole.size - 1]
            differences.append(own - sample.logprobs)
    d = np.concatenate(differences).astype(np.float64)
    return {
        "tokens": d.size,
        "mean": float(f"{abs(d).mean():.3g}"),
        "p99": float(f"{np.quantile(abs(d), 0.99):.3g}"),
        "max": float(f"{abs(d).max():.3g}"),
        "kl": float(f"{np.mean(np.exp(d) - 1 - d):.3g}"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["engine", "steps", "gap"])
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--lora", type=int, default=0, help="rank of an adapter; 0 for none")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--no-shrink", action="store_true")
    parser.add_argument("--kv", default="model")
    parser.add_argument("--weights", default="model")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 8, 16, 24, 32, 48, 64])
    args = parser.parse_args()
    model, _ = load_model(args.dtype)
    if args.lora:
        model = add_lora(model, LoraConfig(rank=args.lora), rngs=nnx.Rngs(0))
    head = {key: value for key, value in vars(args).items() if key not in ("rows", "repeats")}
    if args.what == "steps":
        print(json.dumps(head | step_times(model, args.rows)), flush=True)
        return
    if args.what == "gap":
        print(json.dumps(head | gap(model, args.kv, args.weights)), flush=True)
        return
    config = EngineConfig(
        max_prompt_tokens=64, slots=args.slots, shrink=not args.no_shrink, kv=args.kv, weights=args.weights
    )
    engine = Engine(model, SamplingParams(max_new_tokens=256, stop_ids=()), config)
    for repeat in range(args.repeats):
        before, begin, cpu = dataclasses.replace(engine.stats), time.perf_counter(), time.process_time()
        tokens = sum(s.tokens.size for group in engine.run(requests(repeat)) for s in group.samples)
        seconds, stats = time.perf_counter() - begin, engine.stats
        print(
            json.dumps(
                head
                | {
                    "repeat": repeat,
                    "seconds": round(seconds, 2),
                    "cpu_seconds": round(time.process_time() - cpu, 2),
                    "tokens": tokens,
                    "tokens_s": round(tokens / seconds, 1),
                    "steps": stats.steps - before.steps,
                    "occupancy": round(tokens / (stats.slot_steps - before.slot_steps), 3),
                    "prefill_s": round(stats.prefill_seconds - before.prefill_seconds, 2),
                    "decode_s": round(stats.decode_seconds - before.decode_seconds, 2),
                    "compiles": stats.compiles,
                    "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
