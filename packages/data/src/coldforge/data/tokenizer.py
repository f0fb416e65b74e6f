"""Gemma's tokenizer: text to ids and back, with what people write kept apart from what steers the model.

In this order: which pieces are control tokens; `Tokenizer` (loading, encoding content, encoding trusted text and
conversations, decoding); `StreamDecoder`, for text that arrives one id at a time.

Gemma's own vocabulary has its turn markers as USER_DEFINED pieces, which SentencePiece finds in any text: whoever can
write content can end their turn and begin the model's. Here the processor is given the same vocabulary with these
pieces as CONTROL, which it never finds in text. "<start_of_turn>" in content then becomes seven ordinary tokens that
spell it, and the ids of all other text stay what they were. Control tokens get into a sequence only as ids: by
`encode_chat`, by `add_bos`, or by `encode_template`, which is for text that the program itself wrote.

Left out: training a vocabulary, Hugging Face's tokenizer.json, and <image_soft_token> (id 262,144 in Hugging Face, for
which Gemma's text models have no embedding).
"""

import codecs
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Self

import sentencepiece

from coldforge.data import chat, gguf_header, model_file
from coldforge.data.vocabulary import (
    BOS,
    END_OF_TURN,
    EOS,
    PAD,
    SPACE,
    START_OF_TURN,
    UNK,
    Kind,
    Vocabulary,
    from_gguf_metadata,
)

MODEL_NAME = "tokenizer.model"

# USER_DEFINED pieces of this form are control tokens, unless they are among the HTML tags that Gemma reads as one
# token each: a marker that is not known yet should be refused to content rather than granted. No marker can overlap
# another, as none holds a bracket within, so that a text can be cut at them in one pass.
_MARKER = re.compile(r"<[^<>\[\]\s]+>|\[[^<>\[\]\s]+\]")
# fmt: off
_HTML_TAGS = frozenset((
    "a", "b", "bbox", "blockquote", "body", "caption", "code", "div", "em", "footer", "h1", "h2", "h3", "h4", "h5",
    "h6", "html", "i", "iframe", "img", "li", "s", "span", "strong", "sub", "sup", "table", "tbody", "td", "tfoot",
    "th", "thead", "tr", "u", "ul",
))
# fmt: on


class Tokenizer:
    """Gemma's vocabulary at work. Make one with `Tokenizer.load`.

    It can be pickled and copied, and used from several threads at once.

    Attributes:
        pad_id, eos_id, bos_id, unk_id, start_of_turn_id, end_of_turn_id: Ids (int) of <pad> and so on.
        stop_ids: The ids that end a generated text: `(eos_id, end_of_turn_id)`.
        control_tokens: Pieces that content never becomes, with their ids: the above, <mask>, <unused0> and their like.
    """

    def __init__(self, vocabulary: Vocabulary, source: bytes | None = None) -> None:
        """Makes a tokenizer of a vocabulary.

        Args:
            vocabulary: Its pieces.
            source: The content of the model file it was read from, which `save` writes again. None: a new one is made.

        Raises:
            ValueError: SentencePiece refuses the vocabulary, e.g. for a piece that occurs twice.
        """
        self._vocabulary = vocabulary
        self._source = source
        self.pad_id, self.eos_id, self.bos_id, self.unk_id = (vocabulary.ids[name] for name in (PAD, EOS, BOS, UNK))
        self.start_of_turn_id, self.end_of_turn_id = vocabulary.ids[START_OF_TURN], vocabulary.ids[END_OF_TURN]
        self.stop_ids = (self.eos_id, self.end_of_turn_id)
        self.control_tokens: Mapping[str, int] = _control_tokens(vocabulary)
        self._control_ids = frozenset(self.control_tokens.values())
        self._processor = _content_processor(vocabulary, self._control_ids)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Loads a tokenizer. Nothing is cached on disk.

        Args:
            path: A SentencePiece model file; a GGUF file (its vocabulary is rebuilt exactly, its tensors are not read);
                or a directory that holds `tokenizer.model` or, failing that, one `.gguf` file.

        Raises:
            FileNotFoundError: There is no such file, or the directory holds no tokenizer.
            ValueError: The directory holds several GGUF files and no model file; or the file is damaged, of another
                format, or has another model's tokenizer.
        """
        path = _tokenizer_file(Path(path))
        try:
            if path.suffix == ".gguf" or gguf_header.is_gguf(path):
                return cls(from_gguf_metadata(gguf_header.read_metadata(path)))
            source = path.read_bytes()
            return cls(model_file.parse_model(source), source)
        except ValueError as error:
            raise ValueError(f"No Gemma tokenizer can be loaded from {path}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Writes a SentencePiece model file: the one that was loaded, byte for byte, or one made of a GGUF file's."""
        Path(path).write_bytes(model_file.encode_model(self._vocabulary) if self._source is None else self._source)

    @property
    def vocab_size(self) -> int:
        """How many ids there are: 262,144 for Gemma3. The rows of an embedding may be more."""
        return len(self._vocabulary.texts)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the vocabulary, for manifests: tokenizers with the same one give every text the same ids."""
        return self._vocabulary.fingerprint

    def token(self, token_id: int) -> str:
        """Returns the piece with this id, as the vocabulary has it: for Gemma3, `token(563)` is "▁is".

        Raises:
            ValueError: The id is not in the vocabulary.
        """
        self._check_ids([token_id])
        return self._vocabulary.texts[token_id]

    def encode(self, text: str, *, add_bos: bool = False) -> list[int]:
        """Encodes content: whatever it says, no control token comes out.

        Args:
            text: Any text. What is not in the vocabulary is spelled in UTF-8 bytes.
            add_bos: Whether to put <bos> in front, as Gemma expects at the beginning of a sequence.

        Raises:
            TypeError: `text` is not a string.
            UnicodeEncodeError: It holds half of a surrogate pair, which is no character.
        """
        return self.encode_batch([text], add_bos=add_bos, num_threads=1)[0]

    def encode_batch(
        self, texts: Iterable[str], *, add_bos: bool = False, num_threads: int | None = None
    ) -> list[list[int]]:
        """Encodes many texts as `encode` does each; several threads do not hold Python's interpreter lock.

        Args:
            texts: Any texts.
            add_bos: Whether to put <bos> in front of each.
            num_threads: How many threads share the work; 1: this one does it. None: one for each processor.

        Raises:
            TypeError: `texts` is a string, or holds something that is none.
            UnicodeEncodeError: As for `encode`.
            ValueError: `num_threads` is less than 1.
        """
        if isinstance(texts, str):
            raise TypeError("encode_batch wants several texts and got one string; call encode, or pass a list.")
        if num_threads is not None and num_threads < 1:
            raise ValueError(f"num_threads is {num_threads}; wanted at least 1, or None for one for each processor.")
        # UTF-8 here, since SentencePiece reports a lone surrogate as a type that cannot be cast.
        data = [_checked(text).encode() for text in texts]
        if num_threads == 1:  # SentencePiece would start a thread for it: 1.7 M tokens/s instead of 3.5 for short texts
            rows: list[list[int]] = [self._processor.encode(text) for text in data]
        else:
            rows = self._processor.encode(data, num_threads=num_threads)
        return [[self.bos_id, *row] for row in rows] if add_bos else rows

    def encode_template(self, text: str) -> list[int]:
        """Encodes text that the program itself wrote: control tokens in it count. Not for what people wrote.

        The ids are those of Hugging Face's tokenizer without `add_special_tokens`: `"<bos>Hi"` gives `[2, 10979]`.

        Raises:
            TypeError: `text` is not a string.
            UnicodeEncodeError: As for `encode`.
        """
        texts, controls = [], []
        start = 0
        for match in _MARKER.finditer(_checked(text)):
            control = self.control_tokens.get(match[0])
            if control is not None:
                texts.append(text[start : match.start()])
                controls.append(control)
                start = match.end()
        head, *tails = self.encode_batch([*texts, text[start:]], num_threads=1)
        ids = head
        for control, tail in zip(controls, tails, strict=True):
            ids += [control, *tail]
        return ids

    def encode_chat(self, messages: Sequence[chat.Message], *, add_generation_prompt: bool = True) -> list[int]:
        r"""Encodes a conversation with Gemma3's chat template.

        The ids are those of Hugging Face's `apply_chat_template(messages, tokenize=True)`, except where content spells
        a control token: there they are the ids of the spelling.

        Args:
            messages: The conversation, oldest first: `{"role": "system" | "user" | "assistant", "content": text}`.
            add_generation_prompt: Whether to end with the opening of the model's turn.

        Returns:
            E.g. for the user's "Hi": `[2, 105, 2364, 107, 10979, 106, 107, 105, 4368, 107]`, which is
            `<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n`.

        Raises:
            ValueError: The conversation is not one; `chat.turn_texts` says which are.
        """
        turns = chat.turn_texts(messages)
        newline, opening, *rows = self.encode_batch(["\n", chat.GENERATION_PROMPT, *turns], num_threads=1)
        ids = [self.bos_id]
        for row in rows:
            ids += [self.start_of_turn_id, *row, self.end_of_turn_id, *newline]
        return [*ids, self.start_of_turn_id, *opening] if add_generation_prompt else ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Turns ids back into text: `decode(encode(text)) == text`, but that a U+2581 comes back as a space.

        Args:
            ids: Token ids.
            skip_special: Whether to leave out `control_tokens`. If not, they stand as they are spelled.

        Returns:
            The text, with U+FFFD where bytes are not UTF-8, as when a character's last byte has not been generated.

        Raises:
            ValueError: An id is not in the vocabulary.
        """
        return self._bytes_of(ids, skip_special).decode(errors="replace")

    def _bytes_of(self, ids: Iterable[int], skip_special: bool) -> bytes:
        ids = list(ids)
        self._check_ids(ids)
        spelling = self._spelling
        if skip_special:
            return b"".join([spelling[i] for i in ids if i not in self._control_ids])
        return b"".join([spelling[i] for i in ids])

    def _check_ids(self, ids: Sequence[int]) -> None:
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            wrong = next(i for i in ids if not 0 <= i < self.vocab_size)
            raise ValueError(f"{wrong} is not the id of a token; wanted 0 to {self.vocab_size - 1:,}.")

    @cached_property
    def _spelling(self) -> list[bytes]:
        """What each id adds to the text, in UTF-8; a BYTE piece, as <0x0A>, adds a byte."""
        return [
            bytes((int(text[3:5], 16),)) if kind == Kind.BYTE else text.replace(SPACE, " ").encode()
            for text, kind in zip(self._vocabulary.texts, self._vocabulary.kinds, strict=True)
        ]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size}, fingerprint={self.fingerprint[:12]!r})"


class StreamDecoder:
    """Decodes ids that arrive one by one, holding back the bytes of a character until it is complete.

    What all calls of `push` and `finish` return is, put together, what `Tokenizer.decode` makes of all ids:

        decoder = StreamDecoder(tokenizer)
        for token_id in generated:
            print(decoder.push(token_id), end="", flush=True)
        print(decoder.finish())
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True) -> None:
        """Begins a text. `skip_special` is as for `Tokenizer.decode`."""
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """Returns the text that this id completes: "" in the midst of a character.

        Raises:
            ValueError: The id is not in the vocabulary.
        """
        return self._decoder.decode(self._tokenizer._bytes_of([token_id], self._skip_special))

    def finish(self) -> str:
        """Ends the text and returns what is left: U+FFFD for an incomplete character, else "". A new one may begin."""
        return self._decoder.decode(b"", final=True)


def _checked(text: str) -> str:
    if not isinstance(text, str):
        raise TypeError(f"wanted a string to encode, got {type(text).__name__}.")
    return text


def _control_tokens(vocabulary: Vocabulary) -> dict[str, int]:
    """Returns the pieces, with their ids, that content must not turn into."""
    return {
        text: index
        for index, (text, kind) in enumerate(zip(vocabulary.texts, vocabulary.kinds, strict=True))
        if kind in (Kind.CONTROL, Kind.UNKNOWN) or (kind == Kind.USER_DEFINED and _is_marker(text))
    }


def _is_marker(text: str) -> bool:
    return _MARKER.fullmatch(text) is not None and text.strip("</>") not in _HTML_TAGS


def _content_processor(vocabulary: Vocabulary, controls: frozenset[int]) -> sentencepiece.SentencePieceProcessor:
    """Returns a processor that finds no control token in any text."""
    kinds = list(vocabulary.kinds)
    for index in controls:
        if kinds[index] == Kind.USER_DEFINED:
            kinds[index] = Kind.CONTROL
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model_file.encode_model(replace(vocabulary, kinds=kinds)))
    except RuntimeError as error:
        raise ValueError(f"SentencePiece refuses its vocabulary: {error}") from error
    return processor


def _tokenizer_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"There is no {path}; wanted a tokenizer.model, a .gguf file, or a directory with one.")
    if (path / MODEL_NAME).is_file():
        return path / MODEL_NAME
    files = sorted(path.glob("*.gguf"))
    if not files:
        hint = " Its tokenizer.json is of no use here." if (path / "tokenizer.json").is_file() else ""
        raise FileNotFoundError(
            f"{path} holds no {MODEL_NAME} and no .gguf file.{hint} Copy {MODEL_NAME} there, from where the model's "
            "weights are published, or pass a file."
        )
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ValueError(f"{path} holds no {MODEL_NAME} and {len(files)} GGUF files ({names}): pass one of them.")
    return files[0]
