"""How long a checkpoint holds training up, and how long it takes to write and to read: `python measure_checkpoint.py`.

The state is that of LoRA of rank 64 on all layers of Gemma3 270M: 14.45 M parameters and two moments in float32, 652
arrays, 173 MB. Numbers are random: compression gains as little as on trained moments. Medians of `REPEATS` saves.
"""

import statistics
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from orbax.checkpoint import PyTreeCheckpointer

from coldforge.training import Checkpointer, OptimizerConfig, init_state, make_optimizer

LAYERS, EMBED, RANK, REPEATS = 18, 640, 64, 7
INNER = {"q": 1024, "kv": 512, "o": 1024, "gate": 2048, "up": 2048, "down": 2048}
FROM_INNER = ("o", "down")  # the others map from the embedding


def random_state():
    rng = np.random.default_rng(0)

    def pair(name: str):
        shapes = (EMBED, RANK), (RANK, INNER[name])
        shapes = [shape[::-1] for shape in reversed(shapes)] if name in FROM_INNER else shapes
        return [rng.normal(size=shape).astype(np.float32) for shape in shapes]

    params = jax.device_put([{name: pair(name) for name in INNER} for _ in range(LAYERS)])
    state = init_state(params, make_optimizer(OptimizerConfig(), 100), 0)
    return jax.tree.map(lambda x: jax.device_put(rng.normal(size=x.shape).astype(x.dtype)), state)


def median(seconds) -> str:
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


def main() -> None:
    state = random_state()
    size = sum(x.nbytes for x in jax.tree.leaves(state))
    count = sum(x.size for x in jax.tree.leaves(state.params))
    print(f"{count / 1e6:.2f} M parameters, {len(jax.tree.leaves(state))} arrays, {size / 1e6:.0f} MB")
    times, reads, whole = [], [], []
    with tempfile.TemporaryDirectory() as root, Checkpointer(Path(root) / "ours", identity={}) as checkpointer:
        orbax = PyTreeCheckpointer()
        for step in range(REPEATS):
            checkpointer.save(step, state, {})
            checkpointer.wait()
            times.append(checkpointer.times)
            began = time.monotonic()
            jax.block_until_ready(checkpointer.restore(step, state).state)
            reads.append(time.monotonic() - began)
            began = time.monotonic()
            orbax.save(Path(root) / f"orbax{step}", jax.tree.leaves(state))
            whole.append(time.monotonic() - began)
        written = sum(f.stat().st_size for f in (checkpointer.directory / f"step_{step:08d}").rglob("*") if f.is_file())
    print(
        f"training stands still {median([t.stall for t in times])}, complete after {median([t.total for t in times])}"
    )
    print(f"restored in {median(reads)}; {written / 1e6:.0f} MB on the disk")
    print(f"Orbax's own save that waits {median(whole)}")


if __name__ == "__main__":
    main()
