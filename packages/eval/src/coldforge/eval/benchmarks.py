r"""The benchmarks: where each lies, what its rows hold, and how a row becomes a question.

`TASKS` has the facts of each: the hub's repository, configuration and split, the columns, how many questions were
published, how often DeepSeek-R1's paper samples each (2501.12948v2, D.1; where it says nothing, 4, its least number,
and 1 for sets of many thousands). `read_questions` reads rows of one, `read_shots` the examples for few-shot prompts.

| name | repository | columns that are read |
|---|---|---|
| gsm8k | openai/gsm8k, main, test | question, answer (what follows `####`) |
| math500 | HuggingFaceH4/MATH-500, test | problem, answer, subject, level, unique_id |
| aime24 | HuggingFaceH4/aime_2024, train | problem (or question), answer (or the box in solution), id |
| aime25 | math-ai/aime25, test | the same; yentinglin/aime_2025 has them too |
| gpqa_diamond | Idavidrein/gpqa, gpqa_diamond, train | Question, Correct Answer, Incorrect Answer 1–3, \
High-level domain, Record ID |
| mmlu | cais/mmlu, all, test (shots: dev) | question, choices, answer (0–3), subject |
| mmlu_pro | TIGER-Lab/MMLU-Pro, test (shots: validation) | question, options, answer, answer_index, category, \
question_id |
| ifeval | google/IFEval, train | prompt, instruction_id_list, kwargs, key |

Texts are kept as they are, white space too: prompts must come out as other people's do. Where an id of its own is
missing, one follows from the text, so that a question is the same whatever file it came from. Nothing is repaired: a
row that is not in order is an error that names file, row and column.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from coldforge.data.answers import find_answer
from coldforge.data.question_rows import question_of
from coldforge.data.records import Question, Refusal, Row, question_id
from coldforge.eval.ifeval import INSTRUCTIONS, BadInstructionError, read_instructions
from coldforge.rewards import Equality, read_quantity
from coldforge.rewards.equality import Pair, compare

LETTERS = "ABCDEFGHIJ"
SOLUTION = "solution"
"""The key of a question's `meta` that holds its worked solution, where the data has one."""


class Item(NamedTuple):
    """What a row says.

    Attributes:
        text: The question, without choices.
        answer: The right answer; None: the verifier has another way to tell.
        kind: What the answer is; see `coldforge.data.Question`.
        own_id: The row's own id, or None.
        category: What the question is counted under besides all, or "".
        meta: What else is kept.
    """

    text: str
    answer: str | None
    kind: str
    own_id: str | None = None
    category: str = ""
    meta: Mapping[str, Any] = {}


class Shot(NamedTuple):
    """A worked example of a few-shot prompt. `choices` may be empty; `category`: of which it is an example."""

    question: str
    answer: str
    choices: tuple[str, ...] = ()
    category: str = ""


class FieldError(ValueError):
    """A column is missing or holds what it should not."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"`{field}`: {detail}")


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The facts of a benchmark.

    Attributes:
        name, title: "gsm8k", "GSM8K".
        hub, config, split: Where it lies.
        size: How many questions were published.
        read: Makes an item of a row.
        samples: How many samples of a question the protocol draws.
        version: Goes up when the same rows would make other questions, or be judged otherwise.
        shots_split: Where examples for few-shot prompts are, or "".
        read_shot: Makes one of a row of that split.
        max_new_tokens: Where the protocol cuts a reply off.
    """

    name: str
    title: str
    hub: str
    config: str | None = None
    split: str
    size: int
    read: Callable[[Mapping[str, Any]], Item]
    samples: int
    version: str = "1"
    shots_split: str = ""
    read_shot: Callable[[Mapping[str, Any]], Shot] | None = None
    max_new_tokens: int = 32_768


def _value(data: Mapping[str, Any], *names: str) -> tuple[str, Any]:
    """The first of these columns that has a value."""
    for name in names:
        if data.get(name) is not None:
            return name, data[name]
    raise FieldError(names[0], f"it is missing or empty; the columns are {', '.join(map(str, data))}.")


def _text(data: Mapping[str, Any], *names: str) -> str:
    name, value = _value(data, *names)
    return _checked_text(name, value)


def _checked_text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise FieldError(name, f"it is {value!r:.60}; wanted a text.")
    if not value.isascii() and any("\ud800" <= sign <= "\udfff" for sign in value):
        raise FieldError(name, "it has half of a surrogate pair, which is no Unicode text.")
    return value


def _own_id(data: Mapping[str, Any], *names: str) -> str | None:
    found = [data[name] for name in names if data.get(name) is not None]
    return str(found[0]) if found else None


def _solution(data: Mapping[str, Any], *names: str) -> dict[str, str]:
    """The worked solution for `meta`: training data may hold it, whatever becomes of the question."""
    found = [data[name] for name in names if isinstance(data.get(name), str) and data[name].strip()]
    return {SOLUTION: found[0]} if found else {}


def _gsm8k(data: Mapping[str, Any]) -> Item:
    solution = _text(data, "answer")
    marked = re.findall(r"####[ \t]*(\S.*?)[ \t]*$", solution, re.MULTILINE)
    if not marked:
        raise FieldError("answer", f"it ends in {solution[-40:]!r}; wanted the number after ####.")
    steps = solution.rpartition("####")[0].strip()
    return Item(_text(data, "question"), marked[-1], "number", meta=_solution({"solution": steps}, "solution"))


def _gsm8k_shot(data: Mapping[str, Any]) -> Shot:
    return Shot(_text(data, "question"), _text(data, "answer"))


def _math500(data: Mapping[str, Any]) -> Item:
    meta = ({"level": data["level"]} if data.get("level") is not None else {}) | _solution(data, "solution")
    answer = _text(data, "answer")
    return Item(
        _text(data, "problem"), answer, "auto", _own_id(data, "unique_id"), str(data.get("subject") or ""), meta
    )


def _aime(data: Mapping[str, Any]) -> Item:
    text = _text(data, "problem", "Problem", "question")
    name, value = _value(data, "answer", "Answer", "solution", "Solution")
    if name.lower() == "solution":
        found = find_answer(_checked_text(name, value), text)
        if isinstance(found, Refusal):
            raise FieldError(name, found.detail)
        value = found.text
    answer = str(value).strip()
    if isinstance(value, bool) or not re.fullmatch(r"\d{1,3}", answer):
        raise FieldError(name, f"it is {value!r:.60}; wanted a whole number from 0 to 999, as all answers of AIME are.")
    meta = _solution(data, "solution", "Solution")
    return Item(text, str(int(answer)), "number", _own_id(data, "id", "ID"), meta=meta)


_WRONG = tuple(f"Incorrect Answer {number}" for number in (1, 2, 3))


def _gpqa(data: Mapping[str, Any]) -> Item:
    """The order of the choices is that of a hash of question and choice, so that it needs no seed and never changes."""
    text, right = _text(data, "Question"), _text(data, "Correct Answer").strip()
    options = [right, *(_text(data, name).strip() for name in _WRONG)]
    keys = [hashlib.blake2b(f"{text}\0{option}\0{place}".encode()).digest() for place, option in enumerate(options)]
    order = sorted(range(len(options)), key=lambda place: keys[place])
    choices, letter = [options[place] for place in order], LETTERS[order.index(0)]
    category = str(data.get("High-level domain") or "")
    meta = {"choices": choices} | _solution(data, "Explanation")
    return Item(text, letter, "choice", _own_id(data, "Record ID"), category, meta)


def _mmlu(data: Mapping[str, Any]) -> Item:
    choices = _choices(data, "choices")
    if len(choices) != 4:
        raise FieldError("choices", f"there are {len(choices)}; wanted 4.")
    letter = _letter("answer", _value(data, "answer")[1], len(choices))
    return Item(_text(data, "question"), letter, "choice", None, _text(data, "subject"), {"choices": choices})


def _mmlu_shot(data: Mapping[str, Any]) -> Shot:
    item = _mmlu(data)
    return Shot(item.text, item.answer or "", tuple(item.meta["choices"]), item.category)


def _mmlu_pro(data: Mapping[str, Any]) -> Item:
    choices = _choices(data, "options")
    letter = _letter("answer", _value(data, "answer")[1], len(choices))
    index = data.get("answer_index")
    if index is not None and _letter("answer_index", index, len(choices)) != letter:
        raise FieldError("answer_index", f"it is {index!r}, but `answer` is {letter!r}; wanted them to agree.")
    meta = {"choices": choices}
    return Item(_text(data, "question"), letter, "choice", _own_id(data, "question_id"), _text(data, "category"), meta)


def _mmlu_pro_shot(data: Mapping[str, Any]) -> Shot:
    item = _mmlu_pro(data)
    steps = _text(data, "cot_content").replace("A: Let's think step by step. ", "")
    return Shot(item.text, steps, tuple(item.meta["choices"]), item.category)


def _choices(data: Mapping[str, Any], name: str) -> list[str]:
    _, value = _value(data, name)
    if not isinstance(value, list | tuple) or not all(isinstance(option, str) for option in value):
        raise FieldError(name, f"it is {value!r:.80}; wanted a list of texts, A first.")
    if not 2 <= len(value) <= len(LETTERS):
        raise FieldError(name, f"there are {len(value)} choices; wanted 2 to {len(LETTERS)}.")
    return list(value)


def _letter(name: str, value: Any, count: int) -> str:
    """A choice by its letter, or by its place from 0."""
    place = LETTERS.find(value) if isinstance(value, str) and len(value) == 1 else value
    if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < count:
        last = LETTERS[count - 1]
        raise FieldError(name, f"it is {value!r:.60}; wanted A to {last}, or 0 to {count - 1}.")
    return LETTERS[place]


def _ifeval(data: Mapping[str, Any]) -> Item:
    text = _text(data, "prompt")
    _value(data, "instruction_id_list"), _value(data, "kwargs")
    try:
        instructions = read_instructions(data["instruction_id_list"], data["kwargs"])
    except BadInstructionError as error:
        raise FieldError(error.field, str(error)) from error
    category = instructions[0][0].partition(":")[0]
    return Item(text, None, "instructions", _own_id(data, "key"), category, {INSTRUCTIONS: instructions})


TASKS: Mapping[str, Benchmark] = {
    each.name: each
    for each in (
        Benchmark(
            name="gsm8k", title="GSM8K", hub="openai/gsm8k", config="main", split="test", size=1319, read=_gsm8k,
            samples=4, shots_split="train", read_shot=_gsm8k_shot,
        ),
        Benchmark(
            name="math500", title="MATH-500", hub="HuggingFaceH4/MATH-500", split="test", size=500, read=_math500,
            samples=16,
        ),
        Benchmark(
            name="aime24", title="AIME 2024", hub="HuggingFaceH4/aime_2024", split="train", size=30, read=_aime,
            samples=64,
        ),
        Benchmark(
            name="aime25", title="AIME 2025", hub="math-ai/aime25", split="test", size=30, read=_aime, samples=64,
        ),
        Benchmark(
            name="gpqa_diamond", title="GPQA diamond", hub="Idavidrein/gpqa", config="gpqa_diamond", split="train",
            size=198, read=_gpqa, samples=64,
        ),
        Benchmark(
            name="mmlu", title="MMLU", hub="cais/mmlu", config="all", split="test", size=14_042, read=_mmlu, samples=1,
            shots_split="dev", read_shot=_mmlu_shot,
        ),
        Benchmark(
            name="mmlu_pro", title="MMLU-Pro", hub="TIGER-Lab/MMLU-Pro", split="test", size=12_032, read=_mmlu_pro,
            samples=1, shots_split="validation", read_shot=_mmlu_pro_shot,
        ),
        Benchmark(name="ifeval", title="IFEval", hub="google/IFEval", split="train", size=541, read=_ifeval, samples=4),
    )
}  # fmt: skip


def read_any(data: Mapping[str, Any]) -> Item:
    """Makes an item of a row of question and answer, as `coldforge.data.question_rows` reads it, with a `category`."""
    question = question_of(Row("", 0, data), "")
    if isinstance(question, Refusal):
        raise FieldError(_blamed(question), f"{question.reason}: {question.detail}")
    meta = {name: value for name, value in question.meta.items() if name != "id"} | _solution(data, "solution")
    own = question.meta.get("id")
    return Item(question.text, question.answer, question.kind, own, str(data.get("category") or ""), meta)


_BLAMED = {"question": "question", "kind": "kind", "choices": "choices"}


def _blamed(refusal: Refusal) -> str:
    """The column that a refusal speaks of: the one in backquotes, or the one in its reason."""
    if match := re.match(r"`(\w+)`", refusal.detail):
        return match[1]
    return _BLAMED.get(refusal.reason.rpartition("-")[2], "answer")


def read_questions(
    rows: Iterable[Row], read: Callable[[Mapping[str, Any]], Item], source: str, where: str, *, repeats: bool = False
) -> tuple[Question, ...]:
    """Makes questions of all rows.

    Args:
        rows: A split's.
        read: Makes an item of a row's columns.
        source: What the questions are counted under; ids are made of it and the text where rows have none.
        where: For errors.
        repeats: Whether rows without ids of their own may be the same, as some published ones are; they are numbered.

    Raises:
        ValueError: A row cannot be read or is not in order: file, row and column are named. Two rows have one id, or
            are the same. There is no row.
    """
    found: dict[str, tuple[Question, Row]] = {}
    for row in rows:
        file = "" if row.source in where else f", {row.source}"
        place = f"{where}{file}, row {row.index} (from 0)"
        try:
            item = read(_columns(row))
            _check_gold(item)
        except FieldError as error:
            raise ValueError(f"{place}, column {error}") from error
        name = item.own_id or _made_id(source, item)
        if name in found and (item.own_id or not repeats):
            first = found[name][1].index
            same = f"the id {name!r} is" if item.own_id else "question and choices are"
            raise ValueError(f"{place}: {same} that of row {first} too; wanted each question once.")
        while name in found:
            name += "+"
        meta = {**item.meta} | ({"category": item.category} if item.category else {})
        found[name] = (Question(name, item.text, item.answer, item.kind, source, meta), row)
    if not found:
        raise ValueError(f"{where} has no rows; wanted questions.")
    return tuple(question for question, _ in found.values())


def _made_id(source: str, item: Item) -> str:
    choices = item.meta.get("choices", ())
    return question_id(source, "\0".join([item.text, item.category, *choices]) if choices else item.text)


def _columns(row: Row) -> Mapping[str, Any]:
    if isinstance(row.data, Refusal):
        raise FieldError("all", f"{row.data.reason}: {row.data.detail}")
    return row.data


def _check_gold(item: Item) -> None:
    """Refuses a right answer that no reply could be compared with."""
    if item.answer is None or item.kind in ("code", "proof"):
        return
    if item.kind == "number" and read_quantity(item.answer) is None:
        raise FieldError("answer", f"it is {item.answer!r:.60}, which is no number; wanted one.")
    bare = re.sub(r"\\[{}]", "", item.answer)  # a brace that TeX does not count
    if bare.count("{") != bare.count("}") and item.kind not in ("text", "exact"):
        raise FieldError(
            "answer", f"the braces of {item.answer!r:.60} do not close; wanted an answer that can be read."
        )
    try:
        compare(Pair(item.answer, item.answer, item.kind, item.meta.get("choices", ())), Equality())  # type: ignore[arg-type]
    except ValueError as error:
        raise FieldError("answer", str(error)) from error


def read_shots(rows: Iterable[Row], read: Callable[[Mapping[str, Any]], Shot], where: str) -> tuple[Shot, ...]:
    """Makes examples of all rows.

    Raises:
        ValueError: A row is not in order: where, row and column are named. There is no row.
    """
    shots: list[Shot] = []
    for row in rows:
        try:
            shots.append(read(_columns(row)))
        except FieldError as error:
            raise ValueError(f"{where}, row {row.index} (from 0), column {error}") from error
    if not shots:
        raise ValueError(f"{where} has no rows; wanted examples.")
    return tuple(shots)


def chance_of(questions: Sequence[Question]) -> float:
    """Returns the accuracy of guessing: the mean of 1 / choices; 0 where no choices are given."""
    guesses = [1 / len(choices) if (choices := question.meta.get("choices")) else 0.0 for question in questions]
    return sum(guesses) / len(guesses)
