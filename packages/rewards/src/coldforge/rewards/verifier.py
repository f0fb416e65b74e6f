r"""Equality of expressions by Math-Verify, for a process that can be ended: there is no limit of time here.

Known limits, Math-Verify's: (0, 1) is an interval; numbers within an expression are compared to six decimals if one is
a decimal fraction, to 15 digits otherwise; products commute, "AB" is "BA"; "e^{i\pi}" is not -1.
"""

import logging
import re
from typing import Any

import math_verify

# x, y_1, f(x), AB, |AB|, \angle ABC, \theta, total
_NAME = re.compile(
    r"""\s* (?: \\(?:text|mathrm)\{[^{}]*\}
    | \|? (?:\\angle\s*|\\[a-zA-Z]+)? [a-zA-Z]{0,20} '? (?:_\{?\w+\}?)?
      (?:\([a-z](?:,\s*[a-z])*\))? \|? ) \s*""",
    re.VERBOSE,
)
logging.disable(logging.WARNING)  # Math-Verify warns that it has no limits of time: the pool has


def verify(gold: str, answer: str) -> dict[str, Any]:
    """Compares two expressions in LaTeX.

    Of an equation whose right side is asked for ("x = 3" for 3), each side must be the right answer, or a name:
    Math-Verify would look at the last side only, and take "5 = 2" for 2.

    Returns:
        "right": whether they are the same. "unreadable": "gold" or "answer" if Math-Verify cannot read it, else "".
    """
    sides = [answer]
    if "=" in answer and "=" not in gold and not re.search(r"[,;]", answer):
        sides = [side for side in answer.split("=") if not _NAME.fullmatch(side)] or sides
    found = [_verify(gold, side.strip()) for side in sides]
    return next((one for one in found if not one["right"]), found[0])


def _verify(gold: str, answer: str) -> dict[str, Any]:
    golds, answers = _read(gold), _read(answer)
    if not golds or not answers:
        return {"right": False, "unreadable": "answer" if golds else "gold"}
    # The right one first: it is not symmetric.
    right = math_verify.verify(golds, answers, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True)
    return {"right": bool(right) or _same_symbol(golds[0], answers[0]), "unreadable": ""}


def _read(latex: str) -> list[Any]:
    config = [math_verify.LatexExtractionConfig()]
    return math_verify.parse(
        f"${latex}$", config, fallback_mode="no_fallback", parsing_timeout=None, raise_on_error=True
    )


def _same_symbol(gold: Any, answer: Any) -> bool:
    """Math-Verify compares a lone variable only with a lone variable: to it, x is not 2x/2."""
    if not (getattr(gold, "is_Symbol", False) or getattr(answer, "is_Symbol", False)):
        return False
    return bool(getattr(gold, "is_Add", None) is not None and (gold - answer).doit().simplify() == 0)
