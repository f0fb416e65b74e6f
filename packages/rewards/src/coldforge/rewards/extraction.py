r"""Where a reply says its answer.

`extract` takes what stands between the answer's tags: in a well-formed reply its section, in another the last pair of
tags behind the reasoning. Nothing else is an answer, unless the caller names fallbacks, which are tried in his order:

- "open tag": what follows a tag that opens an answer and is never closed,
- "boxed": the last `\boxed{…}`; also the one within an answer of more words,
- "hashes": what follows `####`, as GSM8K marks it,
- "phrase": what follows "the answer is" or "Answer:",
- "last number": the last number in the text,
- "whole": all of it, if that is one line of five words at most.

A reward that takes the last number pays for replies that list numbers, so fallbacks are for measuring models that know
no tags, not for teaching one.
"""

import re
from collections.abc import Callable, Sequence
from typing import Literal

from coldforge.rewards.replies import Form, sections_of
from coldforge.rewards.spelling import boxes

type Fallback = Literal["open tag", "boxed", "hashes", "phrase", "last number", "whole"]

_WHOLE_WORDS = 5
_HASHES = re.compile(r"^.*?####[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)
_PHRASE = re.compile(
    r"\b(?:final |correct )?answer(?:\s+(?:to|for|of)\b[^.:=\n]{0,60})?"
    r"\s*(?:is|are|=|:)\s*:?\s*(\S[^\n]*?)(?=\.\s|\.?$)",
    re.IGNORECASE | re.MULTILINE,
)
# A minus belongs to a number unless something stands before it from which it subtracts.
_NUMBER = re.compile(
    r"(?:(?<![\w)\]}%.])[-−+])?[$€£]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s?/\s?\d+|e[+-]?\d+)?\s?%?|(?<!\d)[-−]?\.\d+",
    re.IGNORECASE,
)


def extract(text: str, form: Form, fallbacks: Sequence[Fallback] = ()) -> str | None:
    r"""Returns the answer in a reply, None if there is none.

    >>> from coldforge.rewards import Tags
    >>> extract("<reasoning>3 × 4</reasoning><answer>12</answer>", Tags())
    '12'
    >>> extract("It is 3 × 4, so 12.", Tags()), extract("It is 3 × 4, so 12.", Tags(), ["boxed", "last number"])
    (None, '12')

    Args:
        text: A reply.
        form: Its tags.
        fallbacks: Where else to look; see the module's docstring.

    Raises:
        ValueError: A fallback is none of these.
    """
    if unknown := [name for name in fallbacks if name not in _FALLBACKS]:
        raise ValueError(f"{unknown[0]!r} is no fallback; wanted some of {', '.join(_FALLBACKS)}.")
    if section := _section(text, form):
        boxed = boxes(section) if "boxed" in fallbacks else []
        return boxed[-1].strip() if boxed and boxed[-1].strip() else section
    for name in fallbacks:
        if found := _FALLBACKS[name](text, form).strip():
            return found
    return None


def reasoning_of(text: str, form: Form) -> str:
    """Returns the reasoning in a reply: its section, or, where tags are missing, what stands before the answer."""
    if sections := sections_of(text, form):
        return sections.reasoning
    opening, closing = form.reasoning
    _, found, rest = text.partition(opening)
    rest = rest if found else text
    return rest.partition(closing)[0].partition(form.answer[0])[0].strip()


def _section(text: str, form: Form) -> str:
    if sections := sections_of(text, form):
        return sections.answer
    opening, closing = form.answer
    behind = text.rpartition(form.reasoning[1])[2]
    head, found, _ = behind.rpartition(closing)
    if not found or opening not in head:
        return ""
    return head.rpartition(opening)[2].strip()


def _open_tag(text: str, form: Form) -> str:
    _, found, rest = text.rpartition(form.answer[0])
    return rest.partition(form.answer[1])[0] if found else ""


def _boxed(text: str, _form: Form) -> str:
    found = boxes(text)
    return found[-1] if found else ""


def _whole(text: str, _form: Form) -> str:
    text = text.strip()
    short = len(text.splitlines()) == 1 and len(text.split()) <= _WHOLE_WORDS
    return text if short and r"\boxed" not in text else ""  # a box that never closes was cut off


def _last_match(pattern: re.Pattern[str]) -> Callable[[str, Form], str]:
    def find(text: str, _form: Form) -> str:
        found = pattern.findall(text)
        return found[-1].strip("*_ ") if found else ""

    return find


_FALLBACKS: dict[str, Callable[[str, Form], str]] = {
    "open tag": _open_tag,
    "boxed": _boxed,
    "hashes": _last_match(_HASHES),
    "phrase": _last_match(_PHRASE),
    "last number": _last_match(_NUMBER),
    "whole": _whole,
}
