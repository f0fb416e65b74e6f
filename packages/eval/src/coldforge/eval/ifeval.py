"""IFEval: which of its instructions a reply follows, strictly and loosely, by prompt and by instruction.

`read_instructions` makes instructions of a row's `instruction_id_list` and `kwargs`, and says what is wrong with them
before anything is asked. `IFEval` is the verifier: a reply is right if it follows all of its prompt's instructions to
the letter, and is worth the share that it follows. Loosely, an instruction is followed if one of eight texts follows
it: the reply with or without its first line, its last line and its asterisks (Zhou et al. 2023, arXiv 2311.07911, 2.3).
The four accuracies that are published are measures of each reply (`verify.MEASURES`), "prompts strict" being what a
reply is right by. The checks themselves are `ifeval_checks`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from coldforge.eval.ifeval_checks import CHECKS, RELATIONS, check, module_of
from coldforge.eval.verify import MEASURES, after_thinking
from coldforge.rewards import Form, Judged, Response, Verdict, extract

INSTRUCTIONS = "instructions"
"""The key of a question's `meta` that holds its instructions: a list of [kind, arguments]."""


class BadInstructionError(ValueError):
    """An instruction cannot be checked. `field` is the column that says so."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(detail)
        self.field = field


class Followed(NamedTuple):
    """What a text follows, an entry for each instruction."""

    strict: tuple[bool, ...]
    loose: tuple[bool, ...]


def read_instructions(kinds: Any, arguments: Any) -> list[tuple[str, dict[str, Any]]]:
    """Makes instructions of `instruction_id_list` and `kwargs`, and tries each on a word.

    Arguments that are None are none: a column of a parquet file has all arguments of all kinds.

    Returns:
        (kind, arguments) of each.

    Raises:
        BadInstructionError: There are none, or not as many of one as of the other; a kind is unknown; an argument is
            missing, is none of its kind, or is of a wrong type or value.
        ModuleNotFoundError: A kind needs the extra `ifeval`.
    """
    if not isinstance(kinds, Sequence) or isinstance(kinds, str) or not kinds:
        raise BadInstructionError("instruction_id_list", f"it is {kinds!r:.60}; wanted a list of instructions.")
    if not isinstance(arguments, Sequence) or len(arguments) != len(kinds):
        raise BadInstructionError(
            "kwargs", f"it is {arguments!r:.60}; wanted a list of arguments for each of the {len(kinds)} instructions."
        )
    return [(kind, _read(kind, given)) for kind, given in zip(kinds, arguments, strict=True)]


def _read(kind: Any, given: Any) -> dict[str, Any]:
    if kind not in CHECKS:
        raise BadInstructionError("instruction_id_list", f"there is no instruction {kind!r:.60}; there are {_KINDS}.")
    if given is not None and not isinstance(given, Mapping):
        raise BadInstructionError("kwargs", f"of {kind} they are {given!r:.60}; wanted names and values.")
    arguments = {name: value for name, value in (given or {}).items() if value is not None}
    wanted = CHECKS[kind].arguments
    if arguments.keys() != wanted.keys():
        found = ", ".join(arguments) or "none"
        raise BadInstructionError("kwargs", f"of {kind} there are {found}; wanted {', '.join(wanted) or 'none'}.")
    arguments = {name: _typed(kind, name, value) for name, value in arguments.items()}
    if needed := CHECKS[kind].needs:
        module_of(needed)
    try:
        check(kind, "word", arguments)
    except (re.error, ValueError) as error:  # a section's name is a pattern
        raise BadInstructionError("kwargs", f"of {kind} they are {arguments!r:.80}, which fails: {error}") from error
    return arguments


def _typed(kind: str, name: str, value: Any) -> Any:
    wanted = CHECKS[kind].arguments[name]
    if wanted is int and isinstance(value, float) and value.is_integer():  # as a table with gaps holds integers
        value = int(value)
    if wanted is list and isinstance(value, tuple):
        value = list(value)
    good = isinstance(value, wanted) and not isinstance(value, bool) and value not in ("", [])
    if wanted is list:
        good = good and all(isinstance(item, str) and item for item in value)
    if not good:
        raise BadInstructionError("kwargs", f"{name} of {kind} is {value!r:.60}; wanted {_TYPES[wanted]}.")
    if name.endswith("relation") and value not in RELATIONS:
        raise BadInstructionError("kwargs", f"{name} of {kind} is {value!r:.60}; wanted {' or '.join(RELATIONS)}.")
    return value


_KINDS = ", ".join(CHECKS)
_TYPES = {int: "a whole number", str: "a text", list: "a list of texts"}


def loosened(text: str) -> list[str]:
    """Returns the eight texts of the loose check, the strict one first, equal ones once, empty ones never."""
    lines = text.split("\n")
    parts = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    found = dict.fromkeys(part.replace("*", "") if bare else part for part in parts for bare in (False, True))
    return [part for part in found if part.strip()]


def followed(text: str, instructions: Sequence[tuple[str, Mapping[str, Any]]]) -> Followed:
    """Says which instructions a text follows; an empty one follows none.

    >>> followed("**My answer is yes.**", [("punctuation:no_comma", {}), ("startend:quotation", {})])
    Followed(strict=(True, False), loose=(True, False))
    """
    strict = tuple(bool(text.strip()) and check(kind, text, arguments) for kind, arguments in instructions)
    others = loosened(text)
    loose = tuple(
        hit or any(check(kind, other, arguments) for other in others)
        for hit, (kind, arguments) in zip(strict, instructions, strict=True)
    )
    return Followed(strict, loose)


@dataclass(frozen=True)
class IFEval:
    """IFEval's verifier.

    Attributes:
        form: The tags that the prompt asks for: only the answer's section is looked at. None: the prompt asks for none,
            and all that follows the thinking is.
    """

    form: Form | None = None

    def judge(self, responses: Sequence[Response]) -> list[Judged]:
        """Judges replies to prompts whose instructions are in `meta` (`INSTRUCTIONS`).

        Raises:
            ValueError: A response has no instructions.
        """
        return [self._judge(response) for response in responses]

    def _judge(self, response: Response) -> Judged:
        instructions = response.meta.get(INSTRUCTIONS)
        if not instructions:
            raise ValueError(
                f"meta of {response.question!r:.60} has no {INSTRUCTIONS!r}; wanted what is to be checked."
            )
        text = after_thinking(response.text) if self.form is None else extract(response.text, self.form)
        answer = text if text and text.strip() else None
        strict, loose = followed(answer or "", instructions)
        measures = {
            "prompts strict": (int(all(strict)), 1),
            "prompts loose": (int(all(loose)), 1),
            "instructions strict": (sum(strict), len(strict)),
            "instructions loose": (sum(loose), len(loose)),
        }
        verdict = Verdict.NO_ANSWER if answer is None else Verdict.RIGHT if all(strict) else Verdict.WRONG
        given = {each.name: getattr(response, each.name) for each in fields(Response)}
        return Judged(
            **given | {"meta": {**response.meta, MEASURES: measures}},
            answer=answer,
            well_formed=response.ended and (self.form is None or self.form.is_well_formed(response.text)),
            verdict=verdict,
            credit=sum(strict) / len(strict),
            detail=_why(instructions, strict, loose),
        )


def _why(instructions: Sequence[tuple[str, Mapping[str, Any]]], strict: Sequence[bool], loose: Sequence[bool]) -> str:
    missed = [
        f"{kind}{' (but loosely)' if softly else ''}"
        for (kind, _), hit, softly in zip(instructions, strict, loose, strict=True)
        if not hit
    ]
    return f"not followed: {', '.join(missed)}" if missed else ""
