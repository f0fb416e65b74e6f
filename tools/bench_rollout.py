"""Continuous batching measured: 8 prompts × 8 samples of 10 to 256 new tokens on the real Gemma3 270M weights.

    python tools/bench_rollout.py engine --slots 64         # seconds, slot occupancy, tokens/s; --no-shrink, --int8
    python tools/bench_rollout.py steps                     # milliseconds of a decode step by number of rows

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

import numpy as np
from bench_sampler import load_model
from flax import nnx

from coldforge.modeling import LoraConfig, add_lora
from coldforge.rollout import Engine, EngineConfig, Request, SamplingParams

PROMPTS, SAMPLES = 8, 8


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["engine", "steps"])
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--lora", type=int, default=0, help="rank of an adapter; 0 for none")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--no-shrink", action="store_true")
    parser.add_argument("--kv", default="model")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 8, 16, 24, 32, 48, 64])
    args = parser.parse_args()
    model, _ = load_model(args.dtype)
    if args.lora:
        model = add_lora(model, LoraConfig(rank=args.lora), rngs=nnx.Rngs(0))
    head = {key: value for key, value in vars(args).items() if key not in ("rows", "repeats")}
    if args.what == "steps":
        print(json.dumps(head | step_times(model, args.rows)), flush=True)
        return
    config = EngineConfig(max_prompt_tokens=64, slots=args.slots, shrink=not args.no_shrink, kv=args.kv)
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
