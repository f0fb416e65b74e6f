"""Where arrays live on a mesh: logical axis names, one table that maps them to mesh axes, and what follows from it.

Every parameter and cache names its dimensions once ("vocab", "embed", "heads", ...). `RULES` says which mesh axis each
name is split over; `partition_spec` applies it. A mesh has the axes

  data     splits the batch; weights are replicated along it (the fast choice for frozen weights that fit)
  fsdp     splits the batch and the weights' `embed` dimension (for what does not fit)
  tensor   splits heads, MLP width and vocabulary

and any of them may be 1. A dimension that its mesh axis does not divide stays whole: one key/value head cannot be
split, and neither can a small LoRA rank.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

MESH_AXES = ("data", "fsdp", "tensor")

RULES: Mapping[str, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "seq": None,
    "vocab": "tensor",
    "embed": "fsdp",
    "mlp": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "kv": None,  # the pair (key, value)
    "head_dim": None,
    "rank": None,
}


def make_mesh(*, data: int = 1, fsdp: int = 1, tensor: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with the axes `data`, `fsdp`, `tensor` over `devices` (default: all of this program's devices).

    `make_mesh(data=2, fsdp=4)` on 8 devices replicates weights twice and splits each copy over four.

    Raises:
      ValueError: if the product of the sizes is not the number of devices.
    """
    sizes = (data, fsdp, tensor)
    devices = jax.devices() if devices is None else devices
    if min(sizes) < 1 or np.prod(sizes) != len(devices):
        raise ValueError(
            f"a mesh of data={data} x fsdp={fsdp} x tensor={tensor} needs {np.prod(sizes)} devices, "
            f"but there are {len(devices)}; wanted sizes whose product is {len(devices)}, so that none is idle"
        )
    if {d.platform for d in devices} == {"cpu"}:
        grid = np.asarray(devices).reshape(sizes)
    else:  # lets JAX put neighbours of the mesh on neighbouring chips
        from jax.experimental import mesh_utils

        grid = mesh_utils.create_device_mesh(sizes, devices=devices, allow_split_physical_axes=True)
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def partition_spec(axes: Sequence[str | None], shape: Sequence[int], mesh: Any) -> PartitionSpec:
    """The partition of an array whose dimensions have the logical names `axes`, on `mesh` (concrete or abstract).

    A dimension goes to the longest prefix of its mesh axes that divides it; a mesh axis is used once per array.

    Raises:
      ValueError: for a name that `RULES` lacks, or a number of names that differs from the number of dimensions.
    """
    if len(axes) != len(shape):
        raise ValueError(f"array of shape {tuple(shape)} has {len(axes)} logical axes: {tuple(axes)}")
    sizes, used, parts = dict(mesh.shape), set(), []
    for name, size in zip(axes, shape, strict=True):
        if name is not None and name not in RULES:
            raise ValueError(f"unknown logical axis {name!r}; known are {sorted(RULES)}")
        rule = RULES[name] if name is not None else None
        chosen, ways = [], 1
        for axis in (rule,) if isinstance(rule, str) else rule or ():
            if axis in used or sizes.get(axis, 1) == 1:
                continue
            if size % (ways * sizes[axis]):
                break
            ways *= sizes[axis]
            chosen.append(axis)
        used.update(chosen)
        parts.append(None if not chosen else chosen[0] if len(chosen) == 1 else tuple(chosen))
    return PartitionSpec(*parts)


def named_sharding(axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh) -> NamedSharding:
    """`partition_spec` as a sharding on `mesh`."""
    return NamedSharding(mesh, partition_spec(axes, shape, mesh))


def constrain(array: jax.Array, axes: Sequence[str | None]) -> jax.Array:
    """Under a mesh (`jax.set_mesh`), inside jit, keeps `array` where its logical axes say; elsewhere changes nothing.

    Without this on the residual stream, XLA answers `fsdp` weights by splitting the contraction and replicating the
    batch.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return array
    return jax.lax.with_sharding_constraint(array, partition_spec(axes, array.shape, mesh))


def current_platform() -> str:
    """The platform that a trace is for: that of the context's mesh ("tpu" also ahead of time), else the default one."""
    mesh = jax.sharding.get_abstract_mesh()
    device = None if mesh.empty else mesh.abstract_device
    return jax.default_backend() if device is None else device.platform
