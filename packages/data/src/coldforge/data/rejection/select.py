"""What becomes of samples: of one by itself, and of all those of a question.

In this order, and counted under these reasons: "cut-off"; "broken-tags" and "bad-unicode"; by the verdict "wrong",
"no-answer", "timeout", "error"; the filters, as in data preparation; "too-long". What is left is right and clean. Of
that a question gives its first few: the shortest, or by lot; "duplicate" and "near-duplicate" are passed over, and what
comes after the last that is wanted is "not-needed", or "too-easy" where fewer are wanted because all samples of the
question were right. Nothing depends on the order in which samples came, nor on who made them.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, NamedTuple, Self

import numpy as np

from coldforge.data.answers import answer_kind, unwrap
from coldforge.data.dataset import SHARD_RECORDS, Record
from coldforge.data.duplicates import ExactDuplicates, NearDuplicates, exact_key, text_signature, whole_text
from coldforge.data.filters import Filter, filters_of
from coldforge.data.format import FormatError, ReasoningFormat
from coldforge.data.records import AnswerKind, Example, Question, Refusal
from coldforge.data.rejection.samples import RIGHT, Sampled
from coldforge.data.tokenizer import Tokenizer
from coldforge.data.tokens import Tokens, tokenize

_KINDS = {kind.value: kind for kind in AnswerKind} | {"exact": AnswerKind.TEXT}


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which samples are kept, and how they are put into a data set.

    Attributes:
        per_question: Keep at most so many samples of a question.
        choose: Which ones: the shortest first, or by lot. Equal ones are decided by lot, with the seed.
        easy: Of questions whose samples are all right keep at most so many; 0 leaves them out, None: like others.
        max_tokens: Rows of more tokens, prompt and template included, are dropped, never cut.
        mixed_language: Drop replies with a larger share of letters of scripts foreign to the question; None: never.
        repetition: Drop replies where a larger share of runs of ten words occurred before; None: never.
        long_paragraphs: Drop replies whose reasoning has a paragraph of more characters; None: never.
        code_blocks: Drop replies whose reasoning has a code block.
        decontaminate: Evaluation sets (paths or hub names): drop samples that share ten words in a row with one.
        near_duplicates: Drop replies that share about as many of their five-word runs with an earlier one, from 0.7 to
            1; None: only those of the very same text.
        heldout_share: The share of questions that goes to the split `heldout`.
        heldout_questions: How many go there, with all their rows, instead of a share; a conversation counts as one.
        seed: Which questions are held out, which samples are chosen by lot, which conversations are mixed in, and which
            dropped samples are shown.
        shard_records: Records in a file.

    Raises:
        ValueError: A value is out of its range; it is named.
    """

    per_question: int = 4
    choose: Literal["shortest", "random"] = "random"
    easy: int | None = None
    max_tokens: int = 4096
    mixed_language: float | None = 0.001
    repetition: float | None = 0.3
    long_paragraphs: int | None = 2000
    code_blocks: bool = True
    decontaminate: tuple[str, ...] = ()
    near_duplicates: float | None = None
    heldout_share: float = 0.02
    heldout_questions: int | None = None
    seed: int = 0
    shard_records: int = SHARD_RECORDS

    def __post_init__(self) -> None:
        ranges: list[tuple[str, float, float]] = [("per_question", 1, 1 << 20), ("easy", 0, 1 << 20)]
        ranges += [("max_tokens", 1, 1 << 31), ("shard_records", 1, 1 << 20), ("near_duplicates", 0.7, 1)]
        ranges += [("mixed_language", 0, 1), ("repetition", 0, 1), ("long_paragraphs", 1, 1 << 31)]
        ranges += [("heldout_share", 0, 1), ("heldout_questions", 0, 1 << 20)]
        for name, low, high in ranges:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name} is {value}; wanted {low:g} to {high:g}.")
        if self.choose not in ("shortest", "random"):
            raise ValueError(f"choose is {self.choose!r}; wanted shortest or random.")


class Chosen(NamedTuple):
    """A sample that is kept, as a record with its difficulty."""

    sample: int
    record: Record


class Passed(NamedTuple):
    """A sample that is not: its number, why, and its tokens as an example, if they were counted."""

    sample: int
    refusal: Refusal
    tokens: int | None


class Outcome(NamedTuple):
    """What became of a question's samples.

    Attributes:
        right: How many answers were right.
        clean: How many samples were right and clean, before any were passed over.
        chosen, passed: Every sample is in one of them.
    """

    right: int
    clean: int
    chosen: list[Chosen]
    passed: list[Passed]


class _Candidate(NamedTuple):
    sample: int
    example: Example
    tokens: Tokens


def is_acceptable(sample: Sampled, form: ReasoningFormat) -> bool:
    """Whether a sample is right, ended and well formed: a quick word on the way, before the filters."""
    return sample.verdict == RIGHT and sample.ended and form.is_well_formed(sample.text)


class Selector:
    """Judges the samples of one question after the other; remembers what it has chosen. Use it in a `with` statement.

    Args:
        tokenizer: What records are encoded with.
        form: Of the replies.
        samples: How many a question has, k.
        options: What is kept.
        more: Filters besides; that of evaluation sets, say.
    """

    def __init__(
        self, tokenizer: Tokenizer, form: ReasoningFormat, samples: int, options: Selection,
        more: Sequence[Filter] = (),
    ) -> None:  # fmt: skip
        self._tokenizer, self._form, self._samples, self._options = tokenizer, form, samples, options
        chosen = filters_of(
            mixed=options.mixed_language, paragraphs=options.long_paragraphs, code=options.code_blocks,
            repeated=options.repetition,
        )  # fmt: skip
        self._filters = [*chosen, *more]
        self._exact = ExactDuplicates()
        self._near = None if options.near_duplicates is None else NearDuplicates(options.near_duplicates)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exact.close()
        if self._near is not None:
            self._near.close()

    def index(self, number: int, sample: int) -> int:
        """What a sample's row is called in records and audit: number of the question × k + number of the sample."""
        return number * self._samples + sample

    def take(self, number: int, question: Question, samples: Sequence[Sampled]) -> Outcome:
        """Decides on all samples of a question, the `number`-th that was asked."""
        right = sum(sample.verdict == RIGHT for sample in samples)
        passed, candidates = list[Passed](), list[_Candidate]()
        for place, sample in enumerate(samples):
            found = self._judged(self.index(number, place), question, sample)
            if isinstance(found, Refusal):
                passed.append(Passed(place, found, None))
                continue
            tokens = tokenize(found, self._tokenizer, self._form)
            if len(tokens) > self._options.max_tokens:
                detail = f"{len(tokens):,} tokens; allowed are {self._options.max_tokens:,}."
                passed.append(Passed(place, Refusal("too-long", detail), len(tokens)))
            else:
                candidates.append(_Candidate(place, found, tokens))
        meta = {"question": question.id, "right": right, "samples": len(samples), "difficulty": right / len(samples)}
        chosen = list[Chosen]()
        for one in sorted(candidates, key=lambda one: self._rank(question, one)):
            refusal = self._passed_over(one.example, len(chosen), easy=right == len(samples))
            if refusal is None:
                record = Record.of(one.example, one.tokens, meta | {"sample": one.sample})
                chosen.append(Chosen(one.sample, record))
            else:
                passed.append(Passed(one.sample, refusal, len(one.tokens)))
        return Outcome(right, len(candidates), chosen, sorted(passed))

    def _judged(self, index: int, question: Question, sample: Sampled) -> Example | Refusal:
        if not sample.ended:
            return Refusal("cut-off", f"the reply had not ended after {sample.tokens:,} tokens.")
        try:
            reply = self._form.parse(sample.text)
        except FormatError as error:
            return Refusal("broken-tags", str(error))
        if "\ufffd" in sample.text:
            where = sample.text.index("\ufffd")
            return Refusal("bad-unicode", f"half a character: {sample.text[max(0, where - 20) : where + 20]!r}.")
        if sample.verdict != RIGHT:
            wanted = f"wanted {question.answer!r:.60}" if question.answer is not None else "the task's scorer says so"
            detail = f" ({sample.detail})" if sample.detail else ""
            return Refusal(sample.verdict.replace(" ", "-"), f"the answer is {reply.answer!r:.60}{detail}; {wanted}.")
        kind = _KINDS.get(question.kind) or answer_kind(unwrap(reply.answer))
        example = Example(question.source, index, question.text, reply.reasoning, reply.answer, kind)
        return next((refusal for judge in self._filters if (refusal := judge(example))), example)

    def _rank(self, question: Question, one: _Candidate) -> tuple[int, bytes]:
        lot = hashlib.blake2b(f"{self._options.seed} {question.id} {one.sample}".encode(), digest_size=8).digest()
        return (len(one.tokens) if self._options.choose == "shortest" else 0), lot

    def _passed_over(self, example: Example, chosen: int, *, easy: bool) -> Refusal | None:
        """Why a right and clean sample is not chosen, when so many of its question are."""
        options = self._options
        if easy and options.easy is not None and chosen >= options.easy:
            return Refusal("too-easy", f"all samples of the question are right; of such wanted are {options.easy}.")
        if chosen >= options.per_question:
            return Refusal("not-needed", f"of a question wanted are {options.per_question}.")
        text = whole_text(example)
        refusal = self._exact.check(exact_key(text), example.source, example.index)
        if refusal is None and self._near is not None and (signature := text_signature(text)) is not None:
            refusal = self._near.check(np.asarray(signature), example.source, example.index)
        return refusal
