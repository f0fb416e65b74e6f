"""Adapters in PEFT's format: names, shapes and arithmetic of the files, round trips, foreign adapters, refusals."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from coldforge.modeling import (
    LoraConfig,
    WeightsError,
    add_lora,
    load,
    load_peft,
    lora_state,
    make_mesh,
    peft_config,
    save_peft,
    set_lora,
)

pytestmark = pytest.mark.whole

ALL = LoraConfig(rank=4, alpha=6.0)
TARGETS = {
    "all": ALL.targets,
    "attention": ("q_einsum", "kv_einsum"),
    "some layers": ("layers/[03]/mlp/.*", "kv_einsum"),
}


@pytest.fixture(scope="module")
def base(data):
    return load(data / "tiny_kv2")


def adapted(base, **changes):
    model = add_lora(base, LoraConfig(**{"rank": 4, "alpha": 6.0} | changes), rngs=nnx.Rngs(0))
    keys = iter(jax.random.split(jax.random.key(1), 1000))
    set_lora(model, jax.tree.map(lambda x: 0.1 * jax.random.normal(next(keys), x.shape), lora_state(model)))
    return model


@pytest.fixture
def saved(base, tmp_path):
    """(model with an adapter on everything, its directory)."""
    model = adapted(base)
    save_peft(model, tmp_path / "adapter", base_model_name="some/base")
    return model, tmp_path / "adapter"


def effect(directory, layer, name):
    """What the adapter adds to a weight `[out, in]`, by PEFT's definition: B A alpha / r."""
    tensors = load_file(directory / "adapter_model.safetensors")
    config = json.loads((directory / "adapter_config.json").read_text())
    a, b = (tensors[f"base_model.model.model.layers.{layer}.{name}.lora_{half}.weight"] for half in "AB")
    return b @ a * config["lora_alpha"] / config["r"]


def test_names_and_shapes_are_pefts(saved, base):
    tensors = load_file(saved[1] / "adapter_model.safetensors")
    config = base.config
    d, f, q, k = config.embed_dim, config.mlp_dim, config.num_heads * 16, config.num_kv_heads * 16
    sizes = {
        "self_attn.q_proj": (d, q),
        "self_attn.k_proj": (d, k),
        "self_attn.v_proj": (d, k),
        "self_attn.o_proj": (q, d),
        "mlp.gate_proj": (d, f),
        "mlp.up_proj": (d, f),
        "mlp.down_proj": (f, d),
    }
    wanted = {}
    for i in range(config.num_layers):
        for name, (inputs, outputs) in sizes.items():
            wanted[f"base_model.model.model.layers.{i}.{name}.lora_A.weight"] = (4, inputs)
            wanted[f"base_model.model.model.layers.{i}.{name}.lora_B.weight"] = (outputs, 4)
    assert {name: tensor.shape for name, tensor in tensors.items()} == wanted
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.float32)}


def test_the_config_is_pefts(saved):
    config = json.loads((saved[1] / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert config["task_type"] == "CAUSAL_LM"
    assert config["base_model_name_or_path"] == "some/base"
    assert (config["r"], config["lora_alpha"]) == (4, 6)
    assert sorted(config["target_modules"]) == sorted(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )


def test_what_is_added_to_each_weight(saved):
    """B A alpha / r of the file, applied as torch applies a weight, is x A B alpha / rank of the model."""
    model, path = saved
    layer = model.layers[3]
    x = np.random.default_rng(0).normal(size=(5, 32)).astype(np.float32)

    def added(module, inputs, dims):
        a, b = (np.asarray(getattr(module, module.weight_name + suffix)[...]) for suffix in ("_lora_a", "_lora_b"))
        return np.tensordot(np.tensordot(inputs, a, dims), b, 1) * 6.0 / 4

    both = added(layer.attn.kv_einsum, x, 1)
    for i, name in enumerate(("k", "v")):
        wanted = x @ effect(path, 3, f"self_attn.{name}_proj").T
        np.testing.assert_allclose(both[:, i].reshape(5, -1), wanted, atol=1e-5)
    q = added(layer.attn.q_einsum, x, 1)
    np.testing.assert_allclose(q.reshape(5, -1), x @ effect(path, 3, "self_attn.q_proj").T, atol=1e-5)
    o = added(layer.attn.attn_vec_einsum, q, 2)
    np.testing.assert_allclose(o, q.reshape(5, -1) @ effect(path, 3, "self_attn.o_proj").T, atol=1e-5)
    up = added(layer.mlp.up_proj, x, 1)
    np.testing.assert_allclose(up, x @ effect(path, 3, "mlp.up_proj").T, atol=1e-5)
    down = added(layer.mlp.down_proj, up, 1)
    np.testing.assert_allclose(down, up @ effect(path, 3, "mlp.down_proj").T, atol=1e-5)


@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("quantize", [None, "int8"])
def test_round_trip(base, tmp_path, targets, quantize, assert_same):
    model = adapted(base, targets=targets)
    save_peft(model, tmp_path / "adapter")
    config = peft_config(tmp_path / "adapter", base.config)
    assert (config.rank, config.alpha) == (4, 6.0)
    again = add_lora(base, config, rngs=nnx.Rngs(7))
    load_peft(again, tmp_path / "adapter")
    assert_same(again, model)


def test_onto_a_mesh_and_back(saved, data, tmp_path, values):
    model, path = saved
    spread = load(data / "tiny_kv2", mesh=make_mesh(fsdp=4, tensor=2))
    spread = add_lora(spread, peft_config(path, spread.config), rngs=nnx.Rngs(7))
    before = {name: v.get_value().sharding for name, v in nnx.to_flat_state(nnx.state(spread))}
    load_peft(spread, path)
    assert {name: v.get_value().sharding for name, v in nnx.to_flat_state(nnx.state(spread))} == before
    for name, array in values(model).items():
        np.testing.assert_array_equal(values(spread)[name], array, err_msg=str(name))
    save_peft(spread, tmp_path / "again")
    one, two = (load_file(p / "adapter_model.safetensors") for p in (path, tmp_path / "again"))
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)


@pytest.fixture
def changed(saved):
    """Changes the saved adapter: tensors (name without prefix → array or None), config fields; gives its directory."""

    def run(tensors=None, **fields):
        path = saved[1]
        have = load_file(path / "adapter_model.safetensors")
        have |= {f"base_model.model.model.{name}": tensor for name, tensor in (tensors or {}).items()}
        save_file({name: t for name, t in have.items() if t is not None}, path / "adapter_model.safetensors")
        config = json.loads((path / "adapter_config.json").read_text())
        (path / "adapter_config.json").write_text(json.dumps(config | fields))
        return path

    return run


def test_keys_and_values_with_an_a_each_take_twice_the_rank(changed, base, run):
    """Only layer 2 differs; the function is the file's to rounding, in all layers."""
    rng = np.random.default_rng(0)
    path = changed({"layers.2.self_attn.v_proj.lora_A.weight": rng.normal(size=(4, 32)).astype(np.float32)})
    config = peft_config(path, base.config)
    assert (config.rank, config.alpha) == (8, 12.0)
    model = add_lora(base, config, rngs=nnx.Rngs(3))
    load_peft(model, path)
    for layer in (0, 2):
        module = model.layers[layer].attn.kv_einsum
        found = (
            jnp.tensordot(module.w_lora_a[...], module.w_lora_b[...], 1, precision="highest")
            * config.alpha
            / config.rank
        )
        for i, name in enumerate(("k", "v")):
            np.testing.assert_allclose(
                found[:, i].reshape(32, -1).T, effect(path, layer, f"self_attn.{name}_proj"), atol=1e-5
            )
    found = model.layers[2].mlp.up_proj
    found = found.kernel_lora_a[...] @ found.kernel_lora_b[...] * config.alpha / config.rank
    np.testing.assert_allclose(found.T, effect(path, 2, "mlp.up_proj"), atol=1e-5)


@pytest.mark.parametrize("absent", ["k", "v"])
def test_an_adapter_on_keys_or_values_alone(changed, base, absent):
    names = [f"layers.{i}.self_attn.{absent}_proj.lora_{half}.weight" for i in range(7) for half in "AB"]
    path = changed(dict.fromkeys(names))
    config = peft_config(path, base.config)
    assert config.rank == 4
    model = add_lora(base, config, rngs=nnx.Rngs(3))
    load_peft(model, path)
    b = np.asarray(model.layers[1].attn.kv_einsum.w_lora_b[...])
    assert not b[:, "kv".index(absent)].any()
    present = "vk"["kv".index(absent)]
    a = np.asarray(model.layers[1].attn.kv_einsum.w_lora_a[...])
    found = np.tensordot(a, b, 1)[:, "kv".index(present)].reshape(32, -1).T * 1.5
    np.testing.assert_allclose(found, effect(path, 1, f"self_attn.{present}_proj"), atol=1e-5)


def test_adapters_of_the_multimodal_class_are_read(saved, base, assert_same):
    model, path = saved
    tensors = load_file(path / "adapter_model.safetensors")
    renamed = {
        name.replace(".model.layers.", ".model.language_model.layers."): tensor for name, tensor in tensors.items()
    }
    save_file(renamed, path / "adapter_model.safetensors")
    again = add_lora(base, peft_config(path, base.config), rngs=nnx.Rngs(7))
    load_peft(again, path)
    assert_same(again, model)


def test_wrong_tensors_are_all_listed(changed, base):
    path = changed(
        {
            "layers.0.mlp.up_proj.lora_B.weight": None,
            "layers.9.mlp.up_proj.lora_B.weight": np.zeros((2, 2), np.float32),
            "layers.1.self_attn.q_proj.lora_A.weight": np.zeros((4, 33), np.float32),
        }
    )
    with pytest.raises(WeightsError) as error:
        peft_config(path, base.config)
    message = str(error.value)
    assert "1 missing: layers.0.mlp.up_proj.lora_B.weight" in message
    assert "1 unexpected: base_model.model.model.layers.9.mlp.up_proj.lora_B.weight" in message
    assert (
        "1 of another shape: base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight [4, 33], wanted [4, 32]"
        in message
    )


def test_an_adapter_of_another_model_is_refused(saved, data):
    with pytest.raises(WeightsError, match="of another shape"):
        peft_config(saved[1], load(data / "kv1_qscale").config)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("peft_type", "LOHA"),
        ("use_rslora", True),
        ("use_dora", True),
        ("bias", "all"),
        ("rank_pattern", {"q_proj": 8}),
        ("modules_to_save", ["lm_head"]),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(changed, base, field, value):
    with pytest.raises(WeightsError, match=f"not implemented: {field} is "):
        peft_config(changed(**{field: value}), base.config)


@pytest.mark.parametrize(("field", "value"), [("r", 0), ("r", None), ("lora_alpha", -1), ("lora_alpha", "x")])
def test_a_damaged_config_is_refused(changed, base, field, value):
    with pytest.raises(WeightsError, match="adapter"):
        peft_config(changed(**{field: value}), base.config)


@pytest.mark.parametrize("changes", [{"rank": 8}, {"alpha": 4.0}, {"targets": ("q_einsum",)}], ids=str)
def test_a_model_with_other_adapters_is_refused_and_left_alone(saved, base, changes, values):
    model = adapted(base, **changes)
    before = values(model)
    with pytest.raises(ValueError, match=r"needs a model made by add_lora\(base, peft_config.*rank=4, alpha=6\.0"):
        load_peft(model, saved[1])
    assert all(np.array_equal(array, before[name]) for name, array in values(model).items())


def test_a_model_without_adapters(saved, base, tmp_path):
    with pytest.raises(ValueError, match="the model has None"):
        load_peft(base, saved[1])
    with pytest.raises(ValueError, match="no LoRA adapters to save"):
        save_peft(base, tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file(saved, base, name):
    (saved[1] / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {name}"):
        peft_config(saved[1], base.config)


def test_what_is_there_is_not_overwritten(saved):
    model, path = saved
    with pytest.raises(FileExistsError, match="not empty"):
        save_peft(model, path)
    shutil.rmtree(path)
    save_peft(model, path)
