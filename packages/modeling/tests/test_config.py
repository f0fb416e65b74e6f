"""Configurations: the presets' sizes, every style that a file may use, and what must be refused."""

import dataclasses
import json
import math
import re
from pathlib import Path

import jax
import pytest
from flax import nnx

from coldforge.modeling import (
    ConfigError,
    Gemma3Config,
    abstract_model,
    from_gguf,
    from_hf,
    gemma3_1b,
    gemma3_4b,
    gemma3_12b,
    gemma3_27b,
    gemma3_270m,
)
from coldforge.modeling.config import layer_pattern, to_hf

DATA = Path(__file__).parent / "data"
PRESETS = (gemma3_270m, gemma3_1b, gemma3_4b, gemma3_12b, gemma3_27b)
# 270M and 1B as counted in the published files; the larger ones are those files without their vision part.
NUM_PARAMS = (268_098_176, 999_885_952, 3_880_263_168, 11_766_034_176, 27_009_346_304)


@pytest.fixture(scope="module")
def small(config: Gemma3Config) -> dict:
    """A complete, valid Hugging Face config in the style of transformers 5."""
    return to_hf(config, dtype="float32")


def hub_style(hf: dict, **changes) -> dict:
    """The same config as hub files spell it."""
    rope = hf["rope_parameters"]
    hub = {k: v for k, v in hf.items() if k not in ("rope_parameters", "layer_types")}
    hub |= {"rope_theta": rope["full_attention"]["rope_theta"]}
    hub |= {"rope_local_base_freq": rope["sliding_attention"]["rope_theta"], "sliding_window_pattern": 6}
    factor = rope["full_attention"].get("factor")
    return hub | {"rope_scaling": factor and {"rope_type": "linear", "factor": factor}} | changes


# --- presets


@pytest.mark.parametrize(("preset", "count"), list(zip(PRESETS, NUM_PARAMS, strict=True)))
def test_presets_have_the_published_number_of_parameters(preset, count):
    assert preset().num_params == count


@pytest.mark.parametrize("preset", [gemma3_270m, gemma3_27b])
def test_num_params_counts_the_models_own_arrays(preset):
    state = nnx.state(abstract_model(preset()))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state)) == preset().num_params


@pytest.mark.parametrize("preset", PRESETS)
def test_docstrings_of_presets_say_their_size(preset):
    exact = re.search(r"([\d,]{9,}) parameters", preset.__doc__)
    rounded = re.search(r"([\d.]+) B parameters, ([\d.]+) GB in bf16", preset.__doc__)
    count = preset().num_params
    if exact:
        assert int(exact[1].replace(",", "")) == count
    else:
        digits = len(rounded[1].partition(".")[2])
        assert float(rounded[1]) == round(count / 1e9, digits)
        assert float(rounded[2]) == pytest.approx(2 * count / 1e9, rel=0.01)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_see_the_whole_context_in_every_sixth_layer(preset):
    config = preset()
    assert [i for i, kind in enumerate(config.layer_types) if kind == "global"] == list(range(5, config.num_layers, 6))


def test_layer_pattern():
    assert layer_pattern(7) == ("local",) * 5 + ("global", "local")
    assert layer_pattern(4, 2) == ("local", "global", "local", "global")


def test_only_27b_scales_queries_by_other_than_the_head_size():
    # Table 1 of the report gives 27B 5376 / 32 = 168 dimensions a head for the scale, 128 for the head.
    for preset in PRESETS:
        config = preset()
        expected = 168 if preset is gemma3_27b else config.head_dim
        assert config.query_scale**-2 == pytest.approx(expected)


# --- fields


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("embed_dim", 0, "embed_dim must be a positive integer, got 0"),
        ("sliding_window", -1, "sliding_window must be a positive integer"),
        ("num_kv_heads", 3, r"num_heads \(4\) must be a multiple of num_kv_heads \(3\)"),
        ("head_dim", 15, "head_dim must be even"),
        ("layer_types", (), "layer_types must name"),
        ("query_scale", 0.0, "query_scale must be positive"),
        ("query_scale", math.nan, "query_scale must be positive"),
        ("norm_eps", -1e-6, "norm_eps must be positive"),
        ("global_rope_factor", 0.0, "global_rope_factor must be positive"),
    ],
)
def test_values_that_no_model_can_have_are_refused(config, field, value, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(config, **{field: value})


# --- Hugging Face


@pytest.mark.parametrize("preset", PRESETS)
def test_round_trip_through_hugging_faces_config(preset):
    config = preset()
    assert from_hf(json.loads(json.dumps(to_hf(config, dtype="bfloat16")))) == config


def test_a_query_scale_that_is_no_root_of_an_integer_survives_the_round_trip(config):
    assert from_hf(to_hf(config, dtype="float32")).query_scale == pytest.approx(config.query_scale, rel=1e-12)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_hubs_style_is_read(preset):
    config = preset()
    assert from_hf(hub_style(to_hf(config, dtype="bfloat16"))) == config


@pytest.mark.parametrize(
    "directory", sorted(p.parent for p in DATA.glob("*/config_hub_style.json")), ids=lambda p: p.name
)
def test_both_styles_of_one_checkpoint_describe_one_model(directory):
    ours, hubs = from_hf(directory), from_hf(directory / "config_hub_style.json")
    # tiny_kv2 was saved with the default context of transformers in one style and 32,768 in the other.
    assert dataclasses.replace(ours, max_seq_len=hubs.max_seq_len) == hubs


def test_nested_config_of_a_multimodal_checkpoint():
    config = from_hf(DATA / "tiny_multimodal_wrapper" / "config.json")
    assert (config.num_layers, config.embed_dim, config.global_rope_factor) == (7, 32, 8.0)
    assert config.layer_types == layer_pattern(7)


def test_what_hub_configs_of_4b_and_larger_leave_out_is_filled_in():
    # As google/gemma-3-4b-pt's config.json: 8 heads, 4 key/value heads, vocabulary and more are left to the defaults.
    text = {"hidden_size": 2560, "intermediate_size": 10_240, "model_type": "gemma3_text", "num_hidden_layers": 34}
    text |= {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}
    hub = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": text}
    assert from_hf(hub | {"vision_config": {"hidden_size": 1152}}) == gemma3_4b()


@pytest.mark.parametrize("key", ["type", "rope_type"])
def test_both_names_of_the_rope_type(small, key):
    scaling = {key: "linear", "factor": 4.0}
    assert from_hf(hub_style(small, rope_scaling=scaling)).global_rope_factor == 4.0


def test_a_private_pattern_field_counts_where_layer_types_are_left_out(small):
    hub = hub_style(small)
    del hub["sliding_window_pattern"]
    assert from_hf(hub | {"_sliding_window_pattern": 3}).layer_types == ("local", "local", "global")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "architecture 'llama'"),
        ({"model_type": "gemma2"}, "architecture 'gemma2'"),
        ({"model_type": None}, "architecture None"),
        ({"model_type": "gemma3"}, "no text_config"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
        ({"hidden_activation": "silu"}, "hidden_activation is 'silu'"),
        ({"tie_word_embeddings": False}, "untied head"),
        ({"layer_types": ["full_attention"]}, "layer_types must name .* for 3 layers"),
        ({"layer_types": ["full_attention", "chunked_attention", "full_attention"]}, "chunked_attention"),
        (
            {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}},
            "must have full_attention and sliding_attention",
        ),
    ],
)
def test_other_models_are_refused_by_the_fields_name(small, changes, message):
    with pytest.raises(ConfigError, match=message):
        from_hf(small | changes)


def test_other_rope_types_are_refused_in_both_styles(small):
    plain = {"rope_type": "default", "rope_theta": 1e4}
    for parameters in (
        {"full_attention": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}, "sliding_attention": plain},
        {"full_attention": plain, "sliding_attention": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
    ):
        with pytest.raises(ConfigError, match="rope type is"):
            from_hf(small | {"rope_parameters": parameters})
    with pytest.raises(ConfigError, match="rope type is 'llama3'"):
        from_hf(hub_style(small, rope_scaling={"rope_type": "llama3", "factor": 8.0}))


def test_what_is_refused_is_refused_inside_a_nested_config_too(small):
    with pytest.raises(ConfigError, match="final_logit_softcapping"):
        from_hf({"model_type": "gemma3", "text_config": small | {"final_logit_softcapping": 30.0}})
    with pytest.raises(ConfigError, match="untied head"):
        from_hf({"model_type": "gemma3", "text_config": small, "tie_word_embeddings": False})


def test_a_nested_config_must_be_there_and_of_gemma3(small):
    for text in ({}, {"text_config": None}, {"text_config": "gemma3_text"}):
        with pytest.raises(ConfigError, match="no text_config"):
            from_hf({"model_type": "gemma3"} | text)
    with pytest.raises(ConfigError, match="text_config is of architecture 'gemma2'"):
        from_hf({"model_type": "gemma3", "text_config": small | {"model_type": "gemma2"}})


def test_null_is_as_good_as_left_out(small):
    nulls = dict.fromkeys(("query_pre_attn_scalar", "head_dim", "rms_norm_eps", "vocab_size"))
    left_out = {name: value for name, value in small.items() if name not in nulls}
    assert from_hf(small | nulls) == from_hf(left_out)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query_pre_attn_scalar": 0}, "query_pre_attn_scalar must be a positive number, got 0"),
        ({"query_pre_attn_scalar": "256"}, "query_pre_attn_scalar must be a positive number, got '256'"),
        ({"rope_theta": None}, "rope theta of global layers must be a positive number, got None"),
        ({"rope_local_base_freq": -1}, "rope theta of local layers must be a positive number, got -1"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0}}, "rope factor of global layers must be a positive"),
        ({"rope_scaling": {"rope_type": "linear"}}, "'linear' with factor None"),
        ({"rope_scaling": {"factor": 8.0}}, "'default' with factor 8.0"),
        ({"sliding_window_pattern": 0}, "sliding_window_pattern must be a positive integer, got 0"),
        ({"sliding_window_pattern": None}, "sliding_window_pattern must be a positive integer, got None"),
    ],
)
def test_broken_numbers_are_refused_by_name(small, changes, message):
    with pytest.raises(ConfigError, match=message):
        from_hf(hub_style(small) | changes)


def test_paths_without_a_readable_config(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config\.json at .*wanted a Hugging Face model directory"):
        from_hf(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gemma3_t')
    with pytest.raises(ConfigError, match="not valid JSON"):
        from_hf(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match="holds a list; wanted a JSON object"):
        from_hf(tmp_path)


# --- GGUF


@pytest.fixture
def metadata() -> dict:
    """What the GGUF file of Gemma3 270M says."""
    sizes = {"block_count": 18, "embedding_length": 640, "feed_forward_length": 2048, "context_length": 32_768}
    attention = {"head_count": 4, "head_count_kv": 1, "key_length": 256, "value_length": 256, "sliding_window": 512}
    keys = sizes | {f"attention.{k}": v for k, v in attention.items()} | {"rope.freq_base": 1e6}
    keys |= {"attention.layer_norm_rms_epsilon": 9.999999974752427e-07}  # float32 in the file
    return {"general.architecture": "gemma3"} | {f"gemma3.{k}": v for k, v in keys.items()}


def test_gguf_metadata_with_what_it_lacks_filled_in(metadata):
    config = from_gguf(metadata)
    assert dataclasses.replace(config, norm_eps=1e-6) == gemma3_270m()
    assert config.norm_eps == pytest.approx(1e-6, rel=1e-6)


def test_gguf_metadata_that_says_more_is_believed(metadata):
    more = {"attention.sliding_window_pattern": 3, "rope.freq_base_swa": 5000.0, "vocab_size": 1000}
    more |= {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}
    config = from_gguf(metadata | {f"gemma3.{k}": v for k, v in more.items()})
    assert config.layer_types == layer_pattern(18, 3)
    assert (config.local_rope_theta, config.global_rope_factor, config.vocab_size) == (5000.0, 8.0, 1000)
    assert from_gguf(metadata | {"tokenizer.ggml.tokens": ["a"] * 77}).vocab_size == 77


def test_gguf_of_27b_gets_its_own_query_scale(metadata):
    big = {"block_count": 62, "embedding_length": 5376, "attention.head_count": 32, "attention.head_count_kv": 16}
    big |= {"attention.key_length": 128, "attention.value_length": 128}
    assert from_gguf(metadata | {f"gemma3.{k}": v for k, v in big.items()}).query_scale == gemma3_27b().query_scale


def test_gguf_files_of_other_models_are_refused(metadata):
    with pytest.raises(ConfigError, match="architecture 'llama'"):
        from_gguf(metadata | {"general.architecture": "llama"})
    with pytest.raises(ConfigError, match=r"no gemma3\.block_count"):
        from_gguf({k: v for k, v in metadata.items() if k != "gemma3.block_count"})
    with pytest.raises(ConfigError, match="rope scaling is 'yarn'"):
        from_gguf(metadata | {"gemma3.rope.scaling.type": "yarn"})
    with pytest.raises(ConfigError, match="key_length 256 differs from value_length 128"):
        from_gguf(metadata | {"gemma3.attention.value_length": 128})
