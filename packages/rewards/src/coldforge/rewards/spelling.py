r"""One spelling for what is written in many: Unicode's signs, LaTeX's wrappers, Markdown's emphasis, white space.

`tidy` makes plain characters of look-alikes ("−3½" becomes "-3 1/2", "10³" becomes "10^{3}"). `unwrap` takes off what
stands around a whole answer for its looks, "$\text{(B)}$.", and `spelled` gives the form in which two expressions that
differ only in spelling are the same string. None of them computes anything.
"""

import re
import unicodedata
from typing import NamedTuple

_WRAPPERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("__", "__"), ("`", "`"))
_COMMAND = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|boldsymbol|boxed|fbox|mbox)\s*(?=\{)"
)
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)  # what a backslash escapes is no brace to TeX
_BOXED = re.compile(r"\\boxed\s*(?=\{)")
_LEAD = re.compile(
    r"^(?:(?:so|thus|hence|therefore),?\s+)?(?:the\s+)?(?:final\s+)?(?:correct\s+)?(?:answer|result)\s*(?:is|=|:)\s*:?\s*|^=\s*",
    re.IGNORECASE,
)
_STOP = re.compile(r"(?<![.\\])[.,;]$|(?<=[^\W\d_])!$")  # "5!" is a factorial, "\\," a space
_DASHES = dict.fromkeys(map(ord, "−‐‑‒–—﹣－"), "-")
_OTHERS = {
    **dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u2061\u2062\u2063"), None),
    **dict.fromkeys(map(ord, "“”„«»"), '"'),
    **dict.fromkeys(map(ord, "‘’‚′"), "'"),
    **dict.fromkeys(map(ord, "\u00a0\u202f\u2009\u2007"), " "),
}
_FRACTIONS = {ord(sign): " " + unicodedata.normalize("NFKC", sign).replace("\u2044", "/") for sign in "¼½¾⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"}
_SUPERSCRIPTS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_SIGNS = str.maketrans(_DASHES | _OTHERS | _FRACTIONS)
_REPEATING = re.compile(r"(\d{0,20})\.(\d{0,20})\\overline\s*\{\s*(\d{1,20})\s*\}")
_SPACES = re.compile(r"(?<!\\)\\[!,;: ]|\\quad|\\qquad|~")


def tidy(text: str) -> str:
    """Returns the text in plain characters, without white space around it.

    >>> tidy("−3½ m²")
    '-3 1/2 m^{2}'
    """
    if text.isascii():  # as nearly every answer is
        return text.strip()
    text = _SUPERSCRIPTS.sub(lambda run: "^{" + unicodedata.normalize("NFKC", run[0]).replace("−", "-") + "}", text)
    return unicodedata.normalize("NFKC", text.translate(_SIGNS)).replace("\u2212", "-").strip()


def closing_brace(text: str, start: int) -> int | None:
    r"""Returns where the brace closes that opens at `start`; None: it does not, or none opens there.

    Braces that TeX does not count, `\{` and `\}`, are not counted.
    """
    if text[start : start + 1] != "{":
        return None
    depth, position = 0, start
    while position < len(text):
        character = text[position]
        if character == "\\":
            position += 1
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return position
        position += 1
    return None


class Box(NamedTuple):
    r"""A `\boxed{…}`: where it begins, where what follows it begins, and what is in it."""

    start: int
    end: int
    text: str


def find_boxes(text: str) -> list[Box]:
    r"""Returns the closed boxes that do not lie within another, in order; in one pass, however many never close."""
    closing, open_braces = dict[int, int](), list[int]()
    for match in _BRACES.finditer(text):
        if match[0] == "{":
            open_braces.append(match.start())
        elif match[0] == "}" and open_braces:
            closing[open_braces.pop()] = match.start()
    found: list[Box] = []
    for match in _BOXED.finditer(text):
        end = closing.get(match.end())
        if end is not None and (not found or match.start() >= found[-1].end):
            found.append(Box(match.start(), end + 1, text[match.end() + 1 : end]))
    return found


def boxes(text: str) -> list[str]:
    r"""Returns the contents of `find_boxes`.

    >>> boxes(r"\boxed{\frac{1}{2}} or \boxed{3} or \boxed{4")
    ['\\frac{1}{2}', '3']
    """
    return [box.text for box in find_boxes(text)]


def unwrap(text: str) -> str:
    r"""Takes off what stands around a whole answer: `$…$`, `\(…\)`, `\text{…}`, `\boxed{…}`, `**…**`, a full stop.

    >>> unwrap(r"The answer is **$\boxed{12}$**.")
    '12'
    """
    while True:
        inner = text = text.strip()
        if _STOP.search(text):
            inner = text[:-1]
        for left, right in _WRAPPERS:
            middle = text[len(left) : len(text) - len(right)]
            if text.startswith(left) and text.endswith(right) and len(text) > len(left + right) and left not in middle:
                inner = middle
                break
        if match := _COMMAND.match(text):
            end = closing_brace(text, match.end())
            inner = text[match.end() + 1 : end] if end == len(text) - 1 else inner
        elif lead := _LEAD.match(text):
            inner = text[lead.end() :]
        if inner == text or not inner.strip():
            return text
        text = inner


def plain_latex(text: str) -> str:
    r"""Returns LaTeX without what does not change its meaning: spacing, `\left`, `\dfrac` for `\frac`, `\%` for `%`.

    A repeating decimal becomes its fraction: `0.1\overline{6}` is `\frac{15}{90}`.
    """
    text = re.sub(r"(?<!\\)\\!\s*", "", text)  # takes space away: 10,\!080 is 10,080 (three golds of MATH-500)
    text = _SPACES.sub(" ", text).replace("{,}", ",")
    text = re.sub(r"\\(?:left|right|displaystyle|bigl?|bigr|Bigl?|Bigr)(?![a-zA-Z])\s*", "", text)
    text = re.sub(r"\\[dtc]frac(?![a-zA-Z])", r"\\frac", text)
    text = re.sub(r"\\([%$#&])", r"\1", text)
    return _REPEATING.sub(_fraction, text) if r"\overline" in text else text


def _fraction(match: re.Match[str]) -> str:
    whole, once, again = match[1] or "0", match[2], match[3]
    top = int(whole + once + again) - int(whole + once)
    return f"\\frac{{{top}}}{{{'9' * len(again) + '0' * len(once)}}}"


def spelled(text: str) -> str:
    r"""Returns an expression in one spelling.

    >>> spelled(r"\dfrac{x}{2} + \left(1\right)") == spelled(r"\frac{x}{2}+(1)")
    True
    """
    text = re.sub(r"\\(?:text|mathrm|mathbf|operatorname)\s*\{([^{}]*)\}", r"\1", plain_latex(unwrap(tidy(text))))
    # Space between words and after a command's name separates; other space does not.
    return re.sub(r"(?<![a-zA-Z0-9])\s+|\s+(?![a-zA-Z0-9])", "", re.sub(r"\s+", " ", text))


def same_text(first: str, second: str, *, case: bool = False) -> bool:
    """Says whether two texts are the same but for white space, quotes, a full stop and, unless `case`, capitals."""
    first, second = (
        " ".join(re.sub(r"\\(?:text|mathrm)\s*\{([^{}]*)\}", r"\1", unwrap(tidy(text)).strip("\"' ")).split())
        for text in (first, second)
    )
    return first == second if case else first.casefold() == second.casefold()
