"""Filters let pass what they should and name what they refuse."""

import random
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coldforge.data import Example
from coldforge.data.duplicates import ExactDuplicates, NearDuplicates, minhash, whole_text
from coldforge.data.filters import Decontamination, Filter, code_blocks, long_paragraphs, mixed_language, repetition
from coldforge.data.ngrams import ngram_hashes, words

WORDS = [f"word{n}" for n in range(5000)]


def example(reasoning: str = "It is so.", question: str = "What?", answer: str = "7", index: int = 0) -> Example:
    return Example("s", index, question, reasoning, answer, "text")


def story(seed: int, length: int = 300) -> list[str]:
    return random.Random(seed).choices(WORDS, k=length)


def reason(judge: Filter, row: Example) -> str | None:
    refusal = judge(row)
    return None if refusal is None else refusal.reason


def test_words_are_compared_without_case_and_punctuation() -> None:
    assert words("It's 2 × 3_4, **ÉTÉ**!") == ["it", "s", "2", "3", "4", "été"]
    assert words("我们 like东京 x") == ["我", "们", "like", "东", "京", "x"]


@given(st.lists(st.sampled_from("abc"), max_size=30), st.integers(1, 5))
def test_runs_are_equal_as_their_words_are(text_words: list[str], n: int) -> None:
    runs = [tuple(text_words[i : i + n]) for i in range(len(text_words) - n + 1)]
    hashes = ngram_hashes(text_words, n).tolist()
    assert len(hashes) == len(runs)
    assert len(set(zip(runs, hashes, strict=True))) == len(set(runs)) == len(set(hashes))


@pytest.mark.parametrize(
    ("question", "reasoning", "refused"),
    [
        ("How many?", "We add α and β, so naïve Σ works → 7.", False),
        ("How many?", "We add them. 因此 it is 7.", True),
        ("How many?", "We add them, потому что so it is.", True),
        ("What does 因此 mean?", "因此 means therefore.", False),
        ("有多少?", "We add them. 因此 7.", False),
        ("有多少?", "Мы сложим.", True),
        ("いくつ?", "合計は七です。", False),
        ("How many?", "12 + 13 = 25", False),
    ],
)
def test_mixed_language(question: str, reasoning: str, refused: bool) -> None:
    assert reason(mixed_language, example(reasoning, question)) == ("mixed-language" if refused else None)


def test_few_foreign_letters_pass_by_share() -> None:
    row = example("letters and more " * 100 + "因")
    assert mixed_language(row) is None
    assert reason(partial(mixed_language, max_share=0.0), row) == "mixed-language"


def test_long_paragraphs() -> None:
    assert long_paragraphs(example("x" * 2000 + "\n \n" + "y" * 2000)) is None
    assert reason(long_paragraphs, example("x" * 2000 + "\n" + "y")) == "long-paragraph"
    assert reason(partial(long_paragraphs, max_characters=8), example("It is so.")) == "long-paragraph"


def test_code_blocks_in_the_reasoning_only() -> None:
    code = "\n```python\nx\n```"
    assert code_blocks(example("Use `x` or ``x``, not a ``` b.", answer="```\nx\n```")) is None
    assert reason(code_blocks, example("So:" + code)) == "code-block"


def test_repetition() -> None:
    text = story(0)
    assert repetition(example(" ".join(text))) is None
    assert repetition(example("no, " * 5)) is None
    assert reason(repetition, example(" ".join(text * 2))) == "repetition"
    assert reason(repetition, example("Wait, let me check. " * 9)) == "repetition"
    assert reason(repetition, example("让我再检查一遍。" * 9)) == "repetition"
    quarter = " ".join([*text, *text[:90]])
    assert repetition(example(quarter)) is None
    assert reason(partial(repetition, max_share=0.1), example(quarter)) == "repetition"


@given(cut=st.integers(1, 20), where=st.integers(0, 200), part=st.sampled_from(["question", "reasoning", "answer"]))
def test_ten_words_in_a_row_contaminate_and_nine_do_not(cut: int, where: int, part: str) -> None:
    secret = story(1)
    judge = Decontamination([" ".join(secret), "Two plus two?"])
    shared = [*story(2)[:200][:50], *secret[where : where + cut], *[f"other{n}" for n in range(50)]]
    refusal = judge(example(**{part: ", ".join(shared).upper()}))
    assert (refusal is not None) == (cut >= 10)
    if refusal:
        assert refusal.reason == "contaminated"
        assert " ".join(secret[where : where + 10]) in refusal.detail


def test_short_evaluation_questions_count_as_a_whole() -> None:
    judge = Decontamination(["Two plus two?"])
    assert reason(judge, example(question="two PLUS two")) == "contaminated"
    assert judge(example(question="Two plus two plus one?")) is None
    with pytest.raises(ValueError, match="the evaluation set has no words"):
        Decontamination(["", "?!"])


def test_an_instruction_that_evaluation_texts_share_contaminates_nothing() -> None:
    instruction = " ".join(WORDS[:12])
    texts = [f"{' '.join(story(seed, 20))}. {instruction}" for seed in range(40)]
    judge = Decontamination(texts)
    assert judge(example(question=f"{' '.join(story(99, 20))}. {instruction}")) is None
    assert all(reason(judge, example(question=text)) == "contaminated" for text in texts)
    assert reason(Decontamination(texts[:10]), example(question=instruction)) == "contaminated"  # too few to tell


def test_exact_duplicates() -> None:
    with ExactDuplicates() as judge, ExactDuplicates(lambda row: row.question) as by_question:
        assert judge(example("a b", index=4)) is None
        assert judge(example("A b")) is None
        refusal = judge(example("a\n b", index=9))
        assert refusal == ("duplicate", "the same text as row 4 of s.")
        assert [reason(by_question, example(text)) for text in "ab"] == [None, "duplicate"]


def test_near_duplicates_by_share_of_common_runs() -> None:
    text = story(3, 2000)
    outcomes = {}
    for changed in (0, 20, 400):  # of 2,000 words; each takes part in five runs
        other = text.copy()
        for place in random.Random(changed).sample(range(2000), changed):
            other[place] = f"new{place}"
        with NearDuplicates() as judge:
            assert judge(example(" ".join(text))) is None
            outcomes[changed] = reason(judge, example(" ".join(other)))
    assert outcomes == {0: "near-duplicate", 20: "near-duplicate", 400: None}


def test_what_was_refused_is_not_remembered_and_short_texts_pass() -> None:
    with NearDuplicates(text=lambda row: row.reasoning) as judge:
        assert [judge(example("too short to say")) for _ in range(2)] == [None, None]
        for seed in range(50):
            assert judge(example(" ".join(story(seed)), index=seed)) is None
        for seed in range(50):
            refusal = judge(example(" ".join(story(seed)) + " indeed", index=99))
            assert refusal is not None
            assert refusal.detail.endswith(f"row {seed} of s.")
    with pytest.raises(ValueError, match=r"the threshold is 0\.5; wanted 0.7 to 1"):
        NearDuplicates(0.5)


def test_signatures_estimate_the_jaccard_index() -> None:
    runs = np.random.default_rng(0).integers(0, 2**64, 3000, dtype=np.uint64)
    for common in (0, 1000, 1500, 2900):
        first, second = runs[: 1500 + common // 2], runs[1500 - common // 2 :]
        index = len(np.intersect1d(first, second)) / 3000
        estimate = float(np.mean(minhash(first) == minhash(second)))
        assert abs(estimate - index) < 4 * np.sqrt(0.25 / 128)
    assert (minhash(runs) == minhash(runs[::-1])).all()


def test_filters_on_a_whole_file(stratos: list[tuple[dict, object]]) -> None:
    from coldforge.data import Row, convert

    found = [convert(Row("stratos", index, columns)) for index, (columns, _) in enumerate(stratos)]
    rows = [row for row in found if isinstance(row, Example)]
    with ExactDuplicates(whole_text) as exact:
        for judge in (mixed_language, long_paragraphs, repetition, exact):
            assert [refusal for refusal in map(judge, rows) if refusal] == []
        assert {reason(exact, row) for row in rows} == {"duplicate"}
    assert all(row.kind == "code" for row in rows if code_blocks(row))
