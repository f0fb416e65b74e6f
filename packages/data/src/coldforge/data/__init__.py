"""Text for Gemma3: the tokenizer and the chat template. Needs SentencePiece and nothing else.

Where to read: `tokenizer` turns text into ids and back, and keeps what people wrote apart from what steers the model;
`chat` is Gemma's template; `vocabulary` reads and writes SentencePiece's model file; `gguf_header` gets the same
vocabulary out of a GGUF file.
"""

from coldforge.data.chat import Message, render_chat
from coldforge.data.tokenizer import StreamDecoder, Tokenizer

__all__ = ["Message", "StreamDecoder", "Tokenizer", "render_chat"]
