"""A model's identity: a hash of its base weights that is equal on every mesh and for any number of processes.

Each device hashes its own share; the parts are added modulo 2^32, an operation that does not mind order or grouping,
so no weight leaves its device and nothing is rounded. With a number's bits u and its place i in the (whole) array:

    word_s = Σ_i mix(u_i ⊕ mix(i + seed_s)),   s = 1, 2      mix: the finaliser of MurmurHash3 (Appleby, public domain)

A place is hashed with its number, so that exchanged numbers change the sum. The words of all arrays, their names,
shapes and dtypes and the model's config go into one SHA-256. It guards against mistakes (other weights, another
rounding, damage), not against someone who looks for two models of one identity.
"""

import dataclasses
import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from coldforge.modeling.model import Gemma3

_SEEDS = (0x9E3779B9, 0x85EBCA6B)


def fingerprint(model: Gemma3) -> str:
    """SHA-256, in hexadecimal, of the model's config and base weights as they are stored (adapters left out).

    Depends on dtype and quantisation, not on the mesh. With several processes all must call this.

    Raises:
      ValueError: if the model has shapes in place of weights.
    """
    arrays = {
        ".".join(map(str, path)): variable.get_value()
        for path, variable in nnx.to_flat_state(nnx.state(model))
        if not isinstance(variable, nnx.LoRAParam)
    }
    if any(isinstance(array, jax.ShapeDtypeStruct) for array in arrays.values()):
        raise ValueError("an abstract model has no weights to identify; load or init_model makes some")
    words = jax.device_get({name: _words(array) for name, array in arrays.items()})
    described = [dataclasses.asdict(model.config)] + [
        [name, list(arrays[name].shape), arrays[name].dtype.name, np.asarray(words[name]).tolist()]
        for name in sorted(arrays)
    ]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


@jax.jit
def _words(array: Array) -> Array:
    """Two 32-bit words from an array's bits."""
    bits = array.dtype.itemsize * 8
    if array.dtype == jnp.uint4:
        array, bits = array.astype(jnp.uint8), 8
    if jnp.issubdtype(array.dtype, jnp.floating):
        array = jax.lax.bitcast_convert_type(array, f"uint{bits}")
    numbers = array.astype(jnp.uint32)
    place = jnp.zeros(array.shape, jnp.uint32)
    for dim, size in enumerate(array.shape):
        place = place * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, array.shape, dim)
    return jnp.stack([_mix(numbers ^ _mix(place + np.uint32(seed))).sum(dtype=jnp.uint32) for seed in _SEEDS])


def _mix(x: Array) -> Array:
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
