"""The benchmarks' rows, in the columns and files of the real data sets; each fault names file, row and column."""

import csv
import json
from collections import Counter

import datasets
import pyarrow.parquet
import pytest

from coldforge.data.records import Row
from coldforge.eval.benchmarks import SOLUTION, TASKS, chance_of, read_any, read_questions, read_shots
from coldforge.eval.ifeval import INSTRUCTIONS
from coldforge.eval.rows import find_files, open_rows, read_table

pytestmark = pytest.mark.whole

ROWS = {
    "gsm8k": {"question": "Ann has 3 bags of 4.  How many?", "answer": "3 * 4 = <<3*4=12>>12\n#### 1,012"},
    "math500": {
        "problem": "Find $x$.", "solution": "So $\\boxed{\\frac{1}{2}}$.", "answer": "\\frac{1}{2}",
        "subject": "Algebra", "level": 3, "unique_id": "test/algebra/1.json",
    },
    "aime24": {
        "id": 60, "problem": "Find $n$.", "solution": "It is $\\boxed{033}$.", "answer": "033",
        "url": "https://example.org", "year": "2024",
    },
    "aime25": {"problem": "Find $m$.", "answer": "70", "id": "0"},
    "gpqa_diamond": {
        "Question": "Which?", "Correct Answer": " right\n", "Incorrect Answer 1": "wrong 1",
        "Incorrect Answer 2": "wrong 2", "Incorrect Answer 3": "wrong 3", "High-level domain": "Physics",
        "Explanation": "Because.", "Record ID": "rec1",
    },
    "mmlu": {"question": "Which? ", "subject": "abstract_algebra", "choices": ["0", "4", "2", "6"], "answer": 1},
    "mmlu_pro": {
        "question_id": 70, "question": "Which?", "options": [f"option {i}" for i in range(10)], "answer": "J",
        "answer_index": 9, "cot_content": "", "category": "business", "src": "x",
    },
    "ifeval": {
        "key": 1000, "prompt": "Write, but no commas.",
        "instruction_id_list": ["punctuation:no_comma", "detectable_format:number_highlighted_sections"],
        "kwargs": [{"num_highlights": None, "relation": None}, {"num_highlights": 3, "relation": None}],
    },
}  # fmt: skip


def rows_of(*data, source="rows.jsonl"):
    return [Row(source, index, each) for index, each in enumerate(data)]


def read(name, *data):
    return read_questions(rows_of(*data), TASKS[name].read, name, "rows.jsonl", repeats=True)


def changed(name, **columns):
    """The row with other values; None: without the column."""
    row = ROWS[name] | {key.replace("_", " ") if key not in ROWS[name] else key: v for key, v in columns.items()}
    return {key: value for key, value in row.items() if value is not None}


def test_every_benchmark_reads_its_columns():
    assert ROWS.keys() == TASKS.keys()
    found = {name: read(name, row)[0] for name, row in ROWS.items()}
    gsm8k, math, aime = found["gsm8k"], found["math500"], found["aime24"]
    assert (gsm8k.text, gsm8k.answer, gsm8k.kind) == ("Ann has 3 bags of 4.  How many?", "1,012", "number")
    assert gsm8k.meta[SOLUTION] == "3 * 4 = <<3*4=12>>12"
    assert (math.id, math.answer, math.kind) == ("test/algebra/1.json", "\\frac{1}{2}", "auto")
    assert math.meta == {"level": 3, "solution": "So $\\boxed{\\frac{1}{2}}$.", "category": "Algebra"}
    assert (aime.id, aime.answer, found["aime25"].answer) == ("60", "33", "70")
    assert (found["mmlu"].answer, found["mmlu"].meta["category"], found["mmlu"].text) == (
        "B", "abstract_algebra", "Which? ")  # fmt: skip
    assert (found["mmlu_pro"].answer, found["mmlu_pro"].id, len(found["mmlu_pro"].meta["choices"])) == ("J", "70", 10)
    assert found["ifeval"].meta[INSTRUCTIONS] == [
        ("punctuation:no_comma", {}),
        ("detectable_format:number_highlighted_sections", {"num_highlights": 3}),
    ]
    assert (found["ifeval"].id, found["ifeval"].answer, found["ifeval"].kind) == ("1000", None, "instructions")


def test_the_other_sets_of_aime_are_read():
    texts = [
        {"ID": "2024-II-4", "Problem": "P?", "Solution": "…", "Answer": 33},  # Maxwell-Jia/AIME_2024
        {"id": 1, "problem": "P?", "solution": "\\boxed{33}", "url": "…"},  # math-ai/aime24
        {"question": "P?", "answer": "33"},  # opencompass/AIME2025
    ]
    assert [read("aime24", row)[0].answer for row in texts] == ["33"] * 3


def test_choices_of_gpqa_are_shuffled_by_their_texts_alone():
    rows = [changed("gpqa_diamond", Question=f"Question {i}?", Record_ID=f"rec{i}") for i in range(400)]
    found = read("gpqa_diamond", *rows)
    again = read("gpqa_diamond", *reversed(rows))
    assert {each.id: each for each in found} == {each.id: each for each in again}
    for each in found:
        assert each.meta["choices"]["ABCD".index(each.answer)] == "right"
        assert sorted(each.meta["choices"]) == ["right", "wrong 1", "wrong 2", "wrong 3"]
    counts = Counter(each.answer for each in found)
    assert min(counts[letter] for letter in "ABCD") > 70  # 100 each; 3.5 standard deviations


def test_equal_choices_of_gpqa_keep_the_right_ones_letter():
    [found] = read("gpqa_diamond", changed("gpqa_diamond", Incorrect_Answer_1="right"))
    assert found.meta["choices"]["ABCD".index(found.answer)] == "right"
    assert found.meta["choices"].count("right") == 2


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("gsm8k", changed("gsm8k", question=None), r"column `question`: it is missing .* the columns are answer"),
        ("gsm8k", changed("gsm8k", answer="It is 12."), r"column `answer`: it ends in 'It is 12.'; wanted .* ####"),
        ("gsm8k", changed("gsm8k", answer="x\n#### twelve"), r"column `answer`: .*'twelve', which is no number"),
        ("gsm8k", changed("gsm8k", question="  "), r"column `question`: it is '  '; wanted a text"),
        ("gsm8k", changed("gsm8k", question="\ud83d"), r"column `question`: it has half of a surrogate"),
        ("math500", changed("math500", answer="\\frac{1}{2"), r"column `answer`: the braces of .* do not close"),
        ("math500", changed("math500", answer=""), r"column `answer`: it is ''; wanted a text"),
        ("aime24", changed("aime24", answer="1033"), r"column `answer`: it is '1033'; wanted a whole number from 0"),
        ("aime24", changed("aime24", answer=None, solution="So 33."), r"column `solution`: it is 'So 33'"),
        ("aime25", changed("aime25", answer=None), r"column `answer`: it is missing"),
        ("gpqa_diamond", changed("gpqa_diamond", Incorrect_Answer_2=None), r"column `Incorrect Answer 2`: it is"),
        ("mmlu", changed("mmlu", answer=4), r"column `answer`: it is 4; wanted A to D, or 0 to 3"),
        ("mmlu", changed("mmlu", answer=True), r"column `answer`: it is True"),
        ("mmlu", changed("mmlu", choices=["a", "b", "c"]), r"column `choices`: there are 3; wanted 4"),
        ("mmlu", changed("mmlu", choices="abcd"), r"column `choices`: it is 'abcd'; wanted a list"),
        ("mmlu", changed("mmlu", subject=None), r"column `subject`: it is missing"),
        ("mmlu_pro", changed("mmlu_pro", answer_index=3), r"column `answer_index`: it is 3, but `answer` is 'J'"),
        ("mmlu_pro", changed("mmlu_pro", options=list("abcdefghijk")), r"column `options`: there are 11 choices"),
        ("ifeval", changed("ifeval", kwargs=[{}]), r"column `kwargs`: "),
        ("ifeval", changed("ifeval", instruction_id_list=["a:b", "c:d"]), r"column `instruction_id_list`: there is no"),
    ],
)  # fmt: skip
def test_a_row_that_is_not_in_order_is_named(name, row, said):
    with pytest.raises(ValueError, match=r"rows\.jsonl, row 1 \(from 0\), " + said):
        read(name, ROWS[name], row)


def test_a_row_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROWS["gsm8k"]) + "\n{broken\n")
    with pytest.raises(ValueError, match=r"rows\.jsonl, row 1 \(from 0\), column `all`: not-json"):
        read_questions(read_table(path), TASKS["gsm8k"].read, "gsm8k", str(path))


def test_two_rows_with_one_id_are_named():
    with pytest.raises(ValueError, match=r"row 2 \(from 0\): the id '70' is that of row 0 too"):
        read("mmlu_pro", ROWS["mmlu_pro"], changed("mmlu_pro", question_id=71), ROWS["mmlu_pro"])


def test_the_same_row_twice_is_an_error_but_in_published_sets():
    rows = rows_of({"question": "1 + 1?", "answer": 2}, {"question": "1 + 1?", "answer": "2"})
    with pytest.raises(ValueError, match=r"row 1 \(from 0\): question and choices are that of row 0"):
        read_questions(rows, read_any, "rows", "rows.jsonl")
    first, second, third = read("mmlu", ROWS["mmlu"], ROWS["mmlu"], changed("mmlu", choices=["1", "2", "3", "4"]))
    assert len({first.id, second.id, third.id}) == 3
    assert read("mmlu", ROWS["mmlu"])[0].id == first.id


def test_no_rows_are_an_error():
    with pytest.raises(ValueError, match=r"rows\.jsonl has no rows"):
        read("gsm8k")
    with pytest.raises(ValueError, match="dev has no rows"):
        read_shots([], TASKS["mmlu"].read_shot, "dev")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"answer": 3}, "column `question`: no-question"),
        ({"question": "q?"}, "column `answer`: no-answer"),
        ({"question": "q?", "answer": "abc", "kind": "number"}, "column `answer`: it is 'abc', which is no number"),
        ({"question": "q?", "answer": "E", "choices": ["a", "b"]}, "column `choices`: bad-choices"),
        ({"question": "q?", "answer": "1", "kind": "sum"}, "column `kind`: bad-kind"),
        ({"question": "q?", "answer": "\\sqrt{2"}, "column `answer`: the braces"),
        ({"question": "q?", "answer": "Paris", "kind": "choice"}, "column `answer`: the right answer 'Paris' names"),
    ],
)
def test_any_rows_of_question_and_answer(row, said):
    with pytest.raises(ValueError, match=said):
        read_questions(rows_of(row), read_any, "rows", "rows.jsonl")


def test_any_rows_keep_category_and_id():
    row = {"id": 7, "question": "q?", "answer": "B", "choices": ["x", "y"], "category": "c", "solution": "s"}
    [found] = read_questions(rows_of(row), read_any, "rows", "rows.jsonl")
    assert (found.id, found.meta) == ("7", {"choices": ["x", "y"], "category": "c", "solution": "s"})


def write(folder, kind, rows):
    """A file as the hub, or `datasets`, has it."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "jsonl":
        path = folder / "test.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        path = folder / "test-00000-of-00001.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif kind == "arrow":
        datasets.Dataset.from_list(rows).save_to_disk(str(folder / "test"))
        return folder
    else:
        path = folder / "test.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("kind", ["jsonl", "parquet", "arrow"])
def test_files_of_each_kind_hold_the_same_questions(tmp_path, name, kind):
    write(tmp_path, kind, [ROWS[name]])
    where, rows = open_rows(tmp_path, "owner/name", config=None, split="test")
    assert where == str(tmp_path)
    assert read_questions(rows, TASKS[name].read, name, where) == read(name, ROWS[name])


def test_a_csv_file_is_read_and_its_faults_are_named(tmp_path):
    path = write(tmp_path, "csv", [ROWS["gpqa_diamond"]])
    assert read_questions(read_table(path), TASKS["gpqa_diamond"].read, "gpqa_diamond", str(path)) == read(
        "gpqa_diamond", ROWS["gpqa_diamond"])  # fmt: skip
    path.write_text("a,b\n1,2\n3\n")
    with pytest.raises(ValueError, match=r"test\.csv cannot be read .* line 3 has not as many fields"):
        list(read_table(path))
    path.write_text('a,b\n1,"2\n')
    with pytest.raises(ValueError, match=r"test\.csv cannot be read"):
        list(read_table(path))


def test_a_split_is_found_in_a_folder(tmp_path):
    for name in ("README.md", "main/test-00000-of-00002.parquet", "main/test-00001-of-00002.parquet",
                 "main/train-00000-of-00001.parquet", "socratic/test-00000-of-00001.parquet", "data/dev.jsonl",
                 "gsm8k-validation.arrow", "greatest.jsonl"):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def found(split, config=None):
        return [str(path.relative_to(tmp_path)) for path in find_files(tmp_path, split, config)]

    assert found("test", "main") == ["main/test-00000-of-00002.parquet", "main/test-00001-of-00002.parquet"]
    assert found("train", "main") == ["main/train-00000-of-00001.parquet"]
    assert found("dev") == ["data/dev.jsonl"]
    assert found("validation") == ["gsm8k-validation.arrow"]
    with pytest.raises(FileNotFoundError, match=r"no files of the split 'test', .* it has greatest\.jsonl"):
        found("test")


@pytest.mark.parametrize(
    ("name", "taken"),
    [("rows.jsonl", True), ("latest.jsonl", True), ("train.jsonl", False), ("gsm8k-validation.parquet", False)],
)
def test_the_only_file_is_no_other_splits(tmp_path, name, taken):
    (tmp_path / name).touch()
    if taken:
        assert find_files(tmp_path, "test", None) == [tmp_path / name]
    else:
        with pytest.raises(FileNotFoundError, match=f"no files of the split 'test'.* it has {name}"):
            find_files(tmp_path, "test", None)
    with pytest.raises(FileNotFoundError, match="no files of the split 'dev'"):
        find_files(tmp_path, "dev", None, named=True)


def test_a_file_for_each_configuration_is_found(tmp_path):
    for name in ("gpqa_main", "gpqa_diamond", "gpqa_extended"):
        (tmp_path / f"{name}.csv").touch()
    assert find_files(tmp_path, "train", "gpqa_diamond") == [tmp_path / "gpqa_diamond.csv"]


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*nothing"):
        find_files(tmp_path / "nothing", "test", None)
    with pytest.raises(FileNotFoundError, match=r"it has none\. Name"):
        find_files(tmp_path, "test", None)
    (tmp_path / "a.txt").touch()
    with pytest.raises(ValueError, match=r"a\.txt is of no known kind; wanted \.jsonl"):
        read_table(tmp_path / "a.txt")


def test_the_hub_is_asked_for_the_real_sets(monkeypatch):
    asked = []

    def load(*names, **options):
        asked.append((*names, options))
        return iter([ROWS["gsm8k"]])

    monkeypatch.setattr(datasets, "load_dataset", load)
    for facts in TASKS.values():
        where, _ = open_rows(None, facts.hub, config=facts.config, split=facts.split, revision="abc")
        assert where.startswith(facts.hub)
        assert where.endswith(f"({facts.split} at abc)")
    assert asked[0] == ("openai/gsm8k", "main", {"split": "test", "streaming": True, "revision": "abc"})
    assert [each[0] for each in asked] == [facts.hub for facts in TASKS.values()]


def test_guessing():
    choices = read("mmlu_pro", ROWS["mmlu_pro"], changed("mmlu_pro", question_id=1, options=["a", "b"], answer="B",
                                                        answer_index=1))  # fmt: skip
    assert chance_of(choices) == pytest.approx((1 / 10 + 1 / 2) / 2)
    assert chance_of(read("gsm8k", ROWS["gsm8k"])) == 0


def test_examples_are_read_from_the_split_of_examples():
    row = changed("mmlu_pro", cot_content="A: Let's think step by step. It is so. The answer is (J).")
    [shot] = read_shots(rows_of(row), TASKS["mmlu_pro"].read_shot, "validation")
    assert (shot.answer, shot.category) == ("It is so. The answer is (J).", "business")
    with pytest.raises(ValueError, match=r"validation, row 0 \(from 0\), column `cot_content`"):
        read_shots(rows_of(ROWS["mmlu_pro"]), TASKS["mmlu_pro"].read_shot, "validation")
