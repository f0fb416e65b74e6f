"""A vocabulary of Gemma's kind: pieces, what each of them is, and how a GGUF file's tokens turn back into them.

`model_file` reads the same from SentencePiece's own file. Left out: training a vocabulary, and scores of pieces that
are not NORMAL, which SentencePiece never looks at in BPE and GGUF files do not keep.
"""

import hashlib
from array import array
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # stands for a space within pieces
PAD, EOS, BOS, UNK = "<pad>", "<eos>", "<bos>", "<unk>"
START_OF_TURN, END_OF_TURN = "<start_of_turn>", "<end_of_turn>"
ROLES = (PAD, EOS, BOS, UNK, START_OF_TURN, END_OF_TURN)


class Kind(IntEnum):
    """What a piece is to SentencePiece (`ModelProto.SentencePiece.Type`)."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3  # never found in text
    USER_DEFINED = 4  # found in text before anything else, and never merged with its neighbours
    UNUSED = 5
    BYTE = 6  # a character without a piece is spelled with these


@dataclass(frozen=True)
class Vocabulary:
    """Pieces in the order of their ids, as three columns of equal length.

    Attributes:
        texts: Each piece, with U+2581 for a space.
        scores: Merges that make a piece of a higher score come first. Counts for NORMAL pieces only.
        kinds: Each piece's `Kind`.

    Raises:
        ValueError: A kind is unknown, or a piece that Gemma's conventions are built on (`ROLES`) is missing.
    """

    texts: list[str]
    scores: list[float]
    kinds: list[int]

    def __post_init__(self) -> None:
        unknown = set(self.kinds) - set(Kind)
        if unknown:
            raise ValueError(f"it has pieces of the unknown kind {min(unknown)}; known are {min(Kind)} to {max(Kind)}.")
        missing = [name for name in ROLES if name not in self.ids]
        if missing:
            raise ValueError(f"it is not Gemma's vocabulary: of its {len(self.texts)} pieces none is {missing[0]}.")

    @cached_property
    def ids(self) -> dict[str, int]:
        """Each piece's id."""
        return {text: index for index, text in enumerate(self.texts)}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what decides the ids of a text: pieces, kinds, and the scores of NORMAL pieces.

        It is therefore the same for a model file and for a GGUF file made from it.
        """
        encoded = [text.encode() for text in self.texts]
        # + 0.0 makes 0.0 of -0.0, which is the first merge's score in some files.
        scores = [s + 0.0 if k == Kind.NORMAL else 0.0 for s, k in zip(self.scores, self.kinds, strict=True)]
        digest = hashlib.sha256()
        for column in (array("I", map(len, encoded)), array("f", scores), array("B", self.kinds)):
            digest.update(column.tobytes())
        digest.update(b"".join(encoded))
        return digest.hexdigest()


_KEYS = ("tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type")


def from_gguf_metadata(metadata: dict[str, Any]) -> Vocabulary:
    """Rebuilds the SentencePiece vocabulary that a GGUF file was made from.

    llama.cpp's converter marks whatever looks like a control token as CONTROL, the turn markers among them, which
    SentencePiece has as USER_DEFINED; and it writes the runs of spaces (ids 138 to 167) with real spaces. Undoing both
    gives, for Gemma3 270M, the ids of Hugging Face's tokenizer on every string tried. Roles go by name, since the files
    of instruction-tuned models may call <end_of_turn> their EOS.

    Args:
        metadata: Key-value pairs of the file's header.

    Raises:
        ValueError: The file holds no vocabulary, or not one of Gemma's kind.
    """
    model = metadata.get("tokenizer.ggml.model")
    if model != "llama":
        raise ValueError(f"its tokenizer is {model!r} (tokenizer.ggml.model); Gemma3's is 'llama' (SentencePiece).")
    if metadata.get("tokenizer.ggml.add_space_prefix", False):
        raise ValueError("its tokenizer puts a space before every text (add_space_prefix); Gemma3's does not.")
    missing = [key for key in _KEYS if key not in metadata]
    if missing:
        raise ValueError(f"its header has no {missing[0]}; a vocabulary needs {', '.join(_KEYS)}.")
    tokens, scores, types = (metadata[key] for key in _KEYS)
    if not len(tokens) == len(scores) == len(types):
        raise ValueError(f"it has {len(tokens)} tokens, {len(scores)} scores and {len(types)} types, not one for each.")
    kinds = [_kind_of(token, kind) for token, kind in zip(tokens, types, strict=True)]
    return Vocabulary(
        texts=[token.replace(" ", SPACE) for token in tokens],
        scores=[s if k == Kind.NORMAL else 0.0 for s, k in zip(scores, kinds, strict=True)],
        kinds=kinds,
    )


def _kind_of(token: str, kind: int) -> int:
    if kind not in (Kind.CONTROL, Kind.USER_DEFINED):
        return kind
    if token == UNK:
        return Kind.UNKNOWN
    return Kind.CONTROL if token in (PAD, EOS, BOS) else Kind.USER_DEFINED
