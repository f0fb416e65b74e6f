"""One of two processes that train one model (started by test_two_processes.py): PORT RANK OUT. Writes OUT/RANK.json.

Each process has two devices and half of the rows; the parameters are split over two of the four devices.
"""

import json
import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np
from conftest import CONFIG, ROWS, STEPS, make_batch, make_mesh, make_state, make_step, placed, placed_frozen
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from coldforge.training import (
    Checkpointer,
    RunError,
    Stopper,
    abstract_state,
    make_optimizer,
    open_run,
    place_batch,
)


def train(rank: int, mesh, out: Path) -> dict:
    """Five steps, a checkpoint, then more until the second process is told to stop."""
    step, state, frozen = make_step(), make_state(mesh, shard_optimizer="data"), placed_frozen(mesh)
    own = slice(rank * ROWS // 2, (rank + 1) * ROWS // 2)
    found = {"metrics": []}
    checkpointer = Checkpointer(out / "checkpoints", identity={"base": "b"})
    assert checkpointer.restore_latest(state) is None

    def one(state, index):
        batch = {name: rows[:, own] for name, rows in make_batch(index).items()}
        return step(state, frozen, place_batch(batch, mesh=mesh, weights=batch["loss_weights"]))

    for index in range(5):
        state, metrics = one(state, index)
        found["metrics"].append({name: float(jax.device_get(value)) for name, value in metrics.items()})
    with checkpointer:
        checkpointer.save(5, state, {"position": 5})
        with Stopper() as stopper:
            for index in range(5, 50):
                state, _ = one(state, index)
                if rank == 1 and index == 7:
                    os.kill(os.getpid(), signal.SIGTERM)
                if stopper.should_stop():
                    break
        found |= {"stopped": index, "reason": stopper.reason, "compiles": step.compiles()}
        checkpointer.save(index + 1, state, {"position": index + 1})
        checkpointer.wait()

        optimizer = make_optimizer(CONFIG, STEPS)
        restored = checkpointer.restore(5, abstract_state(placed(mesh, seed=1), optimizer))
        whole = jax.jit(lambda x: x, out_shardings=jax.sharding.NamedSharding(mesh, jax.P()))(restored.state.params)
        found |= {"data_state": restored.data_state, "latest": checkpointer.restore_latest(state).step}
    np.savez(out / f"{rank}.npz", **{name: x.addressable_data(0) for name, x in whole.items()})
    return found


def rows_of_a_slice() -> dict:
    """A batch on a mesh where a process's rows do not lie side by side, as on v5e:8x8: whole, and by shares."""
    first, second, third, fourth = jax.devices()  # two of each process
    mesh = Mesh(np.array([first, third, second, fourth]).reshape(4, 1), ("data", "fsdp"))
    rows = np.arange(8, dtype=np.int32)[None]
    score = jax.jit(lambda x: 10 * x)(place_batch({"rows": rows}, mesh=mesh, whole=True)["rows"])
    own = place_batch({"rows": rows[:, jax.process_index() :: 2]}, mesh=mesh)["rows"]
    found = [multihost_utils.process_allgather(each, tiled=True).ravel().tolist() for each in (score, own)]
    return {"whole": found[0], "shares": found[1]}


def refused(out: Path) -> str:
    """What each process says to the directory of another run."""
    with open_run(out / "run", stage="test", config={"rank": 64}) as run:
        run.close("stopped")
    try:
        open_run(out / "run", stage="test", config={"rank": 32})
    except RunError as error:
        return str(error)
    return "not refused"


def main(port: str, rank: int, out: Path) -> None:
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"  # conftest asks for 8
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=rank)
    found = train(rank, make_mesh(data=2, fsdp=2), out) | rows_of_a_slice() | {"refused": refused(out)}
    (out / f"{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
