"""The model by its options: sizes, adapters of another run, shapes; and what of it a run leaves."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from coldforge import modeling, training
from coldforge.data import Tokenizer
from coldforge.stages.find import find_weights
from coldforge.stages.model import (
    AdapterError,
    abstract_model,
    adapted,
    check_adapter,
    check_size,
    load_adapter,
    load_base,
    lora_config,
    model_config,
    read_config,
    with_adapter,
)
from coldforge.stages.options import LoraOptions, ModelConfig, SavingOptions
from coldforge.stages.output import describe, save_model

pytestmark = pytest.mark.whole

TINY, LORA = ModelConfig(size="tiny"), LoraOptions(rank=4, alpha=8)


def values(model: modeling.Gemma3) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(modeling.lora_state(model))]


@pytest.fixture(scope="module")
def trained(base: modeling.Gemma3) -> modeling.Gemma3:
    """Adapters that are no longer zero."""
    model = adapted(base, TINY, LORA, seed=1)
    adapter = modeling.lora_state(model)
    modeling.set_lora(model, jax.tree.map(lambda x: x + 0.25, adapter))
    return model


@pytest.fixture
def run(tmp_path: Path):
    with training.open_run(tmp_path / "run", stage="sft", config={}, command="") as opened:
        yield opened


@pytest.mark.parametrize("size", ["tiny", "270m"])
@pytest.mark.parametrize("train", ["lora", "full"])
def test_shapes_are_those_of_the_real_thing(size: str, train: str) -> None:
    model = ModelConfig(size=size, train=train)  # type: ignore[arg-type]
    made = abstract_model(model, LORA, None)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(nnx.state(made)))
    assert (made.lora is None) == (train == "full")
    if size == "tiny":
        real = adapted(load_base(None, model, 512, None), model, LORA, seed=0)
        shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), nnx.state(made))
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), nnx.state(real)) == shapes


def test_the_nano_model_is_of_the_size_that_its_preset_is_for() -> None:
    place = find_weights(None, "nano")
    assert place is not None
    assert read_config(place) == model_config(ModelConfig(size="nano"))
    assert model_config(ModelConfig(size="nano")).num_params < 1_000_000


def test_weights_of_another_size_are_named() -> None:
    check_size(modeling.gemma3_1b(), ModelConfig(size="1b"), Path("w"))
    check_size(modeling.gemma3_1b(), TINY, Path("w"))
    with pytest.raises(ValueError, match=r"the weights at w are no 4b: embed_dim 1152 \(wanted 2560\), .* preset"):
        check_size(modeling.gemma3_1b(), ModelConfig(size="4b"), Path("w"))


def test_a_saved_adapter_is_put_on_the_base_again(
    base: modeling.Gemma3, trained: modeling.Gemma3, tokenizer: Tokenizer, run: training.Run
) -> None:
    save_model(run, trained, None, tokenizer, SavingOptions(merged=True, base_model_name="google/tiny"))
    place = run.manifest.adapter_path
    assert place == run.path / "adapter"
    assert '"base_model_name_or_path": "google/tiny"' in (place / "adapter_config.json").read_text()
    model = adapted(base, TINY, LORA, seed=2)
    load_adapter(model, place)
    for got, wanted in zip(values(model), values(trained), strict=True):
        np.testing.assert_array_equal(got, wanted)
    tokens = jnp.arange(12)[None]
    merged = modeling.load(run.path / "merged", dtype="float32")
    np.testing.assert_allclose(merged(tokens)[0], trained(tokens)[0], atol=1e-4)
    for name in ("adapter", "merged"):
        assert Tokenizer.load(run.path / name).fingerprint == tokenizer.fingerprint


def test_a_second_session_replaces_what_the_first_one_saved(
    base: modeling.Gemma3, trained: modeling.Gemma3, tokenizer: Tokenizer, run: training.Run
) -> None:
    save_model(run, adapted(base, TINY, LORA, seed=2), Path("weights"), tokenizer, SavingOptions())
    save_model(run, trained, Path("weights"), tokenizer, SavingOptions())
    assert not (run.path / "merged").exists()
    model = adapted(base, TINY, LORA, seed=3)
    load_adapter(model, run.path / "adapter")
    np.testing.assert_array_equal(values(model)[0], values(trained)[0])


def test_a_model_trained_in_full_is_saved_whole(base: modeling.Gemma3, tokenizer: Tokenizer, run: training.Run) -> None:
    save_model(run, base, None, tokenizer, SavingOptions(merged=True))
    assert run.manifest.adapter is None
    assert not (run.path / "merged").exists()
    assert modeling.fingerprint(modeling.load(run.path / "model", dtype="float32")) == modeling.fingerprint(base)


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        (LoraOptions(rank=8, alpha=8), r"has rank 4 \(--lora.rank is 8\). Pass its own"),
        (LoraOptions(), r"has rank 4 \(--lora.rank is 64\), alpha 8.0 \(--lora.alpha is 64.0\)"),
    ],
)
def test_an_adapter_of_another_kind_is_named(
    base: modeling.Gemma3, trained: modeling.Gemma3, tmp_path: Path, lora: LoraOptions, said: str
) -> None:
    modeling.save_peft(trained, tmp_path / "adapter")
    model = adapted(base, TINY, lora, seed=0)
    before = values(model)
    with pytest.raises(AdapterError, match=said):
        load_adapter(model, tmp_path / "adapter")
    np.testing.assert_array_equal(values(model)[0], before[0])


def test_an_adapter_goes_on_over_a_base_stored_as_its_run_says(
    base: modeling.Gemma3, trained: modeling.Gemma3, tokenizer: Tokenizer, run: training.Run, tmp_path: Path
) -> None:
    small = LoraOptions(rank=4, alpha=8, quantize="int8")
    describe(run, base, None, tokenizer, model=TINY, lora=small, dataset={})
    save_model(run, trained, None, tokenizer, SavingOptions())
    place = run.manifest.adapter_path
    assert place is not None
    check_adapter(place, base.config, lora_config(TINY, small))
    with pytest.raises(
        AdapterError, match=r"has a base stored as quantize int8 \(--lora\.quantize is none\)\. Pass its own"
    ):
        load_adapter(adapted(base, TINY, LORA, seed=0), place)
    modeling.save_peft(trained, tmp_path / "adapter")  # of no run: nobody knows
    check_adapter(tmp_path / "adapter", base.config, lora_config(TINY, small))


def test_an_adapter_on_other_modules_or_for_other_models_is_named(
    base: modeling.Gemma3, trained: modeling.Gemma3, tmp_path: Path
) -> None:
    some = modeling.LoraConfig(rank=4, alpha=8, targets=("q_einsum", "down_proj"))
    modeling.save_peft(modeling.add_lora(base, some, rngs=nnx.Rngs(0)), tmp_path / "some")
    with pytest.raises(AdapterError, match="on the modules q_einsum, down_proj; wanted one on q_einsum, kv_einsum, "):
        load_adapter(adapted(base, TINY, LORA, seed=0), tmp_path / "some")
    modeling.save_peft(trained, tmp_path / "adapter")
    with pytest.raises(AdapterError, match=r"needs a model with adapters \(--model.train lora\)"):
        load_adapter(base, tmp_path / "adapter")
    with pytest.raises(modeling.WeightsError, match=r"of another shape|unexpected|missing"):
        load_adapter(abstract_model(ModelConfig(size="270m"), LORA, None), tmp_path / "adapter")
    with pytest.raises(FileNotFoundError, match=r"has no adapter_config\.json"):
        load_adapter(adapted(base, TINY, LORA, seed=0), tmp_path)


def test_a_run_says_what_it_is_made_of_and_refuses_another_base(
    base: modeling.Gemma3, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    with training.open_run(tmp_path / "run", stage="sft", config={}, command="") as run:
        describe(run, base, Path("w"), tokenizer, model=TINY, lora=LORA, dataset={"path": "d", "train": 3})
        run.close("stopped", "")
    manifest = training.read_manifest(tmp_path / "run")
    assert manifest.base == {
        "path": "w", "size": "tiny", "dtype": "float32", "fingerprint": modeling.fingerprint(base), "quantize": "none",
    }  # fmt: skip
    assert manifest.identity["base"] == manifest.base["fingerprint"]
    assert manifest.tokenizer == {"sha256": tokenizer.fingerprint, "vocab_size": 300}
    assert manifest.dataset == {"path": "d", "train": 3}
    other = load_base(None, TINY, 301, None)
    with (
        pytest.raises(training.RunError, match="base"),
        training.open_run(tmp_path / "run", stage="sft", config={}, command="") as run,
    ):
        describe(run, other, Path("w"), tokenizer, model=TINY, lora=LORA, dataset={})


def test_an_adapter_of_any_kind_is_put_on_its_base(
    trained: modeling.Gemma3, base: modeling.Gemma3, tmp_path: Path
) -> None:
    modeling.save_peft(trained, tmp_path / "adapter", base_model_name="tiny")
    found = with_adapter(base, tmp_path / "adapter")
    assert found.lora is not None
    assert (found.lora.rank, found.lora.alpha) == (4, 8)
    for ours, theirs in zip(values(found), values(trained), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert with_adapter(base, None) is base
    small = with_adapter(base, tmp_path / "adapter", quantize="int8")
    assert small.lora is not None
    assert small.lora.quantize == "int8"
