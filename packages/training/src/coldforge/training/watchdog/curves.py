"""Rules on curves: the loss from its first value to its last, in training and on held-out rows.

Robust throughout: medians and median absolute deviations, so that a single batch decides nothing unless it is far out.
"""

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from coldforge.training.watchdog.rule import Finding, Metrics, Rule, center, push, relative_fall


@dataclass
class FirstLoss(Rule):
    """The loss before anything was learnt tells whether weights, tokenizer and template belong together."""

    seen: bool = False

    def observe(self, step: int, m: Metrics) -> Iterator[Finding]:
        loss = m.get("train/loss", math.nan)
        if self.seen or not math.isfinite(loss):
            return
        self.seen = True
        if step > 1:
            return
        config, saw = self.config, f"the loss of the first step is {loss:.2f} nats"
        if config.vocab_size is not None and loss > 0.9 * math.log(config.vocab_size):
            yield Finding(
                "first_loss", step,
                f"{saw}, and guessing among {config.vocab_size:,} tokens gives {math.log(config.vocab_size):.2f}",
                "the weights were not loaded, or the data was prepared with another tokenizer",
                "check the path of the weights, and the tokenizer in the dataset's manifest; "
                "a pretrained model starts at 1 to 4",
                once=True,
            )  # fmt: skip
        elif loss > config.first_loss_high:
            yield Finding(
                "first_loss", step, f"{saw}; a pretrained model starts at 1 to 4",
                "tokenizer or chat template are not the model's, or the adapter starts from weights that do not fit",
                "compare tokenizer and template of the dataset's manifest with the model's; read a row as text",
                once=True,
            )  # fmt: skip
        elif loss < config.first_loss_low:
            yield Finding(
                "first_loss", step, f"{saw}: nearly nothing is left to learn",
                "the model was trained on these rows already, or only trivial tokens have a loss weight",
                "check which adapter the run starts from, and the loss weights of a batch",
                once=True,
            )  # fmt: skip


@dataclass
class Spike(Rule):
    """A loss far above its running median: twice the limit once, or above the limit twice in a row."""

    losses: list[float] = field(default_factory=list)
    before: bool = False  # whether the step before was above the limit too

    def observe(self, step: int, m: Metrics) -> Iterator[Finding]:
        loss = m.get("train/loss", math.nan)
        if not math.isfinite(loss):
            return
        config = self.config
        if len(self.losses) >= min(20, config.window):
            median, sigma = center(self.losses)
            limit = max(config.spike_deviations * sigma, config.spike_share * median)
            above = loss - median
            if above > 2 * limit or (above > limit and self.before):
                norm = m.get("train/grad_norm", math.nan)
                rate = m.get("train/learning_rate", math.nan)
                yield Finding(
                    "spike", step,
                    f"loss {loss:.3g} against a median of {median:.3g} over the last {len(self.losses)} steps"
                    + (f", gradient norm {norm:.3g}" if math.isfinite(norm) else ""),
                    "a learning rate too high for this point, or a batch unlike the others",
                    "if it comes back, lower learning_rate" + (f" (now {rate:.2g})" if math.isfinite(rate) else "")
                    + " or lengthen warmup; if the loss recovers within a few steps, nothing",
                    cooldown=config.window // 2,
                )  # fmt: skip
            self.before = above > limit
        push(self.losses, loss, config.window)


@dataclass
class Rising(Rule):
    """A median loss well above its lowest: the run diverges, slowly or after a spike."""

    losses: list[float] = field(default_factory=list)
    best: list[float] = field(default_factory=list)  # step, lowest median

    def observe(self, step: int, m: Metrics) -> Iterator[Finding]:
        loss = m.get("train/loss", math.nan)
        if not math.isfinite(loss):
            return
        config = self.config
        push(self.losses, loss, config.window)
        if len(self.losses) < config.window:
            return
        median, sigma = center(self.losses)
        if not self.best or median < self.best[1]:
            self.best = [step, median]
        noise = 1.25 * sigma / math.sqrt(config.window)  # standard error of a median
        if median - self.best[1] > max(config.rise_share * self.best[1], 6 * noise, 0.05):
            yield Finding(
                "rising", step,
                f"the median loss has risen from {self.best[1]:.3g} at step {self.best[0]:.0f} to {median:.3g}",
                "the learning rate is too high, or the data of this part of the epoch is another kind",
                "lower learning_rate and continue from the best checkpoint; if the data is sorted, shuffle it",
            )  # fmt: skip


@dataclass
class Plateau(Rule):
    """A loss that stays where it is although the learning rate is up, judged by a straight line and its error."""

    first: list[float] = field(default_factory=list)  # losses of the first steps
    recent: list[float] = field(default_factory=list)
    blocks: list[float] = field(default_factory=list)  # means of `size` steps each: the whole run in 256 numbers
    size: int = 1
    partial: list[float] = field(default_factory=list)  # of the block that is being filled
    rates: list[float] = field(default_factory=lambda: [0.0, 0.0])  # last, highest
    settled: int = 0  # steps since the warm-up ended

    def observe(self, step: int, m: Metrics) -> Iterator[Finding]:
        loss = m.get("train/loss", math.nan)
        if not math.isfinite(loss):
            return
        config, rate = self.config, m.get("train/learning_rate", 1.0)
        self.settled = 0 if rate > self.rates[0] else self.settled + 1
        self.rates = [rate, max(rate, self.rates[1])]
        if len(self.first) < 20:
            self.first.append(loss)
        push(self.recent, loss, config.window)
        self._add(loss)
        if self.settled < config.plateau_steps or rate < 0.5 * self.rates[1] or self.settled % 10:
            return
        start, now = statistics.median(self.first), statistics.median(self.recent)
        if now < config.plateau_above:
            return
        if now > 1.1 * start:
            return  # that is `Rising`'s, and asks for the opposite
        if now > (1 - config.plateau_share) * start:
            saw = f"the loss is {now:.3g} in the median, and was {start:.3g} in the first {len(self.first)} steps"
        else:
            part = np.asarray(self.blocks[len(self.blocks) // 2 :])
            if len(part) * self.size < config.plateau_steps:
                return
            fall, error = relative_fall(part)
            if fall + 2 * error > config.plateau_share or fall < -max(2 * error, config.plateau_share):
                return
            saw = (
                f"over the last {len(part) * self.size} steps the loss fell by {100 * fall:.1f} % "
                f"(± {100 * error:.1f}), and stays at {now:.3g}"
            )
        yield Finding(
            "plateau", step, saw,
            f"the learning rate ({rate:.2g}) is too low, or the adapter too small for what is to be learnt",
            "raise learning_rate (twice to five times) or the rank; if the loss is where it should be, stop earlier",
        )  # fmt: skip

    def _add(self, loss: float) -> None:
        self.partial.append(loss)
        if len(self.partial) == self.size:
            self.blocks.append(math.fsum(self.partial) / self.size)
            self.partial = []
        if len(self.blocks) == 256:
            self.blocks = [(a + b) / 2 for a, b in zip(self.blocks[::2], self.blocks[1::2], strict=True)]
            self.size *= 2


@dataclass
class LowLoss(Rule):
    """A loss near 0: the rows are known by heart."""

    losses: list[float] = field(default_factory=list)

    def observe(self, step: int, m: Metrics) -> Iterator[Finding]:
        loss = m.get("train/loss", math.nan)
        if not math.isfinite(loss):
            return
        push(self.losses, loss, 20)
        if len(self.losses) == 20 and (median := statistics.median(self.losses)) < self.config.low_loss:
            yield Finding(
                "low_loss", step, f"the loss is {median:.3g} in the median of the last 20 steps",
                "over-fitting: the rows are learnt by heart, or there are few different ones",
                "stop earlier (fewer steps), take more rows or a lower rank, raise weight_decay; "
                "if eval/loss still falls, the rows are just easy",
                once=True,
            )  # fmt: skip


@dataclass
class Answer(Rule):
    """The answer's own loss: missing, or not falling while that of the reasoning does."""

    missing: int = 0
    reasoning: list[float] = field(default_factory=list)
    answer: list[float] = field(default_factory=list)
    start: list[float] = field(default_factory=list)  # medians of the first 20 steps: reasoning, answer
    steps: int = 0

    def observe(self, step: int, m: Metrics) -> Iterator[Finding]:
        if "train/loss_reasoning" not in m and "train/loss_answer" not in m:
            return
        reasoning, answer = m.get("train/loss_reasoning", math.nan), m.get("train/loss_answer", math.nan)
        none = not math.isfinite(answer) or answer == 0
        self.missing = self.missing + 1 if none and m.get("train/applied", 1.0) else 0
        if self.missing >= 20:
            yield Finding(
                "no_answer", step, f"no answer token has been trained for {self.missing} steps",
                "answers were cut off or not recognised when the data was prepared, or answer_weight is 0",
                "read the audit of the dataset (kinds of answers, rows too long); check the tags and answer_weight",
            )  # fmt: skip
        if none or not math.isfinite(reasoning):
            return
        push(self.reasoning, reasoning, self.config.window)
        push(self.answer, answer, self.config.window)
        self.steps += 1
        if not self.start and len(self.answer) >= min(20, self.config.window):
            self.start = [statistics.median(self.reasoning), statistics.median(self.answer)]
        elif self.start and self.steps >= 2 * self.config.window:
            now = [statistics.median(self.reasoning), statistics.median(self.answer)]
            if now[0] < 0.85 * self.start[0] and now[1] > max(0.98 * self.start[1], 0.2):
                yield Finding(
                    "answer_stuck", step,
                    f"the loss of the reasoning fell from {self.start[0]:.3g} to {now[0]:.3g}, "
                    f"that of the answer did not: {self.start[1]:.3g}, now {now[1]:.3g}",
                    "answers are a few tokens among thousands, or do not follow from the reasoning before them",
                    "raise answer_weight (2.0, say); read some rows: is the answer the last result of the reasoning?",
                )  # fmt: skip


@dataclass
class OverFitting(Rule):
    """A held-out loss that rises while that of training falls."""

    losses: list[float] = field(default_factory=list)
    best: list[float] = field(default_factory=list)  # step, eval loss, median of the training loss
    rises: int = 0

    def observe(self, step: int, m: Metrics) -> Iterator[Finding]:
        loss, held_out = m.get("train/loss", math.nan), m.get("eval/loss", math.nan)
        if math.isfinite(loss):
            push(self.losses, loss, self.config.window)
        if not math.isfinite(held_out) or not self.losses:
            return
        train = statistics.median(self.losses)
        if not self.best or held_out < self.best[1]:
            self.best, self.rises = [step, held_out, train], 0
        elif held_out > (1 + self.config.eval_share) * self.best[1]:
            self.rises += 1
        if self.rises >= self.config.eval_rises and train < self.best[2]:
            yield Finding(
                "over_fitting", step,
                f"eval/loss has risen from {self.best[1]:.4g} at step {self.best[0]:.0f} to {held_out:.4g}, "
                f"while train/loss fell from {self.best[2]:.3g} to {train:.3g}",
                "over-fitting: the rows are learnt by heart",
                f"use the checkpoint of about step {self.best[0]:.0f}; next time fewer steps, more rows, a lower rank",
            )  # fmt: skip
