"""Loading takes little more memory than the weights: of a model that is mostly embedding, from every kind of file."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import gguf
import jax.numpy as jnp
import numpy as np
import pytest

from coldforge.modeling import load, safetensors_file, save_checkpoint
from coldforge.modeling.config import to_hf

pytestmark = [pytest.mark.whole, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

EMBEDDING = (262_144, 256)  # 268 MB in float32, of 270 MB


@pytest.fixture(scope="module")
def files(tmp_path_factory, small_config, tensors, write_gguf):
    """Kind → path of the same model."""
    root = tmp_path_factory.mktemp("files")
    config = dataclasses.replace(small_config, vocab_size=EMBEDDING[0])
    tensors = tensors | {"embed_tokens.weight": np.tile(tensors["embed_tokens.weight"], (2731, 1))[: EMBEDDING[0]]}
    for name, dtype in (("float32", np.float32), ("bfloat16", jnp.bfloat16)):
        (root / name).mkdir()
        (root / name / "config.json").write_text(json.dumps(to_hf(config, dtype=name)))
        specs = {f"model.{name}": (tensor.shape, np.dtype(dtype)) for name, tensor in tensors.items()}
        values = (tensor.astype(dtype) for tensor in tensors.values())
        safetensors_file.write(root / name / "model.safetensors", specs, values)
    vocabulary = {"gemma3.vocab_size": EMBEDDING[0]}
    write_gguf(root / "q8_0.gguf", tensors, gguf.GGMLQuantizationType.Q8_0, metadata=vocabulary)
    save_checkpoint(load(root / "float32"), root / "checkpoint")
    return root


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("float32", "float32"),
        ("q8_0.gguf", "bfloat16"),
        ("checkpoint", "float32"),
        pytest.param("bfloat16", "bfloat16", marks=pytest.mark.slow),
        pytest.param("bfloat16", "float32", marks=pytest.mark.slow),
        pytest.param("float32", "bfloat16", marks=pytest.mark.slow),
        pytest.param("q8_0.gguf", "float32", marks=pytest.mark.slow),
    ],
)
def test_peak(files, name, dtype):
    script = Path(__file__).parent / "peak_of_load.py"
    run = subprocess.run([sys.executable, script, files / name, dtype], capture_output=True, text=True, check=True)
    result = json.loads(run.stdout)
    assert result["weights"] > np.prod(EMBEDDING) * jnp.dtype(dtype).itemsize
    assert result["peak"] < 1.3 * result["weights"]
