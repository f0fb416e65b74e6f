"""Ops of a program put together by where they come from, so that a person sees what to change.

An op belongs to a pass (of a differentiated, rematerialised function), to the function of ours that traced it, with its
line, and to what it computes. XLA names a fusion after one of the ops in it, so a sum that was fused into a product
counts with either.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping

from coldforge.apps.plan.estimate import Op
from coldforge.apps.plan.frames import Place


@dataclasses.dataclass(frozen=True)
class Group:
    """Ops that belong together.

    Attributes:
        stage: "forward", "backward", "recompute" (of what was not kept), or "" outside the loss.
        where: The function, "MLP/Linear"; where XLA kept no function, the scope in the traced program, or the opcode.
        line: "model.py:95", or "".
        what: The product, "btd,df->btf", or the operation, "reduce_sum".
        cycles: Of all of them.
        ops: How many.
    """

    stage: str
    where: str
    line: str
    what: str
    cycles: int
    ops: int


def group(ops: Iterable[Op], places: Mapping[int, Place]) -> list[Group]:
    """Ops by stage and origin, the dearest first; products of one line that differ are kept apart."""
    cycles: Counter[tuple[str, str, str, str]] = Counter()
    number: Counter[tuple[str, str, str, str]] = Counter()
    for op in ops:
        scope = scopes(op.op_name)
        place = places.get(op.frame)
        what = scope[-1] if scope else op.opcode
        if what == "dot_general" and len(scope) > 1 and "->" in scope[-2]:
            what = scope[-2]
        where = place.calls if place else "/".join(scope[:-1])
        key = (stage(op.op_name), where, place.line if place else "", what)
        cycles[key] += op.cycles
        number[key] += 1
    return [Group(*key, value, number[key]) for key, value in cycles.most_common()]


def stage(op_name: str) -> str:
    """Which pass an op is of: `jit(step)/transpose(jvp(loss))/mul` is "backward"."""
    parts = split(op_name)
    if "rematted_computation" in parts:
        return "recompute"
    if any(part.startswith("transpose(") for part in parts):
        return "backward"
    return "forward" if any(part.startswith("jvp(") for part in parts) else ""


_CONTROL = re.compile(
    r"p?jit\(.*\)|while|body|cond|scan|closed_call|eval_jaxpr|shard_map|checkpoint|remat\d*|rematted_computation|"
    r"custom_[vj][jv]p_call.*|(?:transpose|jvp|vmap)\((?:.*\()?\)*"
)


def scopes(op_name: str) -> list[str]:
    """The named scopes of an op and, last, the operation, without control flow and transformations.

    `jit(step)/while/body/transpose(jvp(attention))/btd,df->btf/dot_general` is `["attention", "btd,df->btf",
    "dot_general"]`.
    """
    found = []
    for part in split(op_name):
        while wrapped := re.fullmatch(r"(?:transpose|jvp|vmap)\((.+)\)", part):
            part = wrapped.group(1)
        if not _CONTROL.fullmatch(part):
            found.append(part)
    return found


def split(op_name: str) -> list[str]:
    """The parts of a name between slashes, but for slashes in parentheses."""
    parts, depth = [""], 0
    for letter in op_name:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "/" and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part for part in parts if part]
