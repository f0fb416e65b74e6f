"""What a step of training changes: step, parameters, optimizer state and random key, and where each of it lives.

`abstract_state` gives shapes and shardings without memory (to compile ahead of time, or to restore a checkpoint into),
`init_state` the values. Optimizer state is sharded like its parameter; with `shard_optimizer="data"` it is also split
over an axis on which the parameter is replicated (ZeRO stage 1, arXiv:1910.02054).
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PyTree, UInt32


class TrainState(NamedTuple):
    """All that training changes, as one pytree.

    Attributes:
      step: how many steps the run has made, skipped ones included; int32 `[]`.
      params: what is trained, any pytree of float32 arrays.
      opt_state: optax's.
      key: data of the run's random key, uint32 `[2]`; it stays, and each step folds its number in.
    """

    step: Int[Array, ""] | Any
    params: PyTree
    opt_state: PyTree
    key: UInt32[Array, "2"] | Any


def init_state(
    params: PyTree, optimizer: optax.GradientTransformation, seed: int, *, shard_optimizer: str | None = None
) -> TrainState:
    """The state before the first step, placed as `abstract_state` says.

    The arrays of `params` become part of the state; the first training step consumes them.

    Raises:
      TypeError, ValueError: as `abstract_state`.
    """
    abstract = abstract_state(params, optimizer, shard_optimizer=shard_optimizer)
    where = jax.tree.map(lambda x: x.sharding, abstract)

    def rest(params: PyTree) -> tuple[Array, PyTree, Array]:
        key = jax.random.key_data(jax.random.key(seed, impl="threefry2x32"))
        return jnp.zeros((), jnp.int32), optimizer.init(params), key

    step, opt_state, key = jax.jit(rest, out_shardings=(where.step, where.opt_state, where.key))(params)
    state = TrainState(step, params, opt_state, key)
    # Committed, as a step's result is: else the second step is another program to XLA, and is compiled again.
    return jax.tree.map(lambda leaf: jax.device_put(leaf, leaf.sharding), state)


def abstract_state(
    params: PyTree, optimizer: optax.GradientTransformation, *, shard_optimizer: str | None = None
) -> TrainState:
    """Shapes, types and shardings of the state; a leaf is a `jax.ShapeDtypeStruct`.

    Args:
      params: arrays, or `jax.ShapeDtypeStruct`s with or without shardings.
      optimizer: whose state is wanted.
      shard_optimizer: a mesh axis over which to split the optimizer state of parameters that are replicated on it.

    Raises:
      TypeError: if a parameter is not float32: an update of 1e-4 of a weight is lost in bfloat16.
      ValueError: if the mesh has no axis `shard_optimizer`.
    """
    for path, leaf in jax.tree.leaves_with_path(params):
        if leaf.dtype != jnp.float32:
            raise TypeError(
                f"parameter {jax.tree_util.keystr(path)} is {leaf.dtype}, but what is trained must be float32: "
                "cast it, and let the model compute in bfloat16"
            )
    mesh = next((s.mesh for p in jax.tree.leaves(params) if isinstance(s := _sharding(p), NamedSharding)), None)
    everywhere = None if mesh is None else NamedSharding(mesh, PartitionSpec())

    def like(param: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        sharding = _sharding(param)
        if not isinstance(sharding, NamedSharding):
            sharding = None
        elif leaf.shape != param.shape:
            sharding = everywhere
        elif shard_optimizer is not None:
            sharding = split_over(sharding, leaf.shape, shard_optimizer)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    def whole(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere)

    shapes = jax.eval_shape(optimizer.init, params)
    opt_state = optax.tree.map_params(
        optimizer, lambda leaf, param: like(param, leaf), shapes, params, transform_non_params=whole
    )
    return TrainState(
        step=whole(np.zeros((), np.int32)),
        params=jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=_named(p)), params),
        opt_state=opt_state,
        key=whole(np.zeros(2, np.uint32)),
    )


def split_over(sharding: NamedSharding, shape: tuple[int, ...], axis: str) -> NamedSharding:
    """`sharding`, with the first dimension that can be split evenly also split over `axis`; as it was if none can.

    A matrix `[1152, 64]` that is replicated on `data` of 8 becomes `P("data", None)`: `[144, 64]` a device.

    Raises:
      ValueError: if the mesh has no such axis.
    """
    mesh = sharding.mesh
    if axis not in mesh.shape:
        raise ValueError(
            f"the mesh has axes {tuple(mesh.shape)}, not {axis!r}, over which to split the optimizer state"
        )
    spec = [(e,) if isinstance(e, str) else tuple(e or ()) for e in sharding.spec]
    spec += [()] * (len(shape) - len(spec))
    if any(axis in entry for entry in spec):
        return sharding
    for dimension, entry in enumerate(spec):
        pieces = math.prod(mesh.shape[name] for name in (*entry, axis))
        if shape[dimension] % pieces == 0:
            spec[dimension] = (*entry, axis)
            return NamedSharding(mesh, PartitionSpec(*(e[0] if len(e) == 1 else e or None for e in spec)))
    return sharding


def _sharding(leaf: Any) -> Any:
    return getattr(leaf, "sharding", None)


def _named(leaf: Any) -> NamedSharding | None:
    sharding = _sharding(leaf)
    return sharding if isinstance(sharding, NamedSharding) else None
