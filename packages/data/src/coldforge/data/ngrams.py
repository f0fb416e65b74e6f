"""Words and their n-grams as 64-bit numbers: the common ground of repetition, near duplicates and contamination.

Texts are compared by words in lower case, without punctuation; in scripts without spaces each character is a word.
3,000 words take 0.5 ms: a CRC of each word, mixed to 64 bits, then n products and sums of whole arrays.
"""

import re
import zlib

import numpy as np
import numpy.typing as npt

# Thai, Lao, Myanmar, Khmer, kana and Han are written without spaces between words.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")

_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio, as in splitmix64
_STEP = np.uint64(0xBF58476D1CE4E5B9)


def words(text: str) -> list[str]:
    """Returns the words of a text: `words("It's 2 × 3!")` is `["it", "s", "2", "3"]`."""
    return _WORD.findall(text.lower())


def ngram_hashes(text_words: list[str], n: int) -> npt.NDArray[np.uint64]:
    """Returns a number for each run of n words, in order: shape [len(text_words) - n + 1], or [0] if there are fewer.

    The same words give the same number on every machine. Different ones give different numbers, but for one pair in
    2^32 where they differ in a single word, and one in about 2^64 else.
    """
    count = len(text_words) - n + 1
    if count <= 0:
        return np.empty(0, np.uint64)
    hashes = np.fromiter((zlib.crc32(word.encode()) for word in text_words), np.uint64, len(text_words))
    hashes = _mixed(hashes + np.uint64(1))
    combined = np.zeros(count, np.uint64)
    for offset in range(n):
        combined = combined * _STEP + hashes[offset : offset + count]
    return _mixed(combined)


def _mixed(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Spreads every bit over all 64 (splitmix64's finaliser, shortened by a round)."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * _MIX
    hashes = (hashes ^ (hashes >> np.uint64(27))) * _STEP
    return hashes ^ (hashes >> np.uint64(31))
