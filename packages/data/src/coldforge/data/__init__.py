"""Text for Gemma3: tokenizer, chat template, and raw rows made into examples that show their work.

Where to read: `tokenizer` turns text into ids and back, and keeps what people wrote apart from what steers the model;
`chat` is Gemma's template; `vocabulary` reads and writes SentencePiece's model file; `gguf_header` gets the same
vocabulary out of a GGUF file.

`format` is `<reasoning>…</reasoning><answer>…</answer>`; `records` says what travels between the steps that follow;
`convert` makes examples of rows, for which `answers` finds the final answer in a solution; `filters` and `duplicates`
judge examples, with `ngrams`; `tokens` encodes them and weighs their tokens.
"""

from coldforge.data.chat import Message, render_chat
from coldforge.data.convert import Conversion, convert
from coldforge.data.duplicates import ExactDuplicates, NearDuplicates
from coldforge.data.filters import (
    Decontamination,
    Filter,
    code_blocks,
    long_paragraphs,
    mixed_language,
    repetition,
)
from coldforge.data.format import FormatError, ReasoningFormat, Reply
from coldforge.data.records import AnswerKind, Example, Refusal, Row
from coldforge.data.tokenizer import StreamDecoder, Tokenizer
from coldforge.data.tokens import Part, Tokens, loss_weights, tokenize

__all__ = [
    "AnswerKind",
    "Conversion",
    "Decontamination",
    "ExactDuplicates",
    "Example",
    "Filter",
    "FormatError",
    "Message",
    "NearDuplicates",
    "Part",
    "ReasoningFormat",
    "Refusal",
    "Reply",
    "Row",
    "StreamDecoder",
    "Tokenizer",
    "Tokens",
    "code_blocks",
    "convert",
    "long_paragraphs",
    "loss_weights",
    "mixed_language",
    "render_chat",
    "repetition",
    "tokenize",
]
