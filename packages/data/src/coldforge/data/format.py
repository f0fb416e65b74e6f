r"""The form of an answer that shows its work: `<reasoning>…</reasoning>`, then `<answer>…</answer>`.

`ReasoningFormat` is the one place where the tags and the instruction are set. It writes replies (`render`), reads them
(`parse`), and says whether a reply has the form (`is_well_formed`): data, rewards and evaluation use the same object,
so that a model is never graded by another form than it was taught. Standard library only.

There is one form and no leniency: a reply with text around the sections, a tag too few or a tag too many is not well
formed. Left out: finding an answer in a reply that lacks the form, which is a grader's business.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import NamedTuple

INSTRUCTION = (
    "You are given a problem. First, think about the problem and provide your reasoning between {reasoning[0]} and "
    "{reasoning[1]}. Then, provide the final answer between {answer[0]} and {answer[1]}."
)


class FormatError(ValueError):
    """A text does not have the form: what was found and what is wanted."""


class EmptySectionError(FormatError):
    """The reasoning or the answer is empty. `section` is its name."""

    def __init__(self, section: str) -> None:
        super().__init__(f"the {section} is empty; a reply needs both reasoning and answer.")
        self.section = section


class Reply(NamedTuple):
    """What a reply holds, without tags and without the white space around."""

    reasoning: str
    answer: str


@dataclass(frozen=True)
class ReasoningFormat:
    r"""Tags and instruction. Hashable, immutable, and equal to another with the same text.

    >>> ReasoningFormat().render("15 % of 80 is 0.15 × 80 = 12.", "12")
    '<reasoning>\n15 % of 80 is 0.15 × 80 = 12.\n</reasoning>\n<answer>12</answer>'

    Attributes:
        reasoning: The tags around the reasoning.
        answer: The tags around the answer.
        template: The instruction in front of a question; `{reasoning[0]}`, `{answer[1]}` and so on stand for the tags.

    Raises:
        ValueError: A tag is empty, has white space around it, or is a part of another tag, so that a text could be read
            in two ways; or the template names something else than the tags.
    """

    reasoning: tuple[str, str] = ("<reasoning>", "</reasoning>")
    answer: tuple[str, str] = ("<answer>", "</answer>")
    template: str = INSTRUCTION

    def __post_init__(self) -> None:
        for tag in self.tags:
            if not tag or tag != tag.strip():
                raise ValueError(f"{tag!r} is no tag; wanted text without white space around it.")
        for first, second in combinations(self.tags, 2):
            if first in second or second in first:
                raise ValueError(
                    f"the tags {first!r} and {second!r} cannot be told apart; make neither a part of the other."
                )
        try:
            _ = self.instruction
        except (KeyError, IndexError, AttributeError) as error:
            raise ValueError(
                f"the template names {error}; it may name {{reasoning[0]}}, {{reasoning[1]}}, {{answer[0]}} and "
                "{answer[1]}, the tags."
            ) from error

    @property
    def tags(self) -> tuple[str, str, str, str]:
        """The four tags in the order in which they stand in a reply."""
        return (*self.reasoning, *self.answer)

    @cached_property
    def instruction(self) -> str:
        """What the user's turn says before the question."""
        return self.template.format(reasoning=self.reasoning, answer=self.answer)

    def ask(self, question: str) -> str:
        """Returns the user's turn: the instruction, an empty line, the question. An empty instruction adds nothing."""
        return f"{self.instruction}\n\n{question}" if self.instruction else question

    def render_parts(self, reasoning: str, answer: str) -> tuple[str, str]:
        """Returns a reply in two parts: what goes to the end of the reasoning's section, and the answer's section.

        White space around reasoning and answer is dropped. An answer of several lines stands on lines of its own.

        Raises:
            FormatError: Reasoning or answer is empty, contains one of the tags, or makes one together with a tag beside
                it, as an answer that ends in "]" would where the tag after it is "]]".
        """
        reasoning, answer = reasoning.strip(), answer.strip()
        for name, text in (("reasoning", reasoning), ("answer", answer)):
            if not text:
                raise EmptySectionError(name)
            if found := [tag for tag in self.tags if tag in text]:
                raise FormatError(f"the {name} contains {found[0]}, one of the tags that mark the sections of a reply.")
        margin = "\n" if "\n" in answer else ""
        head = f"{self.reasoning[0]}\n{reasoning}\n{self.reasoning[1]}\n"
        tail = f"{self.answer[0]}{margin}{answer}{margin}{self.answer[1]}"
        if self.parse(head + tail) != (reasoning, answer):
            raise FormatError(f"the answer {answer!r:.60} cannot be told apart from the tags around it.")
        return head, tail

    def render(self, reasoning: str, answer: str) -> str:
        """Returns a reply; `parse` gives back what went in, without the white space around.

        Raises:
            FormatError: As for `render_parts`.
        """
        return "".join(self.render_parts(reasoning, answer))

    def parse(self, text: str) -> Reply:
        """Reads a reply. White space may stand around the sections, nothing else.

        Raises:
            FormatError: A tag occurs never or more than once, the tags are not in order, there is text outside of the
                sections, or a section is empty.
        """
        for tag in self.tags:
            if (count := text.count(tag)) != 1:
                raise FormatError(f"{tag} occurs {count} times; wanted once.")
        starts = [text.index(tag) for tag in self.tags]
        if starts != sorted(starts):
            found = " ".join(tag for _, tag in sorted(zip(starts, self.tags, strict=True)))
            raise FormatError(f"the tags stand in the order {found}; wanted {' '.join(self.tags)}.")
        ends = [start + len(tag) for start, tag in zip(starts, self.tags, strict=True)]
        outside = {"before": text[: starts[0]], "between": text[ends[1] : starts[2]], "after": text[ends[3] :]}
        for where, rest in outside.items():
            if rest := rest.strip():
                raise FormatError(
                    f"there is text {where} the sections: {rest[:60]!r}; wanted nothing but the sections."
                )
        reply = Reply(text[ends[0] : starts[1]].strip(), text[ends[2] : starts[3]].strip())
        for name, section in zip(Reply._fields, reply, strict=True):
            if not section:
                raise EmptySectionError(name)
        return reply

    def is_well_formed(self, text: str) -> bool:
        """Says whether `parse` can read the text."""
        try:
            self.parse(text)
        except FormatError:
            return False
        return True
