"""Questions come out of rows, tasks and the hub as meant, are parted by their texts alone, and come in order."""

import json
import pickle
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coldforge.data import Question, Questions, open_questions, split_questions
from coldforge.data.questions import order, place

# Of a module that reasoning-gym imports, when first compiled.
pytestmark = pytest.mark.filterwarnings("ignore::SyntaxWarning")

SUMS = "chain_sum:40?min_terms=2&max_terms=3&min_digits=1&max_digits=1"
GSM8K = {"question": "How many clips?", "answer": "In May she sold 48/2 = <<48/2=24>>24.\nIn all 72.\n#### 72"}

NINE = "the man of whom these nine words are said"


@pytest.fixture
def rows(tmp_path: Path) -> Callable[..., str]:
    """Writes rows to a file and returns its path."""

    def write(*rows: dict[str, Any], name: str = "a.jsonl") -> str:
        path = tmp_path / name
        if path.suffix == ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        elif path.suffix == ".json":
            path.write_text(json.dumps(rows), encoding="utf-8")
        elif path.suffix == ".parquet":
            pyarrow.parquet.write_table(pa.Table.from_pylist(list(rows)), path)
        else:
            with pa.ipc.new_stream(path, (table := pa.Table.from_pylist(list(rows))).schema) as file:
                file.write_table(table)
        return str(path)

    return write


def numbered(*numbers: int) -> list[dict[str, Any]]:
    return [{"question": f"What is {n}?", "answer": n} for n in numbers]


@pytest.mark.parametrize(
    ("row", "text", "answer"),
    [
        (GSM8K, "How many clips?", "72"),
        ({"question": "2 + 2?", "answer": 4}, "2 + 2?", "4"),
        ({"question": "A half?", "answer": 0.5}, "A half?", "0.5"),
        ({"problem": " x? ", "answer": r"$\frac{1}{2}$"}, "x?", r"\frac{1}{2}"),
        ({"problem": "x?", "solution": r"So it is $\boxed{\frac{1}{2}}$."}, "x?", r"\frac{1}{2}"),
        ({"problem": "x?", "solution": r"So \boxed{0.5}.", "answer": "1/2"}, "x?", "1/2"),
        ({"problem": "x?", "solution": r"So \boxed{0.5}.", "answer": None}, "x?", "0.5"),
        ({"prompt": "Who?", "answer": NINE}, "Who?", NINE),
        ({"question": "Who?", "prompt": "Say who it is.", "answer": "me"}, "Who?", "me"),
        ({"problem": "x?", "answer": "4", "messages": [{"role": "user", "content": "x?"}]}, "x?", "4"),
    ],
)
def test_a_row_is_read(row: dict[str, Any], text: str, answer: str, rows: Callable[..., str]) -> None:
    [question] = open_questions([rows(row)])
    assert question == Question(question.id, text, answer, "auto", "a.jsonl", {})
    assert re.fullmatch("[0-9a-f]{16}", question.id)
    assert open_questions([rows(row, name="b.jsonl")])[0].id != question.id


@pytest.mark.parametrize(
    ("more", "kind", "meta"),
    [
        ({"answer": "A", "id": 7}, "auto", {"id": "7"}),
        ({"answer": "A", "id": "q7", "kind": "text"}, "text", {"id": "q7"}),
        ({"answer": "(B)", "choices": ["no", " so "]}, "auto", {"choices": ["no", "so"]}),
        ({"answer": "So", "choices": ["no", "so"]}, "auto", {"choices": ["no", "so"]}),
        ({"answer": "A, C", "choices": ["1", "2", "3"], "kind": "choice"}, "choice", {"choices": ["1", "2", "3"]}),
        ({"answer": "$a$\n#### b", "kind": "exact"}, "exact", {}),
    ],
)
def test_what_stands_beside_goes_into_kind_and_meta(
    more: dict[str, Any], kind: str, meta: dict[str, Any], rows: Callable[..., str]
) -> None:
    [question] = open_questions([rows({"question": "Or?"} | more)])
    assert (question.answer, question.kind, question.meta) == (more["answer"], kind, meta)


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        ({"messages": [{"role": "user", "content": "x?"}]}, "no-question", "the row is a conversation (`messages`)"),
        ({"conversations": []}, "no-question", "the row is a conversation (`conversations`); wanted question, problem"),
        ({"prompt": [{"role": "user"}], "answer": "4"}, "bad-content", "`prompt` is a conversation"),
        (
            {"text": "x?", "answer": "4"},
            "no-question",
            "the columns are text, answer; wanted question, problem, prompt",
        ),
        ({"question": "x?"}, "no-answer", "the columns are question; wanted answer or solution"),
        ({"question": "x?", "answer": None}, "no-answer", "wanted answer or solution with a value"),
        ({"question": " ", "answer": "4"}, "empty-question", "`question` is empty"),
        ({"question": "x?", "answer": " "}, "empty-answer", "`answer` is empty; wanted the right answer"),
        ({"question": "x?", "answer": r"So \boxed{4"}, "broken-box", "do not close"),
        ({"question": "x?", "answer": "It is 4, as\nyou will have seen by now."}, "no-answer", "no \\boxed{}, no ####"),
        ({"question": "x?", "solution": "It is hard to say what this could be."}, "no-answer", "no \\boxed{}, no ####"),
        ({"question": "Prove it.", "solution": "By induction.\nQED."}, "no-answer", "`solution` is a proof"),
        ({"question": "x?", "answer": True}, "bad-content", "the answer is of type bool; wanted a string"),
        ({"question": "x?", "answer": float("nan")}, "bad-content", "the answer is of type float"),
        ({"question": "x\ufffd?", "answer": "4"}, "bad-unicode", "damaged by decoding"),
        ({"question": "x?", "answer": "4", "kind": "numeric"}, "bad-kind", "`kind` is 'numeric'; wanted auto, number"),
        ({"question": "x?", "answer": 1, "choices": ["r", "b"]}, "bad-choices", "the answer is '1'; wanted A to B"),
        ({"question": "x?", "answer": "C", "choices": ["r", "b"]}, "bad-choices", "the answer is 'C'; wanted A to B"),
        ({"question": "x?", "answer": "A", "choices": "r b"}, "bad-choices", "wanted a list of texts, A first"),
        ({"question": "x?", "answer": "A", "choices": ["r"]}, "bad-choices", "there are 1 choices; wanted 2 to 10"),
    ],
)
def test_a_row_that_is_no_question_is_refused_or_counted(
    row: dict[str, Any], reason: str, detail: str, rows: Callable[..., str]
) -> None:
    path = rows(GSM8K, row, *numbered(1))
    with pytest.raises(ValueError, match=re.escape(f"{path}, row 1 (from 0): {reason}: ")) as error:
        open_questions([path])
    assert detail in str(error.value)
    questions = open_questions([path], on_bad="drop")
    assert [question.answer for question in questions] == ["72", "1"]
    assert questions.dropped == {reason: 1}


def test_a_line_that_is_no_row_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "x?", "answer": 1}\n{"question":\n')
    with pytest.raises(ValueError, match=r"row 1 \(from 0\): not-json: the line is not JSON"):
        open_questions([str(tmp_path)])
    assert open_questions([str(tmp_path)], on_bad="drop").dropped == {"not-json": 1}


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet", "a.arrow"])
def test_every_kind_of_file_and_directories(name: str, rows: Callable[..., str], tmp_path: Path) -> None:
    wanted = [("What is 5?", "5"), ("What is é?", "6")]
    path = rows(*({"question": text, "answer": answer} for text, answer in wanted), name=name)
    questions = open_questions([path])
    assert [(question.text, question.answer) for question in questions] == wanted
    assert list(open_questions([str(tmp_path)])) == list(questions)


def test_the_hub_is_read_with_configuration_and_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(*names: str, **options: object) -> datasets.IterableDataset:
        asked.append((*names, options["split"], options["revision"]))
        return datasets.Dataset.from_list([GSM8K]).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    [question] = open_questions(["openai/gsm8k:main"], split="test")
    assert (question.answer, question.source) == ("72", "openai/gsm8k:main")
    open_questions(["openai/gsm8k", "openai/gsm8k:main@abc"])
    assert asked == [
        ("openai/gsm8k", "main", "test", None),
        ("openai/gsm8k", "train", None),
        ("openai/gsm8k", "main", "train", "abc"),
    ]


@pytest.mark.parametrize(
    ("specs", "error", "message"),
    [
        ([], ValueError, "no questions are named in []; wanted NAME:COUNT"),
        ([""], ValueError, "no questions are named in ['']"),
        ("chain_sum:3", ValueError, "the specs are one text, 'chain_sum:3'; wanted a list"),
        (["chain_sum:3"] * 2, ValueError, "chain_sum:3 is named more than once"),
        (["chain_sum"], FileNotFoundError, "there are no questions 'chain_sum'; wanted NAME:COUNT"),
        (["data/none.jsonl"], FileNotFoundError, "there is no file data/none.jsonl; wanted NAME:COUNT"),
        (["chain_sum:0"], ValueError, "chain_sum:0: the count is 0"),
        (["chain_sums:3"], ValueError, "reasoning-gym has no task 'chain_sums'; wanted one as chain_sum, "),
        (["chain_sum:3?min_term=2"], ValueError, "there is no option 'min_term'; wanted one of allow_negation, max_"),
        (["chain_sum:3?min_terms"], ValueError, "the option 'min_terms' is none; wanted key=value"),
        (["chain_sum:3?min_terms=2&min_terms=3"], ValueError, "the option 'min_terms' is given twice"),
        (["chain_sum:3?size=2"], ValueError, "leave the option size out"),
        (["chain_sum:3?min_terms=two"], ValueError, "min_terms is 'two'; wanted int, as 2"),
        (["chain_sum:3?allow_negation=1"], ValueError, "allow_negation is 1; wanted bool, as False"),
        (["chain_sum:3?min_terms=9"], ValueError, "does not take these options: max_terms must be >= min_terms"),
        (["chain_sum:3?seed=x"], ValueError, "seed is 'x'; wanted int, as None"),
        (["chain_sum:3?seed=-1"], ValueError, "chain_sum:3?seed=-1: the seed is -1; wanted 0 or more"),
        (["leg_counting:3?difficulty=1"], ValueError, "there is no option 'difficulty'"),
        (["products:3?operators=+"], ValueError, "there is no option 'operators'"),
        (["basic_arithmetic:3?operators=+"], ValueError, "operators is a tuple, which a spec cannot hold"),
        (["composite:3"], ValueError, "reasoning-gym does not take these options: Must specify at least one"),
    ],
)
def test_a_spec_that_is_nothing_is_named(specs: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        open_questions(specs)


def test_sets_without_questions_are_named(rows: Callable[..., str]) -> None:
    with pytest.raises(ValueError, match=r"a\.jsonl holds no questions; wanted at least one"):
        open_questions([rows()])
    with pytest.raises(ValueError, match=r"a\.jsonl holds no questions: 2 no-answer; wanted at least one"):
        open_questions([rows({"question": "a"}, {"question": "b"})], on_bad="drop")
    with pytest.raises(ValueError, match="on_bad is 'skip'; wanted refuse or drop"):
        open_questions(["chain_sum:3"], on_bad="skip")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the seed is -1; wanted 0 or more"):
        open_questions(["chain_sum:3"], seed=-1)


def test_a_task_gives_the_same_questions_in_any_order() -> None:
    questions, again = open_questions([SUMS], seed=3), open_questions([SUMS], seed=3)
    assert [again[index] for index in reversed(range(40))][::-1] == list(questions)
    assert questions.content_hash == again.content_hash
    assert len({question.id for question in questions}) == len({question.text for question in questions}) > 20
    for question in questions:
        found = re.search(r"(?<=: ).*(?= =)", question.text)
        assert found is not None
        assert str(eval(found[0])) == question.answer  # the options were used: one digit, two or three terms
        assert re.fullmatch(r"\d( [-+] \d){1,2}", found[0])


def test_neighbouring_seeds_share_no_run_of_items() -> None:
    texts = [[question.text for question in open_questions(["chain_sum:40"], seed=seed)] for seed in (0, 1)]
    assert not set(texts[0]) & set(texts[1])
    given_seeds = [
        [question.text for question in open_questions([f"chain_sum:9?seed={seed}"], seed=5)] for seed in (0, 1)
    ]
    assert given_seeds[0][1:] == given_seeds[1][:-1]  # the package's own: seed + index


def test_what_a_scorer_in_another_process_needs_travels() -> None:
    import reasoning_gym

    for question in open_questions(["countdown:2", "chain_sum:2", "rush_hour:1"]):
        meta = pickle.loads(pickle.dumps(question.meta))
        assert json.loads(json.dumps(meta))["task"] == meta["task"] == question.source
        assert meta["scorer"] == "reasoning-gym"
        assert (question.answer is None) == (meta["task"] == "rush_hour")
        if question.answer is not None:
            assert reasoning_gym.get_score_answer_fn(meta["task"])(question.answer, meta["entry"]) == 1.0


def test_a_task_that_draws_from_the_global_generator_is_kept_from_it() -> None:
    questions = open_questions(["list_functions:10"])
    state = random.getstate()
    assert [questions[index] for index in (7, 2, 7, 2)] == [questions[7], questions[2]] * 2
    assert random.getstate() == state


def test_a_task_that_depends_on_the_hash_seed_wants_it_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    with pytest.raises(ValueError, match=r"ransom_note:3: this task's items depend on .* set PYTHONHASHSEED"):
        open_questions(["ransom_note:3"])
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    assert len(open_questions(["ransom_note:3"])) == 3


def test_a_task_whose_questions_are_no_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from reasoning_gym.arithmetic.chain_sum import ChainSumDataset

    monkeypatch.setattr(ChainSumDataset, "__getitem__", lambda _, index: {"question": [index], "answer": "1"})
    with pytest.raises(ValueError, match=r"chain_sum: question 0 is \[0\]; wanted a task whose questions are text"):
        open_questions(["chain_sum:3"])
    monkeypatch.setattr(
        ChainSumDataset, "__getitem__", lambda _, index: {"question": "x", "answer": "1", "metadata": {1j}}
    )
    with pytest.raises(ValueError, match=r"chain_sum:3: item 0 is not as JSON holds it"):
        open_questions(["chain_sum:3"])


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"chain_sum:3 needs reasoning_gym: .*coldforge-data\[reasoning-gym\]"
    ):
        open_questions(["chain_sum:3"])


def test_several_sources_are_one_sequence(rows: Callable[..., str]) -> None:
    questions = open_questions([rows(*numbered(1, 2)), SUMS, rows(*numbered(3), name="b.jsonl")])
    whole = list(questions)
    assert [question.source for question in whole] == ["a.jsonl"] * 2 + [SUMS.replace(":40", "")] * 40 + ["b.jsonl"]
    assert [questions[-1], questions[0]] == [whole[-1], whole[0]]
    assert [list(questions[1:3]), list(questions[::-7])] == [whole[1:3], whole[::-7]]
    assert list(questions[5:][::2]) == whole[5:][::2]
    assert questions.describe() == {
        "count": 43,
        "sources": {"a.jsonl": 2, SUMS.replace(":40", ""): 40, "b.jsonl": 1},
        "dropped": {},
        "content_hash": questions.content_hash,
    }
    assert questions[41:].describe()["sources"] == {"a.jsonl": 0, SUMS.replace(":40", ""): 1, "b.jsonl": 1}
    for index in (43, -44):
        with pytest.raises(IndexError):
            questions[index]
    with pytest.raises(IndexError, match="the indices are 0 to 43; wanted 0 to 42"):
        questions.select([0, 43])


def test_the_content_hash_changes_with_any_row(rows: Callable[..., str]) -> None:
    base = [{"question": f"What is {n}?", "answer": "A", "id": n, "choices": ["x", "y"]} for n in range(6)]
    seen = {open_questions([rows(*base)]).content_hash}
    assert {open_questions([rows(*base)]).content_hash} == seen
    changes = [{"question": "Else?"}, {"answer": "B"}, {"id": "z"}, {"choices": ["x", "z"]}, {"kind": "choice"}]
    variants = [[*base[:n], base[n] | change, *base[n + 1 :]] for n in range(6) for change in changes]
    variants += [base[:-1], base[::-1], [*base, base[0]]]
    for variant in variants:
        seen.add(open_questions([rows(*variant)]).content_hash)
    seen.add(open_questions([rows(*base, name="b.jsonl")]).content_hash)
    assert len(seen) == 2 + len(variants)
    tasks = ["chain_sum:5", "chain_sum:6", "chain_sum:5?min_terms=3", "chain_sum:5?seed=1", "decimal_chain_sum:5"]
    hashes = {open_questions([spec]).content_hash for spec in tasks} | {open_questions(tasks[:1], seed=1).content_hash}
    assert len(hashes) == 6


def test_a_parts_hash_follows_from_what_it_holds(rows: Callable[..., str]) -> None:
    questions = open_questions([rows(*numbered(*range(9)))])
    parts = [*split_questions(questions, 2), *split_questions(questions, 3), questions, questions[1:]]
    assert len({part.content_hash for part in parts}) == len(parts)
    assert split_questions(questions, 2)[0].content_hash == parts[0].content_hash


@given(
    numbers=st.lists(st.integers(0, 30), min_size=1, max_size=40),
    heldout=st.integers(0, 30),
    draw=st.randoms(use_true_random=False),
)
def test_a_split_follows_from_the_texts_alone(
    numbers: list[int], heldout: int, draw: random.Random, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "split.jsonl"

    def opened(numbers: list[int]) -> Questions:
        path.write_text("".join(json.dumps(row) + "\n" for row in numbered(*numbers)))
        return open_questions([str(path)])

    different = len(set(numbers))
    if heldout >= different:
        with pytest.raises(ValueError, match=f"heldout is {heldout} of {len(numbers)} questions with {different} diff"):
            split_questions(opened(numbers), heldout)
        return
    train, held = split_questions(opened(numbers), heldout)
    texts = [[question.text for question in part] for part in (train, held)]
    assert len(texts[1]) == heldout
    assert sorted(texts[0] + texts[1]) == sorted({f"What is {number}?" for number in numbers})
    assert texts[0] == [text for text in dict.fromkeys(f"What is {n}?" for n in numbers) if text in texts[0]]
    assert (
        train.dropped == held.dropped == ({"duplicate": len(numbers) - different} if len(numbers) > different else {})
    )

    shuffled = draw.sample(numbers, len(numbers))
    again = split_questions(opened(shuffled), heldout)
    assert [question.text for question in again[1]] == texts[1]
    assert {question.text for question in again[0]} == set(texts[0])


def test_equal_texts_of_two_sources_are_on_one_side(rows: Callable[..., str]) -> None:
    first = rows(*numbered(*range(30)))
    second = rows(*({"question": f" What  is\n{n}?", "answer": n} for n in range(10, 40)), name="b.jsonl")
    there, back = (split_questions(open_questions(specs), 15) for specs in ([first, second], [second, first]))
    assert there[0].dropped == {"duplicate": 20}
    answers = [[{question.answer for question in part} for part in split] for split in (there, back)]
    assert answers[0] == answers[1]
    assert not answers[0][0] & answers[0][1]
    assert sum(question.source == "a.jsonl" for part in there for question in part) == 30
    with pytest.raises(ValueError, match="heldout is -1"):
        split_questions(there[0], -1)
    assert len(split_questions(there[0], 0)[1]) == 0
    with pytest.raises(ValueError, match="heldout is 0 of 0 questions"):
        split_questions(there[0][:0], 0)


@given(count=st.integers(1, 200), seed=st.integers(0, 2**40), epoch=st.integers(0, 2**40))
def test_every_epoch_is_a_permutation(count: int, seed: int, epoch: int) -> None:
    positions = range(epoch * count, (epoch + 1) * count)
    found = [place(count, seed, position) for position in positions]
    assert sorted(one.index for one in found) == list(range(count))
    assert {one.epoch for one in found} == {epoch}
    assert [order(count, seed, position) for position in reversed(positions)] == [one.index for one in found][::-1]


def test_orders_differ_by_seed_and_epoch_and_are_fixed() -> None:
    orders = {tuple(order(50, seed, epoch * 50 + n) for n in range(50)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert [order(8, 1, position) for position in range(16)] == [2, 0, 7, 4, 6, 3, 5, 1, 5, 1, 6, 7, 3, 2, 0, 4]
    for count, seed, position in ((0, 0, 0), (1, -1, 0), (1, 0, -1)):
        with pytest.raises(ValueError, match=r"is (0; wanted 1|-1; wanted 0) or more"):
            order(count, seed, position)
