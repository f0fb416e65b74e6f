r"""Who says whether a reply is right: verifiers, and the forms by which replies to other prompts than ours are read.

A `Verifier` judges replies as `coldforge.rewards.Grader` does, which is the one that nearly all tasks use: the same
object that rewards reinforcement learning. What differs between prompts is where the answer stands, and so the `Form`
that a grader is given: `Boxed` for `\boxed{…}`, `Marked` for "Answer: B" and the like. `ExactMatch` is
lm-evaluation-harness' way, texts that must be equal as texts, for its few-shot forms. IFEval has `ifeval`.

`answer_key` is one spelling for answers that are the same, so that votes can be counted; `describe_verifier` is what a
task's hash is made of; `wrong_golds` finds right answers that are not judged right. Left out: judges that are models.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, Protocol

from coldforge.data.records import Question
from coldforge.rewards import Equality, Grader, Judged, Response, Verdict, read_quantity
from coldforge.rewards.algebra import latex_of
from coldforge.rewards.choices import read_choice
from coldforge.rewards.equality import kind_of, shared_pool
from coldforge.rewards.spelling import find_boxes, spelled

THINKING = ("<think>", "</think>")
TAGS = ("<answer>", "</answer>")
MEASURES = "measures"
"""The key of `Judged.meta` under which a verifier with more than one score puts them: name → (hits, of)."""


_JOIN = re.compile(r"(?:[\s$,;]|\\[()\[\]]|\\q?quad|\\text\s*\{\s*(?:and|or)\s*\}|\band\b|\bor\b)*")
"""What may stand between two boxes that are one answer."""


class Verifier(Protocol):
    """What judges replies: for each one the answer that was found, a verdict and why."""

    def judge(self, responses: Sequence[Response], /) -> list[Judged]: ...


class Sections(NamedTuple):
    """What a form reads from a reply."""

    reasoning: str
    answer: str


@dataclass(frozen=True)
class Boxed:
    r"""A form whose answer is in the last `\boxed{…}` behind the thinking, as DeepSeek-R1 is asked for it.

    Boxes with nothing but a comma or "and" between them are one answer, a list.

    >>> Boxed().parse(r"<think>\boxed{1}?</think> So \boxed{\frac{1}{2}}.").answer
    '\\frac{1}{2}'
    >>> Boxed().parse(r"\boxed{0}, no: \boxed{1} and $\boxed{2}$").answer
    '1, 2'

    Attributes:
        reasoning: What stands around the thinking, if anything does.
        answer: Where a reply without a box may have its answer all the same: a model that was taught tags puts it
            there whatever it is asked.
    """

    reasoning: tuple[str, str] = THINKING
    answer: tuple[str, str] = TAGS

    def parse(self, text: str) -> Sections:
        """Reads a reply.

        Raises:
            ValueError: There is no box, or the last one is empty.
        """
        summary = after_thinking(text, self.reasoning)
        found = find_boxes(summary)
        if not found or not found[-1].text.strip():
            raise ValueError(r"there is no \boxed{…} with something in it; wanted the answer there.")
        first = len(found) - 1  # the last box, and those before it that only a comma parts from it
        while (
            first
            and found[first - 1].text.strip()
            and _JOIN.fullmatch(summary, found[first - 1].end, found[first].start)
        ):
            first -= 1
        answer = ", ".join(box.text.strip() for box in found[first:])
        return Sections(text.removesuffix(summary).strip() or summary[: found[first].start].strip(), answer)

    def is_well_formed(self, text: str) -> bool:
        """Says whether there is a box with something in it."""
        return _parses(self.parse, text)


@dataclass(frozen=True)
class Marked:
    """A form whose answer is what a pattern's group matches, the last time that it does behind the thinking.

    >>> Marked(r"(?i)answer[ ]*:[ ]*([A-D])").parse("Answer: A? No. Answer: B").answer
    'B'

    Attributes:
        pattern: A regular expression with one group.
        reasoning, answer: See `Boxed`.

    Raises:
        ValueError: The pattern has not one group.
    """

    pattern: str
    reasoning: tuple[str, str] = THINKING
    answer: tuple[str, str] = TAGS

    def __post_init__(self) -> None:
        if (groups := re.compile(self.pattern).groups) != 1:
            raise ValueError(f"the pattern {self.pattern!r} has {groups} groups; wanted one, the answer.")

    def parse(self, text: str) -> Sections:
        """Reads a reply.

        Raises:
            ValueError: The pattern does not match, or matches nothing but white space.
        """
        summary = after_thinking(text, self.reasoning)
        found = [match for match in re.finditer(self.pattern, summary) if match[1] and match[1].strip()]
        if not found:
            raise ValueError(f"nothing matches {self.pattern!r}; wanted the answer there.")
        return Sections(summary[: found[-1].start()].strip(), found[-1][1].strip())

    def is_well_formed(self, text: str) -> bool:
        """Says whether the pattern matches."""
        return _parses(self.parse, text)


def after_thinking(text: str, reasoning: tuple[str, str] = THINKING) -> str:
    """Returns what follows the thinking; all of it where none was closed."""
    return text.rpartition(reasoning[1])[2]


def _parses(parse: Callable[[str], Any], text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


class Extraction(NamedTuple):
    """One of lm-evaluation-harness' filters.

    Attributes:
        name: Its name there.
        pattern: A regular expression. Of several groups the first that matched something counts.
        select: Which match counts, 0: the first, -1: the last.
    """

    name: str
    pattern: str
    select: Literal[0, -1] = 0

    def find(self, text: str) -> str | None:
        """Returns what the filter leaves of a reply; None: nothing ("[invalid]" there)."""
        found = re.findall(self.pattern, text)
        if not found:
            return None
        match = found[self.select]
        if isinstance(match, tuple):
            match = next(filter(None, match), None)
        return None if match is None else match.strip()


@dataclass(frozen=True, kw_only=True)
class ExactMatch:
    """lm-evaluation-harness' `exact_match` behind its regex filters: equal texts, no mathematics.

    Every filter's score is a measure of each reply (`MEASURES`); the verdict is the first one's. A reply is well formed
    if the first filter finds something and it was ended.

    Attributes:
        filters: The first is the one that counts.
        ignore: Patterns that are taken out of both texts before they are compared.
        case: Whether capitals count.
        punctuation: Whether punctuation counts.
    """

    filters: tuple[Extraction, ...]
    ignore: tuple[str, ...] = ()
    case: bool = False
    punctuation: bool = True

    def judge(self, responses: Sequence[Response]) -> list[Judged]:
        """Judges replies.

        Raises:
            ValueError: A response has no right answer.
        """
        return [self._judge(response) for response in responses]

    def _judge(self, response: Response) -> Judged:
        if response.gold is None:
            raise ValueError(f"the question {response.question!r:.60} has no right answer; wanted one to compare with.")
        gold = self._bare(response.gold)
        found = [each.find(response.text) for each in self.filters]
        right = [answer is not None and self._bare(answer) == gold for answer in found]
        verdict = Verdict.RIGHT if right[0] else Verdict.WRONG if found[0] is not None else Verdict.NO_ANSWER
        measures = {each.name: (int(hit), 1) for each, hit in zip(self.filters, right, strict=True)}
        given = {each.name: getattr(response, each.name) for each in fields(Response)}
        return Judged(
            **given | {"meta": {**response.meta, MEASURES: measures}},
            reasoning=response.text,
            answer=found[0],
            well_formed=found[0] is not None and response.ended,
            verdict=verdict,
            credit=float(right[0]),
            detail="" if len(self.filters) == 1 else _by_filter(self.filters, found, right),
        )

    def _bare(self, text: str) -> str:
        for pattern in self.ignore:
            text = re.sub(pattern, "", text)
        text = text if self.case else text.lower()
        return text if self.punctuation else re.sub(r"[!-/:-@[-`{-~]", "", text)  # Python's string.punctuation


def _by_filter(filters: Sequence[Extraction], found: Sequence[str | None], right: Sequence[bool]) -> str:
    parts = zip(filters, found, right, strict=True)
    return "; ".join(f"{each.name}: {'right' if hit else 'wrong'} ({answer})" for each, answer, hit in parts)


def answer_key(answer: str, *, kind: str = "auto", choices: Sequence[str] = ()) -> str:
    r"""Returns one spelling for answers that are surely the same: numbers exactly, choices as letters, LaTeX tidied.

    For counting votes: equal expressions of different form, "x/2" and "\frac{x}{2}" + 0, stay apart, since telling them
    would take computer algebra for every pair.

    >>> answer_key("$1,234.50"), answer_key("(b)", kind="choice"), answer_key(r"\dfrac{x}{2}")
    ('2469/2', 'B', '\\frac{x}{2}')
    """
    if (kind == "choice" or choices) and (letters := read_choice(answer, choices)):
        return ",".join(sorted(letters))
    if kind in ("text", "exact"):
        return " ".join(answer.split()) if kind == "text" else answer
    if quantity := read_quantity(answer):
        return f"{quantity.value}{'%' * quantity.percent}"
    return spelled(answer) or answer.strip()


def describe_verifier(verifier: Verifier) -> dict[str, Any]:
    """Returns what decides a verifier's verdicts, as JSON holds it: its class and options, not its pool."""
    if not dataclasses.is_dataclass(verifier):
        return {"class": _name(type(verifier))}
    options = {each.name: getattr(verifier, each.name) for each in fields(verifier)}
    options.pop("pool", None)
    return {"class": _name(type(verifier))} | {name: _plain(value) for name, value in options.items()}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        options = {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
        return {"class": _name(type(value))} | options
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float) else _name(value)


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def wrong_golds(questions: Sequence[Question], grader: Grader) -> list[tuple[Question, str]]:
    r"""Finds questions whose right answers are not equal to themselves, and why.

    The same spelling is always equal, so an expression also goes to Math-Verify by itself: one that it cannot read, as
    "\frac{1}{2", could only ever be matched letter by letter. Some 40 expressions a second in each process.

    Args:
        questions: Those without a right answer, or with a scorer of their own, are passed over.
        grader: Who compares.

    Raises:
        ValueError: A right answer is empty or not of its kind.
    """
    some = [question for question in questions if question.answer is not None and "scorer" not in question.meta]
    opening, closing = grader.form.reasoning
    start, end = grader.form.answer
    replies = [
        Response(
            f"{opening}?{closing}{start}{question.answer}{end}", 1, True, gold=question.answer,
            meta={**question.meta, "kind": question.kind},
        )
        for question in some
    ]  # fmt: skip
    wrong = {
        place: f"it is judged {judged.verdict}{': ' * bool(judged.detail)}{judged.detail}"
        for place, judged in enumerate(grader.judge(replies))
        if not judged.correct
    }
    latex = {place: text for place, question in enumerate(some) if (text := _expression(question, grader.equality))}
    if latex:
        outcomes = (grader.pool or shared_pool()).verify([(text, text) for text in latex.values()])
        for (place, text), outcome in zip(latex.items(), outcomes, strict=True):
            if outcome.fault:
                wrong[place] = f"{outcome.fault}: {outcome.detail}"
            elif outcome.value["unreadable"] or not outcome.value["right"]:
                wrong[place] = f"Math-Verify cannot read {text!r:.60}"
    return [(some[place], why) for place, why in sorted(wrong.items())]


def _expression(question: Question, how: Equality) -> str | None:
    """The right answer as Math-Verify is given it; None: it is no expression."""
    gold = question.answer or ""
    kind = kind_of(gold, how, question.meta.get("choices", ())) if question.kind == "auto" else question.kind
    return latex_of(gold) if kind == "expression" else None
