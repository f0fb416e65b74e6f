"""Hugging Face directories: every style of key, one and several files, types, and what is refused before anything is
read.
"""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from coldforge.modeling import ConfigError, WeightsError, load, safetensors_file
from coldforge.modeling.config import to_hf

pytestmark = pytest.mark.whole


@pytest.fixture
def write(tmp_path, small_config, tensors):
    """Writes a directory with changed tensors: name → array, or None to leave it out; names get `prefix`."""

    def run(changes=None, *, prefix="model.", name="model.safetensors", dtype=np.float32):
        (tmp_path / "config.json").write_text(json.dumps(to_hf(small_config, dtype="float32")))
        have = {prefix + name: value.astype(dtype) for name, value in tensors.items()} | (changes or {})
        save_file({name: value for name, value in have.items() if value is not None}, tmp_path / name)
        return tmp_path

    return run


@pytest.fixture
def nothing_read(monkeypatch):
    """Fails the test as soon as a tensor's values are read."""

    def refuse(*args):
        raise AssertionError("values were read before everything had been checked")

    monkeypatch.setattr(safetensors_file, "read_into", refuse)


def test_parameters_hold_the_files_numbers_where_the_model_multiplies_them(write, tensors, values, small_config):
    arrays = values(load(write()))
    d, n, k, h = small_config.embed_dim, small_config.num_heads, small_config.num_kv_heads, small_config.head_dim
    x, out = np.random.default_rng(1).normal(size=(2, 3, d)).astype(np.float32)[0], None
    for layer in (0, 1):
        w = {name: tensors[f"layers.{layer}.self_attn.{name}_proj.weight"] for name in "qkvo"}
        q = np.einsum("td,dnh->tnh", x, arrays["layers", layer, "attn", "q_einsum", "w"])
        kv = np.einsum("td,dckh->tckh", x, arrays["layers", layer, "attn", "kv_einsum", "w"])
        out = np.einsum("tnh,nhd->td", q, arrays["layers", layer, "attn", "attn_vec_einsum", "w"])
        np.testing.assert_allclose(q.reshape(3, n * h), x @ w["q"].T, atol=1e-5)
        np.testing.assert_allclose(kv[:, 0].reshape(3, k * h), x @ w["k"].T, atol=1e-5)
        np.testing.assert_allclose(kv[:, 1].reshape(3, k * h), x @ w["v"].T, atol=1e-5)
        np.testing.assert_allclose(out, x @ w["q"].T @ w["o"].T, atol=1e-5)
        for name in ("gate_proj", "up_proj", "down_proj"):
            wanted = tensors[f"layers.{layer}.mlp.{name}.weight"].T
            np.testing.assert_array_equal(arrays["layers", layer, "mlp", name, "kernel"], wanted)
    np.testing.assert_array_equal(arrays["embedder", "input_embedding"], tensors["embed_tokens.weight"])
    np.testing.assert_array_equal(arrays["final_norm", "scale"], tensors["norm.weight"])


@pytest.mark.parametrize("prefix", ["model.", "", "language_model.model.", "model.language_model."])
def test_all_styles_of_keys_give_the_same_model(write, prefix, values, tensors):
    model = load(write(prefix=prefix))
    np.testing.assert_array_equal(values(model)["final_norm", "scale"], tensors["norm.weight"])


@pytest.mark.parametrize(
    "name",
    [
        "vision_tower.vision_model.embeddings.patch_embedding.weight",
        "model.vision_tower.vision_model.post_layernorm.bias",
        "multi_modal_projector.mm_input_projection_weight",
        "model.multi_modal_projector.mm_soft_emb_norm.weight",
    ],
)
def test_vision_weights_are_skipped_by_name(write, name, assert_same):
    plain = load(write())
    assert_same(load(write({name: np.ones((3, 3), np.int8)})), plain)


@pytest.mark.parametrize(
    ("prefix", "head"), [("model.", "lm_head.weight"), ("language_model.model.", "language_model.lm_head.weight")]
)
def test_a_stored_copy_of_the_tied_head_is_let_pass(write, prefix, head, tensors):
    load(write({head: tensors["embed_tokens.weight"]}, prefix=prefix))


def test_a_head_of_another_shape_is_refused(write):
    with pytest.raises(WeightsError, match=r"lm_head\.weight \[5, 256\], wanted \[96, 256\]"):
        load(write({"lm_head.weight": np.zeros((5, 256), np.float32)}))


def test_a_single_file_of_another_name_is_taken(write, assert_same):
    plain = load(write())
    path = write(name="weights.safetensors")
    (path / "model.safetensors").unlink()
    assert_same(load(path), plain)


@pytest.mark.parametrize(
    ("stored", "dtype", "loaded"),
    [
        (np.float32, None, np.float32),
        (jnp.bfloat16, None, jnp.bfloat16),
        (np.float16, None, np.float32),
        (np.float64, None, np.float32),
        (np.float32, jnp.bfloat16, jnp.bfloat16),
        (jnp.bfloat16, jnp.float32, np.float32),
    ],
)
def test_dtypes(write, values, tensors, stored, dtype, loaded):
    for path, array in values(load(write(dtype=stored), dtype=dtype)).items():
        assert array.dtype == loaded
        if path == ("layers", 1, "mlp", "up_proj", "kernel"):
            wanted = tensors["layers.1.mlp.up_proj.weight"].T.astype(stored).astype(loaded)
            np.testing.assert_array_equal(array, wanted)


def test_half_precision_is_refused(write):
    with pytest.raises(ValueError, match=r"dtype must be float32, bfloat16 or None, got float16"):
        load(write(), dtype=jnp.float16)


def test_everything_that_is_wrong_is_in_one_message(write, nothing_read):
    path = write(
        {
            "model.layers.0.self_attn.k_proj.weight": None,
            "model.norm.weight": None,
            "model.layers.7.mlp.up_proj.weight": np.zeros((1, 1), np.float32),
            "model.rotary.inv_freq": np.zeros(4, np.float32),
            "model.layers.1.mlp.down_proj.weight": np.zeros((256, 511), np.float32),
            "model.layers.1.mlp.gate_proj.weight": np.zeros((512, 256), np.int8),
        }
    )
    with pytest.raises(WeightsError) as error:
        load(path)
    lines = str(error.value).splitlines()
    assert str(path) in lines[0]
    assert lines[1] == "  2 missing: model.layers.0.self_attn.k_proj.weight, model.norm.weight"
    assert lines[2] == "  2 unexpected: model.layers.7.mlp.up_proj.weight, model.rotary.inv_freq"
    assert lines[3] == "  1 of another shape: model.layers.1.mlp.down_proj.weight [256, 511], wanted [256, 512]"
    assert lines[4] == "  1 stored in a type that cannot be read: model.layers.1.mlp.gate_proj.weight (I8)"
    assert len(lines) == 5


def test_long_lists_are_cut_and_counted(write, nothing_read):
    path = write({f"extra.{i}": np.zeros(1, np.float32) for i in range(1000)})
    with pytest.raises(WeightsError, match=r"1000 unexpected: .*, and 980 more") as error:
        load(path)
    assert len(str(error.value)) < 1000


def test_a_config_that_asks_for_other_sizes_is_refused(write, small_config, nothing_read):
    path = write()
    other = to_hf(small_config, dtype="float32") | {"num_key_value_heads": 4, "vocab_size": 97}
    (path / "config.json").write_text(json.dumps(other))
    with pytest.raises(
        WeightsError, match=r"5 of another shape: model.embed_tokens.weight \[96, 256\], wanted \[97, 256\], "
    ):
        load(path)


def test_a_config_of_another_architecture_is_refused_before_the_weights_are_looked_at(write):
    path = write()
    (path / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    (path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match="'llama'"):
        load(path)


def test_weights_without_a_config_are_refused(write):
    path = write()
    (path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load(path)


def test_a_tensor_under_two_names_is_refused(write, tensors):
    with pytest.raises(WeightsError, match=r"twice: as model\.norm\.weight and as norm\.weight"):
        load(write({"norm.weight": tensors["norm.weight"]}))


class TestFiles:
    """Where the weights lie, and what is wrong with the files."""

    def test_nothing_there(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"nothing at .*absent; wanted a directory with config\.json"):
            load(tmp_path / "absent")

    def test_a_hub_name_is_told_from_a_path(self):
        with pytest.raises(FileNotFoundError, match="hub must be downloaded first"):
            load("google/gemma-3-1b-pt")

    def test_an_empty_directory(self, tmp_path):
        with pytest.raises(WeightsError, match=r"has no weights; wanted .* it holds nothing"):
            load(tmp_path)

    def test_a_directory_without_weights(self, tmp_path):
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "pytorch_model.bin").write_bytes(b"")
        with pytest.raises(
            WeightsError, match=r"it holds config\.json, pytorch_model\.bin\. Pickled weights are not read"
        ):
            load(tmp_path)

    def test_an_adapter_alone(self, tmp_path):
        (tmp_path / "adapter_model.safetensors").write_bytes(b"")
        with pytest.raises(WeightsError, match="That is an adapter: load its base model"):
            load(tmp_path)

    def test_a_safetensors_file_itself(self, write):
        path = write()
        with pytest.raises(WeightsError, match=f"give its directory, where config.json is: {path}"):
            load(path / "model.safetensors")

    def test_several_files_without_an_index(self, write):
        path = write(name="a.safetensors")
        shutil.copy(path / "a.safetensors", path / "b.safetensors")
        with pytest.raises(
            WeightsError, match=r"several safetensors files \(a\.safetensors, b\.safetensors\) and no model"
        ):
            load(path)

    def test_safetensors_beside_gguf(self, write):
        path = write()
        (path / "model-q4.gguf").write_bytes(b"GGUF")
        with pytest.raises(WeightsError, match=r"more than one model \(model-q4\.gguf, model\.safetensors\)"):
            load(path)

    def test_a_shard_that_is_missing(self, data, tmp_path):
        shutil.copytree(data / "like_27b", tmp_path, dirs_exist_ok=True)
        (tmp_path / "model-00002-of-00002.safetensors").unlink()
        with pytest.raises(WeightsError, match=r"lacks 1 of the 2 files .* names: model-00002-of-00002\.safetensors"):
            load(tmp_path)

    @pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}', "{}"])
    def test_an_index_that_is_no_index(self, data, tmp_path, text):
        shutil.copytree(data / "like_27b", tmp_path, dirs_exist_ok=True)
        (tmp_path / "model.safetensors.index.json").write_text(text)
        with pytest.raises(WeightsError, match="is not an index"):
            load(tmp_path)

    @pytest.mark.parametrize("keep", [0, 7, 8, 500, -1, -4000])
    def test_a_file_that_is_cut_off(self, write, nothing_read, keep):
        path = write()
        whole = (path / "model.safetensors").read_bytes()
        (path / "model.safetensors").write_bytes(whole[:keep])
        with pytest.raises(WeightsError, match=r"model\.safetensors .*cut off"):
            load(path)

    def test_a_file_with_something_behind_it(self, write, nothing_read):
        path = write()
        with (path / "model.safetensors").open("ab") as file:
            file.write(b"?")
        with pytest.raises(WeightsError, match=r"too long: wanted .* bytes, got"):
            load(path)

    def test_a_file_that_shrinks_while_it_is_read(self, write):
        path = write()
        entry = safetensors_file.read_header(path / "model.safetensors")["model.norm.weight"]
        (path / "model.safetensors").write_bytes(b"")
        with pytest.raises(WeightsError, match="ended at byte"):
            list(safetensors_file.read_rows(entry, slice(0, 256), slice(0, 1)))

    @pytest.mark.parametrize("seed", range(3))
    def test_damaged_headers_are_never_taken_for_anything_else(self, write, seed):
        path = write() / "model.safetensors"
        whole = path.read_bytes()
        header = 8 + int.from_bytes(whole[:8], "little")
        rng, refused = np.random.default_rng(seed), 0
        for _ in range(100):
            damaged = bytearray(whole)
            damaged[rng.integers(header)] = rng.integers(256)
            path.write_bytes(damaged)
            try:
                safetensors_file.read_header(path)
            except WeightsError:
                refused += 1
        assert refused > 20


class TestFormat:
    """`safetensors_file` against the package."""

    def test_the_package_reads_what_is_written(self, tmp_path):
        rng = np.random.default_rng(0)
        arrays = {
            "a": rng.normal(size=(3, 5)).astype(np.float32),
            "b.c": rng.normal(size=7).astype(jnp.bfloat16),
            "empty": np.zeros((0, 4), np.float32),
            "d": rng.normal(size=(4, 3)).astype(np.float32).T,
        }
        specs = {name: (array.shape, array.dtype) for name, array in arrays.items()}
        safetensors_file.write(tmp_path / "x.safetensors", specs, iter(arrays.values()))
        back = load_file(tmp_path / "x.safetensors")
        assert back.keys() == arrays.keys()
        for name, array in arrays.items():
            assert back[name].dtype == array.dtype
            np.testing.assert_array_equal(back[name], array)
        assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]

    def test_rows_come_in_blocks_that_keep_units_whole(self, tmp_path, monkeypatch):
        monkeypatch.setattr("coldforge.modeling.weights.BLOCK_ELEMENTS", 70)
        array = np.arange(40 * 10, dtype=np.float32).reshape(40, 10)
        save_file({"x": array}, tmp_path / "x.safetensors")
        entry = safetensors_file.read_header(tmp_path / "x.safetensors")["x"]
        blocks = list(safetensors_file.read_rows(entry, slice(8, 36), slice(2, 9), 4))
        assert [(row, len(block)) for row, block in blocks] == [(8 + 4 * i, 4) for i in range(7)]
        np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), array[8:36, 2:9])

    def test_long_rows_are_read_in_part(self, tmp_path, monkeypatch):
        """Columns 100 to 1,100 of 5,000 in float32: 4,000 bytes of each row are read, not 20,000."""
        read = []
        plain = safetensors_file.read_into
        monkeypatch.setattr(
            safetensors_file, "read_into", lambda f, a, *rest: (read.append(a.nbytes), plain(f, a, *rest))
        )
        array = np.arange(300 * 5000, dtype=np.float32).reshape(300, 5000)
        save_file({"x": array}, tmp_path / "x.safetensors")
        entry = safetensors_file.read_header(tmp_path / "x.safetensors")["x"]
        blocks = list(safetensors_file.read_rows(entry, slice(4, 280), slice(100, 1100)))
        assert len(blocks) > 1
        np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), array[4:280, 100:1100])
        assert sum(read) == 276 * 4000

    def test_a_failed_write_leaves_nothing(self, tmp_path):
        def broken():
            yield np.zeros(3, np.float32)
            raise RuntimeError("out of memory")

        specs = {"a": ((3,), np.dtype(np.float32)), "b": ((3,), np.dtype(np.float32))}
        with pytest.raises(RuntimeError, match="out of memory"):
            safetensors_file.write(tmp_path / "x.safetensors", specs, broken())
        assert list(tmp_path.iterdir()) == []
