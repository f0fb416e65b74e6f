"""One of two processes that sample from one model (started by test_generation.py): PORT RANK OUT. Writes OUT/RANK.npz.

Each process has two devices; the rows of the batch and the weights are split over all four.
"""

import os
import sys
from pathlib import Path

import jax
import numpy as np
from conftest import CONFIG

from coldforge.modeling import init_model, make_mesh
from coldforge.rollout import SamplingParams, generate


def main(port: str, rank: int, out: Path) -> None:
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"  # conftest asks for 8
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=rank)
    model = init_model(CONFIG, seed=3, mesh=make_mesh(fsdp=2, tensor=2))
    prompts = [np.arange(2, 2 + size) for size in (3, 30, 11)]
    params = SamplingParams(max_new_tokens=12, seed=11, stop_ids=(7,))
    found = [sample for samples in generate(model, prompts, params, n=2) for sample in samples]
    np.savez(out / f"{rank}.npz", *[sample.tokens for sample in found])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
