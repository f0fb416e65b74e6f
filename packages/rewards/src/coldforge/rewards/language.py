r"""Language consistency: words of the target language ÷ words, in the reasoning (DeepSeek-R1, 2501.12948v2, 3.2.1).

Which language a word is of is seen from its script, which is certain and costs microseconds; languages of one script
(English, Spanish) need an `identify`, a function from a passage to a language's code: `by_function_words` is a small
one, a language identifier's is a better one. Formulas, code, digits and lone letters are of no language and do not
count.

    LanguageConsistency("en")                                   # by script: a Chinese word counts against it
    LanguageConsistency("en", identify=by_function_words)       # and a Spanish sentence does
    LanguageConsistency(None)                                   # in the question's script
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from coldforge.rewards.replies import Judged
from coldforge.rewards.rules import ByReply

# Script: its letters, and how many make a word where words are not set apart by spaces (0: they are).
_SCRIPTS = {
    "Latin": ("A-Za-zª-ºÀ-ÖØ-öø-ɏ\u1e00-\u1eff", 0),
    "Greek": ("\u0370-\u03ff\u1f00-\u1fff", 0),
    "Cyrillic": ("\u0400-\u052f", 0),
    "Armenian": ("\u0531-\u058f", 0),
    "Hebrew": ("\u05d0-\u05ea", 0),
    "Arabic": ("\u0620-\u06ff\u0750-\u077f", 0),
    "Devanagari": ("\u0900-\u097f", 0),
    "Bengali": ("\u0980-\u09ff", 0),
    "Tamil": ("\u0b80-\u0bff", 0),
    "Telugu": ("\u0c00-\u0c7f", 0),
    "Thai": ("\u0e00-\u0e7f", 4),
    "Georgian": ("\u10a0-\u10ff", 0),
    "Kana": ("\u3041-\u30ff", 2),
    "Han": ("\u3400-\u4dbf\u4e00-\u9fff", 2),
    "Hangul": ("\uac00-\ud7a3", 0),
}
_LANGUAGES = {
    "Latin": "en de fr es it pt nl sv da no nb fi pl cs sk hu ro tr id vi hr sl et lv lt ca tl sw ms",
    "Greek": "el",
    "Cyrillic": "ru uk bg sr be mk kk",
    "Armenian": "hy",
    "Hebrew": "he yi",
    "Arabic": "ar fa ur",
    "Devanagari": "hi mr ne",
    "Bengali": "bn as",
    "Tamil": "ta",
    "Telugu": "te",
    "Thai": "th",
    "Georgian": "ka",
    "Han": "zh",
    "Hangul": "ko",
}
SCRIPTS_OF = {language: frozenset([script]) for script, codes in _LANGUAGES.items() for language in codes.split()} | {
    "ja": frozenset(["Kana", "Han"])
}
# Marks that join the letters of one word: accents set apart, apostrophes, hyphens.
_JOINED = "\u0300-\u036f'’\\-"
_WORD = re.compile("|".join(f"(?P<{name}>[{letters}][{letters}{_JOINED}]*)" for name, (letters, _) in _SCRIPTS.items()))
_NO_WORDS = re.compile(
    r"""```.*?(?:```|\Z) | `[^`\n]*` | \$\$.*?\$\$ | \$[^$\n]{1,500}\$ | \\\(.*?\\\) | \\\[.*?\\\]
    | \\begin\{(\w+\*?)\}.*?\\end\{\1\} | https?://\S+ | <[^<>\n]{1,40}> | \\[a-zA-Z]+ | \b\w*[\d_]\w*\b""",
    re.DOTALL | re.VERBOSE,
)
_TEXT_IN_FORMULA = re.compile(r"\\text\s*\{([^{}]*)\}")
_PASSAGE = re.compile(r"(?<=[.!?。！？])\s+|(?<=[。！？])|\n+")

type Identify = Callable[[str], str | None]


@dataclass(frozen=True)
class LanguageConsistency(ByReply):
    """Words of the target language ÷ words in the reasoning: 0 to 1.

    Reasoning without any word (nothing but formulas) has none of another language: 1. No reasoning: 0.

    Attributes:
        target: The language's code (ISO 639-1), or a function of the reply that gives it. None: the script that most of
            the question is written in.
        identify: Says of a passage (a sentence or a line) what language it is in, None if it cannot say; the words of
            passages in another one than `target` do not count as its words. Not asked of passages of fewer than
            `at_least` words.
        at_least: As said.
    """

    target: str | Callable[[Judged], str] | None = "en"
    identify: Identify | None = None
    at_least: int = 4

    def __post_init__(self) -> None:
        """Raises ValueError for a language whose script is not known, or an `identify` without a target."""
        if isinstance(self.target, str):
            _scripts(self.target)
        if self.target is None and self.identify is not None:
            raise ValueError("identify needs a target: a language, or a function of the reply that names one.")

    def of(self, reply: Judged) -> float:
        """One reply's.

        Raises:
            ValueError: The target is a language whose script is not known.
        """
        if not reply.reasoning.strip():
            return 0.0
        language = self.target(reply) if callable(self.target) else self.target
        scripts = _main_scripts(reply.question) if language is None else _scripts(language)
        if self.identify is None or language is None:
            total, ours = count_words(reply.reasoning, scripts)
            return ours / total if total else 1.0
        totals = Counter[str]()
        for passage in _PASSAGE.split(_prose(reply.reasoning)):
            total, ours = count_words(passage, scripts)
            foreign = total >= self.at_least and self.identify(passage) not in (None, language)
            totals.update(total=total, ours=0 if foreign else ours)
        return totals["ours"] / totals["total"] if totals["total"] else 1.0


def count_words(text: str, scripts: frozenset[str]) -> tuple[int, int]:
    """Returns how many words a text has, and how many of them are in these scripts; not of formulas and code.

    Words in Latin letters within Chinese and the like are mostly names and terms, yet words of another language; lone
    Latin letters are variables. Greek letters count only where Greek is asked for: they are mathematics elsewhere.
    """
    total = ours = 0
    for match in _WORD.finditer(_prose(text)):
        script, word = match.lastgroup or "", match[0]
        if script == "Greek" and "Greek" not in scripts:
            continue
        letters = _SCRIPTS[script][1]
        if not letters and len(word) == 1 and word not in "aAI":
            continue
        count = -(-len(word) // letters) if letters else 1
        total += count
        ours += count if script in scripts else 0
    return total, ours


def _prose(text: str) -> str:
    kept = " ".join(_TEXT_IN_FORMULA.findall(text))
    return _NO_WORDS.sub(" ", text) + (f"\n{kept}" if kept else "")


def _scripts(language: str) -> frozenset[str]:
    code = language.lower().partition("-")[0]
    if code not in SCRIPTS_OF:
        raise ValueError(f"the script of {language!r} is not known; known are {', '.join(sorted(SCRIPTS_OF))}.")
    return SCRIPTS_OF[code]


def _main_scripts(question: str) -> frozenset[str]:
    counts = Counter(dict.fromkeys(_SCRIPTS, 0))
    for match in _WORD.finditer(_prose(question)):
        counts[match.lastgroup or ""] += len(match[0])
    if counts["Kana"]:
        return SCRIPTS_OF["ja"]
    [(script, count)] = counts.most_common(1)
    return frozenset([script if count else "Latin"])


# The commonest function words that the languages do not share, or share with few.
_FUNCTION_WORDS = {
    "en": """the and of to is that it for was with as are this be have from or which you we not but by can if so then
    would there their how what each when has were been must will at they our""",
    "de": """der die das und ist nicht ein eine zu den von mit sich des auf für dem im wir dass auch als wird aus oder
    nach bei sind wenn aber werden haben kann noch dann also ich sie""",
    "fr": """le la les et est des une un du que pour dans il pas qui sur au avec nous ce sont plus par donc ou si mais
    cette être elle ont aussi comme alors""",
    "es": """el la los las y es de que en un una por con para se del al no lo como más pero son su si tenemos entonces
    este esta hay está ser cada cuando porque""",
    "it": """il lo la i gli le e è di che un una per con non si del della sono nel da come più ma anche questo quindi
    se abbiamo ogni essere alla dei""",
    "pt": """o a os as e é de que um uma em para com não se do da no na por mais como mas são dos então temos isso
    cada quando ser está você foi pelo""",
    "nl": """de het een en is van dat niet te zijn op aan met voor die in er maar om dan ook als bij naar we hebben
    dus wordt uit kan elk deze""",
    "ru": """и в не на что с по это как из но он так же мы для то если или от все бы его к у является быть тогда""",
    "uk": """і в не на що з це як але він так ми для то якщо або від його до у є та бути тоді які""",
}
_BY_WORD: dict[str, list[str]] = {}
for _language, _words in _FUNCTION_WORDS.items():
    for _word in set(_words.split()):
        _BY_WORD.setdefault(_word, []).append(_language)


def by_function_words(passage: str) -> str | None:
    """Says which of nine languages a passage is in, by its function words; None: not clear.

    >>> by_function_words("So the number of apples is twelve."), by_function_words("Es el número de las manzanas.")
    ('en', 'es')

    German, English, Spanish, French, Italian, Dutch, Portuguese, Russian and Ukrainian are known.
    """
    votes = Counter[str]()
    for word in re.findall(r"[^\W\d_]+", passage.lower()):
        languages = _BY_WORD.get(word, ())
        for language in languages:
            votes[language] += 6 // min(6, len(languages))
    if not votes:
        return None
    (first, most), *others = votes.most_common(2)
    return first if most >= 12 and (not others or most >= 1.5 * others[0][1]) else None
