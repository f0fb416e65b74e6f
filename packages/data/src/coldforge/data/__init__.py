"""Text for Gemma3: the tokenizer and the chat template, and the form of replies that show their work.

Where to read: `tokenizer` turns text into ids and back, and keeps what people wrote apart from what steers the model;
`chat` is Gemma's template; `vocabulary` reads and writes SentencePiece's model file; `gguf_header` gets the same
vocabulary out of a GGUF file. `format` is `<reasoning>…</reasoning><answer>…</answer>`.
"""

from coldforge.data.chat import Message, render_chat
from coldforge.data.format import FormatError, ReasoningFormat, Reply
from coldforge.data.tokenizer import StreamDecoder, Tokenizer

__all__ = ["FormatError", "Message", "ReasoningFormat", "Reply", "StreamDecoder", "Tokenizer", "render_chat"]
