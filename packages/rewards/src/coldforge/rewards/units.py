"""Units of measure: which names mean the same one, and how much of its base it is.

`read_unit("kilometers per hour")` and `read_unit("km/h")` are the same `Unit`. Names that are not in the table are
units too, each its own ("apples" is "apple"), but for words that make no unit ("or", "half") and names of mathematics.
Left out: temperatures' zero points, months and years in days, units of electricity, prefixes beyond the usual.
"""

import re
from fractions import Fraction
from functools import cache
from typing import NamedTuple

# Canonical name: (dimension, how many of its base, other names). Case matters for names of up to two letters.
_TABLE: dict[str, tuple[str, str, str]] = {
    "mm": ("m", "1/1000", "millimeter millimetre"),
    "cm": ("m", "1/100", "centimeter centimetre"),
    "m": ("m", "1", "meter metre"),
    "km": ("m", "1000", "kilometer kilometre kms"),
    "in": ("m", "0.0254", "inch inches"),
    "ft": ("m", "0.3048", "foot feet"),
    "yd": ("m", "0.9144", "yard"),
    "mi": ("m", "1609.344", "mile"),
    "mg": ("g", "1/1000", "milligram"),
    "g": ("g", "1", "gram gramme"),
    "kg": ("g", "1000", "kilogram kilo kgs"),
    "oz": ("g", "28.349523125", "ounce"),
    "lb": ("g", "453.59237", "lbs"),
    "s": ("s", "1", "second sec secs"),
    "min": ("s", "60", "minute mins"),
    "h": ("s", "3600", "hour hr hrs"),
    "day": ("s", "86400", ""),
    "week": ("s", "604800", "wk"),
    "month": ("month", "1", ""),
    "year": ("month", "12", "yr yrs"),
    "ml": ("l", "1/1000", "milliliter millilitre mL"),
    "cl": ("l", "1/100", "centiliter centilitre cL"),
    "l": ("l", "1", "liter litre L"),
    "$": ("$", "1", "dollar usd us$"),
    "¢": ("$", "1/100", "cent"),
    "€": ("€", "1", "euro eur"),
    "£": ("£", "1", "gbp"),
    "¥": ("¥", "1", "yen jpy yuan"),
    "₹": ("₹", "1", "rupee inr"),
    "deg": ("deg", "1", "degree °"),
    "°C": ("°C", "1", "celsius"),
    "°F": ("°F", "1", "fahrenheit"),
    "J": ("J", "1", "joule"),
    "kJ": ("J", "1000", "kilojoule"),
    "N": ("N", "1", "newton"),
    "W": ("W", "1", "watt"),
    "kW": ("W", "1000", "kilowatt"),
    "Hz": ("Hz", "1", "hertz"),
    "V": ("V", "1", "volt"),
}
CURRENCIES = "$€£¥₹"
# After a number these do not name what is counted: they make of it an alternative, a part of a sum, a condition.
NO_UNITS = frozenset(
    """or and not nor to but if is are was than plus minus times divided over half quarter third hundred thousand
    million billion trillion dozen pi sqrt sin cos tan log ln exp mod choose infinity infty remainder
    approximately about the a an i e x y z with without unless except maybe perhaps""".split()  # noqa: SIM905
)
_FACTOR = re.compile(r"([^\W\d_]+|[$€£¥¢₹°][CF]?|us\$)(?:\^\{?(-?\d)\}?)?", re.IGNORECASE)
_MAX_WORDS = 6


class Unit(NamedTuple):
    """What a number counts, or measures.

    Attributes:
        names: Canonical names with their exponents, sorted; () for a bare number.
        dimension: The same by dimension, for conversion.
        factor: How many of the dimension's base one of this unit is.
    """

    names: tuple[tuple[str, int], ...] = ()
    dimension: tuple[tuple[str, int], ...] = ()
    factor: Fraction = Fraction(1)


@cache
def _names() -> dict[str, str]:
    return {alias: name for name, (_, _, others) in _TABLE.items() for alias in (name, *others.split())}


def _canonical(word: str) -> str:
    names = _names()
    for form in (word, word.lower()):
        if len(form) <= 2 and form != word:
            continue
        for single in (form, form.removesuffix("s"), form.removesuffix("es")):
            if single in names and (len(single) > 1 or single == word):
                return names[single]
    lower = word.lower()
    if lower.endswith("ies") and len(lower) > 4:
        return lower[:-3] + "y"
    return lower[:-1] if lower.endswith("s") and not lower.endswith("ss") and len(lower) > 3 else lower


def read_unit(text: str) -> Unit | None:
    """Reads what stands beside a number; None: it is no unit, and so the text no plain number.

    >>> read_unit("km per hour") == read_unit("km/h"), read_unit("or more")
    (True, None)
    """
    text = text.strip().strip(".")
    if not text:
        return Unit()
    text = re.sub(r"\b(mph)\b", "mi/h", text).replace("km/hr", "km/h").replace("kph", "km/h")
    text = re.sub(r"\b(?:square|sq\.?)\s+([^\W\d_]+)", r"\1^2", text, flags=re.IGNORECASE)
    text = re.sub(r"\bcubic\s+([^\W\d_]+)", r"\1^3", text, flags=re.IGNORECASE)
    text = re.sub(r"\s+(?:per|a|an|each|every)\s+", " / ", text, flags=re.IGNORECASE)
    above, *below = text.split("/")
    if len(below) > 1:
        return None
    exponents: dict[str, int] = {}
    for part, sign in ((above, 1), *((part, -1) for part in below)):
        factors = part.replace("·", " ").replace("*", " ").replace(r"\cdot", " ").replace("-", " ").split()
        if not factors or len(factors) > _MAX_WORDS:
            return None
        for factor in factors:
            match = _FACTOR.fullmatch(factor.strip("(),'"))
            if match is None or match[1].lower() in NO_UNITS or (len(match[1]) == 1 and match[1] not in _names()):
                return None
            name = _canonical(match[1])
            exponents[name] = exponents.get(name, 0) + sign * int(match[2] or 1)
    if {"°C", "°F"} & exponents.keys():
        exponents.pop("deg", None)  # "degrees Celsius"
    return _unit(exponents)


def _unit(exponents: dict[str, int]) -> Unit:
    dimension: dict[str, int] = {}
    factor = Fraction(1)
    for name, exponent in exponents.items():
        base, size, _ = _TABLE.get(name, (name, "1", ""))
        dimension[base] = dimension.get(base, 0) + exponent
        factor *= Fraction(size) ** exponent
    kept = tuple(sorted((base, exponent) for base, exponent in dimension.items() if exponent))
    return Unit(tuple(sorted(exponents.items())), kept, factor)
