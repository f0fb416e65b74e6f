"""Writing and reading replies: what goes in comes out, and nothing else than the form is taken for it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coldforge.data import FormatError, ReasoningFormat, Reply

PROJECT = ReasoningFormat()
THINK = ReasoningFormat(reasoning=("<think>", "</think>"), answer=("[[", "]]"), template="")
GOOD = "<reasoning>\na\n</reasoning>\n<answer>b</answer>"

pieces = st.lists(
    st.sampled_from([*PROJECT.tags, *THINK.tags, "\n", " ", "<", "answer>", "12", "[", "]"]) | st.text(max_size=4)
)
texts = pieces.map("".join)


def test_the_seeds_example() -> None:
    reply = PROJECT.render("Let me calculate 15% of 80...", "12")
    assert reply == "<reasoning>\nLet me calculate 15% of 80...\n</reasoning>\n<answer>12</answer>"


def test_an_answer_of_several_lines_stands_on_its_own_lines() -> None:
    assert PROJECT.render("r", "```\nx\n```").endswith("</reasoning>\n<answer>\n```\nx\n```\n</answer>")


@pytest.mark.parametrize("form", [PROJECT, THINK])
@given(reasoning=texts, answer=texts)
def test_what_goes_in_comes_out(form: ReasoningFormat, reasoning: str, answer: str) -> None:
    try:
        reply = form.render(reasoning, answer)
    except FormatError:
        refused = [not text.strip() or any(tag in text for tag in form.tags) for text in (reasoning, answer)]
        beside_a_tag = form is THINK and (answer.strip().startswith("[") or answer.strip().endswith("]"))
        assert any(refused) or beside_a_tag
        return
    assert form.parse(reply) == Reply(reasoning.strip(), answer.strip())
    assert form.render(*form.parse(reply)) == reply
    assert "".join(form.render_parts(reasoning, answer)) == reply


@pytest.mark.parametrize("form", [PROJECT, THINK])
@given(text=texts)
def test_what_is_read_is_all_there_is(form: ReasoningFormat, text: str) -> None:
    if form.is_well_formed(text):
        reply = form.parse(text)
        left = text
        for part in (
            form.reasoning[0],
            reply.reasoning,
            form.reasoning[1],
            form.answer[0],
            reply.answer,
            form.answer[1],
        ):
            assert left.lstrip().startswith(part)
            left = left.lstrip().removeprefix(part)
        assert not left.strip()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "<reasoning> occurs 0 times; wanted once"),
        (GOOD.replace("</answer>", ""), "</answer> occurs 0 times"),
        (GOOD + GOOD, "<reasoning> occurs 2 times"),
        (GOOD.replace("b", "<answer>b"), "<answer> occurs 2 times"),
        ("<answer>b</answer><reasoning>a</reasoning>", "in the order <answer> </answer> <reasoning> </reasoning>"),
        ("<reasoning>a<answer>b</reasoning></answer>", "in the order <reasoning> <answer> </reasoning>"),
        ("Sure! " + GOOD, "text before the sections: 'Sure!'"),
        (GOOD.replace("\n<answer>", " so <answer>"), "text between the sections: 'so'"),
        (GOOD + ".", "text after the sections: '.'"),
        ("<reasoning> \n</reasoning><answer>b</answer>", "the reasoning is empty"),
        ("<reasoning>a</reasoning><answer></answer>", "the answer is empty"),
    ],
)
def test_what_is_not_the_form_is_named(text: str, complaint: str) -> None:
    assert not PROJECT.is_well_formed(text)
    with pytest.raises(FormatError, match=re.escape(complaint)):
        PROJECT.parse(text)


def test_what_cannot_be_written_is_named() -> None:
    with pytest.raises(FormatError, match="the answer is empty"):
        PROJECT.render("a", " ")
    with pytest.raises(FormatError, match="the reasoning contains </answer>"):
        PROJECT.render("a </answer> b", "c")
    with pytest.raises(FormatError, match="]"):
        THINK.render("a", "[0, 1]")


def test_the_instruction_names_the_tags_in_force() -> None:
    assert PROJECT.instruction.startswith("You are given a problem. First, think about the problem and provide your")
    other = ReasoningFormat(reasoning=("(r", "r)"), answer=("(a", "a)"))
    assert all(tag in other.instruction for tag in other.tags)
    assert PROJECT.ask("2 + 2 = ?") == PROJECT.instruction + "\n\n2 + 2 = ?"
    assert THINK.ask("2 + 2 = ?") == "2 + 2 = ?"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"answer": ("", "</answer>")}, "'' is no tag"),
        ({"answer": ("<answer> ", "</answer>")}, "'<answer> ' is no tag"),
        ({"answer": ("<a>", "<a>")}, "'<a>' and '<a>' cannot be told apart"),
        ({"reasoning": ("<answer>!", "x")}, "cannot be told apart"),
        ({"template": "Use {tags}."}, "the template names 'tags'"),
        ({"template": "Use {answer[2]}."}, "the template names tuple index"),
    ],
)
def test_formats_that_could_be_misread_are_refused(changes: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        ReasoningFormat(**changes)


def test_formats_are_values() -> None:
    assert len({ReasoningFormat(), ReasoningFormat(), THINK}) == 2
