"""The run: rows in, shards out, and every so often a commit that another run can go on from.

In this order: the directory is looked at (finished, to be continued, of another plan, or new); chunks of rows go to the
judges; their outcomes come back in the order of the rows, are told from duplicates, counted, and put into a split; full
shards are written; at the end the rest of the shards, the audit's page and the manifest.

All that depends on other rows happens here, in one process and in the order of the sources, so the result does not
depend on the number of processes, nor on when a run was killed and continued: but for `manifest["run"]`, which says how
long it took, all files are the same to the byte.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import batched, islice
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from coldforge.data.audit import Audit, SourceAudit
from coldforge.data.audit_page import audit_page
from coldforge.data.dataset import (
    MANIFEST,
    SPLITS,
    UNFINISHED,
    Dataset,
    atomic,
    content_hash,
    open_dataset,
    read_manifest,
    tokenizer_identity,
    write_manifest,
)
from coldforge.data.duplicates import ExactDuplicates, NearDuplicates
from coldforge.data.filters import Decontamination
from coldforge.data.prepare.heldout import HeldOut
from coldforge.data.prepare.judge import Dropped, Judge, Judgement, Judges, Kept
from coldforge.data.prepare.plan import Options, Source, differences, evaluation_texts, find_sources, make_plan
from coldforge.data.prepare.shards import Shards
from coldforge.data.prepare.state import Seen, State, clean
from coldforge.data.records import Refusal, Row
from coldforge.data.tokenizer import Tokenizer

AUDIT_PAGE = "audit.html"
_CHUNK = 32  # rows that go to a process at a time: some 0.7 MB of Bespoke-Stratos
_COMMIT_SECONDS = 10.0
_FEW = 2000


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        source: Where the last row came from.
        rows, kept: So far, with what earlier runs did.
        total: Rows of all sources, if that is known.
        seconds: What it took so far, with what earlier runs did.
    """

    source: str
    rows: int
    kept: int
    total: int | None
    seconds: float


@dataclass(frozen=True, eq=False)
class Prepared:
    """What came out.

    Attributes:
        dataset: The data set.
        audit: What became of the rows.
        resumed: The rows that earlier runs had done; all of them if the data set was there already.
        first_only: Sources of which `limit` took the first rows, as it is not known how many there are.
    """

    dataset: Dataset
    audit: Audit
    resumed: int
    first_only: tuple[str, ...] = ()


class _Position(NamedTuple):
    """Where a run is: source, index of its next row, rows read of it."""

    source: int = 0
    start: int = 0
    read: int = 0


class _Chunk(NamedTuple):
    rows: list[Row]
    end: _Position


def prepare(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    tokenizer: Tokenizer,
    tokenizer_name: str = "",
    options: Options | None = None,
    processes: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    commit_seconds: float = _COMMIT_SECONDS,
) -> Prepared:
    """Makes a data set of rows, or goes on with one that was begun with the same plan.

    With several processes the calling script needs `if __name__ == "__main__":`, as each of them imports it.

    Args:
        sources: Paths, hub names, "gsm_symbolic:SIZE[:SEED]", "champ".
        out: The directory; it is made if it is not there, and must not hold anything else.
        tokenizer: What the ids are of.
        tokenizer_name: What the manifest calls it.
        options: None: as `Options()`.
        processes: How many judge rows. None: one for each processor that this process may use, or only this process
            where there are less than 2,000 rows, as others take two seconds to start.
        progress: Called after every chunk of rows.
        commit_seconds: After so long, what was done is safe from being killed; so it is after each shard.

    Raises:
        FileNotFoundError: A source is not there.
        ValueError: The directory holds something else, or a data set of another plan (what differs is named); or no
            row is left to train on.
        OSError: Something cannot be written, as when the disk is full: the same call goes on from the last commit.
        RuntimeError: A process ended, or a row could not be judged; so does that.
    """
    out, options = Path(out), options or Options()
    found = find_sources([str(source) for source in sources])
    evaluation = find_sources(options.decontaminate) if options.decontaminate else []
    plan = make_plan(found, evaluation, tokenizer.fingerprint, options)
    if _is_finished(out, plan):
        dataset = open_dataset(out)
        audit = Audit.from_dict(dataset.manifest["audit"], seed=options.seed)
        resumed = sum(account.rows for account in audit.sources.values())
        return Prepared(dataset, audit, resumed, _first_only(found, audit, options.limit))
    contamination = Decontamination(evaluation_texts(evaluation)) if evaluation else None
    total = _total(found, options.limit)
    count = processes or (1 if total is not None and total < _FEW else _processors())
    try:
        with State(out) as state, _Run(out, plan, options, state, found) as run:
            resumed = run.rows
            with Judges(Judge(tokenizer, options, contamination), count) as judges:
                chunks = _chunks(found, run.position, options.limit)
                for chunk, judgement in judges.judged(chunks, lambda chunk: chunk.rows):
                    run.take(chunk, judgement, commit_seconds, elsewhere=count > 1)
                    if progress is not None and chunk.rows:
                        progress(run.progress(chunk.rows[-1].source, total))
            run.finish(tokenizer_identity(tokenizer, tokenizer_name or "unnamed"), count)
    except NothingLeftError:
        clean(out, {split: [] for split in SPLITS})
        _forget(out)
        raise
    _forget(out)
    return Prepared(open_dataset(out), run.audit, resumed, _first_only(found, run.audit, options.limit))


class NothingLeftError(ValueError):
    """No row is left to train on. `audit` says what became of them; the directory is free for another try."""

    def __init__(self, message: str, audit: Audit) -> None:
        super().__init__(message)
        self.audit = audit


def _is_finished(out: Path, plan: Mapping[str, Any]) -> bool:
    """Says whether the data set is there already, and makes the directory if it is not.

    Raises:
        ValueError: The directory holds something else, or a data set of another plan.
    """
    if (out / MANIFEST).is_file():
        manifest = read_manifest(out)
        before = {name: manifest.get(name) for name in plan} | {
            "tokenizer": manifest.get("tokenizer", {}).get("sha256")
        }
        _refuse_other(out, "holds a data set that was prepared", before, plan)
        _forget(out)  # what is left of a run that was killed after its last deed
        return True
    out.mkdir(parents=True, exist_ok=True)
    others = sorted(file.name for file in out.iterdir() if file.name != AUDIT_PAGE)
    if others and UNFINISHED not in others:
        raise ValueError(f"{out} holds other files ({', '.join(others[:3])}); wanted a new directory.")
    return False


def _refuse_other(out: Path, has: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    if found := "; ".join(differences(before, now)):
        raise ValueError(f"{out} {has} otherwise: {found}. Ask for the same, choose another directory, or delete this.")


def _forget(out: Path) -> None:
    """Removes the state of a run that is over, and its journal first, which means nothing without it."""
    for file in sorted(out.glob(f"{UNFINISHED}*"), reverse=True):
        file.unlink()


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _chunks(found: Sequence[Source], begin: _Position, limit: int | None) -> Iterator[_Chunk]:
    """Yields the rows from a position on, never those of two sources in one chunk."""
    for number, source in enumerate(found[begin.source :], begin.source):
        position = begin if number == begin.source else _Position(number)
        rows = islice(_spread(source, position.start, limit), None if limit is None else max(0, limit - position.read))
        for chunk in batched(rows, _CHUNK):
            position = _Position(number, chunk[-1].index + 1, position.read + len(chunk))
            yield _Chunk([replace(row, source=source.name) for row in chunk], position)


def _spread(source: Source, start: int, limit: int | None) -> Iterator[Row]:
    """The rows from `start` on; of more than `limit` every so many, so that all parts of a sorted source are seen."""
    rows, count = source.read(start), source.rows
    if limit is None or count is None or count <= limit:
        return rows
    return (row for row in rows if row.index * limit // count != (row.index - 1) * limit // count)


def _total(found: Sequence[Source], limit: int | None) -> int | None:
    counts = [source.rows if limit is None or source.rows is None else min(limit, source.rows) for source in found]
    return None if None in counts else sum(count for count in counts if count is not None)


def _first_only(found: Sequence[Source], audit: Audit, limit: int | None) -> tuple[str, ...]:
    if limit is None:
        return ()
    return tuple(one.name for one in found if one.rows is None and audit.sources[one.name].rows >= limit)


class _Run:
    """What a run knows. Use it in a `with` statement.

    Attributes:
        position: Where it is in the sources.
        audit: What became of the rows.
    """

    def __init__(
        self, out: Path, plan: Mapping[str, Any], options: Options, state: State, found: Sequence[Source]
    ) -> None:
        """Begins, or takes up what the last commit left.

        Raises:
            ValueError: It was begun with another plan.
        """
        self._out, self._plan, self._options, self._state, self._found = out, plan, options, state, found
        facts = state.facts()
        if facts:
            _refuse_other(out, "holds an unfinished data set that was begun", facts["plan"], plan)
        self.position = _Position(*facts.get("position", ()))
        self.audit = Audit.from_dict(facts.get("audit", {}), seed=options.seed)
        for name in plan["sources"]:
            self.audit.sources.setdefault(name, SourceAudit())
        heldout = HeldOut(options.heldout_share, options.heldout_rows, state.heldout_questions())
        self._shards = Shards(out, state, heldout, options.shard_records, facts)
        self._spent: dict[str, float] = facts.get(
            "spent", dict.fromkeys(("seconds", "processor", "tokenizer", "runs"), 0)
        )
        self._spent["runs"] += 1
        self._clocks = (time.perf_counter(), time.process_time())
        self._committed = time.perf_counter()
        self._exact = ExactDuplicates() if options.duplicates else None
        self._near = None if options.near_duplicates is None else NearDuplicates(options.near_duplicates)
        try:
            self._remember()
            if not facts:
                self._commit()
        except BaseException:  # no `with` statement has it yet
            self._close()
            raise

    def _remember(self) -> None:
        """Takes up what earlier runs have seen."""
        for seen in self._state.seen():
            if self._exact is not None and seen.key is not None:
                self._exact.remember(seen.key, seen.source, seen.position)
            if self._near is not None and seen.signature is not None:
                self._near.remember(np.frombuffer(seen.signature, np.uint32), seen.source, seen.position)

    @property
    def rows(self) -> int:
        """How many rows were read."""
        return sum(account.rows for account in self.audit.sources.values())

    def take(self, chunk: _Chunk, judgement: Judgement, commit_seconds: float, *, elsewhere: bool) -> None:
        """Takes in what became of a chunk of rows, and commits when it is time. `elsewhere`: not in this process."""
        for row, outcome in zip(chunk.rows, judgement.outcomes, strict=True):
            refusal = self._duplicate(outcome, row.index) if isinstance(outcome, Kept) else outcome.refusal
            if isinstance(outcome, Dropped) or refusal is not None:
                assert refusal is not None
                self.audit.drop(row, refusal, outcome.tokens)
                continue
            self.audit.keep(outcome, outcome.tokens)
            self._shards.add(outcome.question, outcome.tokens, outcome.record)
        self.position = chunk.end
        self._spent["tokenizer"] += judgement.tokenizer_seconds
        self._spent["processor"] += judgement.seconds if elsewhere else 0.0
        self._shards.write(self._commit)
        if time.perf_counter() - self._committed >= commit_seconds:
            self._commit()

    def _duplicate(self, kept: Kept, index: int) -> Refusal | None:
        refusal, key, signature = None, None, None
        if self._exact is not None and kept.key is not None:
            refusal = self._exact.check(kept.key, kept.source, index)
            key = kept.key if refusal is None else None
        if self._near is not None and refusal is None and kept.signature is not None:
            refusal = self._near.check(np.frombuffer(kept.signature, np.uint32), kept.source, index)
            signature = kept.signature if refusal is None else None
        if key is not None or signature is not None:
            self._state.see(Seen(key, signature, kept.source, index))
        return refusal

    def _commit(self) -> None:
        begun, before = self._clocks
        self._clocks = (time.perf_counter(), time.process_time())
        self._spent["seconds"] += self._clocks[0] - begun
        self._spent["processor"] += self._clocks[1] - before
        self._state.commit(
            {"plan": self._plan, "position": self.position, "audit": self.audit.to_dict(), "spent": self._spent}
            | self._shards.facts()
        )
        self._committed = time.perf_counter()

    def progress(self, source: str, total: int | None) -> Progress:
        """Says how far it is."""
        kept = sum(account.kept for account in self.audit.sources.values())
        return Progress(source, self.rows, kept, total, self._spent["seconds"] + time.perf_counter() - self._clocks[0])

    def finish(self, tokenizer: Mapping[str, Any], processes: int) -> None:
        """Writes what is left, the audit's page, and the manifest.

        Raises:
            NothingLeftError: There would be no row to train on.
        """
        if not self._shards.count("train"):
            self._write_page({})
            raise NothingLeftError(self._nothing(), self.audit)
        self._shards.write(self._commit, last=True)
        self._commit()
        form = self._options.form
        manifest: dict[str, Any] = {name: self._plan[name] for name in ("version", "sources", "options")}
        manifest["format"] = {"reasoning": form.reasoning, "answer": form.answer, "template": form.template}
        manifest["tokenizer"] = dict(tokenizer)
        manifest["splits"] = self._shards.entries()
        self._write_page(manifest)
        manifest["audit"] = self.audit.to_dict()
        manifest["run"] = self._account(processes)
        write_manifest(self._out, manifest)

    def _write_page(self, manifest: Mapping[str, Any]) -> None:
        splits = manifest.get("splits", {}).items()
        facts = {name: f"{split['records']:,} rows, {split['tokens']:,} tokens" for name, split in splits}
        if manifest:
            named = manifest["tokenizer"]
            facts["tokenizer"] = f"{named['name']}, {named['vocab_size']:,} tokens, sha256 {named['sha256'][:16]}…"
            facts["content"] = f"sha256 {content_hash(manifest)[:16]}…"
        if names := _first_only(self._found, self.audit, self._options.limit):
            facts["read in part"] = f"the first {self._options.limit:,} rows, in their order, of {', '.join(names)}"
        page = audit_page(self.audit, max_tokens=self._options.max_tokens, facts=facts)
        atomic(self._out / AUDIT_PAGE, lambda file: _write_text(file, page))

    def _nothing(self) -> str:
        if held := self._shards.count("heldout"):
            return (
                f"all {held:,} rows that were kept would be held out; ask for fewer with heldout_rows or heldout_share."
            )
        reasons = Counter[str]()
        for account in self.audit.sources.values():
            reasons.update(account.dropped)
        said = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common(3)) or "there were none"
        return f"of {self.rows:,} rows none was kept ({said}); {self._out / AUDIT_PAGE} shows some."

    def _account(self, processes: int) -> dict[str, float]:
        """What it took; the only thing that differs from one run to another of the same plan."""
        spent = self._spent
        return {
            "seconds": round(spent["seconds"], 3),
            "rows_per_second": round(self.rows / spent["seconds"], 1),
            "processor_seconds": round(spent["processor"], 3),
            "tokenizer_share": round(spent["tokenizer"] / spent["processor"], 4),
            "processes": processes,
            "runs": int(spent["runs"]),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        for memory in (self._exact, self._near):
            if memory is not None:
                memory.close()


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
