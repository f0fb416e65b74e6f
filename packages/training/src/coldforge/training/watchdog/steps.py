"""Rules on steps: what was not applied, not trained, clipped, wasted or slow."""

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from coldforge.training.watchdog.rule import Finding, Metrics, Rule, push


@dataclass
class NotApplied(Rule):
    """Steps that changed nothing because loss or gradient is not finite, or no token of the batch has a weight."""

    in_a_row: int = 0
    recent: list[int] = field(default_factory=list)

    def observe(self, step: int, m: Metrics) -> Iterator[Finding]:
        loss, norm = m.get("train/loss", 0.0), m.get("train/grad_norm", 0.0)
        if "train/loss" not in m and "train/applied" not in m:
            return
        skipped = m.get("train/applied", 1.0) == 0 or not (math.isfinite(loss) and math.isfinite(norm))
        self.in_a_row = self.in_a_row + 1 if skipped else 0
        push(self.recent, int(skipped), 100)
        if not skipped:
            return
        fatal = self.in_a_row >= self.config.skipped_in_a_row or sum(self.recent) >= self.config.skipped_of_100
        saw = f"loss {loss:g}, gradient norm {norm:g}: the step was not applied"
        if self.in_a_row > 1 or sum(self.recent) > 1:
            saw += f" ({self.in_a_row} in a row, {sum(self.recent)} of the last {len(self.recent)} steps)"
        if m.get("train/weight") == 0:
            yield Finding(
                "no_weight", step, f"no token of the batch has a loss weight: {saw}",
                "rows in which everything counts as prompt or padding, or weights of 0",
                "look at the rows of the saved batch; check reasoning_weight, answer_weight and the audit of the data",
                fatal=fatal, cooldown=0,
            )  # fmt: skip
            return
        yield Finding(
            "not_finite", step, saw,
            "numbers overflow: a learning rate too high for this point, a row unlike the others, or broken weights",
            "look at the rows of the saved batch, and drop them if it is the same ones every time; "
            "lower learning_rate, lengthen warmup, set max_grad_norm if there is none",
            fatal=fatal, cooldown=0,
        )  # fmt: skip


@dataclass
class OtherNotFinite(Rule):
    """Any other metric that is nan or infinite: an evaluation, a norm."""

    OWN: ClassVar[frozenset[str]] = frozenset(
        {"train/loss", "train/grad_norm", "train/grad_norm_clipped", "train/loss_reasoning", "train/loss_answer"}
    )

    def observe(self, step: int, m: Metrics) -> Iterator[Finding]:
        odd = {name: x for name, x in m.items() if not math.isfinite(x) and name not in self.OWN}
        if odd:
            yield Finding(
                "not_finite_metric", step, ", ".join(f"{name} is {x:g}" for name, x in odd.items()),
                "a sum over nothing, or numbers that overflow outside of training: an evaluation has no step to skip",
                "check that the held-out split has rows with weighted tokens; evaluate the last checkpoint on its own",
            )  # fmt: skip


@dataclass
class NothingTrained(Rule):
    """A gradient or an update of exactly 0: nothing is connected to the loss, or nothing may change."""

    no_gradient: int = 0
    no_update: int = 0

    def observe(self, step: int, m: Metrics) -> Iterator[Finding]:
        norm = m.get("train/grad_norm", math.nan)
        if m.get("train/weight") == 0 or math.isnan(norm):
            return
        stuck = (
            m.get("train/update_norm") == 0 and m.get("train/learning_rate", 1.0) > 0 and m.get("train/applied") == 1
        )
        self.no_gradient = self.no_gradient + 1 if norm == 0 else 0
        self.no_update = self.no_update + 1 if norm > 0 and stuck else 0
        if self.no_gradient:
            yield Finding(
                "zero_gradient", step, f"the gradient is exactly 0 (loss {m.get('train/loss', math.nan):.3g})",
                "nothing that is trained takes part in the loss: the adapter is not on the model that is applied, "
                "or both of its matrices are 0",
                "check the targets of the adapter, and that apply uses the parameters it is given",
                fatal=self.no_gradient >= self.config.zero_in_a_row,
            )  # fmt: skip
        if self.no_update:
            yield Finding(
                "zero_update", step, f"the gradient norm is {norm:.3g}, but the parameters did not change",
                "the optimizer leaves these parameters out, or the updates are too small for their type",
                "check the optimizer's masks, and that parameters are float32",
                fatal=self.no_update >= self.config.zero_in_a_row,
            )  # fmt: skip


@dataclass
class ZeroRate(Rule):
    """A learning rate of 0, all along or after the end of its schedule."""

    in_a_row: int = 0

    def observe(self, step: int, m: Metrics) -> Iterator[Finding]:
        if "train/learning_rate" not in m:
            return
        self.in_a_row = self.in_a_row + 1 if m["train/learning_rate"] == 0 else 0
        if self.in_a_row >= self.config.zero_rate_in_a_row:
            yield Finding(
                "zero_learning_rate", step, f"the learning rate has been 0 for {self.in_a_row} steps",
                "learning_rate is 0, or the schedule was made for fewer steps than the run has",
                "set learning_rate, and give the schedule the number of steps of the run (or a final_fraction above 0)",
            )  # fmt: skip


@dataclass
class Clipped(Rule):
    """A gradient that is clipped in nearly every step."""

    norms: list[float] = field(default_factory=list)
    clipped: list[int] = field(default_factory=list)
    limit: float = 0.0

    def observe(self, step: int, m: Metrics) -> Iterator[Finding]:
        norm, after = m.get("train/grad_norm", math.nan), m.get("train/grad_norm_clipped", math.nan)
        if not (math.isfinite(norm) and math.isfinite(after)):
            return
        push(self.norms, norm, self.config.clip_window)
        push(self.clipped, int(after < 0.999 * norm), self.config.clip_window)
        if self.clipped[-1]:
            self.limit = after
        if len(self.clipped) == self.config.clip_window and sum(self.clipped) >= self.config.clip_share * len(
            self.clipped
        ):
            median, high = np.quantile(self.norms, [0.5, 0.9])
            yield Finding(
                "clipped", step,
                f"the gradient was clipped in {sum(self.clipped)} of the last {len(self.clipped)} steps: its norm is "
                f"{median:.3g} in the median, the limit {self.limit:.3g}",
                "max_grad_norm is below what this model and batch size usually give, so that it scales every step "
                "and no longer stops the odd one",
                f"set max_grad_norm to about {high:.2g}; or leave it while the loss falls: "
                "Adam divides a constant scale out again",
            )  # fmt: skip


@dataclass
class Padding(Rule):
    """Batches that are padding for a good part."""

    shares: list[float] = field(default_factory=list)

    def observe(self, step: int, m: Metrics) -> Iterator[Finding]:
        if not math.isfinite(share := m.get("data/padding_share", math.nan)):
            return
        push(self.shares, share, 20)
        if len(self.shares) == 20 and (mean := statistics.fmean(self.shares)) > self.config.padding_share:
            yield Finding(
                "padding", step, f"{100 * mean:.0f} % of the last 20 batches is padding",
                "rows are much shorter than seq_len and are not packed, or too few fit together",
                "switch packing on, or choose a seq_len that rows fill (the audit shows their lengths)",
                cooldown=10 * self.config.cooldown,
            )  # fmt: skip


@dataclass
class Slow(Rule):
    """Tokens per second well below what they were."""

    rates: list[float] = field(default_factory=list)
    best: float = 0.0

    def observe(self, step: int, m: Metrics) -> Iterator[Finding]:
        if not math.isfinite(rate := m.get("train/tokens_per_second", math.nan)):
            return
        push(self.rates, rate, 20)
        if len(self.rates) < 20:
            return
        median = statistics.median(self.rates)
        self.best = max(self.best, median)
        if median < self.config.slow_share * self.best:
            waits, step_time = m.get("time/data", math.nan), m.get("time/step", math.nan)
            share = f", of which {100 * waits / step_time:.0f} % waiting for data" if waits < step_time else ""
            yield Finding(
                "slow", step,
                f"{median:,.0f} tokens a second in the median of 20 steps{share}; it was {self.best:,.0f}",
                "something else uses the machine, the data comes too slowly, or shapes change and compile anew",
                "look at time/data and time/step, and at what else runs; --profile shows one step",
            )  # fmt: skip


@dataclass
class Memory(Rule):
    """A device that is nearly full: the next longer batch may not fit."""

    def observe(self, step: int, m: Metrics) -> Iterator[Finding]:
        peak, limit = m.get("memory/device_peak_gib", 0.0), m.get("memory/device_limit_gib", math.inf)
        if peak > self.config.memory_share * limit:
            yield Finding(
                "memory", step, f"{peak:.2f} of {limit:.2f} GiB of the fullest device are in use at the peak",
                "the batch is as large as fits",
                "take a smaller batch or seq_len, or a stronger remat, before evaluation or sampling needs memory too",
                once=True,
            )  # fmt: skip
