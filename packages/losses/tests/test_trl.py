"""Against what TRL's own trainer computes from the same random numbers (tools/oracles/trl_policy.py, trl 1.16)."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coldforge.losses import PolicyLoss, advantages, aggregation_weights, policy_loss

FILE = Path(os.environ.get("COLDFORGE_TRL_POLICY", Path(__file__).parent / "data" / "trl_policy.npz"))
TRL = dict(np.load(FILE))
DATA = {name.removeprefix("data/"): array for name, array in TRL.items() if name.startswith("data/")}
CASES = json.loads(str(TRL["cases"]))

pytestmark = pytest.mark.usefixtures("float64")


def advantages_of(name):
    if name == "gdpo":
        return advantages.gdpo(DATA["rewards"], DATA["reward_weights"])
    return advantages.BY_NAME[name](np.tensordot(DATA["reward_weights"], DATA["rewards"], 1))


@pytest.mark.parametrize("name", CASES)
def test_advantages(name):
    found = advantages_of(CASES[name].get("advantages", "grpo")).reshape(-1)
    np.testing.assert_allclose(found, TRL[f"{name}/advantages"], atol=1e-11)


def test_rloo_advantages():
    np.testing.assert_allclose(advantages_of("rloo").reshape(-1), TRL["rloo"], atol=1e-11)


def weights_of(case):
    """Per token, and the denominator."""
    overlong = case.get("overlong")
    found = aggregation_weights(
        DATA["lengths"], case["kind"],
        length=int(DATA["longest"]) if case["kind"] == "constant" else None,
        trained=DATA["ended"] if overlong else None,
        counted=np.ones(len(DATA["lengths"]), bool) if overlong == "weights" else None,
    )  # fmt: skip
    exists = np.arange(int(DATA["longest"])) < DATA["lengths"][:, None]
    return np.where(exists, found.weights[:, None], 0), found.denominator


@pytest.mark.parametrize("name", CASES)
def test_loss_gradients_and_metrics(name):
    case = CASES[name]
    config = PolicyLoss(**case.get("policy", {}))
    weights, denominator = weights_of(case)
    per_sample = advantages_of(case.get("advantages", "grpo")).reshape(-1, 1)
    sampler = DATA[case.get("sampler", "sampler")] if config.needs_sampler else None

    def loss(new, entropy):
        terms = policy_loss(
            new,
            None if case.get("on_policy") else jnp.asarray(DATA["old"]),
            jnp.broadcast_to(per_sample, new.shape),
            jnp.asarray(weights),
            ref_logprobs=jnp.asarray(DATA["ref"]) if config.needs_reference else None,
            sampler_logprobs=None if sampler is None else jnp.asarray(sampler),
            entropy=entropy,
            config=config,
        )
        return terms.loss / denominator, terms

    inputs = jnp.asarray(DATA["new"]), jnp.asarray(DATA["entropy"])
    (value, terms), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(*inputs)
    assert value == pytest.approx(float(TRL[f"{name}/loss"]), abs=1e-11)
    np.testing.assert_allclose(gradients[0], TRL[f"{name}/gradient"], atol=1e-11)
    np.testing.assert_allclose(gradients[1], TRL[f"{name}/entropy_gradient"], atol=1e-11)
    for metric, expected in json.loads(str(TRL[f"{name}/metrics"])).items():
        ours = terms.maxima["gap"] if metric == "gap_max" else terms.means[metric].mean()
        assert ours == pytest.approx(expected, abs=1e-7), metric  # TRL averages bools in float32
