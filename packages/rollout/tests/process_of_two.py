"""One of two processes that sample from one model (started by test_generation.py): PORT RANK OUT. Writes OUT/RANK.npz.

Each process has two devices; four slots, for six samples, and the weights are split over all four.
"""

import os
import sys
from pathlib import Path

import jax
import numpy as np
from conftest import CONFIG
from flax import nnx

from coldforge.modeling import LoraConfig, add_lora, init_model, lora_state, make_mesh
from coldforge.rollout import Engine, EngineConfig, Request, SamplingParams


def main(port: str, rank: int, out: Path) -> None:
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"  # conftest asks for 8
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=rank)
    model = init_model(CONFIG, seed=3, mesh=make_mesh(fsdp=2, tensor=2))
    model = add_lora(model, LoraConfig(rank=2), rngs=nnx.Rngs(0))  # fresh: it changes nothing
    prompts = [np.arange(2, 2 + size) for size in (3, 30, 11)]
    params = SamplingParams(max_new_tokens=12, stop_ids=(7,))
    engine = Engine(model, params, EngineConfig(max_prompt_tokens=32, slots=4))
    requests = [Request(i, prompt, n=2, seed=11) for i, prompt in enumerate(prompts)]
    groups = dict(engine.run(requests, weights=lora_state(model)))
    found = [sample for i in range(len(prompts)) for sample in groups[i]]
    np.savez(out / f"{rank}.npz", *[sample.tokens for sample in found])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
