"""Judged samples → a data set directory, as `prepare` leaves one: shards in two splits, manifest, audit.

In this order: the questions, one after the other, each with what is chosen of its samples; then the conversations that
are mixed in; the rest of the shards; `audit.html`; the manifest. It is quick beside sampling (1,000 samples of 300
words a second, in one process, whose memory stays at 115 MB), so a run that is killed in it begins it anew. The bytes
follow from samples, questions, conversations and options alone.
"""

import importlib.metadata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from coldforge.data.audit import Audit
from coldforge.data.audit_page import audit_page
from coldforge.data.dataset import (
    UNFINISHED,
    WITH_META,
    Dataset,
    Record,
    atomic,
    content_hash,
    open_dataset,
    tokenizer_identity,
    write_manifest,
)
from coldforge.data.filters import Decontamination
from coldforge.data.format import ReasoningFormat
from coldforge.data.prepare.heldout import HeldOut, question_number
from coldforge.data.prepare.plan import evaluation_texts, find_sources
from coldforge.data.prepare.run import AUDIT_PAGE
from coldforge.data.prepare.shards import Shards
from coldforge.data.prepare.state import State
from coldforge.data.records import Question, Row
from coldforge.data.rejection.acceptance import BUCKETS, Acceptance, Tally
from coldforge.data.rejection.mixing import Chat, Mixer, find_chat
from coldforge.data.rejection.samples import Sampled
from coldforge.data.rejection.select import Outcome, Selection, Selector
from coldforge.data.tokenizer import Tokenizer

__all__ = ["Chat", "NothingKeptError", "Selected", "find_chat", "selection_entry", "write_selection"]


class Samples(Protocol):
    """`SampleLogs`, as far as it is used."""

    def of(self, question: int) -> list[Sampled]: ...


@dataclass(frozen=True, eq=False)
class Selected:
    """What came out.

    Attributes:
        dataset: The data set.
        audit: What became of every sample and conversation.
        acceptance: How much was kept, by source and difficulty.
    """

    dataset: Dataset
    audit: Audit
    acceptance: Acceptance

    @classmethod
    def open(cls, path: str | Path) -> "Selected":
        """Opens what `write_selection` wrote.

        Raises:
            ValueError: It is another program's, or as `open_dataset`.
        """
        dataset = open_dataset(path)
        if "acceptance" not in dataset.manifest:
            raise ValueError(f"{path} holds a data set that was not made of samples; choose another directory.")
        audit = Audit.from_dict(dataset.manifest["audit"], seed=dataset.manifest["options"]["seed"])
        return cls(dataset, audit, Acceptance.from_dict(dataset.manifest["acceptance"]))


class NothingKeptError(ValueError):
    """No sample is left to train on. `audit` and `acceptance` say what became of them."""

    def __init__(self, message: str, audit: Audit, acceptance: Acceptance) -> None:
        super().__init__(message)
        self.audit, self.acceptance = audit, acceptance


def write_selection(
    questions: Sequence[Question], samples: Samples, out: str | Path, *, tokenizer: Tokenizer,
    tokenizer_name: str = "unnamed", form: ReasoningFormat, count: int, options: Selection | None = None,
    chat: Chat | None = None, facts: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Selected:  # fmt: skip
    """Chooses among samples and writes a data set of them.

    Args:
        questions: What was asked.
        samples: The samples of each, by its place.
        out: The directory. Shards of an earlier try, that did not come to a manifest, are replaced.
        tokenizer: What records are encoded with; `tokenizer_name` is what the manifest calls it.
        form: Of the replies.
        count: Samples of each question.
        options: None: as `Selection()`.
        chat: Conversations to mix in.
        facts: What else the manifest says: policy, sampling.
        progress: Told how many questions are done.

    Raises:
        NothingKeptError: No row would be left to train on; `audit.html` shows why.
        ValueError: A question has not as many samples, or there are not as many conversations as are wanted.
        OSError: Something cannot be written.
    """
    out, options = Path(out), options or Selection()
    out.mkdir(parents=True, exist_ok=True)
    _forget(out)
    more = [Decontamination(evaluation_texts(find_sources(options.decontaminate)))] if options.decontaminate else []
    with State(out) as state, Selector(tokenizer, form, count, options, more) as selector:
        heldout = HeldOut(options.heldout_share, options.heldout_questions, by_question=True)
        writing = _Writing(out, Shards(out, state, heldout, options.shard_records), state, options)
        for number, question in enumerate(questions):
            drawn = samples.of(number)
            if len(drawn) != count:
                raise ValueError(f"question {number} has {len(drawn)} samples; wanted {count}.")
            writing.take(question, drawn, selector.take(number, question, drawn), selector.index(number, 0))
            if progress is not None:
                progress(number + 1)
        if not writing.kept:
            writing.page({})
            raise NothingKeptError(writing.nothing(), writing.audit, writing.acceptance)
        if chat is not None:
            names = {one.name: _unlike(one.name, writing.audit.sources) for one in chat.sources}
            mixer = Mixer(chat, tokenizer, form, options.max_tokens, options.seed, names)
            mixer.draw(writing.kept, writing.audit, writing.add)
        manifest = writing.finish(tokenizer_identity(tokenizer, tokenizer_name), form, facts or {}, chat)
    _forget(out)
    write_manifest(out, manifest)  # last: where it is, nothing else is left to do
    return Selected(open_dataset(out), writing.audit, writing.acceptance)


def selection_entry(options: Selection) -> dict[str, Any]:
    """What decides what is kept, as JSON holds it: options, and evaluation sets by their content.

    Raises:
        FileNotFoundError: There is no such evaluation set.
    """
    sets = find_sources(options.decontaminate) if options.decontaminate else []
    return asdict(options) | {"decontaminate": {source.name: dict(source.identity) for source in sets}}


class _Writing:
    """What is known while records are taken in."""

    def __init__(self, out: Path, shards: Shards, state: State, options: Selection) -> None:
        self._out, self._shards, self._state, self._options = out, shards, state, options
        self.audit, self.acceptance, self.kept = Audit(seed=options.seed), Acceptance(), 0

    def take(self, question: Question, samples: Sequence[Sampled], outcome: Outcome, first: int) -> None:
        """Takes in what became of a question's samples, whose rows are `first` and so on."""
        for one in sorted(outcome.chosen):
            self.audit.keep(one.record, len(one.record))
            self.add(one.record)
        for passed in outcome.passed:
            shown = {"question": question.text, "reply": samples[passed.sample].text, "wanted": question.answer or "–"}
            self.audit.drop(Row(question.source, first + passed.sample, shown), passed.refusal, passed.tokens)
        self.kept += len(outcome.chosen)
        self.acceptance.add(
            question.source, samples=len(samples), right=outcome.right, clean=outcome.clean, kept=len(outcome.chosen)
        )

    def add(self, record: Record) -> None:
        """Takes in a record."""
        self._shards.add(question_number(record.question, self._options.seed), len(record), record.pack())
        self._shards.write(self._commit)

    def _commit(self) -> None:
        self._state.commit({})

    def finish(
        self, tokenizer: Mapping[str, Any], form: ReasoningFormat, facts: Mapping[str, Any], chat: Chat | None
    ) -> dict[str, Any]:
        """Writes what is left, but for the manifest, and returns that.

        Raises:
            NothingKeptError: All rows would be held out.
        """
        if not self._shards.count("train"):
            held = self._shards.count("heldout")
            message = (
                f"all {held:,} rows that were kept would be held out; ask for fewer (heldout-questions, heldout-share)."
            )
            raise NothingKeptError(message, self.audit, self.acceptance)
        self._shards.write(self._commit, last=True)
        manifest: dict[str, Any] = {"schema": WITH_META, "version": importlib.metadata.version("coldforge-data")}
        manifest |= {
            "options": selection_entry(self._options),
            **facts,
            "chat": None if chat is None else chat.identity,
        }
        manifest |= {"format": asdict(form), "tokenizer": dict(tokenizer), "splits": self._shards.entries()}
        self.page(manifest)
        return manifest | {"audit": self.audit.to_dict(), "acceptance": self.acceptance.to_dict()}

    def page(self, manifest: Mapping[str, Any]) -> None:
        """Writes `audit.html`."""
        splits = manifest.get("splits", {}).items()
        facts = {name: f"{split['records']:,} rows, {split['tokens']:,} tokens" for name, split in splits}
        if manifest:
            named = manifest["tokenizer"]
            facts["tokenizer"] = f"{named['name']}, {named['vocab_size']:,} tokens, sha256 {named['sha256'][:16]}…"
            facts["content"] = f"sha256 {content_hash(manifest)[:16]}…"
        tables = {
            "Accepted, by source": _table("source", self.acceptance.by_source()),
            "Accepted, by the share of right samples": _table("right", self.acceptance.by_difficulty()),
        }
        page = audit_page(
            self.audit, "Rejection sampling", max_tokens=self._options.max_tokens, facts=facts, tables=tables
        )
        atomic(self._out / AUDIT_PAGE, lambda file: _write_text(file, page))

    def nothing(self) -> str:
        """Why nothing is left, in one sentence."""
        reasons = Counter[str]()
        for account in self.audit.sources.values():
            reasons.update(account.dropped)
        said = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common(3)) or "there were none"
        return f"of {reasons.total():,} samples none was kept ({said}); {self._out / AUDIT_PAGE} shows some."


def _table(head: str, tallies: Mapping[str, Tally]) -> list[list[str]]:
    rows = [[head, "questions", "samples", "right", "right and clean", "kept", "of questions"]]
    for name, one in tallies.items():
        counts = (one.questions, one.samples, one.right, one.clean, one.kept, one.gave)
        if one.questions or name not in BUCKETS:
            rows.append([name, *(f"{count:,}" for count in counts)])
    return rows


def _unlike(name: str, others: Mapping[str, Any]) -> str:
    return f"{name} (conversations)" if name in others else name


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _forget(out: Path) -> None:
    """Removes the state of an earlier try, its journal first; its shards go when the new ones are begun."""
    for file in sorted(out.glob(f"{UNFINISHED}*"), reverse=True):
        file.unlink()
