"""What one run of a compiled program costs a chip, as plain data: from the program's text to a few numbers."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from coldforge.apps.plan import frames
from coldforge.apps.plan.chips import Chip
from coldforge.apps.plan.estimate import Loop, estimate
from coldforge.apps.plan.groups import Group, group
from coldforge.apps.plan.hlo import Program

if TYPE_CHECKING:
    from coldforge.apps.plan.floor import Floor
    from coldforge.modeling import Gemma3Config

GROUPS = 40  # of the dearest ops, kept in a plan


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Collectives of one kind over groups of one size, in one run.

    Attributes:
        kind: "all-reduce", …
        group: Devices in a group.
        overlapped: Whether they run beside other work.
        times: How many.
        sent: Bytes that a chip sends in all of them (`collectives` has the formulas).
    """

    kind: str
    group: int
    overlapped: bool
    times: int
    sent: float


@dataclasses.dataclass(frozen=True)
class Cost:
    """XLA's estimate of one run on one chip, and what it leaves out.

    Attributes:
        cycles: The estimate.
        groups: The dearest ops, put together.
        kernels: Calls of Pallas kernels by name, which the estimate leaves out.
        kernel_flops: Operations of those that are attention, at least.
        traffic: Collectives, which it leaves out too.
        unpriced: Executions of other ops that XLA does not price.
        loops: (where, most trips or 0 if unknown, trips counted) of loops that run as often as data decide.
        conditionals: Of each one branch is counted.
        floor_products, floor_attention: Operations of the model's products, by formula (`floor`); 0 where none is made.
    """

    cycles: int
    groups: list[Group]
    kernels: dict[str, int]
    kernel_flops: float
    traffic: list[Traffic]
    unpriced: dict[str, int]
    loops: list[tuple[str, int, int]]
    conditionals: int
    floor_products: float
    floor_attention: float

    def sent(self, *, overlapped: bool | None = None) -> float:
        """Bytes that a chip sends, in all collectives or in those that (do not) run beside other work."""
        return sum(one.sent for one in self.traffic if overlapped is None or one.overlapped == overlapped)

    def seconds(self, chip: Chip) -> dict[str, float]:
        """Seconds by part: XLA's estimate, and the least that what it leaves out takes.

        Collectives that run beside other work count only where they take longer than all of it.
        """
        priced = self.cycles / chip.clock
        kernels = self.kernel_flops / chip.flops
        alone = self.sent(overlapped=False) / chip.ring_bytes
        beside = self.sent(overlapped=True) / chip.ring_bytes
        return {"xla": priced, "kernels": kernels, "collectives": alone + max(0.0, beside - priced - kernels)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Cost":
        """The inverse of `dataclasses.asdict`, also after JSON."""
        parts = {
            "groups": [Group(**one) for one in data["groups"]],
            "traffic": [Traffic(**one) for one in data["traffic"]],
            "loops": [tuple(one) for one in data["loops"]],
        }
        return cls(**(data | parts))


def read_cost(
    text: str,
    program: Program,
    model: "Gemma3Config",
    *,
    rows: float,
    seq_len: int,
    tensor: int,
    counted: float = 1.0,
    branch: Literal["dearest", "cheapest"] = "dearest",
    floor: "Floor | None" = None,
) -> Cost:
    """The cost of a compiled program.

    Args:
        text: Of the program.
        program: The same, parsed.
        model: Sizes of the model in it.
        rows: Of one call of attention on one device.
        seq_len: Tokens of these rows.
        tensor: Devices that share a row's heads.
        counted: Share of the tokens that have a loss weight; of trips, in all loops that run as often as data decide.
        branch: Which branch of each conditional counts.
        floor: The products by formula.
    """
    from coldforge.apps.plan.floor import kernel_flops

    found, places = estimate(program, share=counted, branch=branch), frames.read(text)
    kernels: Counter[str] = Counter()
    for kernel in found.kernels:
        kernels[kernel.name] += kernel.times
    times: Counter[tuple[str, int, bool]] = Counter()
    sent: dict[tuple[str, int, bool], float] = {}
    for collective, number in found.collectives:
        key = (collective.kind, collective.group, collective.overlapped)
        times[key] += number
        sent[key] = sent.get(key, 0.0) + collective.sent * number
    return Cost(
        cycles=found.cycles,
        groups=group(found.ops, places)[:GROUPS],
        kernels=dict(kernels),
        kernel_flops=kernel_flops(model, dict(kernels), rows=rows, seq_len=seq_len, tensor=tensor),
        traffic=sorted((Traffic(*key, times[key], sent[key]) for key in times), key=lambda one: -one.sent),
        unpriced=dict(found.unpriced),
        loops=[(_where(loop, places), loop.trips.count if loop.trips else 0, loop.counted) for loop in found.loops],
        conditionals=found.conditionals,
        floor_products=0.0 if floor is None else floor.products,
        floor_attention=0.0 if floor is None else floor.attention,
    )


def _where(loop: Loop, places: Mapping[int, frames.Place]) -> str:
    place = places.get(loop.frame)
    return loop.op_name if place is None else f"{place.calls} {place.line}"
