"""Gemma3 in Flax nnx."""

from coldforge.modeling.cache import KVCache, cache_bytes, init_cache
from coldforge.modeling.config import (
    ConfigError,
    Gemma3Config,
    from_gguf,
    from_hf,
    gemma3_1b,
    gemma3_4b,
    gemma3_12b,
    gemma3_27b,
    gemma3_270m,
)
from coldforge.modeling.init import abstract_model, init_model, model_mesh
from coldforge.modeling.load import load
from coldforge.modeling.lora import LoraConfig, add_lora, lora_state, set_lora
from coldforge.modeling.model import Gemma3
from coldforge.modeling.sharding import make_mesh, named_sharding, partition_spec
from coldforge.modeling.weights import WeightsError
