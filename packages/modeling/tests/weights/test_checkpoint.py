"""Coldforge's own checkpoints: everything that a model is comes back to the bit, on any mesh."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from coldforge.modeling import (
    LoraConfig,
    WeightsError,
    add_lora,
    checkpoint,
    load,
    lora_state,
    make_mesh,
    partition_spec,
    save_checkpoint,
    set_lora,
)

pytestmark = pytest.mark.whole

KINDS = [None, LoraConfig(rank=4), LoraConfig(rank=3, alpha=5.0, quantize="int8"), LoraConfig(rank=4, quantize="nf4")]
IDS = ["base", "lora", "int8", "nf4"]


@pytest.fixture(scope="module")
def saved(data, tmp_path_factory):
    """Kind → (model, its checkpoint)."""
    found = {}
    for config, name in zip(KINDS, IDS, strict=True):
        model = load(data / "tiny_kv2")
        if config is not None:
            model = add_lora(model, config, rngs=nnx.Rngs(0))
            set_lora(model, jax.tree.map(lambda x: x + 0.1, lora_state(model)))
        path = tmp_path_factory.mktemp("checkpoints") / name
        save_checkpoint(model, path)
        found[name] = model, path
    return found


@pytest.mark.parametrize("kind", IDS)
def test_a_model_comes_back_to_the_bit(saved, kind, assert_same):
    model, path = saved[kind]
    again = load(path)
    assert (again.config, again.lora) == (model.config, model.lora)
    assert_same(again, model)


@pytest.mark.parametrize(("kind", "sizes"), [("lora", {"data": 8}), ("nf4", {"fsdp": 4, "tensor": 2})])
def test_onto_a_mesh_and_back(saved, kind, sizes, tmp_path, assert_same):
    model, path = saved[kind]
    mesh = make_mesh(**sizes)
    spread = load(path, mesh=mesh)
    for name, variable in nnx.to_flat_state(nnx.state(spread)):
        array = variable.get_value()
        assert array.sharding.spec == partition_spec(variable.get_metadata()["axes"], array.shape, mesh), name
    assert_same(spread, model)
    save_checkpoint(spread, tmp_path / "again")
    assert_same(load(tmp_path / "again"), model)


@pytest.mark.parametrize("kind", ["lora", "nf4"])
def test_the_same_logits(saved, kind, run):
    model, path = saved[kind]
    ids = jnp.asarray(np.random.default_rng(0).integers(4, 384, (2, 12)))
    np.testing.assert_array_equal(run(load(path), ids), run(model, ids))


@pytest.mark.parametrize("kind", IDS)
def test_dtype_is_the_bases(saved, kind):
    """Adapters stay float32, quantised weights what they are."""
    for path, variable in nnx.to_flat_state(nnx.state(load(saved[kind][1], dtype=jnp.bfloat16))):
        dtype = variable.get_value().dtype
        if isinstance(variable, nnx.LoRAParam):
            assert dtype == np.float32, path
        elif path[-1] == "qvalue":
            assert dtype == {"int8": jnp.int8, "nf4": jnp.uint4}[kind], path
        else:
            assert dtype == jnp.bfloat16, path


@pytest.mark.filterwarnings("ignore:Sharding info not provided")  # Orbax's word to whoever restores without a model
def test_it_is_a_checkpoint_of_orbax(saved, values):
    """What Orbax restores by itself is what the model holds."""
    model, path = saved["lora"]
    wanted = {".".join(map(str, name)): array for name, array in values(model).items()}
    how = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in wanted}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        restored = checkpointer.restore(path / "weights", args=ocp.args.PyTreeRestore(restore_args=how))
    assert restored.keys() == wanted.keys()
    assert all(np.array_equal(restored[name], array) for name, array in wanted.items())


@pytest.mark.parametrize("sizes", [None, {"fsdp": 4, "tensor": 2}], ids=["one", "split"])
def test_arrays_of_several_chunks(saved, tmp_path, monkeypatch, sizes, assert_same):
    monkeypatch.setattr(checkpoint, "CHUNK_BYTES", 700)
    model, _ = saved["lora"]
    save_checkpoint(model, tmp_path / "chunks")
    array = checkpoint.CheckpointSource(tmp_path / "chunks").arrays["embedder.input_embedding"]
    assert array.chunk_layout.read_chunk.shape[0] < 384 / 8
    assert_same(load(tmp_path / "chunks", mesh=sizes and make_mesh(**sizes)), model)


def test_a_loaded_adapter_can_be_trained_and_exchanged(saved):
    model = load(saved["lora"][1])
    set_lora(model, jax.tree.map(jnp.zeros_like, lora_state(model)))
    assert all(not np.asarray(x).any() for x in jax.tree.leaves(lora_state(model)))


def test_what_is_there_is_not_overwritten(saved):
    model, path = saved["base"]
    with pytest.raises(FileExistsError, match="exists and is not empty"):
        save_checkpoint(model, path)
    load(path)


def test_a_writer_that_was_killed_leaves_nothing_that_loads(saved, tmp_path, assert_same):
    """What a killed writer leaves is under another name, and the next one clears it away."""
    model, path = saved["base"]
    shutil.copytree(path, tmp_path / ".step.partial")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "step")
    save_checkpoint(model, tmp_path / "step")
    assert [p.name for p in tmp_path.iterdir()] == ["step"]
    assert_same(load(tmp_path / "step"), model)


@pytest.fixture
def damaged(saved, tmp_path):
    """A copy of a checkpoint and a function that changes its description."""

    def change(kind="base", **fields):
        path = tmp_path / "damaged"
        shutil.copytree(saved[kind][1], path)
        marker = path / "coldforge.json"
        marker.write_text(json.dumps(json.loads(marker.read_text()) | fields))
        return path

    return change


def test_another_config_is_refused_with_all_that_differs(damaged, saved):
    config = json.loads((saved["base"][1] / "coldforge.json").read_text())["config"]
    path = damaged(config=config | {"vocab_size": 385, "layer_types": config["layer_types"][:-1]})
    with pytest.raises(WeightsError) as error:
        load(path)
    message = str(error.value)
    assert "12 unexpected: layers.6." in message
    assert "1 of another shape: embedder.input_embedding [384, 32], wanted [385, 32]" in message


def test_a_missing_adapter_is_refused(damaged, saved):
    lora = json.loads((saved["lora"][1] / "coldforge.json").read_text())["lora"]
    with pytest.raises(WeightsError, match=r"84 missing: layers\.0\.attn\.attn_vec_einsum\.w_lora_a, .*and 64 more"):
        load(damaged(lora=lora))


def test_another_version_is_refused(damaged):
    with pytest.raises(WeightsError, match="is of version 2; this release reads version 1"):
        load(damaged(version=2))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": 1, "config": {"depth": 3}, "lora": null}'])
def test_a_damaged_description_is_refused(damaged, text):
    path = damaged()
    (path / "coldforge.json").write_text(text)
    with pytest.raises(WeightsError, match="is not what save_checkpoint writes"):
        load(path)


def test_missing_weights_are_refused(damaged):
    path = damaged()
    shutil.rmtree(path / "weights")
    with pytest.raises(WeightsError, match="is not a complete checkpoint of Orbax: it holds no arrays"):
        load(path)


def test_damaged_weights_are_refused(damaged):
    path = damaged()
    largest = max((path / "weights").rglob("*"), key=lambda file: file.stat().st_size if file.is_file() else -1)
    largest.write_bytes(largest.read_bytes()[:-20_000])
    with pytest.raises(WeightsError, match=r"is damaged|is not a complete checkpoint"):
        load(path)
