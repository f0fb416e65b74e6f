"""What the tests share: a small vocabulary made as Gemma's was, a GGUF file of it, and a second implementation.

The vocabulary is trained by SentencePiece on two files of the standard library in 0.1 s: BPE, byte fallback, text taken
as it is, Gemma's special pieces in Gemma's order. The second implementation is Hugging Face's `tokenizers`, given the
same pieces and merges in the form of Gemma's tokenizer.json.
"""

import argparse
import inspect
import io
import json
import runpy
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import gguf
import pytest
import sentencepiece
import tokenizers
from hypothesis import settings

from coldforge.data import Tokenizer
from coldforge.data.model_file import parse_model
from coldforge.data.vocabulary import SPACE, Kind, Vocabulary

# No deadline: on a busy machine any example can take long.
settings.register_profile("coldforge", deadline=None)
settings.load_profile("coldforge")

RUNS = ["\n" * n for n in range(1, 6)] + [SPACE * n for n in range(2, 8)]
TAGS = ["<table>", "</table>", "<h1>", "</h1>", "<b>", "</b>", "<code>", "<bbox>"]
MARKERS = ["<mask>", "[multimodal]", "<unused0>", "<unused1>", "<unused10>", "<start_of_turn>", "<end_of_turn>"]
IMAGE_MARKERS = ["<start_of_image>", "<end_of_image>"]

TRAINING = {
    "vocab_size": 1200,
    "model_type": "bpe",
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
    "split_digits": True,
    "character_coverage": 1.0,
    "user_defined_symbols": [*MARKERS, *RUNS, *TAGS, "\t", "\t\t", *IMAGE_MARKERS],
    "minloglevel": 2,
} | {f"{role}_id": index for index, role in enumerate(("pad", "eos", "bos", "unk"))}
TRAINING |= {f"{role}_piece": f"<{role}>" for role in ("pad", "eos", "bos", "unk")}


@pytest.fixture(scope="session")
def stratos() -> list[tuple[dict, object]]:
    """Rows in the format of Bespoke-Stratos-17k, each with what is to become of it; see stratos_recipe.py."""
    return runpy.run_path(str(Path(__file__).parent / "stratos_recipe.py"))["rows"]()


@pytest.fixture(scope="session")
def train() -> Callable[..., bytes]:
    """Trains a small SentencePiece model with Gemma's settings, or with some of them changed."""
    sources: list[ModuleType] = [textwrap, argparse]
    lines = [line for source in sources for line in inspect.getsource(source).splitlines() if line.strip()]

    def run(**changes: object) -> bytes:
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=model, **(TRAINING | changes)
        )
        return model.getvalue()

    return run


@pytest.fixture(scope="session")
def model(train: Callable[..., bytes]) -> bytes:
    """The content of the small model's file."""
    return train()


@pytest.fixture(scope="session")
def vocabulary(model: bytes) -> Vocabulary:
    return parse_model(model)


@pytest.fixture(scope="session")
def model_path(model: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tokenizer.model"
    path.write_bytes(model)
    return path


@pytest.fixture(scope="session")
def tok(model_path: Path) -> Tokenizer:
    return Tokenizer.load(model_path)


@pytest.fixture(scope="session")
def write_gguf(vocabulary: Vocabulary) -> Callable[..., Path]:
    """Writes the small vocabulary to a GGUF file as llama.cpp's converter does, with some keys changed or left out."""
    rows = zip(vocabulary.texts, vocabulary.scores, vocabulary.kinds, strict=True)
    converted = [_as_llama_cpp(text, score, kind) for text, score, kind in rows]
    tokens, scores, types = (list(column) for column in zip(*converted, strict=True))

    def write(path: Path, **changes: object) -> Path:
        keys: dict[str, object] = {"model": "llama", "pre": "default", "tokens": tokens, "scores": scores}
        keys |= {"token_type": types, "bos_token_id": 2, "eos_token_id": 1, "add_space_prefix": False} | changes
        writer = gguf.GGUFWriter(path, "gemma3")
        for key, value in keys.items():
            name = f"tokenizer.ggml.{key}"
            if isinstance(value, list):
                writer.add_array(name, value)
            elif isinstance(value, str):
                writer.add_string(name, value)
            elif isinstance(value, bool):
                writer.add_bool(name, value)
            elif value is not None:
                writer.add_uint32(name, value)
        writer.add_string("general.name", "after the vocabulary")
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


def _as_llama_cpp(text: str, score: float, kind: int) -> tuple[str, float, int]:
    if kind == Kind.USER_DEFINED:
        control = text in MARKERS and text != "[multimodal]"  # it "looks special" to the converter
        return text.replace(SPACE, " "), -1000.0, Kind.CONTROL if control else Kind.USER_DEFINED
    if kind in (Kind.CONTROL, Kind.UNKNOWN):
        return text, -1000.0, Kind.CONTROL
    return text, score, kind


@pytest.fixture(scope="session")
def make_oracle() -> Callable[[Vocabulary], tokenizers.Tokenizer]:
    return build_oracle


@pytest.fixture(scope="session")
def oracle(vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    """The same vocabulary in Hugging Face's implementation."""
    return build_oracle(vocabulary)


def build_oracle(vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    """Builds what Gemma's tokenizer.json holds; its added tokens are the pieces that are found before any merge."""
    rows = list(zip(vocabulary.texts, vocabulary.scores, vocabulary.kinds, strict=True))
    special = (Kind.CONTROL, Kind.UNKNOWN)
    added = [(i, text, kind) for i, (text, _, kind) in enumerate(rows) if kind in (*special, Kind.USER_DEFINED)]
    # Runs first, longest first; then by score.
    runs = sorted((text for text, _, kind in rows if kind == Kind.USER_DEFINED), key=len, reverse=True)
    normal = sorted((row for row in rows if row[2] == Kind.NORMAL), key=lambda row: -row[1])
    known = set(vocabulary.texts)
    merges = []
    for text in runs + [row[0] for row in normal]:
        splits = [(text[:i], text[i:]) for i in range(1, len(text))]
        merges += [split for split in splits if split[0] in known and split[1] in known]
    spec = {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": text, "special": kind in special, "normalized": False}
            | {"single_word": False, "lstrip": False, "rstrip": False}
            for i, text, kind in added
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocabulary.ids,
            "merges": merges,
        },
    }
    return tokenizers.Tokenizer.from_str(json.dumps(spec))
