"""Compiles a training step for a TPU slice on any CPU machine; prints memory, estimated cycles, dearest ops, seconds.

    uv run --with libtpu tools/tpu_step.py --preset 1b --batch 8 --seq 4096 --topology v5e:2x4 --top 20

`coldforge-plan` compiles what a preset of `coldforge-sft` runs; this is the engineer's view of the same step: any mesh,
remat policy, way of running the layers and kind of base, all tokens counted, ops by the model's own names. The program
is `coldforge.modeling.trainable` → `sft_loss` → `make_train_step`, lowered with shapes alone, and read by the plan's
own readers, which say what the estimate leaves out (Pallas kernels, collectives). Nothing is run.
"""

import argparse
import collections
import json
import os
import re
import time
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
from flax import nnx

from coldforge import modeling, training
from coldforge.apps.plan import hlo
from coldforge.apps.plan.chips import Slice
from coldforge.apps.plan.estimate import estimate
from coldforge.apps.plan.target import prepare_environment, slice_devices
from coldforge.data.batches import TokenBatch
from coldforge.sft import sft_loss

PRESETS = {name: getattr(modeling, f"gemma3_{name}") for name in ("270m", "1b", "4b", "12b", "27b")}


def lower(args: argparse.Namespace) -> jax.stages.Lowered:
    """The step of the command line's model, mesh and options, traced with shapes alone."""
    devices = slice_devices(Slice.parse(args.topology))
    data = args.data or len(devices) // (args.fsdp * args.tensor)
    mesh = modeling.make_mesh(data=data, fsdp=args.fsdp, tensor=args.tensor, devices=devices)
    model = modeling.abstract_model(PRESETS[args.preset](), dtype=jnp.bfloat16, mesh=mesh)
    if not args.full:
        lora = modeling.LoraConfig(rank=args.rank, quantize=args.quantize)
        model = modeling.add_lora(model, lora, rngs=nnx.Rngs(0))
    view = modeling.trainable(model, full=args.full, remat=args.remat, layers=args.layers)
    config = training.OptimizerConfig()
    optimizer, schedule = training.make_optimizer(config, 1000), training.make_schedule(config, 1000)
    step = training.make_train_step(
        sft_loss(view.apply, chunk=args.chunk), optimizer, schedule, accumulation=args.accumulation
    )
    state = training.abstract_state(view.params, optimizer, shard_optimizer="data" if args.zero else None)
    shape = (args.accumulation, args.batch, args.seq)
    sharding = modeling.named_sharding((None, "batch", None), shape, mesh)
    arrays: list[Any] = [jax.ShapeDtypeStruct(shape, d, sharding=sharding) for d in ("i4", "i4", "i4", "f4", "u1")]
    batch = TokenBatch(*arrays)
    with jax.set_mesh(mesh):
        return step.lower(state, view.frozen, batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="1b")
    parser.add_argument("--batch", type=int, default=8, help="rows of a micro-batch, over all chips")
    parser.add_argument("--seq", type=int, default=4096)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--topology", default="v5e:2x4")
    parser.add_argument("--data", type=int, default=0, help="default: what fsdp and tensor leave")
    parser.add_argument("--fsdp", type=int, default=1)
    parser.add_argument("--tensor", type=int, default=1)
    parser.add_argument("--zero", action="store_true", help="split the optimizer state over data")
    parser.add_argument("--remat", default="block")
    parser.add_argument("--layers", default="auto")
    parser.add_argument(
        "--chunk", type=int, default=None, help="tokens whose logits exist at a time; default: by platform"
    )
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--quantize", choices=["int8", "nf4"])
    parser.add_argument("--full", action="store_true", help="train every parameter")
    parser.add_argument("--top", type=int, default=0, help="print so many of the dearest kinds of op")
    parser.add_argument("--save", type=Path, help="write the compiled program's text here")
    args = parser.parse_args()

    prepare_environment()
    start, busy = time.perf_counter(), time.process_time()
    lowered = lower(args)
    traced = time.perf_counter()
    compiled = lowered.compile()
    done, busy = time.perf_counter(), time.process_time() - busy
    memory, text = compiled.memory_analysis(), compiled.as_text() or ""
    if args.save:
        args.save.write_text(text)
    cost = estimate(hlo.parse(text))
    gib = {name: getattr(memory, f"{name}_size_in_bytes") / 2**30 for name in ("argument", "temp", "output", "alias")}
    collectives: collections.Counter[str] = collections.Counter()
    for one, times in cost.collectives:
        collectives[one.kind] += times
    result = {name: value for name, value in vars(args).items() if name not in ("top", "save")}
    result |= {f"{name}_gib": round(gib[name], 3) for name in ("argument", "temp")}
    result["total_gib"] = round(gib["argument"] + gib["temp"] + gib["output"] - gib["alias"], 3)
    result |= {"mcycles": round(cost.cycles / 1e6, 1), "kernels": sum(k.times for k in cost.kernels)}
    result |= {"collectives": dict(collectives), "sent_mb": round(cost.sent() / 1e6, 1)}
    result |= {"trace_s": round(traced - start, 1), "compile_s": round(done - traced, 1), "cpu_s": round(busy, 1)}
    print(json.dumps(result))

    dearest: collections.Counter[tuple[str, str]] = collections.Counter()
    for op in cost.ops:
        where = re.sub(r"jit\(\w+\)/|eval_jaxpr/|checkpoint/|closed_call/", "", op.op_name)
        dearest[op.shape, where] += op.cycles
    for (shape, where), cycles in dearest.most_common(args.top):
        print(f"{100 * cycles / cost.cycles:5.1f} %  {cycles / 1e6:7.1f} M  {shape[:44]:44s} {where[-110:]}")


if __name__ == "__main__":
    main()
