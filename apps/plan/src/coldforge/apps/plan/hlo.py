"""The text of a compiled XLA program, taken apart: computations, their instructions, shapes in bytes.

    program = parse(compiled.as_text())
    program.computations[program.entry]["while.3"].attribute("condition")

XLA hands out no other view of a program compiled for a TPU. A computation begins at a line `%name (…) -> … {`, an
instruction at a line `%name = type opcode(operands), attributes`; any other line continues the instruction before it
(the attributes of a Pallas kernel spread over several, with lone braces among them). Left out: what an instruction
computes (`loops` evaluates the few integers that it needs), sharding annotations, the tables of source lines.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping

_HEAD = re.compile(r"(ENTRY )?%(\S+) \(.*\) -> .*\{\s*")
_START = re.compile(r"\s+(ROOT )?%(\S+) = ")
_COMMENT = re.compile(r"/\*.*?\*/")
_ARRAY = re.compile(r"\b([a-z]+[0-9]*[a-z0-9]*)\[([0-9,<=]*)\](\{[^}]*\})?")
_BITS = {"pred": 8, "token": 0, "opaque": 0, "c64": 64, "c128": 128}


@dataclasses.dataclass(frozen=True, slots=True)
class Instruction:
    """One line of a program.

    Attributes:
        name: Without the percent sign.
        opcode: "fusion", "while", "all-reduce-start", …
        type: Its result, as written: `bf16[8,128]{1,0:T(8,128)(2,1)}`, or a tuple of such.
        argument: What stands in the parentheses, as written: a constant's value, a parameter's number.
        operands: Names of the instructions it takes, in order.
        attributes: All that follows, as written.
    """

    name: str
    opcode: str
    type: str
    argument: str
    operands: tuple[str, ...]
    attributes: str

    def attribute(self, key: str) -> str:
        """The name after `key=%`, or "" if there is none: `attribute("body")` of a while."""
        found = re.search(rf"\b{key}=%([^,\s}}]+)", self.attributes)
        return found.group(1) if found else ""

    @property
    def op_name(self) -> str:
        """Where in the traced Python program it comes from; "" where XLA lost that."""
        found = re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.attributes)
        return re.sub(r"\\(.)", r"\1", found.group(1)) if found else ""

    @property
    def frame(self) -> int:
        """The number of the stack frame that traced it (`frames`); 0 for none."""
        found = re.search(r"stack_frame_id=(\d+)", self.attributes)
        return int(found.group(1)) if found else 0

    @property
    def estimated_cycles(self) -> int | None:
        """XLA:TPU's estimate for one execution; None where it makes none (it does for fusions, copies, reshapes)."""
        found = re.search(r'"estimated_cycles":"(-?\d+)"', self.attributes)
        return int(found.group(1)) if found and int(found.group(1)) >= 0 else None

    def branches(self) -> list[str]:
        """The computations of a conditional."""
        found = re.search(r"branch_computations=\{([^}]*)\}", self.attributes)
        if found:
            return [name.strip().removeprefix("%") for name in found.group(1).split(",")]
        return [self.attribute("true_computation"), self.attribute("false_computation")]


type Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A compiled program.

    Attributes:
        computations: By name; each holds its instructions by name, in the order they were scheduled.
        roots: The name of each computation's result.
        entry: The name of the computation that runs.
        partitions: Devices that run it together.
    """

    computations: Mapping[str, Computation]
    roots: Mapping[str, str]
    entry: str
    partitions: int

    def root(self, computation: str) -> Instruction:
        """The instruction whose result a computation returns."""
        return self.computations[computation][self.roots[computation]]

    @functools.cached_property
    def fused(self) -> frozenset[str]:
        """Names of the computations that are insides of fusions: their cost is the fusion's."""
        instructions = (i for computation in self.computations.values() for i in computation.values())
        return frozenset(i.attribute("calls") for i in instructions if i.opcode == "fusion")


def parse(text: str) -> Program:
    """Takes a program's text apart.

    Raises:
        ValueError: The text holds no entry computation, or a line that does not read as an instruction.
    """
    computations: dict[str, Computation] = {}
    roots: dict[str, str] = {}
    entry = name = ""
    pending: list[str] = []

    def finish() -> None:
        if pending:
            instruction = _instruction("\n".join(pending))
            computations[name][instruction.name] = instruction
            if pending[0].lstrip().startswith("ROOT "):
                roots[name] = instruction.name
            pending.clear()

    for line in text.splitlines():
        if head := _HEAD.fullmatch(line):
            finish()
            name = head.group(2)
            computations[name] = {}
            entry = name if head.group(1) else entry
        elif name and _START.match(line):
            finish()
            pending.append(line)
        elif pending and line != "}":
            pending.append(line)
    finish()
    if not entry:
        raise ValueError(f"this is no text of a compiled XLA program: it has no ENTRY. It begins {text[:80]!r}")
    partitions = re.search(r"num_partitions=(\d+)", text[: text.find("\n")])
    return Program(computations, roots, entry, int(partitions.group(1)) if partitions else 1)


def _instruction(text: str) -> Instruction:
    """One instruction from its lines."""
    start = _START.match(text)
    assert start is not None
    # Comments (/*index=5*/) stand between operands and between parts of a type: only there are they removed.
    rest = text[start.end() :]
    kind, rest = _split_type(rest)
    opcode, parenthesis, rest = rest.partition("(")
    end = _closing(rest, depth=1)
    if not parenthesis or not re.fullmatch(r"[a-z][a-z0-9-]*", opcode) or end < 0:
        raise ValueError(f"this line of a compiled program does not read as an instruction: {text[:200]!r}")
    argument = _COMMENT.sub("", rest[:end])
    operands = tuple(re.findall(r"%([^\s,()]+)", argument)) if "%" in argument else ()
    return Instruction(start.group(2), opcode, _COMMENT.sub("", kind), argument, operands, rest[end + 1 :])


def _split_type(text: str) -> tuple[str, str]:
    """The type in front, and what follows the space after it."""
    if not text.startswith("("):
        kind, _, rest = text.partition(" ")
        return kind, rest
    end = _closing(text[1:], depth=1) + 2
    return text[:end], text[end:].lstrip()


def _closing(text: str, depth: int) -> int:
    """Where the parenthesis closes that is open `depth` deep; -1 if it does not."""
    for found in re.finditer(r"[()]", text):
        depth += 1 if found.group() == "(" else -1
        if depth == 0:
            return found.start()
    return -1


def arrays(kind: str) -> list[tuple[str, tuple[int, ...]]]:
    """Element type and dimensions of each array in a type: `(bf16[8,128]{1,0}, u32[])` has two."""
    return [(dtype, dimensions(dims)) for dtype, dims, _ in _ARRAY.findall(kind)]


def dimensions(text: str) -> tuple[int, ...]:
    """`"8,<=128"` is (8, 128)."""
    return tuple(int(size.removeprefix("<=")) for size in text.split(",") if size)


def bits(dtype: str) -> int:
    """Bits of one element: 16 for "bf16", 4 for "s4", 8 for "f8e4m3fn".

    Raises:
        ValueError: A type that is not known.
    """
    if dtype in _BITS:
        return _BITS[dtype]
    if found := re.match(r"(?:bf|f|s|u)(\d+)", dtype):
        return int(found.group(1))
    raise ValueError(f"a compiled program has an array of type {dtype!r}, whose size is not known here")


def logical_bytes(kind: str) -> int:
    """Bytes of a type's arrays as such, without the padding that a layout adds."""
    return sum(-(-math.prod(dims) * bits(dtype) // 8) for dtype, dims in arrays(kind))


def padded_bytes(kind: str) -> int:
    """Bytes of a type's arrays in memory, in their layout.

    TPU keeps arrays in tiles: `f32[64,4]{1,0:T(8,128)}` takes 64 × 128 elements, 32 times what it holds. The tile
    covers the most minor dimensions, those that the layout names first; sizes are rounded up to it.
    """
    total = 0
    for dtype, dims_text, layout in _ARRAY.findall(kind):
        dims = dimensions(dims_text)
        found = re.match(r"\{([0-9,]*)(?::T\(([0-9,]+)\))?", layout)
        order, tile = map(dimensions, found.groups("")) if found else ((), ())
        sizes = [dims[i] for i in order or reversed(range(len(dims)))]  # the most minor first
        sizes += [1] * (len(tile) - len(sizes))  # a scalar takes a tile too
        for i, side in enumerate(reversed(tile)):
            sizes[i] = -(-sizes[i] // side) * side
        total += -(-math.prod(sizes) * bits(dtype) // 8)
    return total
