"""Prompts: lm-evaluation-harness' few-shot forms to the character, the others as they are meant, faults named."""

import dataclasses
import json
from pathlib import Path

import pytest

from coldforge.data.format import ReasoningFormat
from coldforge.data.records import Question
from coldforge.eval.benchmarks import Shot
from coldforge.eval.ifeval import INSTRUCTIONS, IFEval
from coldforge.eval.prompts import STYLES, PromptStyle, choose_shots, style_of
from coldforge.eval.task import open_task
from coldforge.eval.verify import ExactMatch
from coldforge.rewards import Grader

ORACLE = json.loads((Path(__file__).parent / "data" / "lm_eval_tasks.json").read_text(encoding="utf-8"))
NUMBER = Question("1", "What is {1} + 1?", "2", "number", "test")
CHOICE = Question("2", "Which?", "B", "choice", "test", {"choices": ["x", "y", "z"], "category": "some_topic"})


@pytest.fixture
def folder(tmp_path):
    """The invented data sets, split by split."""
    for name, splits in ORACLE["rows"].items():
        (tmp_path / name).mkdir()
        for split, rows in splits.items():
            path = tmp_path / name / f"{split}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.mark.parametrize(
    ("benchmark", "style", "names"),
    [
        ("gsm8k", "lm-eval:gsm8k", ["gsm8k"]),
        ("gsm8k", "lm-eval:gsm8k_cot", ["gsm8k_cot"]),
        ("math500", "lm-eval:minerva_math", ["minerva_math500"]),
        ("mmlu", "lm-eval:mmlu", ["mmlu_abstract_algebra", "mmlu_high_school_physics"]),
        ("mmlu_pro", "lm-eval:mmlu_pro", ["mmlu_pro_biology", "mmlu_pro_computer_science"]),
    ],
)
def test_prompts_are_lm_evals_to_the_character(folder, benchmark, style, names):
    task = open_task(f"{benchmark}={folder / benchmark}", prompt=style)
    assert [task.ask(question) for question in task.questions] == [
        prompt for name in names for prompt in ORACLE["prompts"][name]
    ]
    if stops := ORACLE["stops"][names[0]]:
        assert list(task.stop) == stops


def test_some_questions_have_the_examples_that_all_would_give_them(folder):
    """lm-eval draws examples question after question."""
    whole = open_task(f"gsm8k={folder / 'gsm8k'}", prompt="lm-eval:gsm8k")
    some = open_task(f"gsm8k={folder / 'gsm8k'}", prompt="lm-eval:gsm8k", limit=3)
    prompts = {question.id: whole.ask(question) for question in whole.questions}
    assert all(some.ask(question) == prompts[question.id] for question in some.questions)


def text_of(prompt):
    [message] = prompt
    assert message["role"] == "user"
    return message["content"]


def test_the_reasoning_prompt_is_the_formats_own():
    form = ReasoningFormat(answer=("<a>", "</a>"), template="Say {{so}} between {answer[0]} and {answer[1]}.")
    assert text_of(STYLES["reasoning"].render(NUMBER)) == ReasoningFormat().ask(NUMBER.text)
    assert text_of(style_of("reasoning", form).render(NUMBER)) == form.ask(NUMBER.text)
    assert text_of(style_of("reasoning", ReasoningFormat(template="")).render(NUMBER)) == NUMBER.text
    shown = text_of(STYLES["reasoning"].render(CHOICE))
    assert shown.endswith(
        "Which?\n\nA) x\nB) y\nC) z\n\nGive the letter of the right choice, one of ABC, as the answer."
    )


def test_other_prompts():
    box = "Please reason step by step, and put your final answer within \\boxed{}"
    assert text_of(STYLES["boxed"].render(NUMBER)) == f"{NUMBER.text}\n\n{box}."
    assert text_of(STYLES["boxed"].render(CHOICE)) == (
        f"Which?\n\nA) x\nB) y\nC) z\n\n{box}, as the letter of the right choice.")  # fmt: skip
    assert text_of(STYLES["plain"].render(NUMBER)) == NUMBER.text
    assert text_of(STYLES["plain"].render(CHOICE)) == "Which?\n\nA) x\nB) y\nC) z"
    simple = text_of(STYLES["simple-evals"].render(CHOICE))
    assert "'Answer: $LETTER' (without quotes) where LETTER is one of ABC. Think" in simple
    assert simple.endswith("answering.\n\nWhich?\n\nA) x\nB) y\nC) z")
    assert "Answer: $ANSWER (without quotes)" in text_of(STYLES["simple-evals"].render(NUMBER))
    assert "use a \\boxed command" in text_of(STYLES["simple-evals"].render(NUMBER))


def test_raw_text_has_no_messages():
    assert STYLES["lm-eval:gsm8k_cot"].render(NUMBER).endswith("Q: What is {1} + 1?\nA:")
    shots = [Shot("Which? ", "A", ("p", "q", "r"), "some_topic")]
    assert STYLES["lm-eval:mmlu"].render(CHOICE, shots) == (
        "The following are multiple choice questions (with answers) about some topic.\n\n"
        "Which?\nA. p\nB. q\nC. r\nAnswer: A\n\nWhich?\nA. x\nB. y\nC. z\nAnswer:"
    )


def test_who_judges():
    assert isinstance(STYLES["lm-eval:gsm8k"].verifier([NUMBER]), ExactMatch)
    number, choice = STYLES["reasoning"].verifier([NUMBER]), STYLES["reasoning"].verifier([CHOICE])
    assert isinstance(number, Grader)
    assert number.fallbacks[-1] == "last number"
    mixed = STYLES["reasoning"].verifier([NUMBER, Question("3", "?", "x/2", "auto", "test")])
    assert mixed.fallbacks[-2:] == ("whole", "last number")
    assert "last number" not in choice.fallbacks
    instructions = Question("3", "?", None, "instructions", "test", {INSTRUCTIONS: [("punctuation:no_comma", {})]})
    assert STYLES["plain"].verifier([instructions]) == IFEval(None)
    assert STYLES["reasoning"].verifier([instructions]) == IFEval(ReasoningFormat())
    with pytest.raises(ValueError, match=r"kinds instructions, number; IFEval's go alone"):
        STYLES["plain"].verifier([instructions, NUMBER])


def test_examples_that_are_not_there():
    shots = [Shot("q", "a")] * 4
    with pytest.raises(ValueError, match="there are 4 examples; lm-eval:gsm8k wants 5"):
        choose_shots(STYLES["lm-eval:gsm8k"], [NUMBER], shots)
    with pytest.raises(ValueError, match="there are 0 examples of 'some_topic'; lm-eval:mmlu wants 5"):
        choose_shots(STYLES["lm-eval:mmlu"], [CHOICE], shots)
    assert choose_shots(STYLES["reasoning"], [NUMBER], ()) == {}
    with pytest.raises(ValueError, match="has 0 examples; wanted 2"):
        PromptStyle(name="mine", shots=2)


def test_a_template_with_another_field_is_an_error():
    with pytest.raises(ValueError, match=r"prompt 'mine' has the field 'problem'"):
        PromptStyle(name="mine", ask="{problem}")
    with pytest.raises(ValueError, match="braces doubled"):
        PromptStyle(name="mine", ask="\\boxed{}: {question}")


def test_unknown_styles():
    with pytest.raises(ValueError, match="there is no prompt 'cot'; there are reasoning, boxed"):
        style_of("cot")
    with pytest.raises(ValueError, match="only 'reasoning' has tags"):
        style_of("boxed", ReasoningFormat())
    mine = dataclasses.replace(STYLES["plain"], name="mine", ask="{question}!")
    assert style_of(mine) is mine
