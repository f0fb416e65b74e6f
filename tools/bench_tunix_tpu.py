"""The peer's side of the TPU comparison: Tunix's LoRA step of Gemma3 1B, compiled for a TPU slice on any CPU machine.

Runs in an environment of its own (Python 3.12; `pip install google-tunix==0.1.7 libtpu`), apart from Coldforge:

    TPU_SKIP_MDS_QUERY=1 JAX_PLATFORMS=cpu python tools/bench_tunix_tpu.py --remat DECODER --hlo PROGRAM.hlo

The program is PeftTrainer's own `_train_step` (its default loss, adamw, rank 64 on six projections, bf16, as its model
is made) over split state, the optimizer donated and the model not, as Tunix jits it; the frozen base is not returned.
Mesh: Tunix's own axes, fsdp = all chips, tp = 1, and its own sharding rules. `tunix.utils.sharding_utils.shard` does
nothing when the host's first device is a CPU; it is replaced by the constraint it makes on a TPU.

Prints `memory_analysis()` per chip, the seconds of tracing and compiling, and writes the program's text, from which
XLA:TPU's cost estimates can be read. Nothing is run. Compile time is from an empty cache (none is configured here).
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}

import jax
import jax.numpy as jnp
import numpy as np
import optax
import qwix
from flax import nnx
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tunix.models.gemma3 import model as gemma3
from tunix.sft import utils
from tunix.sft.peft_trainer import PeftTrainer, TrainingConfig, TrainingInput
from tunix.utils import sharding_utils

TARGETS = ".*q_einsum|.*kv_einsum|.*gate_proj|.*down_proj|.*up_proj|.*attn_vec_einsum"


def constrain(mesh: Mesh) -> Any:
    """What `sharding_utils.shard` does on a TPU."""

    def shard(x: jax.Array, spec: tuple[str | None, ...], eager: bool = False) -> jax.Array:
        if x.ndim != len(spec) or any(  # the trace that adds LoRA has 2 rows of 1 token
            axis is not None and x.shape[i] % mesh.shape[axis] for i, axis in enumerate(spec)
        ):
            return x
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*spec)))

    return shard


def model_input(x: TrainingInput) -> dict[str, Any]:
    """As `tunix.cli.peft_main` has it."""
    pad_mask = x.input_tokens != 0
    return {
        "input_tokens": x.input_tokens,
        "input_mask": x.input_mask,
        "positions": utils.build_positions_from_mask(pad_mask),
        "attention_mask": utils.make_causal_attn_mask(pad_mask),
    }


def make_trainer(remat: str, rank: int) -> PeftTrainer:
    """To be called under `nnx.eval_shape`."""
    config = gemma3.ModelConfig.gemma3_1b_pt()
    config.remat_config = gemma3.RematConfig[remat]
    model = gemma3.Gemma3(config, rngs=nnx.Rngs(0))
    provider = qwix.LoraProvider(module_path=TARGETS, rank=rank, alpha=float(rank))
    model = qwix.apply_lora_to_model(model, provider, rngs=nnx.Rngs(0), **model.get_model_input())
    return PeftTrainer(model, optax.adamw(2e-4), TrainingConfig(eval_every_n_steps=1_000_000))


def placed(state: nnx.State, mesh: Mesh) -> nnx.State:
    """The abstract state with Tunix's own shardings; what has none (Adam's count) is replicated."""
    specs = nnx.get_partition_spec(state)

    def place(x: Any, spec: Any) -> jax.ShapeDtypeStruct:
        spec = spec if isinstance(spec, PartitionSpec) and len(spec) <= len(x.shape) else PartitionSpec()
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(place, state, specs)


def compile_step(remat: str, batch: int, seq: int, topology: str, rank: int) -> tuple[dict[str, Any], str]:
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    mesh = Mesh(np.array(devices).reshape(-1, 1), ("fsdp", "tp"))
    holder: dict[str, PeftTrainer] = {}

    def make() -> tuple[nnx.Module, nnx.Optimizer]:
        holder["trainer"] = trainer = make_trainer(remat, rank)
        return trainer.model, trainer.optimizer

    model, optimizer = nnx.eval_shape(make)
    trainer = holder["trainer"].with_gen_model_input_fn(model_input)
    graph, lora, opt_state, base = nnx.split((model, optimizer), nnx.LoRAParam, nnx.optimizer.OptState, ...)
    lora, opt_state, base = (placed(state, mesh) for state in (lora, opt_state, base))
    sharding_utils.shard = constrain(mesh)
    rows = NamedSharding(mesh, PartitionSpec("fsdp", None))
    inputs = TrainingInput(
        input_tokens=jax.ShapeDtypeStruct((batch, seq), jnp.int32, sharding=rows),
        input_mask=jax.ShapeDtypeStruct((batch, seq), jnp.bool_, sharding=rows),
    )

    def step(lora: nnx.State, opt_state: nnx.State, base: nnx.State, inputs: TrainingInput) -> Any:
        model, optimizer = nnx.merge(graph, lora, opt_state, base)
        loss, _, norm = trainer._train_step(model, optimizer, inputs)
        _, lora, opt_state, _ = nnx.split((model, optimizer), nnx.LoRAParam, nnx.optimizer.OptState, ...)
        return lora, opt_state, loss, norm

    with mesh:
        start = time.perf_counter()
        lowered = jax.jit(step, donate_argnums=(1,)).lower(lora, opt_state, base, inputs)
        traced, cpu = time.perf_counter(), time.process_time()
        compiled = lowered.compile()
        done, cpu = time.perf_counter(), time.process_time() - cpu
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    result = {
        "side": "tunix 0.1.7", "remat": remat, "batch": batch, "seq": seq, "topology": topology,
        "mesh": dict(mesh.shape), "lora_parameters": sum(x.size for x in jax.tree.leaves(lora)),
        "arguments_gib": round(memory.argument_size_in_bytes / 2**30, 3),
        "temporaries_gib": round(memory.temp_size_in_bytes / 2**30, 3),
        "flops": cost["flops"], "bytes_accessed": cost["bytes accessed"],
        "trace_s": round(traced - start, 1), "compile_s": round(done - traced, 1), "compile_cpu_s": round(cpu, 1),
        "jax": jax.__version__,
    }  # fmt: skip
    return result, compiled.as_text()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--remat", choices=[r.name for r in gemma3.RematConfig], default="DECODER")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seq", type=int, default=4096)
    parser.add_argument("--topology", default="v5e:2x4")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--hlo", type=Path, help="where to write the compiled program's text")
    args = parser.parse_args()
    result, text = compile_step(args.remat, args.batch, args.seq, args.topology, args.rank)
    if args.hlo:
        args.hlo.write_text(text)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
