r"""Numbers as people and models write them: signs, commas, fractions, percentages, powers of ten, units.

`read_quantity` reads "−$1,234.50", "3 1/2", "\frac{3}{4}", "15 %", "2.5 \times 10^{-3} km/h", "3 million dollars"
exactly, or says that a text is no plain number; `same_quantity` compares two. Numbers never cost a process. A text that
holds more than a number and its unit ("12 or 13", "between 3 and 4", "3x") is none: an answer that hedges is not right
by half. Left out: numerals as words ("twelve"), unevaluated arithmetic ("3 + 4"), which is the business of `algebra`.
"""

import re
from fractions import Fraction
from typing import Literal, NamedTuple

from coldforge.rewards.spelling import plain_latex, tidy, unwrap
from coldforge.rewards.units import CURRENCIES, Unit, read_unit

type Units = Literal["none", "optional", "convert", "ignore"]
type Percent = Literal["either", "hundredths", "ignore"]

_MAX_CHARACTERS = 200  # Python refuses to read integers of more than 4,300 digits
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,2}(?:,\d{2})+,\d{3}|\d{1,3}(?:[ '_]\d{3})+|\d+)(?:\.\d*)?|\.\d+"


def _braced(name: str, digits: str, bare: str) -> str:
    """A group in TeX's braces, or without them: `{12}` or `1`."""
    return rf"(?:\{{\s*(?P<{name}>{digits})\s*\}}|(?P<{name}_>{bare}))"


_POWER = r"10\s*\^\s*"
_EXPONENT = r"[+-]?\d{1,3}"
_TEN = _POWER + _braced("power", _EXPONENT, _EXPONENT + r"(?!\d)")
_TIMES_TEN = rf"\s*(?:\\times|\\cdot|×|·|x|\*)\s*{_TEN.replace('power', 'times')}"
_NUMBER = re.compile(
    rf"""(?P<sign>[+-]?)\s*(?P<money>us\$|[{CURRENCIES}])?\s*(?P<inner>[+-]?)\s*
    (?: (?P<mixed>\d+)\s+(?P<over>\d+)\s*/\s*(?P<under>\d+)(?!\d)
      | (?P<whole>\d*)\s*\\frac\s*{_braced("top", r"-?\d+", r"\d")}\s*{_braced("bottom", r"-?\d+", r"\d")}
      | {_TEN}
      | (?P<digits>{_DIGITS})
        (?: e(?P<exponent>[+-]?\d{{1,3}})(?!\d) | {_TIMES_TEN}
          | \s*/\s*(?P<divisor>-?(?:{_DIGITS})) )?
    )
    (?P<rest>.*)""",
    re.VERBOSE | re.IGNORECASE | re.ASCII | re.DOTALL,
)
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SCALE = re.compile(r"\s*(hundred|thousand|million|billion|trillion|dozen)s?\b", re.IGNORECASE)
_PERCENT = re.compile(r"\s*(?:%|per\s?cent\b|percentage points?\b)", re.IGNORECASE)
_ORDINAL = re.compile(r"(?:st|nd|rd|th)\b")
_LEAD = re.compile(
    r"^(?:\\?[a-zA-Z](?:_\{?\w+\}?)?\s*=|[a-zA-Z][a-zA-Z ]{0,30}=|≈|~|\\approx|approximately|about|around|roughly)\s*"
)


class Quantity(NamedTuple):
    """A number that was read.

    Attributes:
        value: As it is written, without regard to a percent sign: 15 for "15 %".
        percent: Whether it has one.
        unit: What is counted; the empty one for a bare number.
    """

    value: Fraction
    percent: bool
    unit: Unit


def read_quantity(text: str, *, units: Units = "optional", decimal: Literal[".", ","] = ".") -> Quantity | None:
    """Reads a number with its unit; None: the text is no such thing.

    >>> read_quantity("-$1,234.50").value, read_quantity("15%").percent, read_quantity("12 or 13")
    (Fraction(-2469, 2), True, None)

    Args:
        text: An answer.
        units: "none": a text with a unit is no number. Any other: it may have one, before or behind the number.
        decimal: What separates the decimals; the other one may group digits.
    """
    if len(text) > _MAX_CHARACTERS or not any(character.isdigit() or character in "¼½¾" for character in text):
        return None
    text = plain_latex(unwrap(tidy(text)))
    if "\n" in text:  # lines are no groups of digits
        return None
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"\\(?:text|mathrm|textrm|mbox|operatorname)\s*\{([^{}]*)\}", r" \1", text)
    text = re.sub(
        r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|°)\s*([CF]\b)?", lambda sign: f" °{sign[1]}" if sign[1] else " deg", text
    )
    text = _LEAD.sub("", text.strip())
    if text.startswith("(") and text.endswith(")") and text.count("(") == 1:
        text = text[1:-1].strip()
    if decimal == ",":
        text = text.translate(str.maketrans(".,", ",."))
    match = _NUMBER.fullmatch(text)
    if match is None or (match["sign"] and match["inner"]):
        return None
    value = _value(match)
    return None if value is None else _with_unit(value, match, units)


def _value(match: re.Match[str]) -> Fraction | None:
    """The number without scale, percent and unit; None where something is divided by zero."""
    either = {name: match[name] or match[name + "_"] for name in ("top", "bottom", "power", "times")}
    value: Fraction | None
    if match["mixed"] or either["top"]:
        whole = match["mixed"] or match["whole"]
        over, under = (int(part) for part in (match["over"] or either["top"], match["under"] or either["bottom"]))
        value = int(whole or 0) + Fraction(over, under) if under else None
        if whole and not 0 <= over < under:  # "1 3/2" is no mixed number
            value = None
    elif either["power"]:
        value = Fraction(10) ** int(either["power"])
    else:
        value = _plain(match["digits"])
        if exponent := match["exponent"] or either["times"]:
            value *= Fraction(10) ** int(exponent)
        elif match["divisor"]:
            divisor = _plain(match["divisor"])
            value = value / divisor if divisor else None
    negative = "-" in (match["sign"], match["inner"])
    return -value if value is not None and negative else value


def _plain(digits: str) -> Fraction:
    return Fraction(re.sub("[, '_]", "", digits))


def _with_unit(value: Fraction, match: re.Match[str], units: Units) -> Quantity | None:
    rest = match["rest"]
    if ordinal := _ORDINAL.match(rest):
        rest = rest[ordinal.end() :]
    while scale := _SCALE.match(rest):
        name = scale[1].lower()
        value *= 12 if name == "dozen" else 10 ** _SCALES[name]
        rest = rest[scale.end() :]
    percent = _PERCENT.match(rest)
    if percent:
        rest = rest[percent.end() :]
    elif rest[:1] in ("(", ")", "[", "]", ",", ":", "+", "=", "^", "!", "'", "_"):
        return None
    money = match["money"] or ""
    unit = read_unit(rest)
    if unit is None or ((money or unit.names) and units == "none"):
        return None
    if money and not unit.names:
        unit = read_unit(money)
        assert unit is not None
    elif money:  # "$5 per hour"
        unit = read_unit(f"{money} {rest}" if not rest.strip().lower().startswith("dollar") else rest)
    return None if unit is None else Quantity(value, percent is not None, unit)


def same_quantity(
    answer: Quantity, gold: Quantity, *, units: Units = "optional", percent: Percent = "either", tolerance: float = 0.0
) -> bool:
    """Says whether two quantities are the same.

    Args:
        answer: What was found.
        gold: What is right.
        units: "optional" (and "none"): the same unit, or one of the two has none. "convert": likewise, but 5 cm are
            0.05 m. "ignore": whatever the units.
        percent: What to make of it if just one has a percent sign. "hundredths": 15 % is 0.15 and nothing else.
            "either": it is also 15, as the answer to "how many percent?" (but 0.5 % is never 0.5, since a share may be
            that). "ignore": signs are dropped.
        tolerance: How far the answer may be from the right one, as a share of it. 0: not at all.
    """
    if answer.unit.names and gold.unit.names and units != "ignore":
        if units == "convert" and answer.unit.dimension == gold.unit.dimension:
            answer = answer._replace(value=answer.value * answer.unit.factor)
            gold = gold._replace(value=gold.value * gold.unit.factor)
        elif answer.unit.names != gold.unit.names:
            return False
    if answer.percent == gold.percent or percent == "ignore":
        return _near(answer.value, gold.value, tolerance)
    left, right = (one.value / 100 if one.percent else one.value for one in (answer, gold))
    plain = percent == "either" and abs(gold.value) >= 1 and _near(answer.value, gold.value, tolerance)
    return plain or _near(left, right, tolerance)


def _near(answer: Fraction, gold: Fraction, tolerance: float) -> bool:
    return answer == gold or (tolerance > 0 and abs(answer - gold) <= Fraction(tolerance) * abs(gold))
