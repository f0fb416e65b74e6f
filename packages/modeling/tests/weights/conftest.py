"""What the tests of reading and writing weights share: small weights as arrays, and a writer of GGUF files."""

from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest
from flax import nnx

from coldforge.modeling import Gemma3, Gemma3Config
from coldforge.modeling.config import layer_pattern
from coldforge.modeling.layout import parameters

GGUF_LAYER_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@pytest.fixture(scope="session")
def data() -> Path:
    """The directory of checkpoints with oracles; its README says what is in it."""
    return Path(__file__).parents[1] / "data"


@pytest.fixture(scope="session")
def values() -> Callable[[Gemma3], dict[tuple, np.ndarray]]:
    """All of a model's arrays by path."""
    return lambda model: {path: np.asarray(v.get_value()) for path, v in nnx.to_flat_state(nnx.state(model))}


@pytest.fixture(scope="session")
def assert_same(values) -> Callable[[Gemma3, Gemma3], None]:
    """Fails unless two models have the same arrays, to the bit and the dtype."""

    def check(one: Gemma3, other: Gemma3) -> None:
        a, b = values(one), values(other)
        assert a.keys() == b.keys()
        different = [path for path in a if a[path].dtype != b[path].dtype or not np.array_equal(a[path], b[path])]
        assert different == []

    return check


@pytest.fixture(scope="session")
def small_config() -> Gemma3Config:
    """A model whose rows have 256 numbers each, as the K types of GGUF need; no two dimensions are the same."""
    return Gemma3Config(
        vocab_size=96, embed_dim=256, mlp_dim=512, num_heads=8, num_kv_heads=2, head_dim=32,
        layer_types=layer_pattern(2, 2), sliding_window=8, max_seq_len=64, query_scale=32**-0.5,
    )  # fmt: skip


@pytest.fixture(scope="session")
def tensors(small_config) -> dict[str, np.ndarray]:
    """Random weights of that model under Hugging Face's names without prefix, float32, in the files' shapes."""
    rng = np.random.default_rng(0)
    d, f, h = small_config.embed_dim, small_config.mlp_dim, small_config.head_dim
    sizes = {
        "embed_tokens": (small_config.vocab_size, d),
        "q_proj": (small_config.num_heads * h, d),
        "k_proj": (small_config.num_kv_heads * h, d),
        "v_proj": (small_config.num_kv_heads * h, d),
        "o_proj": (d, small_config.num_heads * h),
        "q_norm": (h,),
        "k_norm": (h,),
        "gate_proj": (f, d),
        "up_proj": (f, d),
        "down_proj": (d, f),
    }
    names = [part.name for parts in parameters(small_config).values() for part in parts]
    shapes = {name: sizes.get(name.split(".")[-2], (d,)) for name in names}
    return {name: rng.normal(0, 0.05, shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="session")
def write_gguf(small_config) -> Callable[..., Path]:
    """Writes tensors (Hugging Face's names) as a GGUF file, matrices in a given type; `metadata` and `extra` change
    it.
    """

    def run(
        path: Path,
        tensors: Mapping[str, np.ndarray],
        kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
        *,
        arch: str = "gemma3",
        raw: Mapping[str, np.ndarray] | None = None,
        extra: Mapping[str, np.ndarray] | None = None,
        metadata: Mapping[str, int] | None = None,
    ) -> Path:
        writer = gguf.GGUFWriter(path, arch)
        writer.add_token_list([f"token {i}" for i in range(small_config.vocab_size)])
        writer.add_token_scores([float(-i) for i in range(small_config.vocab_size)])
        writer.add_block_count(small_config.num_layers)
        writer.add_context_length(small_config.max_seq_len)
        writer.add_embedding_length(small_config.embed_dim)
        writer.add_feed_forward_length(small_config.mlp_dim)
        writer.add_head_count(small_config.num_heads)
        writer.add_head_count_kv(small_config.num_kv_heads)
        writer.add_key_length(small_config.head_dim)
        writer.add_value_length(small_config.head_dim)
        writer.add_sliding_window(small_config.sliding_window)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_uint32(f"{arch}.attention.sliding_window_pattern", 2)
        for key, value in (metadata or {}).items():
            writer.add_uint32(key, value)
        for name, tensor in tensors.items():
            if tensor.ndim == 1:
                writer.add_tensor(gguf_name(name), tensor + 1 if name.endswith("norm.weight") else tensor)
            elif raw is not None:
                writer.add_tensor(gguf_name(name), raw[name], raw_dtype=kind)
            else:
                writer.add_tensor(gguf_name(name), gguf.quantize(tensor, kind), raw_dtype=kind)
        for name, tensor in (extra or {}).items():
            writer.add_tensor(name, tensor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return run


def gguf_name(name: str) -> str:
    """llama.cpp's name of a tensor, written down a second time so that the tests do not lean on the code they test."""
    whole = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}
    if name in whole:
        return whole[name]
    _, layer, rest = name.removesuffix(".weight").split(".", 2)
    return f"blk.{layer}.{GGUF_LAYER_NAMES[rest]}.weight"
