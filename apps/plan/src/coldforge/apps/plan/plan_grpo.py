"""What GRPO takes on a slice: the plan of all its programs. Plain data, which `to_dict` makes JSON; no JAX.

Update, scoring and sampling take turns on the same chips. What one of them is not given but stays there meanwhile (the
reference while the policy is updated, the optimizer while it samples) is `beside`, and counts in what has to fit.
"""

import dataclasses
from typing import Any

from coldforge.apps.plan.chips import Slice
from coldforge.apps.plan.cost import Cost
from coldforge.apps.plan.memory import Memory, Refusal


@dataclasses.dataclass(frozen=True)
class ProgramPlan:
    """One compiled program.

    Attributes:
        name: "update", "score", "prefill", "admit", "decode".
        work: What one run of it does.
        memory: None if XLA refused.
        refusal: Why, if it did.
        cost: Of one run (of `decode`, of one step); None if it was refused.
        beside: Bytes on a chip that stay while it runs, and that it is not given.
        compile_seconds: On this machine.
    """

    name: str
    work: str
    memory: Memory | None
    refusal: Refusal | None
    cost: Cost | None
    beside: int
    compile_seconds: float

    @property
    def total(self) -> float:
        """Bytes on a chip while it runs; infinite if it was refused."""
        return float("inf") if self.memory is None else self.memory.total + self.beside


@dataclasses.dataclass(frozen=True)
class SlotPlan:
    """The sampler's slots.

    Attributes:
        slots: Samples that run at the same time, over all devices.
        devices: That share them.
        given: Whether options say how many; otherwise they are as many as fit.
        length: Places of a slot: the longest prompt and sample.
        kv: Type of the caches.
        ring_bytes: Of one slot's cache on its device, rings on local layers.
        full_bytes: The same if every layer's were as long as the global ones'.
        full_slots: How many would fit then.
        own_slots: How many `coldforge-grpo` takes by itself, of 70 % of the memory that is free.
        tried: Numbers of slots that did not fit.
    """

    slots: int
    devices: int
    given: bool
    length: int
    kv: str
    ring_bytes: int
    full_bytes: int
    full_slots: int
    own_slots: int
    tried: list[int]


@dataclasses.dataclass(frozen=True)
class GrpoPlan:
    """What a run of GRPO takes on a slice.

    Attributes:
        preset, topology: What was asked for.
        options: The configuration, as nested dicts.
        mesh: Sizes of its axes.
        shape: Of an update's batch: micro-batches, rows, tokens of a row.
        programs: In the order in which a rollout and its updates run them.
        sampler: Its slots; None where not even one fits, so that it was not compiled.
        trace_seconds: On this machine, from Python to XLA's input, of all programs.
        versions: Of jax and libtpu.
    """

    preset: str
    topology: str
    options: dict[str, Any]
    mesh: dict[str, int]
    shape: tuple[int, int, int]
    programs: list[ProgramPlan]
    sampler: SlotPlan | None
    trace_seconds: float
    versions: dict[str, str]
    stage: str = "grpo"

    @property
    def slice(self) -> Slice:
        """What it was compiled for."""
        return Slice.parse(self.topology)

    def program_fits(self, program: ProgramPlan) -> bool:
        """Whether a chip holds one of the programs, and what stays beside it."""
        return program.total <= self.slice.chip.memory

    @property
    def fits(self) -> bool:
        """Whether a chip's memory holds each program in its turn."""
        return self.sampler is not None and all(map(self.program_fits, self.programs))

    def seconds(self, program: ProgramPlan) -> float:
        """About how long one run of a program takes; infinite if it was refused."""
        return float("inf") if program.cost is None else sum(program.cost.seconds(self.slice.chip).values())

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data for JSON, with what follows from it: `fits`, and `seconds` (None if refused)."""
        data = dataclasses.asdict(self) | {"fits": self.fits}
        for program, entry in zip(self.programs, data["programs"], strict=True):
            entry["fits"] = self.program_fits(program)
            entry["seconds"] = None if program.cost is None else self.seconds(program)
        return data
