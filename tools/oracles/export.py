r"""Makes the exports that check_export.py examines: a base, an adapter, the two merged, and the logits of it all.

Runs in Coldforge's own environment; check_export.py then runs in one with transformers and PEFT:

    python tools/oracles/export.py packages/modeling/tests/data/tiny_kv2 /tmp/export
    python tools/oracles/check_export.py /tmp/export/ours.npz --merged /tmp/export/merged \
        --base /tmp/export/base --adapter /tmp/export/adapter

MODEL is anything that `load` reads. It is loaded in float32 and given an adapter whose A and B are random and not zero.
Written are `base` and `merged` (save_hf), `adapter` (save_peft), and `ours.npz`: random `ids` [2, 24] and `logits`,
both as Coldforge computes them from base and adapter. With `--quantize` the base that is written is what int8 or nf4
left of it.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from coldforge.modeling import LoraConfig, add_lora, load, lora_state, save_hf, save_peft, set_lora

FIRST_PLAIN_ID = 4  # 0-3 are pad, eos, bos, unk
SHAPE = (2, 24)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="what `load` reads")
    parser.add_argument("out", type=Path, help="directory to write into; must not exist")
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--alpha", type=float, default=6.0)
    parser.add_argument("--targets", nargs="+", default=LoraConfig().targets)
    parser.add_argument("--quantize", choices=["int8", "nf4"])
    parser.add_argument("--size", type=float, default=0.1, help="standard deviation of the adapter's entries")
    args = parser.parse_args()

    config = LoraConfig(rank=args.rank, alpha=args.alpha, targets=tuple(args.targets), quantize=args.quantize)
    model = add_lora(load(args.model, dtype=jnp.float32), config, rngs=nnx.Rngs(0))
    args.out.mkdir(parents=True)
    save_hf(model, args.out / "base")  # a fresh adapter adds nothing

    adapter = lora_state(model)
    leaves, structure = jax.tree.flatten(adapter)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [args.size * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    set_lora(model, jax.tree.unflatten(structure, leaves))
    save_hf(model, args.out / "merged")
    save_peft(model, args.out / "adapter", base_model_name=str(args.out / "base"))

    ids = np.random.default_rng(0).integers(FIRST_PLAIN_ID, model.config.vocab_size, SHAPE, np.int32)
    logits = nnx.jit(lambda model, ids: model.logits(model(ids)))(model, jnp.asarray(ids))
    np.savez(args.out / "ours.npz", ids=ids, logits=logits)
    print(f"wrote base, adapter ({config}), merged and ours.npz to {args.out}")


if __name__ == "__main__":
    main()
