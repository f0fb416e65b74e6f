"""One of two processes that load a model together (started by test_placement.py): PORT RANK MODEL OUT.

Rows of the projections' matrices are split between the processes (`tensor`), so each can read half of the file. Writes
`OUT/RANK.npz`, and together with the other process a Hugging Face directory, an adapter and a checkpoint.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from coldforge.modeling import (
    Gemma3,
    LoraConfig,
    add_lora,
    fingerprint,
    load,
    load_peft,
    lora_state,
    make_mesh,
    safetensors_file,
    save_checkpoint,
    save_hf,
    save_peft,
    set_lora,
)


def main(port: str, rank: int, directory: Path, out: Path) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=rank)
    devices = np.array(jax.devices()).reshape(2, 4).T.flatten().tolist()
    mesh = make_mesh(fsdp=4, tensor=2, devices=devices)

    read = count_bytes()
    model = load(directory, mesh=mesh)
    bytes_read = sum(read)
    model = add_lora(model, LoraConfig(rank=4, alpha=8.0), rngs=nnx.Rngs(0))
    change_adapter(model, lambda x: 0.1 * jax.random.normal(jax.random.key(1), x.shape))
    found = logits(model, mesh)

    save_checkpoint(model, out / "checkpoint")
    save_hf(model, out / "hf")
    save_peft(model, out / "peft")
    again = load(out / "checkpoint", mesh=mesh)
    change_adapter(again, jnp.zeros_like)
    load_peft(again, out / "peft")
    np.testing.assert_array_equal(logits(again, mesh), found)
    np.savez(out / f"{rank}.npz", read=bytes_read, logits=found, fingerprint=fingerprint(model))


def count_bytes() -> list[int]:
    """A list to which every read adds its size."""
    sizes: list[int] = []
    read_into = safetensors_file.read_into

    def counting(file, array, offset, path):
        sizes.append(array.nbytes)
        read_into(file, array, offset, path)

    safetensors_file.read_into = counting
    return sizes


def change_adapter(model: Gemma3, function: Callable[[jax.Array], jax.Array]) -> None:
    """Replaces every array of the adapter by `function` of it, in the same place."""
    adapter = lora_state(model)
    shardings = jax.tree.map(lambda x: x.sharding, adapter)
    set_lora(model, jax.jit(lambda adapter: jax.tree.map(function, adapter), out_shardings=shardings)(adapter))


def logits(model: Gemma3, mesh: Mesh) -> np.ndarray:
    """Of 8 fixed rows, on every process."""
    graph, state = nnx.split(model)
    ids = np.random.default_rng(0).integers(4, 96, (8, 12))

    def forward(state):
        model = nnx.merge(graph, state)
        return model.logits(model(jnp.asarray(ids)))

    with jax.set_mesh(mesh):
        return multihost_utils.process_allgather(jax.jit(forward)(state), tiled=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
