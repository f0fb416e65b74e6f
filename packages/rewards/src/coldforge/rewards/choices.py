r"""Multiple choice: the letter, or letters, that an answer names; and the choice's own words instead of its letter.

"B", "(b)", "B) Paris", "**B.**", "\text{(B)}", "option B" and, where the choices are known, "Paris" are the same
answer. "A or B" is none: it names two, and several letters count only where several are asked for.
"""

import re
from collections.abc import Sequence

from coldforge.rewards.spelling import same_text, tidy, unwrap

_LETTER = r"\(?\[?([A-Ja-j])\]?\)?"
_ONE = re.compile(rf"(?:(?:the\s+)?(?:option|choice|answer)\s*:?\s*)?{_LETTER}[.):]?", re.IGNORECASE)
_WITH_WORDS = re.compile(r"(?:\(([A-J])\)|([A-J])[.):])\s*(\S.*)|([A-J])\s*[-:–]\s+(\S.*)", re.DOTALL)
_SEVERAL = re.compile(rf"{_LETTER}(?:\s*(?:,|;|&|\band\b|,\s*and\b)\s*{_LETTER})+", re.IGNORECASE)
GOLD = re.compile(rf"\(?[A-J]\)?[.)]?|{_LETTER.replace('a-j', '')}(?:\s*,\s*{_LETTER.replace('a-j', '')})+")


def read_choice(text: str, choices: Sequence[str] = ()) -> frozenset[str]:
    r"""Returns the letters that an answer names; none if it names none, or is something else.

    >>> sorted(read_choice(r"\text{(b)}")), sorted(read_choice("A, C")), read_choice("Paris", ["London", "Paris"])
    (['B'], ['A', 'C'], frozenset({'B'}))

    Args:
        text: An answer.
        choices: The choices' words, A first, without their letters.
    """
    text = " ".join(unwrap(tidy(text)).split())
    if match := _ONE.fullmatch(text):
        return frozenset(match[1].upper())
    if _SEVERAL.fullmatch(text):
        return frozenset(letter.upper() for letter in re.findall(r"\b[A-Ja-j]\b", text))
    if match := _WITH_WORDS.fullmatch(text):
        letter, words = (match[1] or match[2] or match[4]), (match[3] or match[5])
        place = ord(letter) - ord("A")
        # Words that are another choice's contradict the letter, and so do words that name another letter.
        if choices:
            return frozenset(letter) if place < len(choices) and same_text(words, choices[place]) else frozenset()
        return frozenset() if re.search(r"\bor\b|\([A-J]\)|\b[B-HJ][.):]", words) else frozenset(letter)
    found = [chr(ord("A") + place) for place, words in enumerate(choices) if same_text(text, words)]
    return frozenset(found) if len(found) == 1 else frozenset()
