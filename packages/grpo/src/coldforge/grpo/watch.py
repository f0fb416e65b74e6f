"""What goes wrong in reinforcement learning without an error: rules for `coldforge.training.Watchdog`.

    watchdog = Watchdog(config, rules=rl_rules(RlLimits(stop=True), config))    # config: a WatchdogConfig

No signal: groups all equal, rewards all zero, gradients of zero. Collapse: the reward falls, lengths run to the cap,
entropy leaves its band, the KL explodes, repetition rises. Mismatch: trainer and sampler disagree about the same
weights. Each says what it saw and what to change. Metrics of a rollout come with its first update; a rule that lacks
its metrics says nothing.
"""

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields

from coldforge.training import Finding, WatchdogConfig
from coldforge.training.watchdog import Rule
from coldforge.training.watchdog import steps as common

Metrics = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class RlLimits:
    """Thresholds of the rules; the defaults keep silent on healthy runs.

    Attributes:
      rollouts: how many in a row must show a symptom.
      window: rollouts of a median.
      equal_groups: share of groups without signal that is too many.
      reward_fall: the median reward has fallen by this share of the rewards' spread seen so far.
      truncated: share of samples cut off.
      entropy_low, entropy_high: nats per token outside of which the policy is frozen, or noise.
      kl: nats per token to the reference.
      first_kl: the same at the first update, where it is 0 but for rounding.
      repetition: share of repeated runs of tokens.
      gap: mean |log-prob| gap of trainer and sampler, nats per token. 0.02 is what bfloat16 gives.
      gap_kl: the KL that the gap implies.
      zero_gradients: updates in a row without a gradient.
      stop: whether a symptom that makes going on useless ends the run (no signal, collapse, mismatch).
    """

    rollouts: int = 3
    window: int = 5
    equal_groups: float = 0.9
    reward_fall: float = 0.5
    truncated: float = 0.5
    entropy_low: float = 0.005
    entropy_high: float = 5.0
    kl: float = 1.0
    first_kl: float = 0.01
    repetition: float = 0.5
    gap: float = 0.1
    gap_kl: float = 0.02
    zero_gradients: int = 3
    stop: bool = False

    def __post_init__(self) -> None:
        for option in fields(self):
            if option.name != "stop" and not getattr(self, option.name) > 0:
                raise ValueError(f"{option.name} must be positive, got {getattr(self, option.name)}")


@dataclass
class RlRule(Rule):
    """The base: limits, and how many rollouts in a row have shown the symptom."""

    limits: RlLimits
    row: int = 0

    def lasting(self, symptom: bool) -> bool:
        """Whether the symptom has now been there for long enough."""
        self.row = self.row + 1 if symptom else 0
        return self.row >= self.limits.rollouts


@dataclass
class NoSignal(RlRule):
    """Groups whose samples are all worth the same teach nothing."""

    def observe(self, step: int, m: Metrics) -> Iterator[Finding]:
        if "rollout/zero_variance" not in m:
            return
        share = m["rollout/zero_variance"]
        if not self.lasting(share >= self.limits.equal_groups):
            return
        right = m.get("rollout/correct")
        spread = m.get("reward/total_std", 0.0)
        saw = f"{share:.0%} of the groups have equal rewards, in {self.row} rollouts in a row"
        if right is not None and right > 0.5:
            cause, advice = "the questions are too easy by now", "ask harder questions, or end the run"
        elif m.get("rollout/format", 1.0) < 0.5:
            cause = "few samples have the form, so their answers are not found"
            advice = "repeat the cold start, or begin with the format reward by parts (rewards.format_kind parts)"
        else:
            cause = "the questions are too hard, or the grader finds no answer in any sample"
            advice = "read samples.jsonl; ask easier questions, raise group_size, or turn on resample"
        yield Finding("no_signal", step, saw, cause, advice, fatal=self.limits.stop and share >= 1.0 and spread == 0.0)


@dataclass
class NoReward(RlRule):
    """Rewards of exactly zero for everybody: the grader is more likely broken than the model."""

    def observe(self, step: int, m: Metrics) -> Iterator[Finding]:
        if "reward/total" not in m:
            return
        if self.lasting(m["reward/total"] == 0 and m.get("reward/total_std") == 0):
            yield Finding(
                "no_reward", step, f"every reward of {self.row} rollouts in a row is 0",
                "form and grader do not fit together, or the limit on new tokens cuts every answer off",
                "read samples.jsonl: is the right answer there, and not found? raise max_new_tokens if it is cut off",
                fatal=self.limits.stop,
            )  # fmt: skip


@dataclass
class NoGradient(RlRule):
    """Updates that were applied and changed nothing."""

    def observe(self, step: int, m: Metrics) -> Iterator[Finding]:
        if "train/grad_norm" not in m:
            return
        self.row = self.row + 1 if m["train/grad_norm"] == 0 else 0
        if self.row >= self.limits.zero_gradients:
            yield Finding(
                "no_gradient", step, f"the gradient of {self.row} updates in a row is 0",
                "all groups of these updates have equal rewards, or every sample is masked (overlong_filter)",
                "turn on resample, or ask other questions; look at rollout/zero_variance and rollout/truncated",
                fatal=self.limits.stop,
            )  # fmt: skip


@dataclass
class RewardFalls(RlRule):
    """The median reward is far below the best median so far."""

    rewards: list[float] = field(default_factory=list)
    best: float | None = None
    lowest: float | None = None

    def observe(self, step: int, m: Metrics) -> Iterator[Finding]:
        if "reward/total" not in m:
            return
        self.rewards = [*self.rewards, m["reward/total"]][-self.limits.window :]
        self.lowest = m["reward/total"] if self.lowest is None else min(self.lowest, m["reward/total"])
        if len(self.rewards) < self.limits.window:
            return
        median = statistics.median(self.rewards)
        self.best = median if self.best is None else max(self.best, median)
        spread = max(self.best - self.lowest, m.get("reward/total_std", 0.0))
        if spread > 0 and self.best - median > self.limits.reward_fall * spread:
            yield Finding(
                "reward_falls", step,
                f"the median reward of {len(self.rewards)} rollouts is {median:.3g}, and was {self.best:.3g}",
                "the policy collapses: a learning rate too high, too many updates per rollout, or no bound on ratios",
                "go back to a checkpoint; lower optimizer.learning_rate, set policy.dual_clip, raise policy.beta",
                fatal=self.limits.stop,
            )  # fmt: skip


@dataclass
class Truncated(RlRule):
    """Lengths run to the cap."""

    def observe(self, step: int, m: Metrics) -> Iterator[Finding]:
        if "rollout/truncated" in m and self.lasting(m["rollout/truncated"] >= self.limits.truncated):
            yield Finding(
                "truncated", step,
                f"{m['rollout/truncated']:.0%} of the samples are cut off, {self.row} rollouts in a row",
                "completions grow to the limit, or the model does not end its turns",
                "raise max_new_tokens, add the overlong reward, or mask them (overlong_filter); "
                "if it has always been so, the cold start has not taught the end of the turn",
                fatal=self.limits.stop and m["rollout/truncated"] >= 1.0,
            )  # fmt: skip


@dataclass
class Entropy(RlRule):
    """Entropy outside of its band."""

    def observe(self, step: int, m: Metrics) -> Iterator[Finding]:
        if "policy/entropy" not in m or "rollout/length" not in m:  # once per rollout
            return
        entropy = m["policy/entropy"]
        low, high = entropy < self.limits.entropy_low, entropy > self.limits.entropy_high
        if not self.lasting(low or high):
            return
        if low:
            yield Finding(
                "entropy_low", step,
                f"the entropy is {entropy:.2g} nats a token: samples of a question are nearly the same",
                "the policy has collapsed onto one answer",
                "raise policy.clip_high (clip-higher), or policy.entropy_bonus",
            )  # fmt: skip
        else:
            yield Finding(
                "entropy_high", step, f"the entropy is {entropy:.2g} nats a token: samples are noise",
                "updates too large, or a temperature too high",
                "lower optimizer.learning_rate; go back to a checkpoint",
                fatal=self.limits.stop,
            )  # fmt: skip


@dataclass
class KLExplodes(RlRule):
    """Far from the reference."""

    def observe(self, step: int, m: Metrics) -> Iterator[Finding]:
        if "policy/kl_k3" in m and "rollout/length" in m and self.lasting(m["policy/kl_k3"] > self.limits.kl):
            yield Finding(
                "kl", step, f"the KL to the reference is {m['policy/kl_k3']:.3g} nats a token",
                "the policy runs away from the reference",
                "lower optimizer.learning_rate, raise policy.beta, or refresh the reference more often",
                fatal=self.limits.stop,
            )  # fmt: skip


@dataclass
class OtherReference(RlRule):
    """Before its first update the policy is its own reference, whatever it was trained to be before."""

    def observe(self, step: int, m: Metrics) -> Iterator[Finding]:
        if step == 1 and "rollout/length" in m and m.get("policy/kl_k3", 0.0) > self.limits.first_kl:
            yield Finding(
                "reference", step, f"the KL to the reference is {m['policy/kl_k3']:.3g} nats a token before any update",
                "the reference is not the policy that the run starts from, but another model, as the base without the "
                "cold start's adapter: the KL would pull the policy back to it",
                "let coldforge.grpo.new_start take the reference from the policy, as it does by itself",
                fatal=self.limits.stop,
            )  # fmt: skip


@dataclass
class Repetition(RlRule):
    """Samples that go round in circles."""

    def observe(self, step: int, m: Metrics) -> Iterator[Finding]:
        if "rollout/repetition" in m and self.lasting(m["rollout/repetition"] > self.limits.repetition):
            yield Finding(
                "repetition", step,
                f"{m['rollout/repetition']:.0%} of the runs of tokens in a sample were there before",
                "the model repeats itself to the limit",
                "add the repetition reward; look at the worst of samples.jsonl",
                fatal=self.limits.stop,
            )  # fmt: skip


@dataclass
class Mismatch(RlRule):
    """Trainer and sampler disagree about the same weights: the commonest silent cause of a collapse."""

    def observe(self, step: int, m: Metrics) -> Iterator[Finding]:
        if "policy/gap" not in m or "rollout/length" not in m:  # once per rollout
            return
        gap, kl = m["policy/gap"], m.get("policy/gap_kl", 0.0)
        if self.lasting(gap > self.limits.gap or kl > self.limits.gap_kl):
            yield Finding(
                "mismatch", step, f"sampler and trainer differ by {gap:.3g} nats a token (KL {kl:.2g})",
                "the sampler runs other weights, a coarser type (int8 weights or caches), or another temperature",
                "sample in the trainer's type, or correct for it: policy.correction truncate",
                fatal=self.limits.stop and self.row >= 2 * self.limits.rollouts,
            )  # fmt: skip


RULES: tuple[type[RlRule], ...] = (
    NoSignal, NoReward, NoGradient, RewardFalls, Truncated, Entropy, KLExplodes, OtherReference, Repetition,
    Mismatch,
)  # fmt: skip


def rl_rules(limits: RlLimits | None = None, config: WatchdogConfig | None = None) -> list[Rule]:
    """All rules of reinforcement learning, and those of every training that hold here too."""
    config = WatchdogConfig() if config is None else config
    limits = RlLimits() if limits is None else limits
    shared: tuple[type[Rule], ...] = (common.NotApplied, common.OtherNotFinite, common.ZeroRate, common.Memory)
    return [*(rule(config) for rule in shared), *(rule(config, limits) for rule in RULES)]
