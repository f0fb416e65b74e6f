"""GGUF files: every kind of storage gives the numbers that the `gguf` package gives, and damage is told before
reading.
"""

import gguf
import jax.numpy as jnp
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from coldforge.modeling import ConfigError, WeightsError, gguf_file, load
from coldforge.modeling.layout import parameters

QUANTIZED_HERE = [Kind.F32, Kind.F16, Kind.BF16, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0]
GIVEN_AS_BYTES = [Kind.Q2_K, Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K, Kind.IQ4_NL, Kind.IQ4_XS, Kind.IQ2_XXS]


def assert_holds(values, model, wanted, dtype):
    """The model has exactly the tensors `wanted` (by Hugging Face's names), cast to `dtype`; NaN equals NaN."""
    arrays = values(model)
    for path, parts in parameters(model.config).items():
        assert arrays[path].dtype == dtype
        for part in parts:
            found = part.take(arrays[path]).astype(np.float32)
            np.testing.assert_array_equal(found, wanted[part.name].astype(dtype).astype(np.float32), err_msg=part.name)


@pytest.mark.parametrize("kind", QUANTIZED_HERE, ids=lambda kind: kind.name)
def test_types_that_the_package_writes(tmp_path, write_gguf, tensors, values, kind):
    model = load(write_gguf(tmp_path / "m.gguf", tensors, kind))
    wanted = {
        name: tensor + 1 - 1 if tensor.ndim == 1 else gguf.dequantize(gguf.quantize(tensor, kind), kind)
        for name, tensor in tensors.items()
    }
    assert_holds(values, model, wanted, jnp.bfloat16 if kind == Kind.BF16 else np.float32)


@pytest.mark.parametrize("kind", GIVEN_AS_BYTES, ids=lambda kind: kind.name)
def test_types_that_it_only_reads(tmp_path, write_gguf, tensors, values, kind, monkeypatch):
    monkeypatch.setattr("coldforge.modeling.weights.BLOCK_ELEMENTS", 5000)  # so that tensors come in several blocks
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(0)
    raw = {
        name: rng.integers(0, 256, (tensor.shape[0], tensor.shape[1] // block * size), np.uint8) & 0x3B
        for name, tensor in tensors.items()
        if tensor.ndim == 2
    }  # the mask keeps scales (float16) finite
    wanted = {name: gguf.dequantize(raw[name], kind) if name in raw else t + 1 - 1 for name, t in tensors.items()}
    model = load(write_gguf(tmp_path / "m.gguf", tensors, kind, raw=raw), dtype=jnp.float32)
    assert_holds(values, model, wanted, np.float32)


def test_casting_to_bfloat16(tmp_path, write_gguf, tensors, values):
    model = load(write_gguf(tmp_path / "m.gguf", tensors, Kind.Q8_0), dtype=jnp.bfloat16)
    wanted = {
        n: t + 1 - 1 if t.ndim == 1 else gguf.dequantize(gguf.quantize(t, Kind.Q8_0), Kind.Q8_0)
        for n, t in tensors.items()
    }
    assert_holds(values, model, wanted, jnp.bfloat16)


def test_config_and_a_directory_with_one_file(tmp_path, write_gguf, tensors, small_config, assert_same):
    path = write_gguf(tmp_path / "m.gguf", tensors)
    model = load(path)
    assert model.config == small_config
    assert_same(load(tmp_path), model)


def test_a_file_of_any_name(tmp_path, write_gguf, tensors, assert_same):
    path = write_gguf(tmp_path / "m.gguf", tensors)
    model = load(path)
    assert_same(load(path.rename(tmp_path / "blob")), model)


def test_a_stored_head_is_let_pass(tmp_path, write_gguf, tensors):
    load(write_gguf(tmp_path / "m.gguf", tensors, extra={"output.weight": tensors["embed_tokens.weight"]}))


@pytest.fixture
def nothing_read(monkeypatch):
    """Fails the test as soon as a tensor's values are read."""

    def refuse(*args):
        raise AssertionError("values were read before everything had been checked")

    monkeypatch.setattr(gguf_file, "read_into", refuse)


def test_wrong_tensors_are_listed_under_the_files_names(tmp_path, write_gguf, tensors, nothing_read):
    changed = {name: t for name, t in tensors.items() if name not in ("norm.weight", "layers.1.mlp.up_proj.weight")}
    changed["layers.0.self_attn.q_proj.weight"] = np.zeros((256, 128), np.float32)
    with pytest.raises(WeightsError) as error:
        load(write_gguf(tmp_path / "m.gguf", changed, extra={"rope_freqs.weight": np.zeros(8, np.float32)}))
    lines = str(error.value).splitlines()
    assert lines[1] == "  2 missing: blk.1.ffn_up.weight, output_norm.weight"
    assert lines[2] == "  1 unexpected: rope_freqs.weight"
    assert lines[3] == "  1 of another shape: blk.0.attn_q.weight [256, 128], wanted [256, 256]"


def test_a_file_of_another_architecture(tmp_path, write_gguf, tensors, nothing_read):
    with pytest.raises(ConfigError, match="architecture 'llama'; wanted 'gemma3'"):
        load(write_gguf(tmp_path / "m.gguf", tensors, arch="llama"))


def test_one_file_of_several(tmp_path, write_gguf, tensors, nothing_read):
    with pytest.raises(WeightsError, match="one of 3 files of a split model"):
        load(write_gguf(tmp_path / "m.gguf", tensors, metadata={"split.count": 3}))


def test_several_models_in_a_directory(tmp_path, write_gguf, tensors):
    for name in "ab":
        write_gguf(tmp_path / f"{name}.gguf", tensors)
    with pytest.raises(WeightsError, match=r"more than one model \(a\.gguf, b\.gguf\); give the path of one file"):
        load(tmp_path)


def test_not_gguf(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(WeightsError, match="not a GGUF file: it begins with b'vers'"):
        load(tmp_path / "m.gguf")


@pytest.mark.parametrize(("version", "order"), [(1, "little"), (4, "little"), (3, "big")])
def test_other_versions_and_byte_orders(tmp_path, write_gguf, tensors, version, order):
    path = write_gguf(tmp_path / "m.gguf", tensors)
    data = bytearray(path.read_bytes())
    data[4:8] = version.to_bytes(4, order)
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="version is"):
        load(path)


def test_a_file_cut_off_anywhere(tmp_path, write_gguf, tensors, nothing_read):
    path = write_gguf(tmp_path / "m.gguf", tensors)
    whole = path.read_bytes()
    for keep in [*range(4, 6000, 97), 9000, 20_000, len(whole) // 2, len(whole) - 100_000]:
        path.write_bytes(whole[:keep])
        with pytest.raises(WeightsError, match="cut off"):
            load(path)


@pytest.mark.parametrize("seed", range(3))
def test_damaged_headers_are_never_taken_for_anything_else(tmp_path, write_gguf, tensors, seed):
    path = write_gguf(tmp_path / "m.gguf", tensors)
    whole = path.read_bytes()
    rng, refused = np.random.default_rng(seed), 0
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[rng.integers(4, 6000)] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            gguf_file.read_header(path)
        except WeightsError:
            refused += 1
    assert refused > 20


def test_a_type_that_the_package_does_not_know(tmp_path, write_gguf, tensors, nothing_read, monkeypatch):
    path = write_gguf(tmp_path / "m.gguf", tensors, Kind.Q8_0)
    data = path.read_bytes()
    name = b"blk.0.ffn_up.weight"
    place = data.index(name) + len(name) + 4 + 16  # behind the name: number of dimensions, two sizes
    assert data[place : place + 4] == Kind.Q8_0.value.to_bytes(4, "little")
    path.write_bytes(data[:place] + (9999).to_bytes(4, "little") + data[place + 4 :])
    with pytest.raises(
        WeightsError, match=r"cannot be read: blk\.0\.ffn_up\.weight \(type 9999, unknown to this version of gguf\)"
    ):
        load(path)


def test_a_type_without_code_to_dequantise_it(tmp_path, write_gguf, tensors, nothing_read):
    data = {name: t for name, t in tensors.items() if name != "layers.0.mlp.up_proj.weight"}
    path = write_gguf(tmp_path / "m.gguf", data, extra={"blk.0.ffn_up.weight": np.zeros((512, 256), np.int8)})
    with pytest.raises(WeightsError, match=r"cannot be read: blk\.0\.ffn_up\.weight \(I8\)"):
        load(path)
