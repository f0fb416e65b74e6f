"""Watches the numbers of a run and says what is wrong, why it likely is, and what to change.

    watchdog = Watchdog(WatchdogConfig(vocab_size=262_144))
    for finding in watchdog.observe(step, metrics):       # names as in metrics.SCALARS; what is missing is not judged
        view.finding(finding)
        if finding.fatal: ...                             # going on is of no use: save and stop

Plain host code on floats. `curves` and `steps` hold one class per symptom. A finding is not repeated before a
cool-down, which doubles every time: a condition that stays is named again after 100, 300, 700 steps and not in each.
The state is a dictionary for the checkpoint, so that a run that continues finds what it would have found. Samples are
not looked at: whether a model writes well is for the gate.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, SupportsFloat

from coldforge.training.watchdog import curves, steps
from coldforge.training.watchdog.rule import Finding, Rule, WatchdogConfig

__all__ = ["RULES", "Finding", "Rule", "Watchdog", "WatchdogConfig"]

RULES: tuple[type[Rule], ...] = (
    steps.NotApplied, steps.OtherNotFinite, steps.NothingTrained, steps.ZeroRate, curves.FirstLoss, curves.Spike,
    curves.Rising, curves.Plateau, curves.LowLoss, curves.Answer, curves.OverFitting, steps.Clipped, steps.Padding,
    steps.Slow, steps.Memory,
)  # fmt: skip


class Watchdog:
    """Rules, and which of them spoke when.

    Args:
      config: thresholds.
      rules: other rules than `RULES`, one of a kind each, say those of reinforcement learning.
    """

    def __init__(self, config: WatchdogConfig | None = None, *, rules: Sequence[Rule] | None = None) -> None:
        self.config = WatchdogConfig() if config is None else config
        chosen = [rule(self.config) for rule in RULES] if rules is None else rules
        self._rules: dict[str, Rule] = {type(rule).__name__: rule for rule in chosen}
        self._said: dict[str, list[int]] = {}  # kind → step it was last reported at, times so far

    def observe(self, step: int, metrics: Mapping[str, SupportsFloat]) -> list[Finding]:
        """What is to be said about the metrics of one step, most often nothing.

        Args:
          step: number of the step, from 1; steps come in order.
          metrics: name → value, as logged. A second call for the same step, say with an evaluation, may bring others.
        """
        numbers = {name: float(value) for name, value in metrics.items()}  # numpy's would not go into JSON
        found = (finding for rule in self._rules.values() for finding in rule.observe(step, numbers))
        return [finding for finding in found if self._may_speak(finding)]

    def to_dict(self) -> dict[str, Any]:
        """The state, for JSON."""
        return copy.deepcopy({"said": self._said, "rules": {k: rule.state() for k, rule in self._rules.items()}})

    def from_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up the state of `to_dict`; rules it does not know of, as of another version, start anew."""
        self._said = {kind: list(said) for kind, said in state["said"].items()}
        for name, rule in self._rules.items():
            rule.restore(state["rules"].get(name, {}))

    def _may_speak(self, finding: Finding) -> bool:
        last, times = self._said.get(finding.kind, (0, 0))
        if times and not finding.fatal:
            if finding.once:
                return False
            cooldown = self.config.cooldown if finding.cooldown is None else finding.cooldown
            if finding.step < last + cooldown * (2 ** (times - 1) if finding.cooldown is None else 1):
                return False
        self._said[finding.kind] = [finding.step, times + 1]
        return True
