"""All that can be set: one frozen dataclass per part of a run, put together as `GrpoRunConfig`; a preset fills it in.

`Options` is the whole command line. A run directory belongs to one configuration; what does not decide the samples and
updates (`MAY_DIFFER`: mesh, memory, intervals) may change when the run goes on. Nothing here imports JAX.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from coldforge.stages.options import (
    AdamWOptions,
    LoraOptions,
    MeshConfig,
    ModelConfig,
    QuestionOptions,
    SamplerOptions,
    SavingOptions,
    StageOptions,
)

# Fields that do not decide samples and updates (up to rounding): another session may have others.
MAY_DIFFER = (
    "mesh.*", "gate.*", "output.*", "watchdog.*", "model.remat", "model.layers", "rollout.slots", "rollout.memory_gib",
    "rollout.prefill_chunk", "rows.*", "rewards.timeout", "rewards.processes", "loop.eval_every", "loop.checkpoint_*",
    "loop.keep_last", "loop.texts*", "loop.on_nan",
    "questions.sources",  # where they lie; the run's identity has their content
)  # fmt: skip

Fallback = Literal["open tag", "boxed", "hashes", "phrase", "whole", "last number"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RolloutOptions(SamplerOptions):
    """How is sampled. Caches or weights that are coarser than the model's: correct for it (policy.correction)."""

    questions: int = 32
    """Questions of a rollout."""
    group_size: int = 16
    """Samples of a question, G."""
    max_prompt_tokens: int = 512
    """Of a question with its instruction and turn markers."""
    max_new_tokens: int = 1024
    """A sample is cut off after so many tokens."""
    temperature: float = 1.0
    """Of sampling, and of the policy that is trained. No top-k or top-p: log-probabilities are of all tokens."""
    prefill_chunk: int = 2048
    """Tokens of one prefill call."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardOptions:
    """What a sample is worth: a weighted sum of rules. A weight of 0 leaves a rule out."""

    accuracy: float = 1.0
    """A right answer (DeepSeek-R1: the same weight as format)."""
    format: float = 1.0
    """A well-formed reply."""
    language: float = 0.0
    """Share of the reasoning's words that are of the target language (DeepSeek-R1, stages 2 and 4)."""
    repetition: float = 0.0
    """From 0 down to -1 for replies that go round in circles."""
    overlong: float = 0.0
    """From 0 down to -1 in the last overlong-cache tokens before the limit (DAPO)."""
    overlong_cache: int | None = None
    """Tokens that are dear; None: a fifth of rollout.max-new-tokens, as in DAPO."""
    format_kind: Literal["strict", "parts"] = "strict"
    """All or nothing, or by parts, for models that have yet to find the form."""
    gate: bool = False
    """A right answer counts in a well-formed reply only."""
    target: str = "en"
    """The language."""
    fallbacks: tuple[Fallback, ...] = ()
    """Where to look for an answer that is not between its tags, in training. Held-out replies are always read so."""
    timeout: float = 5.0
    """Seconds of processor time that one check by computer algebra, or by a task's scorer, may take."""
    processes: int = 2
    """Processes for such checks."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlgorithmOptions:
    """What is made of rewards. `coldforge.grpo.GrpoConfig` says it at length."""

    advantage: Literal["grpo", "dr_grpo", "maxrl", "rloo", "batch_scaled", "gdpo"] = "grpo"
    """How rewards of a group become advantages."""
    aggregation: Literal["token", "sequence_mean", "sequence_sum", "constant"] = "sequence_mean"
    """The mean over tokens and samples (GRPO: sequence_mean, DAPO: token, Dr. GRPO: constant)."""
    minibatches: int = 1
    """Updates into which a rollout is split (DeepSeek-R1: 16)."""
    inner_epochs: int = 1
    """Passes over a rollout."""
    old_policy: Literal["auto", "on_policy", "sampler", "trainer"] = "auto"
    """Where the log-probabilities of the policy that sampled come from."""
    overlong_filter: bool = False
    """Samples that were cut off weigh nothing (DAPO)."""
    drop_equal_groups: bool = False
    """Groups of equal rewards leave the denominator."""
    resample: float = 0.0
    """Dynamic sampling: replace groups of equal rewards, up to so many times the questions in all; 0: not at all."""
    refresh_reference: int = 0
    """The reference becomes the policy every so many steps (DeepSeek-R1: 400); 0: never."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyOptions:
    """The loss. `coldforge.losses.PolicyLoss` has formulas and sources."""

    objective: Literal["clip", "cispo"] = "clip"
    """PPO's clipped surrogate, or CISPO's clipped weight."""
    ratio: Literal["token", "sequence", "sequence_token"] = "token"
    """Per token, or per sequence (GSPO)."""
    clip_low: float = 0.2
    """ε below. At 1 or more it never acts (DeepSeek-R1: 10)."""
    clip_high: float = 0.2
    """ε above (DAPO: 0.28, DeepSeek-R1: 10)."""
    dual_clip: float | None = None
    """For negative advantages the ratio counts as at most this; with DeepSeek-R1's ε, set it."""
    cispo_max: float = 5.0
    """The largest weight of a token in CISPO."""
    kl: Literal["k1", "k2", "k3", "unbiased_k3"] = "k3"
    """The KL estimator in the loss (GRPO: k3)."""
    beta: float = 0.0
    """Coefficient of the KL to the reference; 0: no reference (DeepSeek-R1: 0.001)."""
    entropy_bonus: float = 0.0
    """Coefficient of the entropy."""
    correction: Literal["none", "truncate", "mask"] = "none"
    """Of a sampler that is not quite the trainer: truncated or masked importance sampling."""
    correction_level: Literal["token", "sequence", "geometric"] = "token"
    """Of a token, of a sample's product, of its mean."""
    correction_max: float = 2.0
    """The upper bound of the correction."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowOptions:
    """How samples are packed for an update; this does not change what it computes."""

    seq_len: int | None = None
    """Tokens of a row; None: the longest prompt and sample, up to a multiple of 128."""
    rows: int = 2
    """Rows of a micro-batch, all devices together."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GrpoAdamW(AdamWOptions):
    """AdamW and its schedule. `coldforge.training.OptimizerConfig` has the formulas."""

    learning_rate: float = 3e-5
    """Ten times DeepSeek-R1's 3e-6, which is for all parameters: an adapter wants about ten times as much."""
    warmup: float = 0.05
    """Share of the steps in which the rate rises."""
    final_fraction: float = 1.0
    """Where the cosine ends, as a fraction of the rate: 1 keeps it constant."""
    weight_decay: float = 0.0
    """None: an adapter of a trained model is not to shrink."""
    max_grad_norm: float | None = 1.0
    """Larger gradients are scaled down to this norm."""
    b2: float = 0.95
    """Decay of the second moment: RL's gradients change faster than 0.999 remembers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GrpoLoop:
    """How long, and what happens on the way."""

    steps: int = 100
    """Updates of the policy."""
    seed: int = 0
    """Of samples, minibatches and fresh adapters."""
    eval_every: int = 20
    """Steps between held-out questions; 0: before and after only."""
    eval_temperature: float = 0.0
    """0: the most likely token each time."""
    checkpoint_every: int = 10
    """Steps between checkpoints."""
    checkpoint_minutes: float = 15.0
    """And minutes."""
    keep_last: int = 2
    """Newest checkpoints to keep."""
    texts: int = 4
    """Samples of a rollout to log as text: the best, the worst, and others."""
    texts_every: int = 1
    """Rollouts between these."""
    on_nan: Literal["skip", "stop"] = "skip"
    """After an update that is not finite, which is never applied and whose batch is saved: go on, or stop."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WatchdogOptions:
    """When the watchdog speaks, and whether it stops the run. `coldforge.grpo.RlLimits` has all limits."""

    stop: bool = True
    """End the run where going on is of no use: no signal at all, collapse, mismatch."""
    gap: float = 0.1
    """Nats a token by which sampler and trainer may differ."""
    kl: float = 1.0
    """Nats a token to the reference."""
    rollouts: int = 3
    """So many rollouts in a row must show a symptom."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GrpoGate:
    """What the policy has to show on held-out questions, before another stage may start from it."""

    format: float = 0.95
    """Least share of well-formed replies."""
    ended: float = 0.95
    """Least share of ended turns."""
    truncated: float = 0.05
    """Largest share of replies cut off at the limit."""
    accuracy_drop: float = 0.0
    """How much accuracy may be lost against the start."""
    min_prompts: int = 73
    """The gate fails on fewer: 73 is the least number that can show 95 %."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GrpoOutput(SavingOptions):
    """What the run leaves besides adapter, manifest and report."""

    examples: int = 12
    """Replies that the report shows."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GrpoRunConfig:
    """One run of GRPO."""

    model: ModelConfig
    lora: LoraOptions = LoraOptions()
    questions: QuestionOptions = QuestionOptions()
    rollout: RolloutOptions = RolloutOptions()
    rewards: RewardOptions = RewardOptions()
    algorithm: AlgorithmOptions = AlgorithmOptions()
    policy: PolicyOptions = PolicyOptions()
    rows: RowOptions = RowOptions()
    optimizer: GrpoAdamW = GrpoAdamW()
    mesh: MeshConfig = MeshConfig()
    loop: GrpoLoop = GrpoLoop()
    watchdog: WatchdogOptions = WatchdogOptions()
    gate: GrpoGate = GrpoGate()
    output: GrpoOutput = GrpoOutput()

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt and sample."""
        return self.rollout.max_prompt_tokens + self.rollout.max_new_tokens

    @property
    def seq_len(self) -> int:
        """Tokens of an update's rows."""
        return self.rows.seq_len or -(-self.longest // 128) * 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(StageOptions):
    """GRPO: samples answers of a cold-started Gemma3, rewards them by rules, and makes the better ones more likely."""

    start: Annotated[Path, tyro.conf.arg(name="from", metavar="DIR")]
    """The run to start from, which coldforge-sft (or this program) wrote and whose gate is passed."""
    force: bool = False
    """Start although its gate is failed."""
    config: Annotated[GrpoRunConfig, tyro.conf.arg(name="")]
