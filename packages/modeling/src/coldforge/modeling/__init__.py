"""Gemma3 in Flax nnx: the model, its cache, LoRA, shardings, and weights in and out."""

from coldforge.modeling.cache import KVCache, cache_bytes, init_cache
from coldforge.modeling.checkpoint import save_checkpoint
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
from coldforge.modeling.identity import fingerprint
from coldforge.modeling.init import abstract_model, init_model, model_mesh
from coldforge.modeling.load import load
from coldforge.modeling.lora import LoraConfig, add_lora, lora_state, quantized, set_lora
from coldforge.modeling.model import Gemma3
from coldforge.modeling.peft import load_peft, peft_config, save_peft, with_peft
from coldforge.modeling.save import save_hf
from coldforge.modeling.sharding import make_mesh, named_sharding, partition_spec
from coldforge.modeling.training_view import Trainable, trainable, with_params
from coldforge.modeling.weights import WeightsError

__all__ = [
    "ConfigError",
    "Gemma3",
    "Gemma3Config",
    "KVCache",
    "LoraConfig",
    "Trainable",
    "WeightsError",
    "abstract_model",
    "add_lora",
    "cache_bytes",
    "fingerprint",
    "from_gguf",
    "from_hf",
    "gemma3_1b",
    "gemma3_4b",
    "gemma3_12b",
    "gemma3_27b",
    "gemma3_270m",
    "init_cache",
    "init_model",
    "load",
    "load_peft",
    "lora_state",
    "make_mesh",
    "model_mesh",
    "named_sharding",
    "partition_spec",
    "peft_config",
    "quantized",
    "save_checkpoint",
    "save_hf",
    "save_peft",
    "set_lora",
    "trainable",
    "with_params",
    "with_peft",
]
