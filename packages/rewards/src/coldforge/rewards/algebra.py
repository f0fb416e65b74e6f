r"""An answer as LaTeX for Math-Verify ("2*sqrt(3)" becomes `2\sqrt{3}`), and what Math-Verify must not be given.

Math-Verify finds an expression in any text: to it, "12 or maybe 13, I think" equals both. So prose is refused here,
before it costs a process. `verifier` is the other half.
"""

import re

from coldforge.rewards.spelling import plain_latex, tidy, unwrap
from coldforge.rewards.units import NO_UNITS

MAX_CHARACTERS = 500
_FUNCTIONS = "arcsin arccos arctan sinh cosh tanh sin cos tan cot sec csc log ln exp".split()  # noqa: SIM905
_GREEK = "alpha beta gamma delta epsilon theta lambda mu phi psi rho sigma tau omega pi infty".split()  # noqa: SIM905
_KNOWN = frozenset(["sqrt", "infinity", "inf", "min", "max", "gcd", "lcm", "det", "mod", "frac", *_FUNCTIONS, *_GREEK])
_SHORT_WORDS = frozenset(
    """an the and or not is are was be of to in if no so we it as at by on for from can has had but all any one two
    its""".split()  # noqa: SIM905
)
_TEXTS = re.compile(r"\\(?:text|mathrm|operatorname|mbox|textrm|textbf)\s*\*?\{([^{}]*)\}")
_BARE = re.compile(rf"(?<![\\a-zA-Z])({'|'.join((*_FUNCTIONS, *_GREEK))})(?![a-zA-Z])")
_SIGNS = {
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "π": r"\pi ", "∞": r"\infty ", "≤": r"\leq ",
    "≠": r"\neq ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "±": r"\pm ", "θ": r"\theta ",
    "≥": r"\geq ", "α": r"\alpha ", "β": r"\beta ", "λ": r"\lambda ", "ℝ": r"\mathbb{R}", "**": "^", "<=": r"\leq ",
    ">=": r"\geq ", "!=": r"\neq ", r"\varnothing": r"\emptyset ", r"\ne ": r"\neq ", r"\le ": r"\leq ",
    r"\ge ": r"\geq ",
}  # fmt: skip
_SIGN = re.compile("|".join(map(re.escape, sorted(_SIGNS, key=len, reverse=True))))


def latex_of(text: str) -> str | None:
    r"""Writes an answer as LaTeX for Math-Verify; None: it is prose, empty, or too long to be an answer.

    >>> latex_of("2*sqrt(3) + pi/2"), latex_of("12 or maybe 13, I think")
    ('2*\\sqrt{3} + \\pi/2', None)
    """
    text = plain_latex(unwrap(tidy(text)))
    if not text or len(text) > MAX_CHARACTERS or "$" in text.lstrip("$") or r"\boxed" in text:
        return None
    text = re.sub(r"\s*\\(?:text|mathrm|textrm|mbox)\s*\{\s*(?:and|or)\s*\}\s*|\s+(?:and|or)\s+", ", ", text)
    text = _SIGN.sub(lambda sign: _SIGNS[sign[0]], text)
    if _is_prose(text) or re.search(r"\^\s*\{?\s*[+-]?\d{5}", text):  # no answer is that large, and many a hang is
        return None
    text = re.sub(r"(?<![\\a-zA-Z])(?:infinity|inf)(?![a-zA-Z])", r"\\infty", text)
    text = re.sub(r"√\s*(\w+)", r"\\sqrt{\1}", _roots(text))
    text = re.sub(r"\^\(([^()]*)\)", r"^{\1}", text)
    text = re.sub(r"\^(-?\d{2,}|-\d)", r"^{\1}", text)
    text = _BARE.sub(r"\\\1", text)
    if re.search(r"\\(?:sin|cos|tan|cot|sec|csc)", text):  # Math-Verify takes 45^\circ for 45
        text = re.sub(r"(\d+(?:\.\d+)?)\s*\^\s*\{?\s*\\circ\s*\}?", r"{\\frac{\1\\pi}{180}}", text)
    text = re.sub(r"(?<![\d/] )(?<![\d/])(\d+)/(\d+) (?=[a-zA-Z\\(])", r"\\frac{\1}{\2} ", text)
    return re.sub(r"(?<!\d)(\d+) (\d+)/(\d+)(?!\d)", r"(\1+\2/\3)", text).strip()


def _roots(text: str) -> str:
    r"""`sqrt(…)` and `√(…)` as `\sqrt{…}`, however deep their parentheses are nested."""
    for match in reversed(list(re.finditer(r"(?<![\\a-zA-Z])sqrt\s*\(|√\s*\(", text))):
        depth = 0
        for end in range(match.end() - 1, len(text)):
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            if depth == 0:
                text = f"{text[: match.start()]}\\sqrt{{{text[match.end() : end]}}}{text[end + 1 :]}"
                break
    return text


def _is_prose(text: str) -> bool:
    r"""Whether there are words that make more, or less, of this than an expression.

    Outside of `\text{…}` any word does that is no function, but for a few letters that may be a product; within it may
    stand a unit, not a number, nor what takes something back ("or so", "not 13").
    """
    inside = " ".join(_TEXTS.findall(text))
    outside = re.sub(r"\\(?:begin|end|mathbb|mathcal)\s*\{[^{}]*\}|\\[a-zA-Z]+", " ", _TEXTS.sub(" ", text))
    words = re.findall(r"[^\W\d_]{2,}", outside)
    return (
        any(word not in _KNOWN and (len(word) > 3 or word.lower() in _SHORT_WORDS) for word in words)
        or re.search(r"\d", inside) is not None
        or any(word.lower() in _SHORT_WORDS | NO_UNITS for word in re.findall(r"[^\W\d_]{2,}", inside))
    )
