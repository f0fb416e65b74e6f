"""Devices and processes: the mesh that a run lies on, and which rows of a batch a process reads. Imports JAX.

With a single device there is no mesh, and everything lies on the default device. Every process of a run has the same
program; `row_share` says which part of the data is its own.
"""

import atexit
import contextlib
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from coldforge import modeling
from coldforge.stages.options import Distributed, MeshConfig
from coldforge.stages.program import WRONG

ROWS = ("data", "fsdp")  # mesh axes that split the rows of a batch


def join(options: Distributed) -> None:
    """Makes this process one of several, if asked to; before anything else touches a device."""
    if options.initialize:
        jax.distributed.initialize(options.coordinator, num_processes=options.processes, process_id=options.process)


def make_mesh(config: MeshConfig, devices: list[Any] | None = None) -> Mesh | None:
    """The mesh over `devices` (default: all there are), or None where one device is all there is.

    Raises:
        ValueError: The sizes do not make up the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    if len(devices) == 1 and (config.data or 1) == config.fsdp == config.tensor == 1:
        return None
    data = max(1, len(devices) // (config.fsdp * config.tensor)) if config.data is None else config.data
    return modeling.make_mesh(data=data, fsdp=config.fsdp, tensor=config.tensor, devices=devices)


def use(mesh: Mesh | None) -> contextlib.AbstractContextManager[Any]:
    """The context in which steps are called."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def row_share(mesh: Mesh | None) -> tuple[int, int]:
    """Which share of a batch's rows this process reads, and of how many shares: (0, 1) for all of them.

    Processes that hold the same rows (a `tensor` axis that spans hosts) read the same share.
    """
    if mesh is None or jax.process_count() == 1:
        return 0, 1
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    sharding = NamedSharding(mesh, PartitionSpec(ROWS))
    rows: dict[int, set[int]] = {}
    device: Any
    for device, (index,) in sharding.devices_indices_map((ways,)).items():
        rows.setdefault(device.process_index, set()).add(index.start or 0)
    shares = sorted({tuple(sorted(own)) for own in rows.values()})
    if len({row for share in shares for row in share}) != sum(map(len, shares)):
        raise ValueError(
            "the mesh gives processes rows that overlap in part; choose sizes that keep a host's devices together"
        )
    return shares.index(tuple(sorted(rows[jax.process_index()]))), len(shares)


def first() -> bool:
    """Whether this is the process that writes and shows."""
    return jax.process_index() == 0


def together() -> None:
    """Waits until all processes are here: what the first one has written is then there for all."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("coldforge.stages")


def platform_of(mesh: Mesh | None) -> str:
    """Where the run computes: "cpu", "tpu"; the mesh's devices need not be here."""
    device: Any = None if mesh is None else mesh.devices.flat[0]
    return jax.default_backend() if device is None else device.platform


def everybodys(answer: bool) -> bool:
    """The first process's answer, in all of them."""
    if jax.process_count() == 1:
        return answer
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(np.int32(answer)))


def first_does(work: Callable[[], int]) -> int:
    """Has the first process do something, while the others wait; returns its exit code, in all of them.

    Raises:
        Exception: What `work` raises, in the first process. The others, who would wait for ever, get `WRONG`.
    """
    code, refused = WRONG, None
    if first():
        try:
            code = work()
        except Exception as error:  # whatever it is: the others have to hear of it
            refused = error
    code = int(from_first(np.int32(code)))
    if refused is not None:
        raise refused
    return code


def leave_the_others() -> None:
    """Has this process end, when it ends, without a word to the others; of several, and after an error in their midst.

    They wait for this one's part of a step, and JAX waits for them as the program ends: both aborted after 5 minutes.
    Left without a word, they end at once.
    """
    if jax.process_count() > 1:
        atexit.register(os._exit, WRONG)  # runs before what JAX has registered, and after messages


def from_first[T](values: T) -> T:
    """The first process's arrays, in all of them, to the bit: rewards, say, which one process has worked out.

    Args:
        values: A pytree of numpy arrays. Other processes pass arrays of the same structure, shapes and dtypes, whose
            values do not count. All processes must call this.
    """
    if jax.process_count() == 1:
        return values
    from jax.experimental import multihost_utils

    leaves, tree = jax.tree.flatten(values)
    arrays = [np.asarray(leaf) for leaf in leaves]
    # As bytes: a device would make float32 of float64. Of a power of two, so that few sizes are ever compiled.
    sent = b"".join(array.tobytes() for array in arrays)
    padded = np.zeros(max(1024, 1 << (len(sent) - 1).bit_length()), np.uint8)
    padded[: len(sent)] = np.frombuffer(sent, np.uint8)
    got = np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes()
    found, at = [], 0
    for array in arrays:
        part = got[at : at + array.nbytes]
        found.append(np.frombuffer(part, array.dtype).reshape(array.shape).copy())
        at += array.nbytes
    return jax.tree.unflatten(tree, found)
