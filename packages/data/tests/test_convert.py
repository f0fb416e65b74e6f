"""Rows of every schema become the same examples; what is damaged is refused, with its reason."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coldforge.data import Conversion, Example, ReasoningFormat, Refusal, Row, convert

FORM = ReasoningFormat()
THOUGHT = "<|begin_of_thought|>\n\nSeven.\n\n<|end_of_thought|>\n\n"
SOLUTION = "<|begin_of_solution|>\n\nIt is \\boxed{7}.\n\n<|end_of_solution|>"
BOX = "Return your final response within \\boxed{}. "


def chat(reply: object, question: object = "What?", **columns: object) -> dict:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": reply}], **columns}


def converted(data: dict | Refusal, how: Conversion | None = None) -> Example:
    example = convert(Row("s", 3, data), how)
    assert isinstance(example, Example), example
    return example


def refused(data: dict | Refusal, how: Conversion | None = None) -> Refusal:
    refusal = convert(Row("s", 3, data), how)
    assert isinstance(refusal, Refusal), refusal
    return refusal


def test_a_whole_file_of_oddities(stratos: list[tuple[dict, object]]) -> None:
    for index, (columns, outcome) in enumerate(stratos):
        found = convert(Row("stratos", index, columns))
        if isinstance(outcome, str):
            assert isinstance(found, Refusal), (columns, outcome)
            assert found.reason == outcome
            assert found.detail
            continue
        assert isinstance(found, Example), (columns, found)
        assert (found.answer, found.kind) == outcome
        assert (found.source, found.index, found.system) == ("stratos", index, "")
        reply = found.messages(FORM)[-1]["content"]
        assert FORM.is_well_formed(reply)
        assert "<|" not in reply
        assert not found.question.startswith("Return your final")
    outcomes = Counter(outcome if isinstance(outcome, str) else outcome[1] for _, outcome in stratos)
    assert len(stratos) >= 200
    assert outcomes.keys() >= {"number", "expression", "choice", "text", "code", "proof", "broken-tags", "no-answer"}


def test_all_schemas_give_the_same_example() -> None:
    reply, question = THOUGHT + SOLUTION, BOX + "What?"
    turns = [("user", "assistant"), ("human", "gpt")]
    rows = [{"conversations": [{"from": a, "value": question}, {"from": b, "value": reply}]} for a, b in turns]
    rows += [
        chat(reply, question),
        chat(reply, question, system="Use <|begin_of_thought|>."),
        chat(reply, question, system=None),
    ]
    rows += [rows[0] | rows[2], json.loads(json.dumps(rows[0]))]
    assert {converted(row) for row in rows} == {Example("s", 3, "What?", "Seven.\n\nIt is \\boxed{7}.", "7", "number")}


def test_prose_is_dropped_on_request() -> None:
    assert converted(chat(THOUGHT + SOLUTION), Conversion(keep_prose=False)).reasoning == "Seven."


def test_a_system_message_stays_unless_it_asks_for_other_tags() -> None:
    kept = converted(chat(THOUGHT + SOLUTION, system="You are Ada."))
    assert kept.system == "You are Ada."
    assert [message["role"] for message in kept.messages(FORM)] == ["system", "user", "assistant"]
    assert converted(chat(THOUGHT + SOLUTION, system="Write <|end_of_thought|>.")).system == ""


def test_the_user_is_given_the_instruction_once() -> None:
    own = chat(FORM.render("Seven.", "7"), FORM.ask("What?"))
    example = converted(own)
    assert (example.question, example.reasoning, example.answer) == ("What?", "Seven.", "7")
    assert example.messages(FORM) == own["messages"]
    assert converted({"messages": example.messages(FORM)}) == example


@pytest.mark.parametrize(
    "reply",
    [
        "<think>\nSeven.\n</think>\n\nIt is \\boxed{7}.",
        "Seven.\n</think>\nIt is \\boxed{7}.",
        "<think>Seven.</think><answer>7</answer>",
    ],
)
def test_r1s_replies_are_read(reply: str) -> None:
    example = converted(chat(reply), Conversion(keep_prose=False))
    assert (example.reasoning, example.answer) == ("Seven.", "7")


def test_worked_solutions() -> None:
    gsm8k = {"question": "What?", "answer": "One and six.\n#### 7"}
    numina = {"problem": "What?", "solution": "One and six, \\boxed{7.0}.", "answer": 7}
    assert converted(gsm8k) == Example("s", 3, "What?", "One and six.", "7", "number")
    assert converted(numina).answer == "7"  # as the gold answer has it
    plain = chat("One and six, \\boxed{7}.")
    assert refused(plain).reason == "no-reasoning"
    assert converted(plain, Conversion(accept_worked=True)).reasoning == "One and six, \\boxed{7}."


@pytest.mark.parametrize(
    ("data", "reason", "detail"),
    [
        ({"text": "x"}, "unknown-schema", "the columns are text; wanted conversations, messages, or"),
        ({}, "unknown-schema", "the columns are none"),
        ({"messages": [{"text": "x"}]}, "unknown-schema", "message 0 is {'text': 'x'}; wanted from and value"),
        ({"messages": ["x"]}, "unknown-schema", "message 0 is 'x'"),
        ({"messages": []}, "empty-conversation", "there is no message"),
        (chat(" "), "empty-conversation", "the reply is empty"),
        ({"messages": "x"}, "bad-content", "`messages` is of type str; wanted a list"),
        (
            {"messages": [{"role": ["user"], "content": "x"}]},
            "wrong-roles",
            "message 0 has the role ['user']; known are",
        ),
        (chat(["x"]), "bad-content", "message 1 is of type list; wanted a string"),
        (chat(THOUGHT + SOLUTION, system=3), "bad-content", "the system is of type int"),
        ({"messages": [{"role": "system", "content": "x"}]}, "wrong-roles", "the roles are system only"),
        (chat("x") | {"conversations": chat("y")["messages"]}, "two-conversations", "differ"),
        (
            {"messages": [{"role": "system", "content": "x"}, *chat("x")["messages"]], "system": "y"},
            "two-systems",
            "differ",
        ),
        (chat(THOUGHT + SOLUTION, " "), "empty-question", "the question is empty"),
        (chat(THOUGHT + SOLUTION, BOX), "empty-question", "the question is empty"),
        (chat(THOUGHT + SOLUTION, "a\ud800"), "bad-unicode", "half a character"),
        (chat(THOUGHT + SOLUTION, "caf\ufffd"), "bad-unicode", "damaged by decoding: 'caf\ufffd'"),
        (chat("12"), "no-reasoning", "the reply has no tags"),
        (chat("<answer>12</answer>"), "no-reasoning", "<answer> but no tags of reasoning"),
        (chat("<think> </think>12"), "no-reasoning", "the reasoning is empty"),
        (chat("<|begin_of_thought|> <|end_of_thought|>" + SOLUTION), "no-reasoning", "the reasoning is empty"),
        (chat("<think>a</think> "), "empty-answer", "the solution is empty"),
        (chat("<think>a"), "broken-tags", "do not occur once each"),
        (chat("<think>a</think>b</think>c"), "broken-tags", "do not occur once each"),
        (chat("<reasoning>a</reasoning>"), "broken-tags", "<answer> occurs 0 times"),
        (chat(SOLUTION + THOUGHT), "broken-tags", "in the order <|begin_of_solution|>"),
        (chat("Hm. " + THOUGHT + SOLUTION), "broken-tags", "text before the sections: 'Hm.'"),
        (
            chat((THOUGHT + SOLUTION).replace("Seven", "an <answer>")),
            "tags-in-content",
            "the reasoning contains <answer>",
        ),
        (
            {"question": "What?", "solution": "5 of them.\n#### 5", "answer": "6"},
            "answer-differs",
            "gives '5', the column answer '6'",
        ),
        ({"question": "What?", "solution": "5", "answer": "5"}, "no-reasoning", "nothing but the answer"),
        ({"question": "What?", "solution": ["5"]}, "bad-content", "the solution is of type list"),
        (Refusal("not-json", "line 4 is broken"), "not-json", "line 4 is broken"),
    ],
)
def test_what_is_not_in_order_is_refused_and_named(data: dict | Refusal, reason: str, detail: str) -> None:
    refusal = refused(data)
    assert refusal.reason == reason
    assert detail in refusal.detail


def test_the_tags_are_those_of_the_conversion() -> None:
    other = ReasoningFormat(reasoning=("<think>", "</think>"), answer=("<final>", "</final>"))
    data = chat("<think>Seven.</think><final>7 of them</final>")
    assert converted(data, Conversion(form=other)).answer == "7 of them"
    assert (
        refused(chat((THOUGHT + SOLUTION).replace("Seven", "</final>")), Conversion(form=other)).reason
        == "tags-in-content"
    )
    assert converted(chat((THOUGHT + SOLUTION).replace("Seven", "<answer>")), Conversion(form=other)).kind == "number"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "user", "system"]), inner, max_size=3)
    ),
    max_leaves=9,
)
columns = st.sampled_from(["conversations", "messages", "system", "question", "problem", "solution", "answer"])


@given(data=st.dictionaries(columns, json_values, max_size=4))
def test_no_row_is_an_accident(data: dict) -> None:
    assert isinstance(convert(Row("s", 0, data)), Example | Refusal)


marks = ["<|begin_of_thought|>", "<|end_of_thought|>", "<|begin_of_solution|>", "<|end_of_solution|>", *FORM.tags]
marks += ["<think>", "</think>", "\\boxed{", "}", "5", "\n", "####", "```", " a "]


@given(pieces=st.lists(st.sampled_from(marks), max_size=9), worked=st.booleans())
def test_every_example_fits_the_format(pieces: list[str], worked: bool) -> None:
    found = convert(Row("s", 0, chat("".join(pieces))), Conversion(accept_worked=worked))
    if isinstance(found, Example):
        assert FORM.parse(found.messages(FORM)[-1]["content"]) == (found.reasoning, found.answer)


PROSE = "First we add the three fours, which gives twelve, and so the whole of it comes to "


def test_a_solution_between_our_tags_of_an_answer_is_no_answer() -> None:
    """What the run did that this project began with: 59 % of right answers became 0 %."""
    own = chat(f"<reasoning>Seven.</reasoning><answer>{PROSE}\\boxed{{7}}.</answer>")
    found = converted(own)
    assert (found.answer, found.kind) == ("7", "number")
    assert found.reasoning == f"Seven.\n\n{PROSE}\\boxed{{7}}."
    refusal = refused(chat(f"<reasoning>Seven.</reasoning><answer>{PROSE}7</answer>"))
    assert refusal.reason == "prose-answer"
    assert refusal.detail.startswith("the answer is prose, no value that can be compared: 'First we add")


@pytest.mark.parametrize("answer", ["7", "x \\in (0, 1)", "Yes, he is", "the left one of the two", "```\nx = 1\n```"])
def test_short_answers_and_code_between_our_tags_are_taken_as_they_are(answer: str) -> None:
    assert converted(chat(FORM.render("Seven.", answer))).answer == answer
