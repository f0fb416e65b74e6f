r"""Equality of expressions by Math-Verify, for a process that can be ended: there is no limit of time here.

Known limits, Math-Verify's: (0, 1) is an interval; numbers within an expression are compared to six decimals if one is
a decimal fraction, to 15 digits otherwise; products commute, "AB" is "BA"; "e^{i\pi}" is not -1.
"""

import logging
from typing import Any

import math_verify

logging.disable(logging.WARNING)  # Math-Verify warns that it has no limits of time: the pool has


def verify(gold: str, answer: str) -> dict[str, Any]:
    """Compares two expressions in LaTeX.

    Returns:
        "right": whether they are the same. "unreadable": "gold" or "answer" if Math-Verify cannot read that one, else
            "".
    """
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
