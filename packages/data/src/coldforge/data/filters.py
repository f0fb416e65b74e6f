"""Judgements on examples: functions that take one and return None, or the refusal that says what is wrong with it.

DeepSeek-R1 (2501.12948v2, B.3.3) drops reasoning "with mixed languages, long paragraphs, and code blocks", its cold
start data also what repeats itself (B.3.2), and decontaminates by 10-grams (D.1). The paper gives no thresholds but the
10; the ones here are defaults to argue with, and `functools.partial` sets others. `duplicates` has the filters that
remember what they have seen.

Left out: telling languages of one script apart (English from Spanish), which needs a model; and paraphrases of
evaluation questions, which 10-grams do not find.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import numpy.typing as npt

from coldforge.data.ngrams import ngram_hashes, words
from coldforge.data.records import Example, Refusal

type Filter = Callable[[Example], Refusal | None]

# Greek is left out, as it is everywhere in mathematics.
_SCRIPTS = {
    "Latin": "A-Za-z\u00c0-\u024f\u1e00-\u1eff",
    "Cyrillic": "\u0400-\u052f",
    "Hebrew": "\u05d0-\u05ea",
    "Arabic": "\u0620-\u06ff",
    "Devanagari": "\u0900-\u097f",
    "Bengali": "\u0980-\u09ff",
    "Tamil": "\u0b80-\u0bff",
    "Thai": "\u0e00-\u0e7f",
    "Han": "\u3400-\u4dbf\u4e00-\u9fff",
    "Kana": "\u3040-\u30ff",
    "Hangul": "\uac00-\ud7a3",
}
_SCRIPT = re.compile("|".join(f"(?P<{name}>[{letters}]+)" for name, letters in _SCRIPTS.items()))
_ASCII = re.compile(r"[\x00-\x7f]+")
_NO_LETTERS = bytes(code for code in range(128) if not chr(code).isalpha())
_PARAGRAPHS = re.compile(r"\n\s*\n")
_FENCE = re.compile(r"^[ \t]*(```|~~~)", re.MULTILINE)


def mixed_language(example: Example, *, max_share: float = 0.001) -> Refusal | None:
    """Refuses reasoning or answers with letters of scripts that the question does not use: "mixed-language".

    Latin letters are always allowed, as formulas and code are written in them: reasoning in English to a Chinese
    question passes, a Chinese word in the reasoning to an English question does not.

    Args:
        example: What to judge.
        max_share: The share of such letters among all that is let pass; 0.001 is one in about two hundred words.
    """
    allowed = {match.lastgroup for match in _SCRIPT.finditer(example.question)} | {"Latin"}
    if "Kana" in allowed:
        allowed.add("Han")  # Japanese
    text = f"{example.reasoning}\n{example.answer}"
    # ASCII letters, nearly all there are, are counted at once: 3,000 words in 0.1 ms instead of 4.5.
    ascii_letters = text.encode("ascii", "ignore").translate(None, _NO_LETTERS)
    counts: Counter[str | None] = Counter({"Latin": len(ascii_letters)})
    first = ""
    for match in _SCRIPT.finditer(_ASCII.sub(" ", text)):
        counts[match.lastgroup] += len(match[0])
        if not first and match.lastgroup not in allowed:
            first = match[0]
    foreign = sum(count for script, count in counts.items() if script not in allowed)
    if foreign <= max_share * counts.total():
        return None
    detail = f"{foreign} of {counts.total()} letters are of scripts that the question does not use, as {first[:20]!r}"
    return Refusal("mixed-language", f"{detail}; allowed are {max_share:.2%}.")


def long_paragraphs(example: Example, *, max_characters: int = 2000) -> Refusal | None:
    """Refuses reasoning with a paragraph of more characters (2,000 are some 330 English words): "long-paragraph"."""
    longest = max(_PARAGRAPHS.split(example.reasoning), key=len)
    if len(longest) <= max_characters:
        return None
    detail = f"the paragraph {longest[:40]!r}… has {len(longest)} characters"
    return Refusal("long-paragraph", f"{detail}; allowed are {max_characters}.")


def code_blocks(example: Example) -> Refusal | None:
    """Refuses reasoning with a fenced code block: "code-block". Answers may have one."""
    match = _FENCE.search(example.reasoning)
    if match is None:
        return None
    return Refusal(
        "code-block", f"the reasoning has a code block: {example.reasoning[match.start() : match.start() + 60]!r}."
    )


def repetition(example: Example, *, n: int = 10, max_share: float = 0.3) -> Refusal | None:
    """Refuses reasoning that goes round in circles: "repetition".

    Args:
        example: What to judge.
        n: How many words make a run.
        max_share: The share of runs that may have occurred before. A trace that says everything twice has 0.5.
    """
    runs = ngram_hashes(words(example.reasoning), n)
    if not runs.size:
        return None
    share = 1 - len(np.unique(runs)) / len(runs)
    if share <= max_share:
        return None
    return Refusal("repetition", f"{share:.0%} of the runs of {n} words occurred before; allowed are {max_share:.0%}.")


def filters_of(*, mixed: float | None, paragraphs: int | None, code: bool, repeated: float | None) -> list[Filter]:
    """The filters with these limits, the quick ones first; None (or no code) leaves one out.

    Args:
        mixed: `mixed_language`'s share.
        paragraphs: `long_paragraphs`' characters.
        code: Whether to refuse `code_blocks`.
        repeated: `repetition`'s share.
    """
    found = list[Filter]()
    if mixed is not None:
        found.append(partial(mixed_language, max_share=mixed))
    if paragraphs is not None:
        found.append(partial(long_paragraphs, max_characters=paragraphs))
    if code:
        found.append(code_blocks)
    if repeated is not None:
        found.append(partial(repetition, max_share=repeated))
    return found


class Decontamination:
    """Refuses examples that share n words in a row with an evaluation set: "contaminated".

    Question, reasoning and answer are looked at. An evaluation text of fewer than n words has no such run: it counts
    where an example's question has exactly its words. A run that stands in many evaluation texts is an instruction that
    they share ("Give the result as your final answer. Do not …"), which tells none of them: it does not count. Memory
    is that of the evaluation set: 8 bytes a word.
    """

    def __init__(self, texts: Iterable[str], *, n: int = 10, common: float = 0.1) -> None:
        """Takes the evaluation set's questions (and solutions, if they must not be seen either).

        Args:
            texts: The texts.
            n: How many words make a run.
            common: Runs in more than this share of the texts, and in more than ten of them, do not count.

        Raises:
            ValueError: There are no words in the texts, so that nothing would ever be refused.
        """
        self._n = n
        self._short: set[tuple[str, ...]] = set()
        found = [np.empty(0, np.uint64)]
        for text in texts:
            text_words = words(text)
            if 0 < len(text_words) < n:
                self._short.add(tuple(text_words))
            found.append(np.unique(ngram_hashes(text_words, n)))
        self._runs, counts = np.unique(np.concatenate(found), return_counts=True)
        self._runs = self._runs[counts <= max(10.0, common * (len(found) - 1))]
        if not self._short and not self._runs.size:
            raise ValueError("the evaluation set has no words; wanted the texts that examples must not share.")

    def __call__(self, example: Example) -> Refusal | None:
        """Judges an example; a `Filter`."""
        if (question := tuple(words(example.question))) in self._short:
            return Refusal("contaminated", f"the question is one of the evaluation set: {' '.join(question)!r}.")
        for name, text in (("question", example.question), ("reply", f"{example.reasoning}\n{example.answer}")):
            text_words = words(text)
            hits = np.flatnonzero(self._occurs(ngram_hashes(text_words, self._n)))
            if hits.size:
                run = " ".join(text_words[hits[0] : hits[0] + self._n])
                return Refusal("contaminated", f"{hits.size} runs of {self._n} words in the {name}, as {run!r}.")
        return None

    def _occurs(self, runs: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Says of each run whether the evaluation set has it (np.isin would sort all of its runs each time)."""
        if not self._runs.size:
            return np.zeros(runs.shape, np.bool_)
        places = np.minimum(np.searchsorted(self._runs, runs), self._runs.size - 1)
        return self._runs[places] == runs
