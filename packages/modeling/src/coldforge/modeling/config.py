"""What a Gemma3 text model looks like: sizes, conventions, and where they are read from.

`Gemma3Config` is the only description of a model that the package uses. It comes from a preset (`gemma3_1b()`), from a
Hugging Face `config.json` (`from_hf`), or from the metadata of a GGUF file (`from_gguf`). Hugging Face writes two
styles:
the hub's own (`rope_theta`, `rope_local_base_freq`, `sliding_window_pattern`, most defaults left out) and that of
transformers 5 (`rope_parameters`, `layer_types`); both are read, also where they sit nested in a multimodal config.
What this implementation does not compute (soft-capping, attention bias, untied heads, bidirectional attention, other
rope scalings) is refused by name rather than ignored. Vision towers are left out.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

LayerType = Literal["local", "global"]


class ConfigError(ValueError):
    """A model description that is not a Gemma3 text model, or asks for what is not implemented."""


def layer_pattern(num_layers: int, every: int = 6) -> tuple[LayerType, ...]:
    """Every `every`-th layer is global, the others local: `layer_pattern(7)` is five local, one global, one local."""
    return tuple("global" if (i + 1) % every == 0 else "local" for i in range(num_layers))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gemma3Config:
    """Sizes and conventions of a Gemma3 text model (Gemma 3 report, arXiv 2503.19786, table 1 and section 2).

    Attributes:
      vocab_size: rows of the (tied) embedding.
      embed_dim: width of the residual stream.
      mlp_dim: width of the gated MLP.
      num_heads, num_kv_heads, head_dim: query heads, key/value heads, size of one head.
      layer_types: "local" or "global" per layer.
      sliding_window: keys that a query of a local layer sees, itself included.
      max_seq_len: the context the model was trained for, in tokens.
      query_scale: queries are multiplied by this (`query_pre_attn_scalar ** -0.5`; for 27B not `head_dim ** -0.5`).
      local_rope_theta, global_rope_theta: rotary base frequencies.
      global_rope_factor: linear position scaling of global layers (8 from 4B on).
      norm_eps: epsilon of every RMSNorm.
    """

    vocab_size: int = 262_144
    embed_dim: int
    mlp_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    layer_types: tuple[LayerType, ...]
    sliding_window: int
    max_seq_len: int
    query_scale: float
    local_rope_theta: float = 10_000.0
    global_rope_theta: float = 1_000_000.0
    global_rope_factor: float = 1.0
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        sizes = "vocab_size embed_dim mlp_dim num_heads num_kv_heads head_dim sliding_window max_seq_len"
        for name in sizes.split():
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} must be a positive integer, got {value!r}")
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(f"num_heads ({self.num_heads}) must be a multiple of num_kv_heads ({self.num_kv_heads})")
        if self.head_dim % 2:
            raise ConfigError(f"head_dim must be even for rotary embeddings, got {self.head_dim}")
        if not self.layer_types or set(self.layer_types) - {"local", "global"}:
            raise ConfigError(f"layer_types must name 'local' or 'global' for each layer, got {self.layer_types!r}")
        for name in ("query_scale", "local_rope_theta", "global_rope_theta", "global_rope_factor", "norm_eps"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)!r}")

    @property
    def num_layers(self) -> int:
        return len(self.layer_types)

    @property
    def num_params(self) -> int:
        """Parameters of the base model (the embedding counted once)."""
        attention = self.embed_dim * self.head_dim * (2 * self.num_heads + 2 * self.num_kv_heads) + 2 * self.head_dim
        layer = attention + 3 * self.embed_dim * self.mlp_dim + 4 * self.embed_dim
        return self.vocab_size * self.embed_dim + self.num_layers * layer + self.embed_dim


def gemma3_270m() -> Gemma3Config:
    """Gemma3 270M: 268,098,176 parameters, 168 M of them embedding; fits anywhere."""
    return Gemma3Config(
        embed_dim=640, mlp_dim=2048, num_heads=4, num_kv_heads=1, head_dim=256,
        layer_types=layer_pattern(18), sliding_window=512, max_seq_len=32_768, query_scale=256**-0.5,
    )  # fmt: skip


def gemma3_1b() -> Gemma3Config:
    """Gemma3 1B: 999,885,952 parameters, 2.0 GB in bf16; one v5e chip holds it with room for training LoRA."""
    return Gemma3Config(
        embed_dim=1152, mlp_dim=6912, num_heads=4, num_kv_heads=1, head_dim=256,
        layer_types=layer_pattern(26), sliding_window=512, max_seq_len=32_768, query_scale=256**-0.5,
    )  # fmt: skip


def gemma3_4b() -> Gemma3Config:
    """Gemma3 4B, text part: 3.88 B parameters, 7.8 GB in bf16; 64 embedding rows more than the tokenizer has."""
    return Gemma3Config(
        vocab_size=262_208, embed_dim=2560, mlp_dim=10_240, num_heads=8, num_kv_heads=4, head_dim=256,
        layer_types=layer_pattern(34), sliding_window=1024, max_seq_len=131_072, query_scale=256**-0.5,
        global_rope_factor=8.0,
    )  # fmt: skip


def gemma3_12b() -> Gemma3Config:
    """Gemma3 12B, text part: 11.8 B parameters, 23.5 GB in bf16."""
    return Gemma3Config(
        vocab_size=262_208, embed_dim=3840, mlp_dim=15_360, num_heads=16, num_kv_heads=8, head_dim=256,
        layer_types=layer_pattern(48), sliding_window=1024, max_seq_len=131_072, query_scale=256**-0.5,
        global_rope_factor=8.0,
    )  # fmt: skip


def gemma3_27b() -> Gemma3Config:
    """Gemma3 27B, text part: 27.0 B parameters, 54 GB in bf16; its query scale is not that of its head_dim."""
    return Gemma3Config(
        vocab_size=262_208, embed_dim=5376, mlp_dim=21_504, num_heads=32, num_kv_heads=16, head_dim=128,
        layer_types=layer_pattern(62), sliding_window=1024, max_seq_len=131_072, query_scale=168**-0.5,
        global_rope_factor=8.0,
    )  # fmt: skip


# What transformers' Gemma3TextConfig assumes for a field that a hub config leaves out (4B and larger leave out most).
_HF_DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "sliding_window": 4096,
    "max_position_embeddings": 131_072,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-6,
}

# Fields whose value must be the one implemented here: name -> accepted values.
_HF_FIXED: Mapping[str, tuple[Any, ...]] = {
    "attention_bias": (False, None),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "use_bidirectional_attention": (False, None),
    "tie_word_embeddings": (True, None),
    "hidden_activation": ("gelu_pytorch_tanh", None),
}


def from_hf(config: Mapping[str, Any] | str | Path) -> Gemma3Config:
    """Reads a Hugging Face config: the parsed `config.json`, its path, or the directory that holds it.

    Raises:
      ConfigError: for another architecture, or a field whose value is not implemented; the message names the field.
      FileNotFoundError: if the path holds no config.json.
    """
    if not isinstance(config, Mapping):
        config = _read_json(Path(config))
    model_type = config.get("model_type")
    if model_type not in ("gemma3", "gemma3_text"):
        raise ConfigError(
            f"config is of architecture {model_type!r} ({config.get('architectures')}); "
            "wanted model_type 'gemma3_text', or 'gemma3' with a text_config"
        )
    text = config if model_type == "gemma3_text" else config.get("text_config")
    if not isinstance(text, Mapping):
        raise ConfigError("config of model_type 'gemma3' has no text_config: is it complete?")
    if text.get("model_type", "gemma3_text") != "gemma3_text":
        raise ConfigError(f"text_config is of architecture {text['model_type']!r}; wanted 'gemma3_text'")
    if config.get("tie_word_embeddings") is False:
        raise ConfigError(
            "tie_word_embeddings is False; Gemma3's head is its embedding, an untied head is not implemented"
        )
    for name, accepted in _HF_FIXED.items():
        if text.get(name) not in accepted:
            raise ConfigError(f"{name} is {text[name]!r}; implemented is {accepted[0]!r}")

    field = {name: default if text.get(name) is None else text[name] for name, default in _HF_DEFAULTS.items()}
    local_theta, global_theta, factor = _hf_rope(text)
    return Gemma3Config(
        vocab_size=field["vocab_size"],
        embed_dim=field["hidden_size"],
        mlp_dim=field["intermediate_size"],
        num_heads=field["num_attention_heads"],
        num_kv_heads=field["num_key_value_heads"],
        head_dim=field["head_dim"],
        layer_types=_hf_layer_types(text, field["num_hidden_layers"]),
        sliding_window=field["sliding_window"],
        max_seq_len=field["max_position_embeddings"],
        query_scale=_positive("query_pre_attn_scalar", field["query_pre_attn_scalar"]) ** -0.5,
        local_rope_theta=local_theta,
        global_rope_theta=global_theta,
        global_rope_factor=factor,
        norm_eps=field["rms_norm_eps"],
    )


def to_hf(config: Gemma3Config, *, dtype: str) -> dict[str, Any]:
    """The `config.json` that transformers 5 reads as this model; `dtype` is "float32" or "bfloat16"."""
    rope_global: dict[str, Any] = {"rope_type": "default", "rope_theta": config.global_rope_theta}
    if config.global_rope_factor != 1.0:
        rope_global |= {"rope_type": "linear", "factor": config.global_rope_factor}
    scalar = config.query_scale**-2
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "attention_bias": False,
        "attn_logit_softcapping": None,
        "bos_token_id": 2,
        "dtype": dtype,
        "eos_token_id": 1,
        "final_logit_softcapping": None,
        "head_dim": config.head_dim,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": config.embed_dim,
        "intermediate_size": config.mlp_dim,
        "layer_types": ["full_attention" if t == "global" else "sliding_attention" for t in config.layer_types],
        "max_position_embeddings": config.max_seq_len,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_kv_heads,
        "pad_token_id": 0,
        "query_pre_attn_scalar": round(scalar) if abs(scalar - round(scalar)) < 1e-6 * scalar else scalar,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {
            "full_attention": rope_global,
            "sliding_attention": {"rope_type": "default", "rope_theta": config.local_rope_theta},
        },
        "sliding_window": config.sliding_window,
        "tie_word_embeddings": True,
        "vocab_size": config.vocab_size,
    }


def from_gguf(metadata: Mapping[str, Any]) -> Gemma3Config:
    """Reads the key-value metadata of a GGUF file (keys such as `gemma3.block_count`).

    llama.cpp's converter leaves out the local rope base, the layer pattern and the query scale; Gemma3's own values are
    taken (10,000; every sixth layer global; `head_dim ** -0.5`, but `(embed_dim / heads) ** -0.5` for the 62 layers of
    27B).

    Raises:
      ConfigError: for a file of another architecture or without a needed key.
    """
    arch = metadata.get("general.architecture")
    if arch != "gemma3":
        raise ConfigError(f"GGUF file is of architecture {arch!r}; wanted 'gemma3'")

    def get(key: str, default: Any = None) -> Any:
        value = metadata.get(f"gemma3.{key}", default)
        if value is None:
            raise ConfigError(f"GGUF metadata has no gemma3.{key}")
        return value

    num_layers, num_heads = int(get("block_count")), int(get("attention.head_count"))
    embed_dim = int(get("embedding_length"))
    head_dim = int(get("attention.key_length", 256))
    if int(get("attention.value_length", head_dim)) != head_dim:
        raise ConfigError(f"GGUF key_length {head_dim} differs from value_length {get('attention.value_length')}")
    scaling = metadata.get("gemma3.rope.scaling.type", "none")
    if scaling not in ("none", "linear"):
        raise ConfigError(f"GGUF rope scaling is {scaling!r}; implemented are 'none' and 'linear'")
    tokens = metadata.get("tokenizer.ggml.tokens")
    scalar = embed_dim / num_heads if num_layers == 62 else head_dim
    return Gemma3Config(
        vocab_size=int(metadata.get("gemma3.vocab_size", len(tokens) if tokens is not None else 262_144)),
        embed_dim=embed_dim,
        mlp_dim=int(get("feed_forward_length")),
        num_heads=num_heads,
        num_kv_heads=int(get("attention.head_count_kv")),
        head_dim=head_dim,
        layer_types=layer_pattern(num_layers, int(get("attention.sliding_window_pattern", 6))),
        sliding_window=int(get("attention.sliding_window")),
        max_seq_len=int(get("context_length")),
        query_scale=float(scalar) ** -0.5,
        local_rope_theta=float(get("rope.freq_base_swa", 10_000.0)),
        global_rope_theta=float(get("rope.freq_base", 1_000_000.0)),
        global_rope_factor=float(get("rope.scaling.factor", 1.0)) if scaling == "linear" else 1.0,
        norm_eps=float(get("attention.layer_norm_rms_epsilon", 1e-6)),
    )


def _read_json(path: Path) -> Mapping[str, Any]:
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no config.json at {path}: wanted a Hugging Face model directory")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(config, Mapping):
        raise ConfigError(f"{path} holds a {type(config).__name__}; wanted a JSON object")
    return config


def _positive(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ConfigError(f"{name} must be a positive number, got {value!r}")
    return float(value)


def _hf_rope(text: Mapping[str, Any]) -> tuple[float, float, float]:
    """(local theta, global theta, linear factor of global layers) of either style of config."""
    local: Mapping[str, Any]
    if (parameters := text.get("rope_parameters")) is not None:
        if "full_attention" not in parameters or "sliding_attention" not in parameters:
            raise ConfigError(
                f"rope_parameters must have full_attention and sliding_attention, got {sorted(parameters)}"
            )
        scaling, local = parameters["full_attention"], parameters["sliding_attention"]
    else:
        scaling = {"rope_theta": text.get("rope_theta", 1_000_000.0), **(text.get("rope_scaling") or {})}
        local = {"rope_theta": text.get("rope_local_base_freq", 10_000.0)}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in ("default", "linear") or local.get("rope_type", "default") != "default":
        raise ConfigError(
            f"rope type is {kind!r} on global and {local.get('rope_type', 'default')!r} on local layers; "
            "implemented are 'default' and 'linear' on global layers, 'default' on local ones"
        )
    factor = scaling.get("factor")
    if (factor is None) != (kind == "default"):
        raise ConfigError(
            f"rope type on global layers is {kind!r} with factor {factor!r}; wanted 'linear' with a factor"
        )
    return (
        _positive("rope theta of local layers", local.get("rope_theta", 10_000.0)),
        _positive("rope theta of global layers", scaling.get("rope_theta", 1_000_000.0)),
        1.0 if factor is None else _positive("rope factor of global layers", factor),
    )


def _hf_layer_types(text: Mapping[str, Any], num_layers: int) -> tuple[LayerType, ...]:
    listed: Sequence[str] | None = text.get("layer_types")
    if listed is None:
        every = text.get("sliding_window_pattern", text.get("_sliding_window_pattern", 6))
        if not isinstance(every, int) or every < 1:
            raise ConfigError(f"sliding_window_pattern must be a positive integer, got {every!r}")
        return layer_pattern(num_layers, every)
    names: Mapping[str, LayerType] = {"full_attention": "global", "sliding_attention": "local"}
    if len(listed) != num_layers or set(listed) - set(names):
        raise ConfigError(
            f"layer_types must name full_attention or sliding_attention for {num_layers} layers, got {list(listed)}"
        )
    return tuple(names[name] for name in listed)
