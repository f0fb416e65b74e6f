"""Loads what lies at PATH in DTYPE and prints, as JSON, the time, bytes of the weights, and the most memory it took.

A process of its own, since the kernel's high-water mark (VmHWM) is the process's. Libraries are imported and JAX is
started before the count begins. Linux only.
"""

import json
import re
import sys
import time
from pathlib import Path

import gguf  # noqa: F401
import jax
import jax.numpy as jnp
import tensorstore  # noqa: F401
from flax import nnx

from coldforge.modeling import load


def kilobytes(field: str) -> int:
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def main(path: str, dtype: str) -> None:
    jax.block_until_ready(jnp.zeros(3) + 1)
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark to what is in use now
    before, start, cpu_start = kilobytes("VmRSS"), time.perf_counter(), time.process_time()
    model = load(path, dtype=dtype)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    weights = sum(array.nbytes for array in jax.tree.leaves(nnx.state(model)))
    peak = 1024 * (kilobytes("VmHWM") - before)
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "weights": weights, "peak": peak}))


if __name__ == "__main__":
    main(*sys.argv[1:])
