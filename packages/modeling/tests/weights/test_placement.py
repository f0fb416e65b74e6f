"""Where loaded weights lie: on a mesh by the rules, read once and only as far as needed, taken over without a copy."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from coldforge.modeling import LoraConfig, add_lora, fingerprint, load, load_peft, make_mesh, partition_spec, weights
from coldforge.modeling.config import to_hf
from coldforge.modeling.hf import HFSource
from coldforge.modeling.weights import build

pytestmark = pytest.mark.whole

MESHES = [{"data": 8}, {"fsdp": 8}, {"tensor": 8}, {"fsdp": 4, "tensor": 2}, {"data": 2, "fsdp": 2, "tensor": 2}]


def mesh_id(sizes):
    return "-".join(f"{axis}{size}" for axis, size in sizes.items())


@pytest.fixture(scope="module")
def directory(tmp_path_factory, small_config, tensors):
    path = tmp_path_factory.mktemp("model")
    (path / "config.json").write_text(json.dumps(to_hf(small_config, dtype="float32")))
    save_file({f"model.{name}": tensor for name, tensor in tensors.items()}, path / "model.safetensors")
    return path


@pytest.fixture
def counted(directory):
    """(source, bytes of file handed out so far per tensor)."""
    source, counts = HFSource(directory), {}
    plain = source.blocks

    def blocks(name, rows, columns, unit):
        for row, block in plain(name, rows, columns, unit):
            counts[name] = counts.get(name, 0) + block.nbytes
            yield row, block

    source.blocks = blocks
    return source, counts


@pytest.mark.parametrize("sizes", MESHES, ids=mesh_id)
@pytest.mark.parametrize("kind", ["hf", "gguf"])
def test_every_parameter_lies_by_its_axes_and_has_its_values(
    directory, tmp_path, write_gguf, tensors, sizes, kind, assert_same
):
    path = directory if kind == "hf" else write_gguf(tmp_path / "m.gguf", tensors)
    mesh = make_mesh(**sizes)
    model = load(path, mesh=mesh)
    for name, variable in nnx.to_flat_state(nnx.state(model)):
        array = variable.get_value()
        assert array.sharding.spec == partition_spec(variable.get_metadata()["axes"], array.shape, mesh), name
        assert len(array.sharding.device_set) == 8
    assert_same(model, load(path))


@pytest.mark.parametrize("sizes", MESHES, ids=mesh_id)
def test_the_same_logits_as_on_one_device(directory, sizes, run):
    ids = jnp.asarray(np.random.default_rng(0).integers(4, 96, (8, 12)))
    one = load(directory)
    mesh = make_mesh(**sizes)
    with jax.set_mesh(mesh):
        many = load(directory, mesh=mesh)
        hidden = run(many, ids)
        logits = many.logits(hidden)
    np.testing.assert_allclose(logits, one.logits(run(one, ids)), atol=1e-4)


def test_no_byte_is_read_twice(counted, small_config, tensors):
    source, counts = counted
    for sizes in ({"data": 8}, {"fsdp": 8}, {"tensor": 8}):
        counts.clear()
        build(source, small_config, dtype=None, mesh=make_mesh(**sizes), kernel="auto")
        assert counts == {name: tensor.nbytes for name, tensor in tensors.items()}


def test_two_processes_read_their_shares_and_agree(directory, tmp_path, tensors, run, assert_same):
    """Each reads what its devices hold; both compute the same; what they write together is what one would write."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    script = Path(__file__).parent / "process_of_two.py"
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(port), str(rank), directory, tmp_path],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        outputs = [process.communicate(timeout=150)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)

    first, second = (np.load(tmp_path / f"{rank}.npz") for rank in (0, 1))
    np.testing.assert_array_equal(first["logits"], second["logits"])
    whole = sum(tensor.nbytes for tensor in tensors.values())
    assert (
        first["read"] + second["read"] < 1.6 * whole
    )  # o_proj's and down_proj's columns are split, in rows too short to cut

    alone = add_lora(load(directory), LoraConfig(rank=4, alpha=8.0), rngs=nnx.Rngs(0))
    load_peft(alone, tmp_path / "peft")
    ids = jnp.asarray(np.random.default_rng(0).integers(4, 96, (8, 12)))
    np.testing.assert_allclose(alone.logits(run(alone, ids)), first["logits"], atol=1e-4)
    assert_same(load(tmp_path / "checkpoint"), alone)
    assert {str(first["fingerprint"]), str(second["fingerprint"])} == {fingerprint(alone)}
    merged = load(tmp_path / "hf")
    np.testing.assert_allclose(merged.logits(run(merged, ids)), first["logits"], atol=1e-4)


def test_buffers_are_taken_over_and_shared(directory, monkeypatch):
    """On CPU a parameter is the buffer that was read into, on all devices that hold the same slice."""
    made = []
    plain = weights._aligned

    def aligned(shape, dtype):
        made.append(plain(shape, dtype))
        return made[-1]

    monkeypatch.setattr(weights, "_aligned", aligned)
    model = load(directory, mesh=make_mesh(data=8))
    at = {buffer.ctypes.data for buffer in made}
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        shards = variable.get_value().addressable_shards
        if shards[0].data.nbytes >= 4096:  # JAX copies what is tiny
            places = {shard.data.unsafe_buffer_pointer() for shard in shards}
            assert len(places) == 1, path
            assert places <= at, path


def test_donating_loaded_weights_is_safe(directory):
    """A buffer that was taken over is not XLA's to reuse: donation must neither fail nor damage another holder's
    values.
    """
    model = load(directory)
    array = model.embedder.input_embedding.get_value()
    other = np.asarray(array).copy()
    view = np.asarray(array)
    doubled = jax.jit(lambda x: 2 * x, donate_argnums=0)(array)
    np.testing.assert_array_equal(doubled, 2 * other)
    np.testing.assert_array_equal(view, other)
