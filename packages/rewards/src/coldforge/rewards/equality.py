r"""Is this answer the same as the right one?

In this order, cheap things first:

1. nothing to compare, or the same spelling;
2. by the kind of the right answer: numbers with their units (`quantities`), lists of numbers, choices, texts; these are
   decided here, in microseconds;
3. expressions, by Math-Verify in a process of a pool (`algebra`, `pool`).

`compare` does 1 and 2 and may leave an `Open` question, `equal_many` answers all of them together, `equal` is for one.
A right answer must name its kind or have it seen: "12" is a number, "B" a choice, "\sqrt{2}" an expression, "Paris" a
text.
"""

import functools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from coldforge.rewards.algebra import latex_of
from coldforge.rewards.choices import GOLD, read_choice
from coldforge.rewards.pool import MathPool
from coldforge.rewards.quantities import Percent, Quantity, Units, read_quantity, same_quantity
from coldforge.rewards.replies import Verdict
from coldforge.rewards.spelling import plain_latex, same_text, spelled, tidy, unwrap

type Kind = Literal["auto", "number", "expression", "choice", "text", "exact"]
KINDS = ("auto", "number", "expression", "choice", "text", "exact")
_MATH = re.compile(r"[\\=^_{}<>+*/|≤≥√π∞±∪∩]|\(.*,.*\)|\[.*,.*\]")


@dataclass(frozen=True)
class Equality:
    """What counts as equal.

    Attributes:
        units: "none", "optional", "convert" or "ignore"; see `same_quantity`.
        percent: "either", "hundredths" or "ignore"; see there.
        decimal: What separates the decimals, "." or ",".
        tolerance: How far a number may be from the right one, as a share of it.
        ordered: Whether "1, 2" and "2, 1" differ. In parentheses or brackets the order always counts, in braces never.
        case: Whether capitals count in texts.
    """

    units: Units = "optional"
    percent: Percent = "either"
    decimal: Literal[".", ","] = "."
    tolerance: float = 0.0
    ordered: bool = False
    case: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for a setting that is none."""
        known = {"units": ("none", "optional", "convert", "ignore"), "percent": ("either", "hundredths", "ignore")}
        for name, values in (known | {"decimal": (".", ",")}).items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} is {getattr(self, name)!r}; wanted one of {', '.join(values)}.")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance is {self.tolerance}; wanted a share of the right number, as 0.01 for 1 %.")


class Open(NamedTuple):
    """A question for computer algebra: two expressions in LaTeX."""

    gold: str
    answer: str


class Compared(NamedTuple):
    """A verdict, and why where there is something to say."""

    verdict: Verdict
    detail: str = ""


class Pair(NamedTuple):
    """An answer to compare with the right one.

    Attributes:
        answer: What was found; None: nothing.
        gold: What is right.
        kind: What `gold` is; "auto": seen from it.
        choices: The words of a multiple choice, A first.
    """

    answer: str | None
    gold: str
    kind: Kind = "auto"
    choices: Sequence[str] = ()


def equal(
    answer: str | None, gold: str, *, kind: Kind = "auto", units: Units = "optional", percent: Percent = "either",
    decimal: Literal[".", ","] = ".", tolerance: float = 0.0, ordered: bool = False, case: bool = False,
    choices: Sequence[str] = (), pool: MathPool | None = None,
) -> Verdict:  # fmt: skip
    r"""Compares one answer with the right one.

    >>> str(equal("1,234.50", "1234.5")), str(equal("12 or 13", "12")), str(equal("b", "(B)"))
    ('right', 'wrong', 'right')

    Args:
        answer: What was found; None: nothing.
        gold: What is right.
        kind: What `gold` is. "number": nothing but a number is equal to it. "exact": character by character.
        units, percent, decimal, tolerance, ordered, case: See `Equality`.
        choices: The words of a multiple choice, A first.
        pool: For expressions. None: one that all calls share, started at the first expression.

    Raises:
        ValueError: The right answer is empty or not of its kind, or a setting is none.
    """
    how = Equality(units, percent, decimal, tolerance, ordered, case)
    [compared] = equal_many([Pair(answer, gold, kind, choices)], how, pool)
    return compared.verdict


def equal_many(pairs: Sequence[Pair], how: Equality, pool: MathPool | None = None) -> list[Compared]:
    """Compares many; those that need computer algebra at the same time, in the pool's processes.

    Raises:
        ValueError: As for `equal`.
        RuntimeError: Computer algebra is needed and the pool cannot start.
    """
    results = [compare(pair, how) for pair in pairs]
    questions = [(index, result) for index, result in enumerate(results) if isinstance(result, Open)]
    if questions:
        outcomes = (pool or shared_pool()).verify([(question.gold, question.answer) for _, question in questions])
        for (index, question), outcome in zip(questions, outcomes, strict=True):
            if outcome.fault:
                results[index] = Compared(Verdict(outcome.fault), outcome.detail)
            elif outcome.value["unreadable"]:
                side = outcome.value["unreadable"]
                text = question.gold if side == "gold" else question.answer
                who = "the right answer" if side == "gold" else "the answer"
                results[index] = Compared(Verdict.WRONG, f"{who} cannot be read as an expression: {text:.100}")
            else:
                results[index] = Compared(Verdict.RIGHT if outcome.value["right"] else Verdict.WRONG)
    return [result for result in results if isinstance(result, Compared)]


def shared_pool() -> MathPool:
    """The pool of calls that bring none. It ends with the program."""
    return _shared_pool(os.getpid())


@functools.cache
def _shared_pool(_process: int) -> MathPool:
    return MathPool()


def kind_of(gold: str, how: Equality, choices: Sequence[str] = ()) -> Kind:
    """Says what a right answer is."""
    bare = unwrap(tidy(gold))
    if choices or GOLD.fullmatch(bare):
        return "choice"
    if read_quantity(gold, units=how.units, decimal=how.decimal) is not None:
        return "number"
    words = re.findall(r"[^\W\d_]{2,}", bare)
    return "expression" if _MATH.search(bare) or not words else "text"


def compare(pair: Pair, how: Equality) -> Compared | Open:
    """Compares as far as can be done without computer algebra.

    Raises:
        ValueError: As for `equal`.
    """
    answer, gold, kind, choices = pair
    if not gold or not gold.strip():
        raise ValueError("the right answer is empty; wanted what an answer can be compared with.")
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is no kind of answer; wanted one of {', '.join(KINDS)}.")
    if answer is None or not answer.strip():
        return Compared(Verdict.NO_ANSWER)
    strict = kind == "number"
    kind = kind_of(gold, how, choices) if kind == "auto" else kind
    if kind == "exact":
        return _compared(answer.strip() == gold.strip())
    if kind == "text":
        return _compared(same_text(answer, gold, case=how.case))
    if kind == "choice":
        right = read_choice(gold, choices)
        if not right:
            raise ValueError(
                f"the right answer {gold!r:.60} names no choice; wanted a letter, A to J, or a choice's words."
            )
        return _compared(read_choice(answer, choices) == right)
    return _compare_mathematics(answer, gold, how, strict=strict)


def _compare_mathematics(answer: str, gold: str, how: Equality, *, strict: bool) -> Compared | Open:
    wanted, found = (read_quantity(text, units=how.units, decimal=how.decimal) for text in (gold, answer))
    if wanted is not None and found is not None:
        return _compared(_same(found, wanted, how))
    if strict:
        if wanted is None:
            raise ValueError(f"the right answer {gold!r:.60} is no number; wanted one, or another kind.")
        return Compared(Verdict.WRONG, "the answer is no number")
    if spelled(answer) == spelled(gold):
        return Compared(Verdict.RIGHT)
    answer, gold = _by_name(answer, gold)
    several, right_ones = _read_list(answer, how), _read_list(gold, how)
    if several is not None and right_ones is not None:
        return _compared(_same_lists(several, right_ones, how))
    if (several and wanted) or (right_ones and found):
        return Compared(Verdict.WRONG, "one is a number, the other several")
    return _open(answer, gold)


def _open(answer: str, gold: str) -> Compared | Open:
    right, found = latex_of(gold), latex_of(answer)
    if right is None:
        same = same_text(answer, gold)
        return Compared(Verdict.RIGHT) if same else Compared(Verdict.WRONG, "the right answer is no expression")
    return Compared(Verdict.WRONG, "the answer is no expression") if found is None else Open(right, found)


def _compared(same: bool) -> Compared:
    return Compared(Verdict.RIGHT if same else Verdict.WRONG)


def _same(answer: Quantity, gold: Quantity, how: Equality) -> bool:
    return same_quantity(answer, gold, units=how.units, percent=how.percent, tolerance=how.tolerance)


_NAMED = re.compile(r"\s*(\\?[a-zA-Z](?:_\{?\w+\}?)?)\s*=\s*([^=<>]+)")
_COMMA = re.compile(r",\s*(?=\\?[a-zA-Z](?:_\{?\w+\}?)?\s*=)")
_AND_OR = re.compile(r"\s*\\(?:text|mathrm)\s*\{\s*(?:and|or)\s*\}\s*|,?\s+(?:and|or)\s+")


def _by_name(answer: str, gold: str) -> tuple[str, str]:
    """Writes "y = 2, x = 1" as values in the order of their names: Math-Verify, given names, mixes them up.

    Several values of one name are a set. Where just one of both has names, the other's order is taken to be the same.
    """
    found, wanted = _names(answer), _names(gold)
    if found and wanted:
        found, wanted = sorted(found), sorted(wanted)
        if [name for name, _ in found] != [name for name, _ in wanted]:
            return "0", "1"  # not the same unknowns, or not as many values: not equal
        return _values(found), _values(wanted)
    if found:
        return _values(found), gold if len({name for name, _ in found}) == 1 else _tuple(gold)
    if wanted:
        return answer if len({name for name, _ in wanted}) == 1 else _tuple(answer), _values(wanted)
    return answer, gold


def _names(text: str) -> list[tuple[str, str]]:
    """Reads "x = 1, y = 2"; none if it is something else."""
    parts = _COMMA.split(_AND_OR.sub(", ", plain_latex(unwrap(tidy(text)))))
    matches = [_NAMED.fullmatch(part) for part in parts]
    named = [(match[1], match[2].strip()) for match in matches if match]
    return named if len(parts) > 1 and len(named) == len(parts) else []


def _values(named: list[tuple[str, str]]) -> str:
    values = ", ".join(value for _, value in named)
    return f"\\{{{values}\\}}" if len({name for name, _ in named}) == 1 else _tuple(values)


def _tuple(text: str) -> str:
    """A list in parentheses, with a zero in front: Math-Verify takes two values alone for an interval."""
    text = plain_latex(unwrap(tidy(text)))
    inside = text[1:-1] if text.startswith("(") and text.endswith(")") else text
    return f"(0, {inside})"


class _List(NamedTuple):
    brackets: str
    items: list[Quantity]


def _read_list(text: str, how: Equality) -> _List | None:
    r"""Reads "1, 2", "(1, 2)", "[1, 2]", "\{1, 2\}", "1 and 2": two or more numbers."""
    text = plain_latex(unwrap(tidy(text))).replace(r"\{", "{").replace(r"\}", "}").strip()
    brackets = ""
    for pair in ("()", "[]", "{}"):
        if text.startswith(pair[0]) and text.endswith(pair[1]):
            brackets, text = pair, text[1:-1]
            break
    text = _AND_OR.sub(", ", text)
    if any(mark in text for mark in "()[]{}") and "frac" not in text:
        return None
    parts = re.split(r";" if ";" in text else r",(?!\d{3}(?:\D|$))|,(?=\s)", text)
    items = [read_quantity(part, units=how.units, decimal=how.decimal) for part in parts]
    if len(parts) < 2 or not all(items):
        return None
    return _List(brackets, [item for item in items if item is not None])


def _same_lists(answer: _List, gold: _List, how: Equality) -> bool:
    loose = ("", "{}")  # a set is often written without its braces
    if answer.brackets != gold.brackets and not (answer.brackets in loose and gold.brackets in loose):
        return False
    if len(answer.items) != len(gold.items):
        return False
    if gold.brackets in ("()", "[]") or (how.ordered and gold.brackets == ""):
        return all(_same(found, wanted, how) for found, wanted in zip(answer.items, gold.items, strict=True))
    rest = list(answer.items)
    for wanted in gold.items:
        place = next((place for place, found in enumerate(rest) if _same(found, wanted, how)), None)
        if place is None:
            return False
        del rest[place]
    return True
