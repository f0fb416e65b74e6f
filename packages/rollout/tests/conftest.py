"""Eight simulated devices, and one tiny model for all tests."""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import pytest

from coldforge.modeling import Gemma3, Gemma3Config, init_model

CONFIG = Gemma3Config(
    vocab_size=600,  # not a multiple of the sampler's block of 512
    embed_dim=32,
    mlp_dim=64,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    layer_types=("local", "local", "global"),
    sliding_window=8,
    max_seq_len=256,
    query_scale=0.25,
)


@pytest.fixture(scope="session")
def model() -> Gemma3:
    return init_model(CONFIG, seed=3)
