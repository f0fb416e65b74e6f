"""Loaded checkpoints compute what transformers computes: hidden states, logits, losses, gradients, with and without
padding.

Every directory under data/ with an oracle.npz takes part. Those with a second config, in the style of the hub's, must
give the same `Gemma3Config` with both; the arithmetic is then checked once.
"""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from coldforge.modeling import from_hf, load
from coldforge.modeling.hf import canonical
from coldforge.modeling.layout import parameters

pytestmark = pytest.mark.whole

DATA = Path(__file__).parents[1] / "data"
CASES = sorted(path.parent for path in DATA.glob("*/oracle.npz"))


def cases(key: str) -> pytest.MarkDecorator:
    """Parametrises `case` over the checkpoints whose oracle has `key`."""
    chosen = [directory for directory in CASES if key in np.load(directory / "oracle.npz")]
    return pytest.mark.parametrize("case", chosen, ids=lambda d: d.name, indirect=True, scope="module")


@pytest.fixture(scope="module")
def case(request):
    """(model in float32, oracle)."""
    return load(request.param, dtype=jnp.float32), np.load(request.param / "oracle.npz")


def stored_positions(oracle):
    return oracle["at"] if "at" in oracle else slice(None)


def test_there_are_checkpoints_of_every_kind():
    assert len(CASES) >= 7
    assert [d.name for d in CASES if (d / "model.safetensors.index.json").exists()] == ["like_27b"]


@pytest.mark.parametrize(
    "directory", [d for d in CASES if (d / "config_hub_style.json").exists()], ids=lambda d: d.name
)
def test_both_styles_of_config_describe_the_same_model(directory):
    ours, hub = (
        from_hf(json.loads((directory / name).read_text())) for name in ("config.json", "config_hub_style.json")
    )
    assert dataclasses.replace(hub, max_seq_len=ours.max_seq_len) == ours


@cases("logits")
def test_hidden_states_and_logits(case, run):
    model, oracle = case
    hidden = run(model, jnp.asarray(oracle["ids"]))[:, stored_positions(oracle)]
    if "hidden_states" in oracle:
        np.testing.assert_allclose(hidden, oracle["hidden_states"][-1], atol=1e-4)
    np.testing.assert_allclose(model.logits(hidden), oracle["logits"], atol=1e-4)


@cases("leftpad_ids")
def test_padded_rows(case, run):
    model, oracle = case
    for side in ("left", "right"):
        if f"{side}pad_ids" in oracle:  # one checkpoint has the left side only
            check_padded(model, oracle, side, run)


def check_padded(model, oracle, side, run):
    ids, mask = oracle[f"{side}pad_ids"], oracle[f"{side}pad_mask"]
    at = stored_positions(oracle)
    logits = model.logits(run(model, jnp.asarray(ids), segment_ids=jnp.asarray(mask, jnp.int32))[:, at])
    real = mask[:, at].astype(bool)
    assert real.any()
    assert not real.all()
    np.testing.assert_allclose(np.asarray(logits)[real], oracle[f"{side}pad_logits"][real], atol=1e-4)


@cases("ce")
def test_loss_and_gradients(case):
    model, oracle = case
    ids = jnp.asarray(oracle["ids"])

    @nnx.jit
    def loss_and_grads(model):
        def loss(model):
            log_probs = jax.nn.log_softmax(model.logits(model(ids[:, :-1])))
            taken = jnp.take_along_axis(log_probs, ids[:, 1:, None], -1)[..., 0]
            return -taken.mean(), taken

        return nnx.value_and_grad(loss, has_aux=True)(model)

    (loss, taken), grads = loss_and_grads(model)
    np.testing.assert_allclose(loss, oracle["ce"], rtol=1e-5)
    if "next_logprobs" in oracle:
        np.testing.assert_allclose(taken, oracle["next_logprobs"], atol=1e-4)

    found = {}
    flat = dict(nnx.to_flat_state(grads))
    for path, parts in parameters(model.config).items():
        gradient = np.asarray(flat[path].get_value())
        found |= {part.name: part.take(gradient) for part in parts}
    wanted = {
        canonical(str(name)): norm for name, norm in zip(oracle["grad_norm_names"], oracle["grad_norms"], strict=True)
    }
    assert found.keys() == wanted.keys()
    for name, norm in wanted.items():
        np.testing.assert_allclose(np.linalg.norm(found[name]), norm, rtol=1e-3, err_msg=name)
    np.testing.assert_allclose(found["layers.0.self_attn.q_proj.weight"], oracle["grad_q0"], atol=1e-5)
    np.testing.assert_allclose(found["layers.0.self_attn.q_norm.weight"], oracle["grad_qnorm0"], atol=1e-5)
