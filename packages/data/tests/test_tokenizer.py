"""The tokenizer against a second implementation, and by what must hold for any text and any ids."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st

from coldforge.data import StreamDecoder, Tokenizer
from coldforge.data.vocabulary import SPACE, Kind, Vocabulary

# Text in which what is special to the tokenizer is frequent, whole and in fragments.
SNIPPETS = (
    ["<table>", "</table>", "<b>", "<bbox>", "<", ">", "</", "[", "]", "<0x0A>", "<0xE2>", "\t", "\t\t\t", "\r\n", "\0"]
    + ["\n" * n for n in (1, 2, 5, 11)]
    + [" " * n for n in (1, 2, 7, 15)]
    + [
        "def main(self):",
        "return",
        "argument",
        " the",
        "1234",
        "é",
        "日本語",
        "🧑‍🚀",
        "\u0301",
        "\ufeff",
        "\u00a0",
        "⁇",
    ]
)
CONTROLS = ["<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>", "<pad>", "<unk>", "<mask>", "<unused0>", "<unused10>"]
CONTROLS += ["<unused1>", "[multimodal]", "<start_of_image>", "<end_of_image>"]
FRAGMENTS = ["<start_of_", "turn>", "<unused", "1>", "<<bos>>", "[<eos>]", "<start_of_turn", "<image_soft_token>"]

hostile_text = st.lists(
    st.sampled_from(SNIPPETS) | st.sampled_from(CONTROLS) | st.sampled_from(FRAGMENTS) | st.text(max_size=8),
    max_size=20,
).map("".join)
# Filtered, since Hypothesis draws strings that it finds in the code, "<eos>" among them.
clean_text = (
    st.lists(st.sampled_from(SNIPPETS) | st.text(max_size=8), max_size=20)
    .map("".join)
    .filter(lambda text: not any(control in text for control in CONTROLS))
)


@pytest.fixture(scope="session")
def controls(tok: Tokenizer) -> frozenset[int]:
    return frozenset(tok.control_tokens.values())


def test_ids_have_gemmas_roles(tok: Tokenizer) -> None:
    assert (tok.pad_id, tok.eos_id, tok.bos_id, tok.unk_id) == (0, 1, 2, 3)
    assert tok.token(tok.start_of_turn_id) == "<start_of_turn>"
    assert tok.token(tok.end_of_turn_id) == "<end_of_turn>"
    assert tok.stop_ids == (tok.eos_id, tok.end_of_turn_id)
    assert tok.vocab_size == 1200


def test_control_tokens_are_all_markers_and_no_tag_or_run(tok: Tokenizer, vocabulary: Vocabulary) -> None:
    assert set(tok.control_tokens) == set(CONTROLS)
    assert all(vocabulary.texts[index] == text for text, index in tok.control_tokens.items())


# Against Hugging Face's tokenizers.


@given(text=hostile_text)
def test_trusted_text_has_the_oracles_ids(tok: Tokenizer, oracle: tokenizers.Tokenizer, text: str) -> None:
    assert tok.encode_template(text) == oracle.encode(text, add_special_tokens=False).ids


@given(text=clean_text)
def test_content_has_the_oracles_ids_where_it_spells_no_control_token(
    tok: Tokenizer, oracle: tokenizers.Tokenizer, text: str
) -> None:
    assert tok.encode(text) == oracle.encode(text, add_special_tokens=False).ids


@given(text=hostile_text)
def test_decoding_agrees_with_the_oracle(tok: Tokenizer, oracle: tokenizers.Tokenizer, text: str) -> None:
    ids = tok.encode_template(text)
    assert tok.decode(ids, skip_special=False) == oracle.decode(ids, skip_special_tokens=False)


# Content.


@given(text=hostile_text)
@example(text="".join(CONTROLS))
def test_content_never_becomes_a_control_token(tok: Tokenizer, controls: frozenset[int], text: str) -> None:
    assert controls.isdisjoint(tok.encode(text))


@given(text=hostile_text)
@example(text=SPACE + " ")
def test_content_survives_a_round_trip(tok: Tokenizer, text: str) -> None:
    ids = tok.encode(text)
    # Sole exception, as in SentencePiece and Hugging Face: the character that stands for a space becomes one.
    assert tok.decode(ids) == tok.decode(ids, skip_special=False) == text.replace(SPACE, " ")


def test_every_control_token_is_a_marker_in_trusted_text_and_spelled_in_content(tok: Tokenizer) -> None:
    for text, index in tok.control_tokens.items():
        assert tok.encode_template(f"a{text}b") == [*tok.encode("a"), index, *tok.encode("b")]
        assert len(tok.encode(text)) > 1


def test_no_byte_piece_is_written_by_its_name(tok: Tokenizer, vocabulary: Vocabulary) -> None:
    for name in (f"<0x{byte:02X}>" for byte in range(256)):
        assert vocabulary.kinds[vocabulary.ids[name]] == Kind.BYTE
        assert tok.encode(name) != [vocabulary.ids[name]]
        assert tok.decode(tok.encode(name)) == name


@pytest.mark.parametrize("text", ["<table>", "</h1>", "<bbox>", "\n", "\n\n\n", "\t\t", "  ", "       "])
def test_tags_and_runs_of_white_space_are_one_token(tok: Tokenizer, text: str) -> None:
    assert [tok.token(i) for i in tok.encode(text)] == [text.replace(" ", SPACE)]


def test_a_character_without_a_piece_is_spelled_in_bytes(tok: Tokenizer) -> None:
    assert [tok.token(i) for i in tok.encode("€")] == ["<0xE2>", "<0x82>", "<0xAC>"]


def test_bos_is_added_on_request_only(tok: Tokenizer) -> None:
    assert tok.encode("return", add_bos=True) == [tok.bos_id, *tok.encode("return")]
    assert tok.bos_id not in tok.encode("return")
    assert tok.encode("") == []
    assert tok.encode("", add_bos=True) == [tok.bos_id]


@given(texts=st.lists(hostile_text, max_size=6), add_bos=st.booleans(), num_threads=st.sampled_from([None, 1, 2, 5]))
def test_a_batch_is_its_texts_one_by_one(
    tok: Tokenizer, texts: list[str], add_bos: bool, num_threads: int | None
) -> None:
    expected = [tok.encode(text, add_bos=add_bos) for text in texts]
    assert tok.encode_batch(texts, add_bos=add_bos, num_threads=num_threads) == expected
    assert tok.encode_batch(iter(texts), add_bos=add_bos) == expected


# Ids to text.


def test_control_tokens_are_left_out_or_spelled(tok: Tokenizer) -> None:
    ids = tok.encode_template("<bos>a<unk>b<mask>c<end_of_turn>")
    assert tok.decode(ids) == "abc"
    assert tok.decode(ids, skip_special=False) == "<bos>a<unk>b<mask>c<end_of_turn>"


@given(data=st.data(), skip_special=st.booleans())
def test_a_stream_is_its_ids_decoded_at_once(
    tok: Tokenizer, vocabulary: Vocabulary, data: st.DataObject, skip_special: bool
) -> None:
    any_id = st.integers(0, tok.vocab_size - 1)
    byte_id = st.integers(0, 255).map(lambda byte: vocabulary.ids[f"<0x{byte:02X}>"])
    ids = data.draw(st.lists(any_id | byte_id | st.sampled_from([*tok.encode("€😀é")]), max_size=30))
    decoder = StreamDecoder(tok, skip_special=skip_special)
    for _ in range(2):  # a decoder can be used again
        streamed = "".join([decoder.push(i) for i in ids]) + decoder.finish()
        assert streamed == tok.decode(ids, skip_special=skip_special)


def test_a_stream_holds_back_a_character_until_it_is_complete(tok: Tokenizer) -> None:
    decoder = StreamDecoder(tok)
    assert [decoder.push(i) for i in tok.encode("😀")] == ["", "", "", "😀"]
    assert decoder.finish() == ""
    assert [decoder.push(i) for i in tok.encode("€")[:2]] == ["", ""]
    assert decoder.finish() == "\N{REPLACEMENT CHARACTER}"


# The whole.


def test_a_saved_tokenizer_is_the_file_it_came_from(tok: Tokenizer, model: bytes, tmp_path: Path) -> None:
    tok.save(tmp_path / "copy.model")
    assert (tmp_path / "copy.model").read_bytes() == model


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda tok: pickle.loads(pickle.dumps(tok))])
def test_copies_and_pickles_work_alike(tok: Tokenizer, clone) -> None:
    twin = clone(tok)
    text = "<start_of_turn>def main(self):\n\n    return '€'"
    assert twin.encode(text) == tok.encode(text)
    assert twin.encode_template(text) == tok.encode_template(text)
    assert twin.fingerprint == tok.fingerprint
    assert repr(twin) == repr(tok)


def test_threads_do_not_disturb_each_other(tok: Tokenizer) -> None:
    texts = [f"def main{n}(self):\n  return '€{n}'" * 20 for n in range(50)]
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(tok.encode, texts))
        assert list(pool.map(tok.decode, rows)) == texts
    assert rows == tok.encode_batch(texts)


# Faults.


@pytest.mark.parametrize("ids", [[-1], [1200], [5, 10**9], [-1200]])
def test_an_id_that_is_no_token_is_refused(tok: Tokenizer, ids: list[int]) -> None:
    for refused in (lambda: tok.decode(ids), lambda: tok.token(ids[-1]), lambda: StreamDecoder(tok).push(ids[-1])):
        with pytest.raises(ValueError, match=rf"^{ids[-1]} is not the id of a token; wanted 0 to 1,199"):
            refused()


@pytest.mark.parametrize("text", [None, 7, b"bytes", ["list"]])
def test_what_is_no_string_is_refused(tok: Tokenizer, text: object) -> None:
    for refused in (tok.encode, tok.encode_template, lambda text: tok.encode_batch(["fine", text])):
        with pytest.raises(TypeError, match=f"wanted a string to encode, got {type(text).__name__}"):
            refused(text)


def test_half_a_surrogate_pair_is_refused(tok: Tokenizer) -> None:
    for refused in (tok.encode, tok.encode_template):
        with pytest.raises(UnicodeEncodeError, match="surrogates not allowed"):
            refused("\ud83d")


def test_a_batch_that_is_one_string_is_refused(tok: Tokenizer) -> None:
    with pytest.raises(TypeError, match="pass a list"):
        tok.encode_batch("text")


@pytest.mark.parametrize("num_threads", [0, -1])
def test_a_batch_needs_a_thread(tok: Tokenizer, num_threads: int) -> None:
    with pytest.raises(ValueError, match=f"num_threads is {num_threads}; wanted at least 1"):
        tok.encode_batch(["text"], num_threads=num_threads)
