"""What a training step takes on a slice: the plan. Plain data, which `to_dict` makes JSON; nothing here imports JAX."""

import dataclasses
from typing import Any

from coldforge.apps.plan.chips import Slice
from coldforge.apps.plan.cost import Cost
from coldforge.apps.plan.memory import Memory, Refusal


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a step takes on a slice.

    Attributes:
        stage, preset, topology: What was asked for.
        options: The configuration, as nested dicts.
        mesh: Sizes of its axes.
        memory: None if XLA refused.
        refusal: Why, if it did.
        cost: None if it did.
        trace_seconds, compile_seconds: On this machine: from Python to XLA's input, and from there to the program.
        versions: Of jax and libtpu.
    """

    stage: str
    preset: str
    topology: str
    options: dict[str, Any]
    mesh: dict[str, int]
    memory: Memory | None
    refusal: Refusal | None
    cost: Cost | None
    trace_seconds: float
    compile_seconds: float
    versions: dict[str, str]

    @property
    def slice(self) -> Slice:
        """What it was compiled for."""
        return Slice.parse(self.topology)

    @property
    def fits(self) -> bool:
        """Whether a chip's memory holds it."""
        return self.memory is not None and self.memory.total <= self.slice.chip.memory

    @property
    def estimated(self) -> dict[str, float]:
        """Seconds of a step by part; nothing if it was refused."""
        return {} if self.cost is None else self.cost.seconds(self.slice.chip)

    @property
    def seconds(self) -> float:
        """About how long a step takes; infinite if it was refused."""
        return sum(self.estimated.values()) if self.cost is not None else float("inf")

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data for JSON, with what follows from it: `fits`, `seconds` (None if refused)."""
        return dataclasses.asdict(self) | {"fits": self.fits, "seconds": None if self.cost is None else self.seconds}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Plan":
        """The inverse of `to_dict`."""
        data = {field.name: data[field.name] for field in dataclasses.fields(cls)}
        memory, refusal, cost = data["memory"], data["refusal"], data["cost"]
        return cls(
            **(data | {
                "memory": None if memory is None else Memory(**memory),
                "refusal": None if refusal is None else Refusal(**refusal),
                "cost": None if cost is None else Cost.from_dict(cost),
            })
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Failure:
    """A compile that gave no plan: its process was stopped, or died."""

    reason: str


Outcome = Plan | Failure
