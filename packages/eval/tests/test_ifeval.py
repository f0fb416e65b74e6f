"""IFEval: the verdicts are lm-evaluation-harness' own, bad instructions are named, a reply is judged by its answer."""

import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coldforge.data.format import ReasoningFormat
from coldforge.eval import ifeval_checks
from coldforge.eval.ifeval import INSTRUCTIONS, BadInstructionError, IFEval, followed, loosened, read_instructions
from coldforge.eval.ifeval_checks import CHECKS, check
from coldforge.eval.verify import MEASURES
from coldforge.rewards import Response, Verdict

pytestmark = pytest.mark.whole

ORACLE = json.loads((Path(__file__).parent / "data" / "lm_eval_ifeval.json").read_text(encoding="utf-8"))


def test_every_verdict_is_lm_evals():
    """40,180 of them: 245 texts, 82 instructions of all 25 kinds, strict and loose."""
    kinds, arguments = zip(*ORACLE["instructions"], strict=True)
    instructions = read_instructions(kinds, arguments)
    assert {kind for kind, _ in instructions} == set(CHECKS)
    seen, wrong = {kind: set() for kind in CHECKS}, []
    for text, strict, loose in zip(ORACLE["texts"], ORACLE["strict"], ORACLE["loose"], strict=True):
        found = followed(text, instructions)
        for place, (kind, options) in enumerate(instructions):
            wanted = (strict[place] == "1", loose[place] == "1")
            seen[kind].add(wanted[0])
            if (found.strict[place], found.loose[place]) != wanted:
                wrong.append((kind, options, text[:60]))
    assert wrong == []
    assert all(verdicts == {True, False} for verdicts in seen.values())


@given(st.text("*-[]<> \nap.s", max_size=30))
@example("*\n\n* a\n*\n- b")
@example("<<>>> << >>")
def test_lines_are_read_as_the_published_patterns_read_them(text):
    """Those take seconds for pages of blank lines or brackets."""
    bullets = [*re.findall(r"^\s*\*[^\*].*$", text, re.M), *re.findall(r"^\s*-.*$", text, re.M)]
    assert check("detectable_format:number_bullet_lists", text, {"num_bullets": len(bullets)})
    places = len(re.findall(r"\[.*?\]", text))
    assert check("detectable_content:number_placeholders", text, {"num_placeholders": places})
    assert not check("detectable_content:number_placeholders", text, {"num_placeholders": places + 1})
    title = any(found.lstrip("<").rstrip(">").strip() for found in re.findall(r"<<[^\n]+>>", text))
    assert check("detectable_format:title", text, {}) == title
    for marker, pattern in (("P.S.", r"\s*p\.\s?s\..*$"), ("P.P.S", r"\s*p\.\s?p\.\s?s.*$"), ("a", r"\s*a.*$")):
        found = re.search(pattern, text.lower(), re.M) is not None
        assert check("detectable_content:postscript", text, {"postscript_marker": marker}) == found


@pytest.mark.parametrize("piece", ["\n", " ", " \n", "*", "*\n", "[", "<", ".", "p.", "a ", '"', "SECTION", "!"])
def test_replies_that_repeat_themselves_cost_no_time(piece):
    text = piece * (20_000 // len(piece))
    start = time.process_time()
    for kind, arguments in dict(ORACLE["instructions"]).items():
        if CHECKS[kind].needs != "langdetect":
            check(kind, text, arguments)
    assert time.process_time() - start < 2


def test_a_keyword_that_is_no_pattern_is_a_word():
    assert check("keywords:existence", "f(x = 1", {"keywords": ["F(x"]})
    assert not check("keywords:existence", "fx = 1", {"keywords": ["F(x"]})
    assert check("keywords:existence", "f = 1", {"keywords": ["f|g"]})


def test_a_letter_that_is_none_is_counted_as_it_stands():
    """The published code would draw another letter."""
    arguments = {"letter": "!", "let_frequency": 2, "let_relation": "at least"}
    assert check("keywords:letter_frequency", "Oh! No!", arguments)
    assert not check("keywords:letter_frequency", "Oh no!", arguments)


def test_marks_belong_to_their_words():
    arguments = {"num_words": 5, "relation": "less than"}
    assert check("length_constraints:number_words", "यह वाक्य हिन्दी में", arguments)


def test_the_loose_texts_are_eight_at_most_and_never_empty():
    assert loosened("a*\nb\n*c") == ["a*\nb\n*c", "a\nb\nc", "b\n*c", "b\nc", "a*\nb", "a\nb", "b"]
    assert loosened("*") == ["*"]


@pytest.mark.parametrize(
    ("kinds", "arguments", "field", "said"),
    [
        (["keywords:nothing"], [{}], "instruction_id_list", "no instruction 'keywords:nothing'"),
        ([], [], "instruction_id_list", "wanted a list of instructions"),
        ("punctuation:no_comma", [{}], "instruction_id_list", "wanted a list of instructions"),
        (["punctuation:no_comma"], [], "kwargs", "each of the 1 instructions"),
        (["punctuation:no_comma"], [{"num_words": 3}], "kwargs", "there are num_words; wanted none"),
        (["length_constraints:number_words"], [{"num_words": 3}], "kwargs", "wanted num_words, relation"),
        (["length_constraints:number_words"], [{"num_words": "3", "relation": "at least"}], "kwargs", "whole number"),
        (["length_constraints:number_words"], [{"num_words": 3.5, "relation": "at least"}], "kwargs", "whole number"),
        (["length_constraints:number_words"], [{"num_words": 3, "relation": "at most"}], "kwargs", "less than or at"),
        (["keywords:existence"], [{"keywords": "dog"}], "kwargs", "a list of texts"),
        (["keywords:existence"], [{"keywords": []}], "kwargs", "a list of texts"),
        (["detectable_format:multiple_sections"], [{"section_spliter": "(", "num_sections": 2}], "kwargs", "fails"),
        (["punctuation:no_comma"], [7], "kwargs", "names and values"),
    ],
)
def test_bad_instructions_are_named(kinds, arguments, field, said):
    with pytest.raises(BadInstructionError, match=said) as caught:
        read_instructions(kinds, arguments)
    assert caught.value.field == field


def test_columns_of_a_table_are_read():
    given = [{"num_highlights": 3.0, "relation": None, "num_words": None}, None]
    found = read_instructions(["detectable_format:number_highlighted_sections", "punctuation:no_comma"], given)
    assert found == [("detectable_format:number_highlighted_sections", {"num_highlights": 3}), (
        "punctuation:no_comma", {})]  # fmt: skip


def test_without_the_extra_it_is_named(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(ifeval_checks.importlib, "import_module", missing)
    with pytest.raises(ModuleNotFoundError, match=r"coldforge-eval\[ifeval\]"):
        read_instructions(["language:response_language"], [{"language": "de"}])
    assert read_instructions(["punctuation:no_comma"], [{}])


INSTRUCTIONS_OF_TWO = [("punctuation:no_comma", {}), ("startend:quotation", {})]


def judged(text, form=None, ended=True):
    [found] = IFEval(form).judge([Response(text, 5, ended, meta={INSTRUCTIONS: INSTRUCTIONS_OF_TWO})])
    return found


def test_a_reply_is_right_if_it_follows_all():
    right, half = judged('"Yes"'), judged("Yes")
    assert (right.verdict, right.credit, right.detail) == (Verdict.RIGHT, 1.0, "")
    assert (half.verdict, half.credit, half.detail) == (Verdict.WRONG, 0.5, "not followed: startend:quotation")
    assert half.meta[MEASURES] == {
        "prompts strict": (0, 1), "prompts loose": (0, 1), "instructions strict": (1, 2), "instructions loose": (1, 2)
    }  # fmt: skip


def test_what_is_followed_loosely_is_said():
    found = judged('Sure!\n"Yes"')
    assert found.verdict is Verdict.WRONG
    assert "startend:quotation (but loosely)" in found.detail
    assert found.meta[MEASURES]["prompts loose"] == (1, 1)


def test_thinking_is_not_judged_nor_what_stands_outside_of_the_answer():
    assert judged('<think>well, well</think>\n"Yes"').verdict is Verdict.RIGHT
    form = ReasoningFormat()
    inside = judged('<reasoning>a, b</reasoning><answer>"Yes"</answer>', form)
    assert (inside.verdict, inside.answer, inside.well_formed) == (Verdict.RIGHT, '"Yes"', True)
    outside = judged('"Yes"', form)
    assert (outside.verdict, outside.credit, outside.well_formed) == (Verdict.NO_ANSWER, 0.0, False)


def test_an_empty_reply_follows_nothing():
    found = judged("  \n")
    assert (found.verdict, found.credit) == (Verdict.NO_ANSWER, 0.0)
    assert found.meta[MEASURES]["instructions loose"] == (0, 2)


def test_a_response_without_instructions_is_an_error():
    with pytest.raises(ValueError, match="'instructions'"):
        IFEval().judge([Response("x", 1, True, question="q")])
