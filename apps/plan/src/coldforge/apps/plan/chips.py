"""What TPU chips can do, and how slices of them are named. No JAX.

Peak rates and memory are Google Cloud's (docs.cloud.google.com/tpu/docs/v5e, v5p, v6e, tpu7x, read in 2026-11). Usable
memory is what XLA:TPU itself says when it refuses a program (libtpu 0.0.52: "exceeds available HBM (15.75G)"). A cycle
does at most `flops_per_cycle` in bfloat16, which large products come close to in XLA's own estimates (32,768³: 95 % on
v5e, 96 % on v5p, 82 % on v6e, 88 % on tpu7x), and the clock is the peak rate over that: 1.50 GHz on v5e.
"""

import dataclasses
import re
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device as JAX counts them: a chip, but for tpu7x, whose chips are two devices each.

    Attributes:
        name: As topologies name it.
        memory: Usable bytes of HBM.
        flops: Peak rate in bfloat16, FLOP/s.
        flops_per_cycle: The same per cycle of XLA's cost model.
        link_bytes: What one link carries in one direction, bytes/s (the chip's ICI bandwidth over both directions of
        its links).
        dimensions: Of a slice's shape.
    """

    name: str
    memory: int
    flops: float
    flops_per_cycle: int
    link_bytes: float
    dimensions: int

    @property
    def clock(self) -> float:
        """Cycles per second."""
        return self.flops / self.flops_per_cycle

    @property
    def ring_bytes(self) -> float:
        """Bytes per second that a chip sends in a ring along one axis of the torus, both ways round."""
        return 2 * self.link_bytes


CHIPS: Mapping[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip("v5e", int(15.75 * 2**30), 197e12, 4 * 128 * 128 * 2, 400e9 / 8, 2),  # 4 MXUs of 128 × 128, 4 links
        Chip("v5p", int(95.73 * 2**30), 459e12, 8 * 128 * 128 * 2, 1200e9 / 12, 3),  # 2 cores of 4 MXUs, 6 links
        Chip("v6e", int(31.24 * 2**30), 918e12, 4 * 256 * 256 * 2, 800e9 / 8, 2),  # XLA counts 4 MXUs of 256 × 256
        Chip("tpu7x", int(94.74 * 2**30), 2307e12 / 2, 4 * 256 * 256 * 2, 1200e9 / 12, 3),  # a device is half a chip
    )
}
# What the cloud calls slices of 2 dimensions by their size.
_SHAPES = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_ACCELERATOR = re.compile(r"(v5litepod|v5lite|v5e|v5p|v6e|tpu7x|v2|v3|v4)-(\d+)")


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice of a TPU pod: `Slice.parse("v5e:2x4")` has 8 chips in a rectangle of 2 × 4."""

    chip: Chip
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """As libtpu takes it."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @classmethod
    def parse(cls, name: str) -> "Slice":
        """Reads a topology's name.

        Raises:
            ValueError: It is none; the message says what to write.
        """
        form = "write CHIP:SHAPE, as in v5e:2x4, v5e:16x16 or v5p:2x2x2"
        if found := _ACCELERATOR.fullmatch(name):
            raise ValueError(
                f"{name!r} is an accelerator type, which leaves the shape open: {_suggest(*found.groups())}"
            )
        kind, colon, shape = name.partition(":")
        if not colon or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape):
            raise ValueError(f"{name!r} is no topology: {form}")
        if kind not in CHIPS:
            raise ValueError(f"the chip of topology {name!r} is not known here; known are {', '.join(CHIPS)}: {form}")
        sizes = tuple(map(int, shape.split("x")))
        chip = CHIPS[kind]
        if len(sizes) != chip.dimensions:
            example = f"{kind}:2x4" if chip.dimensions == 2 else f"{kind}:2x2x2"
            raise ValueError(f"a slice of {kind} has {chip.dimensions} dimensions, as in {example}; got {name!r}")
        return cls(chip, sizes)


def _suggest(kind: str, size: str) -> str:
    """What to write in place of an accelerator type."""
    kind = {"v5litepod": "v5e", "v5lite": "v5e"}.get(kind, kind)
    if kind in ("v5e", "v6e") and int(size) in _SHAPES:
        return f"write {kind}:{_SHAPES[int(size)]}"
    if kind == "v5p":  # its name counts cores, of which a chip has two
        return f"it has {int(size) // 2} chips: write a shape of three numbers with that product, as v5p:2x2x2"
    return f"write CHIP:SHAPE with a chip of {', '.join(CHIPS)}, as in v5e:2x4"
