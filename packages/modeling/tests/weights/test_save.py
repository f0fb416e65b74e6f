"""`save_hf`: what is written loads again to the bit, merged weights compute what base and adapter computed."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from coldforge.modeling import LoraConfig, add_lora, from_hf, load, lora_state, make_mesh, save, save_hf, set_lora

pytestmark = pytest.mark.whole

ALL, SOME = LoraConfig().targets, ("kv_einsum", "layers/[02]/mlp/.*")

CHECKPOINTS = ["tiny_kv2", "tiny_multimodal_wrapper", "kv1_qscale", "like_27b", "bf16"]


def adapted(model, **changes):
    """`model` with an adapter that changes what it computes."""
    model = add_lora(model, LoraConfig(rank=4, alpha=6.0, **changes), rngs=nnx.Rngs(0))
    keys = iter(jax.random.split(jax.random.key(1), 1000))
    set_lora(model, jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), lora_state(model)))
    return model


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_loaded_model_is_written_as_it_was(data, tmp_path, name, assert_same):
    model = load(data / name)
    save_hf(model, tmp_path / "out")
    again = load(tmp_path / "out")
    assert again.config == model.config
    assert_same(again, model)


def test_the_files_are_those_that_transformers_wrote(data, tmp_path):
    save_hf(load(data / "tiny_kv2"), tmp_path / "out")
    ours, theirs = (load_file(path / "model.safetensors") for path in (tmp_path / "out", data / "tiny_kv2"))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        np.testing.assert_array_equal(ours[name], tensor, err_msg=name)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    theirs = json.loads((data / "tiny_kv2" / "config.json").read_text())
    assert written == {key: theirs.get(key, written[key]) for key in written}


def test_several_files_and_their_index(data, tmp_path, assert_same):
    model = load(data / "tiny_kv2")
    save_hf(model, tmp_path / "out", max_shard_bytes=60_000)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert [file.name for file in files] == sorted(set(index["weight_map"].values()))
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    for file in files:
        tensors = load_file(file)
        assert all(index["weight_map"][name] == file.name for name in tensors)
        assert sum(tensor.nbytes for tensor in tensors.values()) <= 60_000
    assert index["metadata"]["total_size"] == sum(t.nbytes for file in files for t in load_file(file).values())
    assert_same(load(tmp_path / "out"), model)


def test_a_tensor_larger_than_a_file_may_be_gets_its_own(data, tmp_path, assert_same):
    model = load(data / "bf16")
    save_hf(model, tmp_path / "out", max_shard_bytes=1)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 3 * 13 + 2
    assert_same(load(tmp_path / "out"), model)


@pytest.mark.parametrize(
    ("targets", "quantize"),
    [
        (ALL, None),
        (SOME, "int8"),
        (ALL, "nf4"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [(SOME, None), (ALL, "int8"), (SOME, "nf4")]),
    ],
)
def test_merged_weights_compute_what_base_and_adapter_did(data, tmp_path, run, quantize, targets):
    base = load(data / "tiny_kv2")
    model = adapted(base, quantize=quantize, targets=targets)
    ids = jnp.asarray(np.load(data / "tiny_kv2" / "oracle.npz")["ids"])
    wanted = model.logits(run(model, ids))
    save_hf(model, tmp_path / "out")
    merged = load(tmp_path / "out")
    assert merged.lora is None
    np.testing.assert_allclose(merged.logits(run(merged, ids)), wanted, atol=2e-4)
    assert np.abs(np.asarray(wanted - base.logits(run(base, ids)))).max() > 0.1


def test_merging_into_bfloat16_rounds_once(data, tmp_path, values):
    """The sum is in float32: no part of it is rounded before."""
    model = adapted(load(data / "bf16"))
    save_hf(model, tmp_path / "rounded")
    save_hf(model, tmp_path / "exact", dtype=jnp.float32)
    rounded, exact = values(load(tmp_path / "rounded")), values(load(tmp_path / "exact"))
    for path, array in exact.items():
        assert (array.dtype, rounded[path].dtype) == (np.float32, jnp.bfloat16)
        np.testing.assert_array_equal(array.astype(jnp.bfloat16), rounded[path])


def test_a_sharded_model_is_written_as_a_whole_one(data, tmp_path, assert_same):
    save_hf(load(data / "tiny_kv2", mesh=make_mesh(fsdp=4, tensor=2)), tmp_path / "out")
    assert_same(load(tmp_path / "out"), load(data / "tiny_kv2"))


def test_other_dtypes_are_refused(data, tmp_path):
    with pytest.raises(ValueError, match="float32 or bfloat16, got float16"):
        save_hf(load(data / "bf16"), tmp_path / "out", dtype=jnp.float16)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_with_something_in_it_is_left_alone(data, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="exists and is not empty; remove it"):
        save_hf(load(data / "bf16"), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


def test_an_empty_directory_is_taken(data, tmp_path):
    (tmp_path / "out").mkdir()
    save_hf(load(data / "bf16"), tmp_path / "out")
    assert from_hf(tmp_path / "out").num_layers == 3


def test_a_failure_leaves_no_directory_and_the_next_try_succeeds(data, tmp_path, monkeypatch, assert_same):
    model = load(data / "bf16")
    with monkeypatch.context() as patch:
        patch.setattr(save, "to_hf", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            save_hf(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    save_hf(model, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert_same(load(tmp_path / "out"), model)


def test_tokenizer_files_beside_the_weights_do_no_harm(data, tmp_path, assert_same):
    shutil.copytree(data / "bf16", tmp_path / "in")
    (tmp_path / "in" / "tokenizer.model").write_bytes(b"")
    assert_same(load(tmp_path / "in"), load(data / "bf16"))
