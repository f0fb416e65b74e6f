"""Compiles a Gemma3 forward pass for a TPU slice on any CPU machine, and prints bytes per chip and compile time.

    uv run --with libtpu tools/tpu_forward.py --preset 1b --batch 8 --seq 8192 --topology v5e:2x4

The program is the real one: splash attention per device, weights placed by the rules table, hidden states out (and,
with --logits, the last position's logits). `memory_analysis()` is XLA:TPU's own count. Nothing is run.
"""

import argparse
import json
import os
import time

os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental import topologies

from coldforge import modeling
from coldforge.modeling.init import state_shardings

PRESETS = {name: getattr(modeling, f"gemma3_{name}") for name in ("270m", "1b", "4b", "12b", "27b")}


def compile_forward(preset: str, batch: int, seq: int, topology: str, *, data: int, fsdp: int, tensor: int) -> dict:
    """The figures of one compile, as a JSON-able dict."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    mesh = modeling.make_mesh(data=data or len(devices) // (fsdp * tensor), fsdp=fsdp, tensor=tensor, devices=devices)
    graph, weights = nnx.split(modeling.abstract_model(PRESETS[preset](), dtype=jnp.bfloat16))
    weights = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), weights, state_shardings(weights, mesh)
    )
    sharding = modeling.named_sharding(("batch", None), (batch, seq), mesh)
    tokens = jax.ShapeDtypeStruct((batch, seq), jnp.int32, sharding=sharding)

    def forward(weights: nnx.State, tokens: jax.Array, segment_ids: jax.Array) -> jax.Array:
        return nnx.merge(graph, weights)(tokens, segment_ids=segment_ids)

    with jax.set_mesh(mesh):
        start = time.perf_counter()
        lowered = jax.jit(forward).lower(weights, tokens, tokens)
        traced = time.perf_counter()
        compiled = lowered.compile()
        done = time.perf_counter()
    memory = compiled.memory_analysis()
    text = compiled.as_text()
    assert memory is not None  # XLA:TPU gives both
    assert text is not None
    return {
        "preset": preset, "batch": batch, "seq": seq, "topology": topology, "mesh": dict(mesh.shape),
        "arguments_gib": round(memory.argument_size_in_bytes / 2**30, 3),
        "outputs_gib": round(memory.output_size_in_bytes / 2**30, 3),
        "temporaries_gib": round(memory.temp_size_in_bytes / 2**30, 3),
        "pallas_calls": text.count("tpu_custom_call"),
        "trace_s": round(traced - start, 1), "compile_s": round(done - traced, 1),
        "jax": jax.__version__,
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="1b")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seq", type=int, default=8192)
    parser.add_argument("--topology", default="v5e:2x4")
    parser.add_argument("--data", type=int, default=0, help="default: what fsdp and tensor leave")
    parser.add_argument("--fsdp", type=int, default=1)
    parser.add_argument("--tensor", type=int, default=1)
    args = vars(parser.parse_args())
    print(
        json.dumps(
            compile_forward(args.pop("preset"), args.pop("batch"), args.pop("seq"), args.pop("topology"), **args)
        )
    )
