"""What the watchdog's rules share: a finding, the thresholds, the base of a rule, medians and a straight line."""

import copy
import dataclasses
import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Metrics = Mapping[str, float]

THRESHOLDS = ("config", "limits")  # fields of rules that are no memory
SIGMA = 1.4826  # median absolute deviation → standard deviation, for normal noise


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
      kind: of symptom, a fixed word.
      step: at which it was seen.
      saw: what, with the numbers.
      cause: the likely one.
      advice: what to change, options by name.
      fatal: whether to stop: going on is of no use.
      once: whether it is told once only.
      cooldown: in place of the watchdog's, and constant.
    """

    kind: str
    step: int
    saw: str
    cause: str
    advice: str
    fatal: bool = False
    once: bool = False
    cooldown: int | None = None

    def __str__(self) -> str:
        return f"step {self.step}: {self.saw}. Likely cause: {self.cause}. What to do: {self.advice}."


@dataclass(frozen=True, kw_only=True)
class WatchdogConfig:
    """Thresholds. The defaults keep silent on healthy runs of supervised fine-tuning, batches of 8 rows and up.

    Attributes:
      vocab_size: of the tokenizer; its logarithm is the loss of guessing. None judges by `first_loss_high` alone.
      cooldown: steps before the same kind is told again; doubles each time.
      window: steps that medians are taken over.
      spike_deviations: a loss this many standard deviations above the median...
      spike_share: ...and this share of the median above it is a spike, if two in a row are; twice both, if one is.
      rise_share: the median loss has risen by this share above its lowest: diverging.
      plateau_share: a fall of less than this share over the last half of the run so far is none.
      plateau_steps: how long the run must have gone on after its warm-up before that is judged.
      plateau_above: lower losses are not judged: the answer to a flat loss of 0.4 is that the model has learnt.
      low_loss: a median below it is memorising.
      clip_share: share of clipped steps...
      clip_window: ...among the last so many.
      skipped_in_a_row: as many steps that were not applied end the run...
      skipped_of_100: ...and as many of the last hundred.
      zero_in_a_row: as many gradients of exactly 0 end the run.
      zero_rate_in_a_row: as many learning rates of exactly 0 are too many.
      first_loss_high: a pretrained model starts at 1 to 4 nats.
      first_loss_low: below it the model knows the rows already, or sees its targets.
      eval_share: an evaluation loss this share above its lowest has risen...
      eval_rises: ...and so many of them in a row are over-fitting, if the training loss fell meanwhile.
      padding_share: a mean above it is waste.
      slow_share: tokens per second below this share of the best median.
      memory_share: of the device's memory in use at the peak.
    """

    vocab_size: int | None = None
    cooldown: int = 100
    window: int = 50
    spike_deviations: float = 8.0
    spike_share: float = 0.3
    rise_share: float = 0.25
    plateau_share: float = 0.02
    plateau_steps: int = 100
    plateau_above: float = 0.5
    low_loss: float = 0.1
    clip_share: float = 0.95
    clip_window: int = 100
    skipped_in_a_row: int = 5
    skipped_of_100: int = 20
    zero_in_a_row: int = 3
    zero_rate_in_a_row: int = 10
    first_loss_high: float = 6.0
    first_loss_low: float = 0.05
    eval_share: float = 0.01
    eval_rises: int = 2
    padding_share: float = 0.25
    slow_share: float = 0.7
    memory_share: float = 0.95

    def __post_init__(self) -> None:
        for option in dataclasses.fields(self):
            value = getattr(self, option.name)
            if value is not None and not value > 0:
                raise ValueError(f"{option.name} must be positive, got {value}")


@dataclass
class Rule:
    """The base: what else a rule has as fields is its memory, all of it JSON. `limits` are thresholds of its own."""

    config: WatchdogConfig

    def observe(self, step: int, m: Metrics) -> Iterator[Finding]:
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in THRESHOLDS}

    def restore(self, state: Mapping[str, Any]) -> None:
        for f in dataclasses.fields(self):
            if f.name in state and f.name not in THRESHOLDS:
                setattr(self, f.name, copy.deepcopy(state[f.name]))


def push(values: list[Any], value: Any, size: int) -> None:
    """Appends, and drops the oldest beyond `size`."""
    values.append(value)
    del values[:-size]


def center(values: list[float]) -> tuple[float, float]:
    """Median, and standard deviation estimated from the median absolute deviation."""
    median = statistics.median(values)
    return median, SIGMA * statistics.median(abs(v - median) for v in values)


def relative_fall(values: np.ndarray) -> tuple[float, float]:
    """How much a straight line through evenly spaced values falls from end to end, as a share of their mean; its error.

    `relative_fall([1.1, 1.0, 0.9])` is (0.2, 0.0). The error is the standard error of the slope from the residuals.
    """
    x = np.linspace(-0.5, 0.5, len(values))
    slope = float(x @ values / (x @ x))
    residuals = values - values.mean() - slope * x
    variance = float(residuals @ residuals) / max(len(values) - 2, 1)
    return -slope / float(values.mean()), math.sqrt(variance / float(x @ x)) / float(values.mean())
