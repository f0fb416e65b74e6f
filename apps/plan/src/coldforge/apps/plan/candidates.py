"""Ways to run a stage: candidates, the order to try them in, and what can be concluded without compiling.

A candidate is a mesh, a rematerialisation policy, and how a step's rows are split into micro-batches; how many rows a
step has stays as it is, since that decides what is learned. They are tried in the order in which they are likely to
be fast: weights replicated before split, little recomputation before much, few micro-batches before many. What
follows from results is not compiled:
  - weights alone do not fit;
  - it was refused, so the same with more rows at a time, or with less recomputation, will be too;
  - it fits, so the same with more recomputation or more micro-batches is slower.
Nothing here compiles: `Search` is given a function that does.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Literal, get_args

from coldforge.apps.plan.plan import Outcome, Plan
from coldforge.apps.sft.config import SftConfig

Remat = Literal["none", "block", "full"]  # by growing recomputation
REMATS: tuple[Remat, ...] = get_args(Remat)


@dataclasses.dataclass(frozen=True, order=True)
class Candidate:
    """One way to run a step; ordered by how fast it is likely to be."""

    tensor: int
    fsdp: int
    accumulation: int
    remat: int
    data: int
    rows: int

    def apply(self, config: SftConfig) -> SftConfig:
        """The configuration that runs a step this way."""
        return dataclasses.replace(
            config,
            model=dataclasses.replace(config.model, remat=REMATS[self.remat]),
            batches=dataclasses.replace(config.batches, rows=self.rows, accumulation=self.accumulation),
            mesh=dataclasses.replace(config.mesh, data=self.data, fsdp=self.fsdp, tensor=self.tensor),
        )


def candidates(config: SftConfig, devices: int, heads: int) -> list[Candidate]:
    """All candidates, the most promising first.

    Args:
        config: Its rows × accumulation is kept, and the rest of it.
        devices: Of the slice.
        heads: Of the model; `tensor` divides them.
    """
    total = config.batches.rows * config.batches.accumulation
    found = []
    for tensor, fsdp in itertools.product(_divisors(devices), repeat=2):
        if heads % tensor or devices % (tensor * fsdp):
            continue
        data = devices // (tensor * fsdp)
        for rows in _divisors(total):
            if rows % (data * fsdp) == 0:
                found += [Candidate(tensor, fsdp, total // rows, r, data, rows) for r in range(len(REMATS))]
    return sorted(found)


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def weights_bytes(config: SftConfig, parameters: int, embedding: int) -> float:
    """Bytes of a model's weights, and of what the optimizer keeps of those that are trained, on one device unsplit.

    Args:
        config: What is trained, and how the base is stored.
        parameters: Of the base.
        embedding: How many of them are the embedding, which is never quantised.
    """
    if config.model.train == "full":
        return 12.0 * parameters  # float32, and two moments
    width = {"none": 2.0, "int8": 1.0, "nf4": 0.5}[config.lora.quantize]
    return 2.0 * embedding + width * (parameters - embedding)


@dataclasses.dataclass
class Search:
    """A search under way.

    Attributes:
        config: What candidates are variations of.
        capacity: Bytes of a chip.
        unsplit: Bytes of the weights on one device (`weights_bytes`).
        compile: Gives a candidate's outcome, or None to leave it for another time.
        outcomes: So far.
        implied: What was concluded about candidates that were not compiled.
        waiting: Those that are left for another time.
    """

    config: SftConfig
    capacity: int
    unsplit: float
    compile: Callable[[Candidate], Outcome | None]
    outcomes: dict[Candidate, Outcome] = dataclasses.field(default_factory=dict)
    implied: dict[Candidate, str] = dataclasses.field(default_factory=dict)
    waiting: list[Candidate] = dataclasses.field(default_factory=list)

    def run(self, order: list[Candidate]) -> Iterator[tuple[Candidate, Outcome]]:
        """Compiles what cannot be concluded, in order, and gives each outcome as it comes."""
        for candidate in order:
            if reason := self.conclude(candidate):
                self.implied[candidate] = reason
            elif (outcome := self.compile(candidate)) is None:
                self.waiting.append(candidate)
            else:
                self.outcomes[candidate] = outcome
                yield candidate, outcome

    def conclude(self, candidate: Candidate) -> str:
        """Why a candidate need not be compiled; "" if it must."""
        share = self.unsplit / (candidate.fsdp * candidate.tensor)
        if share > self.capacity:
            return f"weights alone take {share / 2**30:.1f} GiB"
        for other, outcome in self.outcomes.items():
            if not isinstance(outcome, Plan) or (other.data, other.fsdp, other.tensor) != (
                candidate.data, candidate.fsdp, candidate.tensor,
            ):  # fmt: skip
                continue
            if not outcome.fits and candidate.rows >= other.rows and candidate.remat <= other.remat:
                return "takes more than what was refused"
            if outcome.fits and candidate.accumulation >= other.accumulation and candidate.remat >= other.remat:
                return "recomputes more, or in more micro-batches, than what fits"
        return ""

    @property
    def best(self) -> tuple[Candidate, Plan] | None:
        """The fastest that fits."""
        fitting = [(c, o) for c, o in self.outcomes.items() if isinstance(o, Plan) and o.fits]
        return min(fitting, key=lambda one: one[1].seconds, default=None)


def flags(config: SftConfig, preset: SftConfig) -> list[str]:
    """The options that make `config` of `preset`, as `coldforge-sft` and this program take them."""
    words = []
    for section in dataclasses.fields(SftConfig):
        ours, theirs = getattr(config, section.name), getattr(preset, section.name)
        for field in dataclasses.fields(ours):
            value = getattr(ours, field.name)
            if value == getattr(theirs, field.name):
                continue
            name = f"{section.name}.{field.name}".replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{name}" if value else f"--{section.name}.no-{field.name}".replace("_", "-"))
            else:
                words += [f"--{name}", str(value)]
    return words
