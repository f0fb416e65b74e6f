"""All numbers of the loop, and what fits together: `GrpoConfig`.

    config = GrpoConfig(steps=1600, questions=512, group_size=16, minibatches=16, policy=PolicyLoss(beta=0.001))
    config.updates               # updates per rollout: 16
    config.old                   # where π_old comes from: "sampler"

A *rollout* is `questions × group_size` samples; it is split into `minibatches`, each of which makes one *step*, an
update of the policy (DeepSeek-R1: 8,192 samples, 16 minibatches, one inner epoch).
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from coldforge.losses import AggregationKind, PolicyLoss

AdvantageName = Literal["grpo", "dr_grpo", "maxrl", "rloo", "batch_scaled", "gdpo", "process"]
OldPolicy = Literal["auto", "on_policy", "sampler", "trainer"]
OnNan = Literal["skip", "stop"]
KINDS: dict[str, Any] = {
    "advantage": AdvantageName, "aggregation": AggregationKind, "old_policy": OldPolicy, "on_nan": OnNan
}  # fmt: skip
PLAIN = PolicyLoss()  # GRPO's ε, no KL


@dataclass(frozen=True, kw_only=True)
class GrpoConfig:
    """The loop's numbers.

    Attributes:
      steps: updates of the whole run.
      questions: questions of a rollout.
      group_size: samples of a question, G.
      minibatches: parts into which a rollout is split at random, one update each.
      inner_epochs: passes over a rollout.
      policy: what an update minimises.
      advantage: `coldforge.losses.advantages`, by name: of rewards, of each reward by itself ("gdpo"), of steps
        ("process", for judges that give `Judgement.steps`).
      reward_weights: for "gdpo": of each reward, by name; those left out weigh 1.
      aggregation: the mean over tokens; see `coldforge.losses.aggregation_weights`.
      max_new_tokens: of a sample, at most; "constant" aggregation divides by it. If given, prompts that leave no room
        for so many are refused before anything is sampled.
      old_policy: where log π_old comes from: "on_policy" the policy itself, so that every ratio is 1 (one update per
        rollout only); "sampler" as sampled; "trainer" scored once more before the first update. "auto": on_policy for
        one update per rollout, else sampler, or trainer where a correction compares both.
      overlong_filter: samples that were cut off weigh nothing (DAPO).
      drop_equal_groups: groups of equal rewards leave the update: they count neither in the denominator, nor for KL and
        entropy. By default they make the step smaller.
      resample: dynamic sampling: groups of equal rewards are replaced by new questions, up to so many times the
        rollout's questions in all; 0: not at all.
      tolerance: rewards of a group count as equal, and teach nothing, if they differ by no more.
      refresh_reference: the reference becomes the policy every so many steps, from the next rollout on; 0: never.
      seed: of samples, and of the split into minibatches.
      eval_every: steps between evaluations; 0: only at the end.
      checkpoint_every: steps between checkpoints; 0: only at the end, and when it stops.
      checkpoint_minutes: minutes after which one is due whatever the step.
      texts: samples to log of each rollout, the best and the worst among them; 0: none.
      texts_every: rollouts between these.
      on_nan: after an update that was not applied: go on ("skip") or end the run ("stop").

    Raises:
      ValueError: for a value out of its range, or options that do not fit together; the message says what does.
    """

    steps: int
    questions: int
    group_size: int
    minibatches: int = 1
    inner_epochs: int = 1
    policy: PolicyLoss = PLAIN
    advantage: AdvantageName = "grpo"
    reward_weights: tuple[tuple[str, float], ...] = ()
    aggregation: AggregationKind = "token"
    max_new_tokens: int | None = None
    old_policy: OldPolicy = "auto"
    overlong_filter: bool = False
    drop_equal_groups: bool = False
    resample: float = 0.0
    tolerance: float = 0.0
    refresh_reference: int = 0
    seed: int = 0
    eval_every: int = 0
    checkpoint_every: int = 16
    checkpoint_minutes: float = math.inf
    texts: int = 4
    texts_every: int = 1
    on_nan: OnNan = "skip"

    def __post_init__(self) -> None:
        for name in ("steps", "questions", "minibatches", "inner_epochs", "texts_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in (
            "resample", "tolerance", "refresh_reference", "seed", "eval_every", "checkpoint_every",
            "checkpoint_minutes", "texts",
        ):  # fmt: skip
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.group_size < 2:
            raise ValueError(
                f"group_size must be at least 2, got {self.group_size}: an advantage compares a sample with its group"
            )
        for name, kinds in KINDS.items():
            if (value := getattr(self, name)) not in get_args(kinds):
                raise ValueError(f"{name} must be one of {', '.join(get_args(kinds))}, got {value!r}")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if 0 < self.resample < 1:
            raise ValueError(f"resample is a multiple of the rollout's questions, 0 or at least 1; got {self.resample}")
        if (self.aggregation == "constant") and self.max_new_tokens is None:
            raise ValueError("the aggregation 'constant' divides by max_new_tokens: give it")
        if self.refresh_reference and not self.policy.needs_reference:
            raise ValueError(
                f"refresh_reference is {self.refresh_reference}, and policy.beta is {self.policy.beta}: without a KL "
                "there is no reference to refresh. Set policy.beta above 0, or refresh_reference to 0"
            )
        if self.samples % self.minibatches:
            raise ValueError(
                f"{self.questions} questions × {self.group_size} samples = {self.samples} do not split into "
                f"{self.minibatches} equal minibatches"
            )
        self._check_old()

    def _check_old(self) -> None:
        if self.old_policy == "on_policy" and self.updates > 1:
            raise ValueError(
                f"old_policy 'on_policy' is for one update per rollout, and there are {self.updates}: "
                "take 'sampler' or 'trainer'"
            )
        if self.old == "sampler" and self.policy.needs_sampler:
            raise ValueError(
                "a correction compares the trainer's log-probabilities with the sampler's: with several updates per "
                "rollout it needs old_policy 'trainer'"
            )

    @property
    def samples(self) -> int:
        """Samples of a rollout."""
        return self.questions * self.group_size

    @property
    def updates(self) -> int:
        """Updates per rollout."""
        return self.minibatches * self.inner_epochs

    @property
    def old(self) -> Literal["on_policy", "sampler", "trainer"]:
        """Where log π_old comes from, decided."""
        if self.old_policy != "auto":
            return self.old_policy
        if self.updates == 1:
            return "on_policy"
        return "trainer" if self.policy.needs_sampler else "sampler"
