r"""The answer in a worked solution: where it stands, what kind it is, whether two are the same.

`find_answer` looks in this order, and takes the first that there is:

1. the whole solution, for a question that asks for code in Bespoke-Stratos' words;
2. the content of the last `\boxed{…}`, however deep its braces are nested;
3. the whole solution, labelled as code, when it has a fenced code block;
4. what follows `####` on the last line that has it;
5. the whole solution, labelled as a proof, when the question asks to prove or show something;
6. what follows "the answer is" or "Answer:" on the last line;
7. the solution itself, when it is a plain value: one line of a few words.

Anything else is refused: a guess, as the last number in the text, would be taught as if it were true. Left out: the
equality of expressions (`answers_agree` knows numbers and spelling); graders have computer algebra for that.
"""

import re
from fractions import Fraction
from typing import NamedTuple

from coldforge.data.records import AnswerKind, Refusal

# The words that every code question of Bespoke-Stratos-17k begins with (APPS and TACO).
CODE_REQUEST = "Generate an executable Python function generated from the given prompt."

_FENCE = re.compile(r"^\s*(?:```|~~~)", re.MULTILINE)
_HASHES = re.compile(r"^[ \t]*####[ \t]*(.*?)[ \t]*$", re.MULTILINE)
_PROVE = re.compile(r"\b(?:prove|proof|show that)\b", re.IGNORECASE)
_ANSWER_LINE = re.compile(
    r"\b(?:the |final )answer\b[^:=]{0,40}?(?: is:?|:)\s*(.+)|^answer(?: is:?|:)\s*(.+)", re.IGNORECASE
)
_PLAIN_CHARACTERS, _PLAIN_WORDS = 80, 5
_PROSE_WORDS = 10
_NUMBER_CHARACTERS = 200  # Python refuses to read integers of more than 4,300 digits

_WRAPPERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|boldsymbol|boxed)\s*(?=\{)")
_CHOICE = re.compile(r"\(?[A-J]\)?")
_FRACTION = re.compile(r"([+-]?)\\[dt]?frac\{(\d+)\}\{(\d+)\}")
_NUMBER = re.compile(r"([+-]?)(\d{1,3}(?:,\d{3})+|\d+)?(\.\d+)?(?:e([+-]?\d{1,3}))?(?:/(\d+))?(%?)", re.IGNORECASE)


class Answer(NamedTuple):
    """An answer that was found.

    Attributes:
        text: The canonical answer.
        kind: What it is.
        prose: What the solution says besides: all of it, without a `####` line; "" where it is nothing but the answer.
    """

    text: str
    kind: AnswerKind
    prose: str


def find_answer(solution: str, question: str) -> Answer | Refusal:
    r"""Finds the answer in a solution, by the module's rules.

    >>> find_answer(r"Half of it, so \boxed{\frac{1}{2}}.", "What share?").text
    '\\frac{1}{2}'

    Returns:
        The answer; or a refusal: "empty-answer" (no solution, or an empty box), "broken-box" (its braces do not close),
        "no-answer" (none of the rules applies).
    """
    solution = solution.strip()
    if not solution:
        return Refusal("empty-answer", "the solution is empty; wanted at least the final answer.")
    if question.lstrip().startswith(CODE_REQUEST):
        return Answer(solution, AnswerKind.CODE, "")
    boxes = find_boxes(solution)
    if isinstance(boxes, Refusal):
        return boxes
    if boxes:
        return _value(boxes[-1], solution, r"the last \boxed{}")
    if _FENCE.search(solution):
        return Answer(solution, AnswerKind.CODE, "")
    if marks := list(_HASHES.finditer(solution)):
        return _value(marks[-1][1], (solution[: marks[-1].start()] + solution[marks[-1].end() :]).strip(), "####")
    if _PROVE.search(question):
        return Answer(solution, AnswerKind.PROOF, "")
    last = solution.splitlines()[-1].replace("*", "").strip()
    if (match := _ANSWER_LINE.search(last)) and _is_plain(value := (match[1] or match[2]).rstrip(".")):
        found = _value(value, solution, "the last line")
        # "therefore 12", "12 or 13": a number among words is not sure to be the answer.
        if not isinstance(found, Refusal) and not (found.kind == AnswerKind.TEXT and re.search(r"\d", found.text)):
            return found
    if _is_plain(solution.rstrip(".")):
        return _value(solution.rstrip("."), solution.rstrip("."), "the solution")
    ending = solution[-80:]
    return Refusal("no-answer", f"no \\boxed{{}}, no ####, no 'the answer is', no plain value; it ends in {ending!r}.")


def _value(text: str, solution: str, where: str) -> Answer | Refusal:
    text = unwrap(text)
    if not text:
        return Refusal("empty-answer", f"{where} holds nothing; wanted the final answer.")
    return Answer(text, answer_kind(text), "" if unwrap(solution) == text else solution)


def _is_plain(text: str) -> bool:
    text = text.strip()
    if not text or "\n" in text or len(text) > _PLAIN_CHARACTERS:
        return False
    return answer_kind(unwrap(text)) in (AnswerKind.NUMBER, AnswerKind.CHOICE) or len(text.split()) <= _PLAIN_WORDS


def is_prose(answer: str) -> bool:
    r"""Says whether an answer is a text to read, with which no other can be compared, and not a value.

    More than ten words of two letters or more, TeX's commands not counted; Bespoke-Stratos' solutions have 450 to 2,050
    characters. Code and proofs are of their own kinds: do not ask of them.

    >>> is_prose("12"), is_prose(r"x \in (-\infty, 1) \text{ or } x = 3"), is_prose("First, " + "we add. " * 6)
    (False, False, True)
    """
    return len(re.findall(r"[^\W\d_]{2,}", re.sub(r"\\[A-Za-z]+", " ", answer))) > _PROSE_WORDS


def find_boxes(text: str) -> list[str] | Refusal:
    r"""Returns the contents of all `\boxed{…}` that do not lie within another, in order.

    Braces that TeX does not count, `\{` and `\}`, are not counted: `\boxed{\{1, 2\}}` holds `\{1, 2\}`. If a box never
    closes, as in a text that was cut off, that is a refusal, "broken-box".
    """
    boxes = []
    start = text.find(r"\boxed")
    while start >= 0:
        brace = start + len(r"\boxed")
        while text[brace : brace + 1].isspace():
            brace += 1
        end = _closing_brace(text, brace)
        if end is None:
            return Refusal(
                "broken-box", f"the braces of {text[start : start + 60]!r} do not close; wanted \\boxed{{…}}."
            )
        boxes.append(text[brace + 1 : end])
        start = text.find(r"\boxed", end)
    return boxes


def _closing_brace(text: str, start: int) -> int | None:
    """Returns where the brace closes that opens at `start`, None if it does not or none opens there."""
    if text[start : start + 1] != "{":
        return None
    depth, position = 0, start
    while position < len(text):
        character = text[position]
        if character == "\\":
            position += 1  # what follows is escaped
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return position
        position += 1
    return None


def unwrap(text: str) -> str:
    r"""Takes off what stands around a whole answer for its looks: white space, `$…$`, `\(…\)`, `\text{…}`, `\boxed{…}`.

    >>> unwrap(r"$\text{ Yes }$")
    'Yes'
    """
    while True:
        inner = text = text.strip()
        for left, right in _WRAPPERS:
            middle = text[len(left) : len(text) - len(right)]
            if text.startswith(left) and text.endswith(right) and len(text) >= len(left + right) and left not in middle:
                inner = middle
                break
        if match := _TEXT_COMMAND.match(text):
            end = _closing_brace(text, match.end())
            inner = text[match.end() + 1 : end] if end == len(text) - 1 else inner
        if inner == text:
            return text
        text = inner


def answer_kind(text: str) -> AnswerKind:
    """Says what an unwrapped answer is: a number, a choice (one letter, A to J), an expression or text."""
    if numeric_value(text) is not None:
        return AnswerKind.NUMBER
    if _CHOICE.fullmatch(text):
        return AnswerKind.CHOICE
    words = re.findall(r"[^\W\d_]{2,}", text)
    if re.search(r"[\\=^_{}<>+*/|≤≥√π∞]", text) or not words:
        return AnswerKind.EXPRESSION
    return AnswerKind.TEXT


def numeric_value(text: str) -> Fraction | None:
    r"""Returns the number that a text is, exactly, or None if it is none that is known here.

    Read are "1,234.50", "-3/4", "\frac{3}{4}", "$5", "2e3", "15%" (3/20) and their like, up to 200 characters;
    not units, words and mixed numbers. A % counts as hundredths, so that "15%" is not 15.
    """
    if len(text) > _NUMBER_CHARACTERS:
        return None
    text = re.sub(r"\\[!,; ]|\s", "", text.replace("{,}", ",").replace("−", "-").replace(r"\%", "%"))
    text = re.sub(r"^([+-]?)(?:\\?\$|€|£)", r"\1", text)
    if match := _FRACTION.fullmatch(text):
        return Fraction(int(match[1] + match[2]), int(match[3])) if int(match[3]) else None
    match = _NUMBER.fullmatch(text)
    if match is None or (match[2] is None and match[3] is None):
        return None
    sign, whole, decimals, exponent, divisor, percent = match.groups()
    value = Fraction(f"{sign}{(whole or '0').replace(',', '')}{decimals or ''}e{exponent or 0}")
    if divisor is not None:
        if not int(divisor):
            return None
        value /= int(divisor)
    return value / 100 if percent else value


def answers_agree(found: str, wanted: str) -> bool:
    """Says whether two answers are the same number, or the same text but for case and white space.

    >>> answers_agree("36.0", "36"), answers_agree("Yes", "yes"), answers_agree("0.33", "1/3")
    (True, True, False)
    """
    first, second = numeric_value(unwrap(found)), numeric_value(unwrap(wanted))
    if first is not None and second is not None:
        return first == second
    return "".join(unwrap(found).split()).casefold() == "".join(unwrap(wanted).split()).casefold()
