"""What TRL makes of rewards and log-probabilities: advantages, losses, gradients, metrics of GRPOTrainer's own code.

Coldforge's tests compare with the file that this writes, so that neither TRL nor torch is needed to run them. Run it to
make the file anew, or another draw of random data, in an environment of its own (trl 1.16, torch 2.13 CPU):

    uv venv --python 3.11 /tmp/trlenv && uv pip install --python /tmp/trlenv/bin/python torch==2.13.0+cpu trl==1.16.0
    /tmp/trlenv/bin/python tools/oracles/trl_policy.py packages/losses/tests/data/trl_policy.npz
    /tmp/trlenv/bin/python tools/oracles/trl_policy.py /tmp/other.npz --seed 7 --groups 16 --samples 8 --longest 40
    COLDFORGE_TRL_POLICY=/tmp/other.npz pytest packages/losses/tests/test_trl.py

TRL's formulas are inside methods of GRPOTrainer (`_generate_and_score_completions`: advantages and the correction for
the sampler; `_compute_loss`) and RLOOTrainer. Both run here as they are, in float64, on an object that has no model:
sampling, scoring and rewards are replaced by random numbers. Each case of `CASES` says the same in TRL's settings and
in ours; ours are only written down here, and used by the test.

Left out of what TRL has: SAPO, VESPO, LUSPO, masks by entropy, adaptive entropy (not in Coldforge).
"""

import argparse
import contextlib
import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import trl
from trl.trainer import grpo_trainer, rloo_trainer

EOS, PAD, TOKEN = 1, 0, 5  # token ids; the only one that matters is the last of a completion

Case = tuple[str, dict[str, Any], dict[str, Any]]  # name, TRL's settings, ours
OVERLONG = {"mask_truncated_completions": True}


def correction(mode: str) -> dict[str, Any]:
    """TRL's settings of one way to correct for the sampler."""
    return {
        "use_vllm": True, "vllm_importance_sampling_correction": True, "vllm_importance_sampling_mode": mode,
        "vllm_importance_sampling_clip_max": 1.4, "vllm_importance_sampling_clip_min": 0.7,
    }  # fmt: skip


def corrected(kind: str, level: str) -> dict[str, Any]:
    """The same in ours."""
    return {"correction": kind, "correction_level": level, "correction_max": 1.4, "correction_min": 0.7}


CASES: list[Case] = [
    ("grpo", {"loss_type": "grpo"}, {"kind": "sequence_mean"}),
    ("grpo on-policy", {"loss_type": "grpo", "on_policy": True}, {"kind": "sequence_mean", "on_policy": True}),
    ("grpo k3", {"loss_type": "grpo", "beta": 0.04}, {"kind": "sequence_mean", "policy": {"beta": 0.04}}),
    (
        "grpo unbiased k3",
        {"loss_type": "grpo", "beta": 0.04, "use_bias_correction_kl": True},
        {"kind": "sequence_mean", "policy": {"beta": 0.04, "kl": "unbiased_k3"}},
    ),
    (
        "grpo two-sided clip",
        {"loss_type": "grpo", "delta": 1.3},
        {"kind": "sequence_mean", "policy": {"dual_clip": 1.3}},
    ),
    (
        "grpo r1",
        {"loss_type": "grpo", "epsilon_low": 10.0, "epsilon_high": 10.0, "beta": 0.001},
        {"kind": "sequence_mean", "policy": {"clip_low": 10.0, "clip_high": 10.0, "beta": 0.001}},
    ),
    ("grpo overlong", {"loss_type": "grpo", **OVERLONG}, {"kind": "sequence_mean", "overlong": "weights"}),
    ("bnpo", {"loss_type": "bnpo"}, {"kind": "token"}),
    (
        "bnpo entropy",
        {"loss_type": "bnpo", "entropy_coef": 0.03, "_entropy_bonus_enabled": True},
        {"kind": "token", "policy": {"entropy_bonus": 0.03}},
    ),
    ("dapo", {"loss_type": "dapo", "epsilon_high": 0.28}, {"kind": "token", "policy": {"clip_high": 0.28}}),
    (
        "dapo overlong",
        {"loss_type": "dapo", "epsilon_high": 0.28, **OVERLONG},
        {"kind": "token", "policy": {"clip_high": 0.28}, "overlong": "both"},
    ),
    (
        "dr_grpo",
        {"loss_type": "dr_grpo", "scale_rewards": "none"},
        {"kind": "constant", "advantages": "dr_grpo"},
    ),
    (
        "dr_grpo overlong k3",
        {"loss_type": "dr_grpo", "scale_rewards": "none", "beta": 0.1, **OVERLONG},
        {"kind": "constant", "advantages": "dr_grpo", "policy": {"beta": 0.1}, "overlong": "weights"},
    ),
    (
        "cispo",
        {"loss_type": "cispo", "epsilon_high": 1.2, "scale_rewards": "batch"},
        {"kind": "token", "advantages": "batch_scaled", "policy": {"objective": "cispo", "cispo_max": 1.2}},
    ),
    (
        "gspo",
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon_low": 0.03, "epsilon_high": 0.04},
        {"kind": "sequence_mean", "policy": {"ratio": "sequence", "clip_low": 0.03, "clip_high": 0.04}},
    ),
    (
        "gspo k3",
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "beta": 0.04},
        {"kind": "sequence_mean", "policy": {"ratio": "sequence", "beta": 0.04}},
    ),
    (
        "off-policy mask",
        {"loss_type": "grpo", "off_policy_mask_threshold": 0.05},
        {"kind": "sequence_mean", "policy": {"off_policy_limit": 0.05}, "sampler": "old"},
    ),
    (
        "gdpo",
        {"loss_type": "grpo", "multi_objective_aggregation": "normalize_then_sum"},
        {"kind": "sequence_mean", "advantages": "gdpo"},
    ),
    *(
        (
            f"dapo {level}_{kind}",
            {"loss_type": "dapo", "beta": 0.04, **correction(f"{level}_{kind}")},
            {"kind": "token", "policy": {"beta": 0.04, **corrected(kind, level)}},
        )
        for level in ("token", "sequence")
        for kind in ("truncate", "mask")
    ),
    (
        "gspo sequence_truncate",
        {"loss_type": "grpo", "importance_sampling_level": "sequence", **correction("sequence_truncate")},
        {"kind": "sequence_mean", "policy": {"ratio": "sequence", **corrected("truncate", "sequence")}},
    ),
]

METRICS = {
    "clip_ratio/low_mean": "clip_low",
    "clip_ratio/high_mean": "clip_high",
    "kl": "kl",
    "entropy": "entropy",
    "sampling/sampling_logp_difference/mean": "gap",
    "sampling/sampling_logp_difference/max": "gap_max",
}
"""TRL's names of metrics, and ours; those of a sequence-level ratio are means over other things."""


class Accelerator:
    """One process that gathers from itself."""

    device = torch.device("cpu")
    num_processes, process_index, sync_gradients = 1, 0, True

    def gather(self, x: Any) -> Any:
        return x

    gather_for_metrics = gather

    def reduce(self, x: Any, reduction: str = "sum") -> Any:
        return x


class Stub:
    """What replaces the model in a trainer: every number it would compute is one of `data`."""

    data: dict[str, Any]

    def setup(self, data: dict[str, Any], settings: dict[str, Any]) -> None:
        """Attributes as the trainer's constructor would set them, `settings` on top."""
        samples = len(data["lengths"])
        config: dict[str, Any] = {
            "loss_type": "grpo", "beta": 0.0, "epsilon_low": 0.2, "epsilon_high": 0.2, "scale_rewards": "group",
            "importance_sampling_level": "token", "off_policy_mask_threshold": None, "top_entropy_quantile": 1.0,
            "multi_objective_aggregation": "sum_then_normalize", "mask_truncated_completions": False,
            "use_vllm": False, "vllm_importance_sampling_correction": False, "_entropy_bonus_enabled": False,
            "use_adaptive_entropy": False, "entropy_coef": 0.0, "aux_loss_enabled": False,
            "normalize_advantages": False,
            "num_generations": data["group"], "num_generations_eval": data["group"], "pad_to_multiple_of": None,
            "max_completion_length": data["longest"], "current_gradient_accumulation_steps": 1,
            "environment_factories": None, "environments": None, "tools": [], "_is_vlm": False, "log_multimodal": False,
            "reward_func_names": [f"reward {k}" for k in range(len(data["rewards"]))],
            "reward_funcs": [None] * len(data["rewards"]), "reward_weights": torch.tensor(data["reward_weights"]),
            "eos_token_ids": [EOS], "reward_clip_range": None, "num_iterations": 2,
            "_tokenizer": SimpleNamespace(pad_token_id=PAD),
            "chat_template_kwargs": {}, "accelerator": Accelerator(), "ref_model": "reference",
            "model": SimpleNamespace(training=True, is_gradient_checkpointing=False),
            "_metrics": {"train": defaultdict(list)}, "_pending_extra_logs": {}, "_pending_metrics": {},
            "_logs": {key: defaultdict(list) if key in ("rewards", "extra") else []
                      for key in ("prompt", "completion", "rewards", "advantages", "extra")},
        }  # fmt: skip
        arguments = {
            "delta": None, "use_bias_correction_kl": False, "steps_per_generation": 1, "gradient_accumulation_steps": 1,
            "per_device_train_batch_size": samples, "gradient_checkpointing_kwargs": None,
        }  # fmt: skip
        if settings.get("on_policy"):
            config["num_iterations"] = 1
        for key, value in settings.items():
            (arguments if key in arguments else config)[key] = value
        self.data = data
        self.args = SimpleNamespace(**arguments)
        for key, value in config.items():
            setattr(self, key, value)

    def _generate(self, prompts: Any) -> Any:
        lengths, ended = self.data["lengths"], self.data["ended"]
        ids = [[TOKEN] * (n - 1) + [EOS if e else TOKEN] for n, e in zip(lengths, ended, strict=True)]
        rows = self.data["sampler"]
        sampled = [row[:n].tolist() for row, n in zip(rows, lengths, strict=True)] if self.use_vllm else None
        return [[TOKEN]] * len(ids), ids, None, [""] * len(ids), sampled, {}, None, None

    def _calculate_rewards(self, *_: Any) -> torch.Tensor:
        return torch.tensor(self.data["rewards"].reshape(len(self.data["rewards"]), -1).T)

    def _get_per_token_logps_and_entropies(self, model: Any, *_: Any, **__: Any) -> Any:
        if model is self.ref_model:
            return torch.tensor(self.data["ref"]), None, None
        if isinstance(model, torch.Tensor):  # `_compute_loss` is called with the policy's log-probabilities
            return model, self.entropies, None
        return torch.tensor(self.data["old"]), None, None


class Grpo(Stub, grpo_trainer.GRPOTrainer):
    """GRPOTrainer's formulas without its constructor."""

    def __init__(self, data: dict[str, Any], settings: dict[str, Any]):
        self.setup(data, settings)


class Rloo(Stub, rloo_trainer.RLOOTrainer):
    """RLOOTrainer's formulas without its constructor."""

    def __init__(self, data: dict[str, Any], settings: dict[str, Any]):
        self.setup(data, settings)

    def _generate(self, prompts: Any) -> Any:
        prompt_ids, completion_ids, _, completions, *_ = super()._generate(prompts)
        return prompt_ids, completion_ids, completions


def run(data: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Advantages, loss, its gradients and metrics of one case."""
    trainer = Grpo(data, settings)
    inputs = trainer._generate_and_score_completions([{"prompt": ""}] * len(data["lengths"]))
    policy = torch.tensor(data["new"], requires_grad=True)
    trainer.entropies = torch.tensor(data["entropy"], requires_grad=True)
    loss = trainer._compute_loss(policy, inputs)
    loss.backward()
    found = {METRICS[key]: values[-1] for key, values in trainer._metrics["train"].items() if key in METRICS}
    if settings.get("importance_sampling_level") == "sequence":
        found = {key: value for key, value in found.items() if not key.startswith("clip")}
    entropy_gradient = trainer.entropies.grad
    return {
        "advantages": inputs["advantages"].numpy(),
        "loss": loss.item(),
        "gradient": policy.grad.numpy(),
        "entropy_gradient": np.zeros(policy.shape) if entropy_gradient is None else entropy_gradient.numpy(),
        "metrics": json.dumps(found),
    }


def rloo_advantages(data: dict[str, Any]) -> np.ndarray:
    """What RLOOTrainer makes of the rewards."""
    trainer = Rloo(data, {})
    return trainer._generate_and_score_completions([{"prompt": ""}] * len(data["lengths"]))["advantages"].numpy()


def draw(seed: int, groups: int, samples: int, longest: int) -> dict[str, Any]:
    """Random rewards and log-probabilities, completions of different lengths, one group without variance."""
    rng = np.random.default_rng(seed)
    shape = (groups * samples, longest)
    lengths = rng.integers(1, longest + 1, shape[0])
    lengths[:2] = 1, longest
    exists = np.arange(longest) < lengths[:, None]
    rewards = np.stack([rng.integers(0, 2, (groups, samples)), rng.normal(size=(groups, samples))]).astype(float)
    rewards[:, 1] = 0.3
    old = -rng.exponential(size=shape)
    numbers = {
        "old": old, "new": old + 0.3 * rng.normal(size=shape), "ref": old + 0.5 * rng.normal(size=shape),
        "sampler": old + 0.25 * rng.normal(size=shape), "entropy": rng.exponential(size=shape),
    }  # fmt: skip
    return {
        "lengths": lengths, "ended": rng.random(shape[0]) < 0.7, "rewards": rewards, "group": samples,
        "reward_weights": [1.0, 0.5], "longest": longest,
        **{name: np.where(exists, array, 0) for name, array in numbers.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--longest", type=int, default=9)
    options = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    # Nothing here has checkpointed activations.
    grpo_trainer.disable_gradient_checkpointing = lambda *_: contextlib.nullcontext()
    rloo_trainer.disable_gradient_checkpointing = lambda *_: contextlib.nullcontext()
    data = draw(options.seed, options.groups, options.samples, options.longest)
    arrays: dict[str, Any] = {f"data/{name}": value for name, value in data.items()}
    arrays["rloo"] = rloo_advantages(data)
    for name, settings, _ in CASES:
        arrays |= {f"{name}/{key}": value for key, value in run(data, settings).items()}
        print(f"{name:32} loss {arrays[f'{name}/loss']:+.6f}  {arrays[f'{name}/metrics']}")
    arrays["cases"] = json.dumps({name: ours for name, _, ours in CASES})
    arrays["versions"] = json.dumps({"trl": trl.__version__, "torch": torch.__version__})
    options.path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(options.path, **arrays)
    print(f"{options.path}: {options.path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
