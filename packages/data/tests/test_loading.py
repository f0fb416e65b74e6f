"""Loading: the same tokenizer from every form, and files that are not what they should be."""

import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coldforge.data import Tokenizer
from coldforge.data.gguf_header import read_metadata
from coldforge.data.model_file import _fields, encode_model, parse_model
from coldforge.data.vocabulary import Kind, Vocabulary

pytestmark = pytest.mark.whole

WriteGguf = Callable[..., Path]
Train = Callable[..., bytes]


@pytest.fixture(scope="session")
def gguf_path(write_gguf: WriteGguf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "small.gguf")


def changed(vocabulary: Vocabulary, index: int, **columns: object) -> Vocabulary:
    """Returns the vocabulary with one piece's text, score or kind replaced."""
    rows = {name: list(getattr(vocabulary, name)) for name in ("texts", "scores", "kinds")}
    for name, value in columns.items():
        rows[name][index] = value
    return Vocabulary(**rows)


# The vocabulary is the same, whatever it is read from.


def test_a_gguf_file_gives_the_vocabulary_it_was_made_from(
    gguf_path: Path, vocabulary: Vocabulary, tok: Tokenizer, tmp_path: Path
) -> None:
    rebuilt = Tokenizer.load(gguf_path)
    assert rebuilt.fingerprint == tok.fingerprint
    rebuilt.save(tmp_path / "rebuilt.model")
    # Entirely: pieces, kinds and, as these never had others, all scores.
    assert parse_model((tmp_path / "rebuilt.model").read_bytes()) == vocabulary
    text = "def main(self):\n\n    <table>€ <start_of_turn>"
    assert rebuilt.encode(text) == tok.encode(text)
    assert rebuilt.encode_template(text) == tok.encode_template(text)


def test_roles_go_by_name_in_the_gguf_of_an_instruction_tuned_model(
    write_gguf: WriteGguf, tok: Tokenizer, tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "it.gguf", eos_token_id=tok.end_of_turn_id)
    assert Tokenizer.load(path).fingerprint == tok.fingerprint
    assert Tokenizer.load(path).stop_ids == tok.stop_ids


def test_a_gguf_file_is_known_by_its_content(gguf_path: Path, tok: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(gguf_path.read_bytes())
    assert Tokenizer.load(str(path)).fingerprint == tok.fingerprint


def test_a_written_model_reads_as_it_was(vocabulary: Vocabulary) -> None:
    assert parse_model(encode_model(vocabulary)) == vocabulary


def test_a_written_model_says_of_itself_what_a_trained_one_says(vocabulary: Vocabulary, model: bytes) -> None:
    trained, written = dict(_fields(model)), dict(_fields(encode_model(vocabulary)))
    # The trainer's settings and the normalizer's; a trained model is silent where it has SentencePiece's default.
    for part, defaults in ((2, {24: 0}), (3, {5: 1})):
        known, said = defaults | dict(_fields(trained[part])), dict(_fields(written[part]))
        assert said == {number: known[number] for number in said}


def test_a_written_model_has_its_roles_for_sentencepiece_too(vocabulary: Vocabulary) -> None:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(encode_model(vocabulary))
    ids = (processor.pad_id(), processor.eos_id(), processor.bos_id(), processor.unk_id())
    assert ids == (0, 1, 2, 3)


def test_a_directory_is_searched(gguf_path: Path, model: bytes, tok: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(gguf_path.read_bytes())
    assert Tokenizer.load(tmp_path).fingerprint == tok.fingerprint
    (tmp_path / "b.gguf").write_bytes(b"")
    with pytest.raises(ValueError, match=r"2 GGUF files \(a.gguf, b.gguf\): pass one of them"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(model)
    assert Tokenizer.load(tmp_path).fingerprint == tok.fingerprint


@pytest.mark.parametrize(
    ("piece", "columns"),
    [
        ("return", {"texts": "retrun"}),
        ("return", {"texts": "other"}),
        ("return", {"scores": 5.0}),
        ("return", {"kinds": Kind.UNUSED}),
        ("<table>", {"kinds": Kind.CONTROL}),
    ],
)
def test_the_fingerprint_shows_a_change(vocabulary: Vocabulary, piece: str, columns: dict[str, object]) -> None:
    assert changed(vocabulary, vocabulary.ids[piece], **columns).fingerprint != vocabulary.fingerprint


def test_the_fingerprint_shows_where_pieces_end(vocabulary: Vocabulary) -> None:
    first = vocabulary.ids["return"]
    text = vocabulary.texts[first + 1]
    moved = changed(changed(vocabulary, first, texts="retur"), first + 1, texts="n" + text)
    assert moved.fingerprint != vocabulary.fingerprint


def test_the_fingerprint_does_not_depend_on_scores_that_do_not_count(vocabulary: Vocabulary) -> None:
    assert changed(vocabulary, 0, scores=-1000.0).fingerprint == vocabulary.fingerprint
    first = vocabulary.ids["<0xFF>"] + 1
    zeros = [changed(vocabulary, first, scores=zero).fingerprint for zero in (0.0, -0.0)]
    assert zeros == [vocabulary.fingerprint] * 2


# The header's reader against the `gguf` package's.


def test_every_type_of_value_is_read(tmp_path: Path) -> None:
    path = tmp_path / "all.gguf"
    writer = gguf.GGUFWriter(path, "gemma3")
    for name, value in {"uint8": 255, "int8": -128, "uint16": 65535, "int16": -32768, "uint32": 2**32 - 1}.items():
        getattr(writer, f"add_{name}")(name, value)
    for name, value in {
        "int32": -(2**31),
        "uint64": 2**64 - 1,
        "int64": -(2**63),
        "float32": 0.5,
        "float64": 0.1,
    }.items():
        getattr(writer, f"add_{name}")(name, value)
    writer.add_bool("true", True)
    writer.add_string("text", "größer €")
    writer.add_array("texts", ["a", "", "€"])
    writer.add_array("numbers", [1, -2, 3])
    writer.add_array("nested", [[1, 2], [3, 4]])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    fields = gguf.GGUFReader(path).fields
    expected = {key: field.contents() for key, field in fields.items() if not key.startswith("GGUF.")}
    got = read_metadata(path)
    assert got.keys() == expected.keys()
    assert got.pop("nested") == [[1, 2], [3, 4]]  # which the other reader flattens
    del expected["nested"]
    assert got == expected


# Files that are not what they should be.


def load_error(path: Path) -> str:
    with pytest.raises(ValueError, match=r"^No Gemma tokenizer can be loaded from ") as caught:
        Tokenizer.load(path)
    message = str(caught.value)
    assert str(path) in message
    return message


@pytest.mark.parametrize(
    "content", [b"", b"GG", b"version https://git-lfs", b"{}", bytes(100), b"\x0a\x80", b"\x0a\x00"]
)
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    for name in ("tokenizer.model", "weights.gguf"):
        (tmp_path / name).write_bytes(content)
    assert "it is not a SentencePiece model" in load_error(tmp_path / "tokenizer.model")
    assert "is not a GGUF file: it does not begin with b'GGUF'" in load_error(tmp_path / "weights.gguf")


def test_a_missing_file_and_an_empty_directory_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no .*nothing; wanted a tokenizer.model, a .gguf file"):
        Tokenizer.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"holds no tokenizer.model and no .gguf file. Copy tokenizer.model"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"Its tokenizer.json is of no use here"):
        Tokenizer.load(tmp_path)


@given(data=st.binary(max_size=300))
@example(data=b"\x0a\x05\x0a\x03abc")
def test_no_bytes_are_taken_for_a_vocabulary(data: bytes) -> None:
    with pytest.raises(
        ValueError, match=r"^it (is not a SentencePiece model|is not Gemma's vocabulary)|^its |^it has "
    ):
        parse_model(data)


@given(data=st.data())
def test_a_model_cut_off_within_a_field_is_refused(vocabulary: Vocabulary, data: st.DataObject) -> None:
    model = encode_model(vocabulary)
    ends = [0]
    for _, value in _fields(model):  # all of them are bytes
        ends.append(ends[-1] + (2 if len(value) < 128 else 3) + len(value))
    assert ends[-1] == len(model)
    cut = data.draw(st.sampled_from(sorted(set(range(len(model))) - set(ends))))
    with pytest.raises(ValueError, match="it is not a SentencePiece model, or it is cut off"):
        parse_model(model[:cut])


def test_a_model_cut_off_between_fields_is_refused(vocabulary: Vocabulary) -> None:
    model = encode_model(vocabulary)
    *_, (_, trainer), (_, normalizer) = _fields(model)
    without_normalizer = model[: -2 - len(normalizer)]
    without_both = without_normalizer[: -2 - len(trainer)]
    # What a file is silent about has SentencePiece's default, which is not Gemma's.
    with pytest.raises(ValueError, match="its normalizer has add_dummy_prefix = 1; Gemma's has 0"):
        parse_model(without_normalizer)
    with pytest.raises(ValueError, match="its trainer has model_type = 1; Gemma's has 2"):
        parse_model(without_both)


@pytest.mark.parametrize(
    "field", [b"\x48" + b"\xff" * 9 + b"\x01", b"\x49" + b"x" * 8, b"\x4a\x03xxx", b"\x4d" + b"x" * 4, b"\xc8\x0c\x00"]
)
def test_fields_that_are_not_known_are_passed_over(model: bytes, field: bytes) -> None:
    assert parse_model(field + model) == parse_model(model)


@pytest.mark.parametrize("field", [b"\x48" + b"\xff" * 10 + b"\x01", b"\x4b", b"\x4f"])
def test_an_endless_number_and_unknown_wire_types_are_refused(model: bytes, field: bytes) -> None:
    with pytest.raises(ValueError, match="it is not a SentencePiece model"):
        parse_model(field + model)


@given(share=st.floats(0, 1, exclude_max=True))
@example(share=0.0)
def test_a_cut_off_gguf_header_is_refused(
    gguf_path: Path, tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    data = gguf_path.read_bytes()
    header = data.index(b"after the vocabulary") + len("after the vocabulary")
    path = tmp_path_factory.mktemp("cut") / "cut.gguf"
    path.write_bytes(data[: 4 + int(share * (header - 4))])
    message = load_error(path)
    assert "is cut off: it ends after" in message
    assert "within its header" in message


def test_tensors_are_not_needed(gguf_path: Path, tok: Tokenizer, tmp_path: Path) -> None:
    data = gguf_path.read_bytes()
    (tmp_path / "head.gguf").write_bytes(data[: data.index(b"after the vocabulary") + len("after the vocabulary")])
    assert Tokenizer.load(tmp_path / "head.gguf").fingerprint == tok.fingerprint


@pytest.mark.parametrize(
    ("position", "replacement", "complaint"),
    [
        (4, struct.pack("<I", 1), "its version is 1 (little-endian); versions (2, 3) can be read"),
        (4, struct.pack(">I", 3), f"its version is {3 << 24} (little-endian)"),
        # 24: the first key's length and "general.architecture", then its type
        (24 + 8 + len("general.architecture"), struct.pack("<I", 13), "a value of the unknown type 13 at byte"),
        (24 + 8, b"\xff\xff", "cannot be read as GGUF: 'utf-8' codec can't decode"),
    ],
)
def test_a_damaged_gguf_header_is_refused(
    gguf_path: Path, tmp_path: Path, position: int, replacement: bytes, complaint: str
) -> None:
    data = bytearray(gguf_path.read_bytes())
    data[position : position + len(replacement)] = replacement
    (tmp_path / "bad.gguf").write_bytes(data)
    assert complaint in load_error(tmp_path / "bad.gguf")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model": "gpt2"}, "its tokenizer is 'gpt2' (tokenizer.ggml.model); Gemma3's is 'llama'"),
        ({"model": None}, "its tokenizer is None (tokenizer.ggml.model)"),
        ({"add_space_prefix": True}, "puts a space before every text"),
        ({"scores": None}, "its header has no tokenizer.ggml.scores; a vocabulary needs"),
        ({"scores": [0.0, 1.0]}, "it has 1200 tokens, 2 scores and 1200 types"),
        ({"token_type": [7] * 1200}, "pieces of the unknown kind 7; known are 1 to 6"),
        ({"tokens": [f"t{i}" for i in range(1200)]}, "it is not Gemma's vocabulary: of its 1200 pieces none is <pad>"),
    ],
)
def test_another_models_gguf_is_refused(
    write_gguf: WriteGguf, tmp_path: Path, changes: dict[str, object], complaint: str
) -> None:
    assert complaint in load_error(write_gguf(tmp_path / "other.gguf", **changes))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"add_dummy_prefix": True}, "its normalizer has add_dummy_prefix = 1; Gemma's has 0"),
        ({"remove_extra_whitespaces": True}, "its normalizer has remove_extra_whitespaces = 1; Gemma's has 0"),
        ({"normalization_rule_name": "nmt_nfkc"}, "its normalizer has precompiled_charsmap = b"),
        ({"byte_fallback": False}, "its trainer has byte_fallback = 0; Gemma's has 1"),
        ({"model_type": "unigram"}, "its trainer has model_type = 1; Gemma's has 2"),
        ({"treat_whitespace_as_suffix": True}, "its trainer has treat_whitespace_as_suffix = 1; Gemma's has 0"),
        ({"bos_piece": "<s>"}, "of its 1200 pieces none is <bos>"),
        ({"user_defined_symbols": []}, "of its 1200 pieces none is <start_of_turn>"),
    ],
)
def test_a_model_with_other_settings_is_refused(
    train: Train, tmp_path: Path, changes: dict[str, object], complaint: str
) -> None:
    path = tmp_path / "other.model"
    path.write_bytes(train(**changes))
    assert complaint in load_error(path)


def test_a_vocabulary_that_sentencepiece_refuses_is_refused(vocabulary: Vocabulary) -> None:
    twice = changed(vocabulary, vocabulary.ids["return"], texts="self")
    with pytest.raises(ValueError, match=r"SentencePiece refuses its vocabulary: .*self"):
        Tokenizer(twice)


def test_importing_is_light() -> None:
    heavy = "{'jax', 'google.protobuf', 'gguf', 'datasets', 'pyarrow', 'grain'}"
    code = f"import sys, coldforge.data; print(*{heavy}.intersection(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
