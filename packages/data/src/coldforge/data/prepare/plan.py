"""What is asked for: sources, which are identified by their content, and options. Together they are the plan.

Two runs with equal plans give equal data sets, so a run can only go on with the plan that it was begun with; what
differs is named. How many processes there are is not in the plan, nor where files lie, nor what a path is called from.
"""

import hashlib
import importlib.metadata
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from coldforge.data import sources
from coldforge.data.dataset import SHARD_RECORDS
from coldforge.data.extras import needs
from coldforge.data.format import INSTRUCTION, ReasoningFormat
from coldforge.data.records import Refusal, Row

WANTED = "a path, owner/name on the hub (also owner/name:SPLIT and …@REVISION), gsm_symbolic:SIZE[:SEED], or champ"
_GSM = re.compile(r"gsm_symbolic(?::(\d+))?(?::(\d+))?")
_HUB = re.compile(r"([^:@]+)(?::([^:@]+))?(?:@([^:@]+))?")
_BLOCK = 1 << 20
_TEXTS = ("question", "problem", "prompt", "text", "solution", "answer")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How rows become records. The defaults are those of a cold start (DeepSeek-R1, 2501.12948v2, B.3.2).

    Attributes:
        max_tokens: Rows of more tokens, prompt and template included, are dropped, never cut.
        keep_prose: Whether a solution's prose stays, at the end of the reasoning, or only its final value is kept.
        accept_worked: Whether a reply without tags is taken as a worked solution, all of it reasoning.
        reasoning_tags: The tags around the reasoning.
        answer_tags: The tags around the answer.
        instruction: What stands before each question; {reasoning[0]}, {answer[1]} and so on stand for the tags.
        mixed_language: Drop rows with a larger share of letters of scripts foreign to the question; None: never.
        repetition: Drop rows where a larger share of runs of ten words occurred before; None: never.
        long_paragraphs: Drop rows whose reasoning has a paragraph of more characters; None: never.
        code_blocks: Drop rows whose reasoning has a code block.
        duplicates: Drop rows with the very text of an earlier one.
        near_duplicates: Drop rows that share about as many of their five-word runs with an earlier one, from 0.7 to 1;
            None: never.
        decontaminate: Evaluation sets (paths or hub names): drop rows that share ten words in a row with one.
        heldout_share: The share of questions that goes to the split `heldout`.
        heldout_rows: The number of rows that goes there, instead of a share.
        seed: Which questions are held out, and which dropped rows are shown as samples.
        limit: Take so many rows of each source at most: evenly spread, as files are often sorted, where it is known how
            many there are; else the first ones, which `Prepared.first_only` and the audit's page say.
        shard_records: Records in a file.

    Raises:
        ValueError: A value is out of its range; it is named.
    """

    max_tokens: int = 4096
    keep_prose: bool = True
    accept_worked: bool = False
    reasoning_tags: tuple[str, str] = ("<reasoning>", "</reasoning>")
    answer_tags: tuple[str, str] = ("<answer>", "</answer>")
    instruction: str = INSTRUCTION
    mixed_language: float | None = 0.001
    repetition: float | None = 0.3
    long_paragraphs: int | None = None
    code_blocks: bool = False
    duplicates: bool = True
    near_duplicates: float | None = None
    decontaminate: tuple[str, ...] = ()
    heldout_share: float = 0.02
    heldout_rows: int | None = None
    seed: int = 0
    limit: int | None = None
    shard_records: int = SHARD_RECORDS

    def __post_init__(self) -> None:
        ranges: list[tuple[str, float, float]] = [("max_tokens", 1, 1 << 31), ("shard_records", 1, 1 << 20)]
        ranges += [("mixed_language", 0, 1), ("repetition", 0, 1), ("long_paragraphs", 1, 1 << 31)]
        ranges += [("near_duplicates", 0.7, 1), ("heldout_share", 0, 1), ("heldout_rows", 0, 1 << 20)]
        ranges += [("limit", 1, 1 << 62)]
        for name, low, high in ranges:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name} is {value}; wanted {low:g} to {high:g}.")
        _ = self.form

    @property
    def form(self) -> ReasoningFormat:
        """The format of the replies."""
        return ReasoningFormat(self.reasoning_tags, self.answer_tags, self.instruction)


@dataclass(frozen=True)
class Source:
    """Where rows come from.

    Attributes:
        name: What they are counted under.
        identity: What decides which rows come: hashes, revisions, versions, as JSON can hold it.
        rows: How many there are, if that was easily had; for people.
        read: Gives the rows from an index on.
    """

    name: str
    identity: Mapping[str, Any]
    rows: int | None
    read: Callable[[int], Iterator[Row]]


def find_sources(texts: Sequence[str]) -> list[Source]:
    """Finds what people named, a file of a directory at a time. Local files are read once, for their hashes.

    Raises:
        FileNotFoundError: There is no such thing.
        ValueError: No source is named, or one twice.
        ModuleNotFoundError: An extra is missing; it is named.
    """
    if not texts:
        raise ValueError(f"no source is named; wanted {WANTED}.")
    found = [source for text in texts for source in _found(text)]
    names = Counter(source.name for source in found)
    told_apart = [replace(one, name=f"{one.name} ({_digest(one)})") if names[one.name] > 1 else one for one in found]
    for name, count in Counter(source.name for source in told_apart).items():
        if count > 1:
            raise ValueError(f"{name} is named {count} times with the same content; its rows would count double.")
    return told_apart


def _digest(source: Source) -> str:
    return hashlib.sha256(json.dumps(source.identity, sort_keys=True).encode()).hexdigest()[:6]


def _found(text: str) -> list[Source]:
    path = Path(text)
    if path.exists():
        return [_file(file) for file in sources.list_files(path)]
    if match := _GSM.fullmatch(text):
        if match[1] is None:
            raise ValueError("gsm_symbolic has no end; say how many rows, as gsm_symbolic:1000.")
        return [_gsm_symbolic(int(match[1]), int(match[2] or 0))]
    if text == "champ":
        identity = {"kind": "champ", "version": _version("champ-dataset", "champ")}
        return [Source("champ", identity, None, lambda start: sources.champ(start=start))]
    if (match := _HUB.fullmatch(text)) and sources.is_hub_name(match[1]):
        return [_hub(match[1], match[2] or "train", match[3])]
    raise FileNotFoundError(f"there is no {text}; wanted {WANTED}.")


def _file(path: Path) -> Source:
    digest, lines, size = hashlib.sha256(), 0, 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            lines += block.count(b"\n")
            size += len(block)
    rows = None
    if path.suffix == ".jsonl":
        rows = lines
    elif path.suffix == ".parquet":
        with sources.naming(path), needs("pyarrow.parquet", "arrow", str(path)).ParquetFile(path) as table:
            rows = table.metadata.num_rows
    name = os.fsencode(path.name).decode(errors="replace")  # a name may be no text, and manifests hold nothing else
    identity = {"kind": "file", "name": name, "bytes": size, "sha256": digest.hexdigest()}
    return Source(name, identity, rows, lambda start: sources.read_file(path, start=start))


def _gsm_symbolic(size: int, seed: int) -> Source:
    version = _version("reasoning-gym", "reasoning-gym")
    identity = {"kind": "gsm_symbolic", "version": version, "size": size, "seed": seed}
    return Source("gsm_symbolic", identity, size, partial(_read_gsm, size, seed))


def _read_gsm(size: int, seed: int, start: int) -> Iterator[Row]:
    return sources.gsm_symbolic(size, seed=seed, start=start)


def _hub(name: str, split: str, revision: str | None) -> Source:
    """Pins the revision, so that a run that goes on reads what it began with."""
    commit = sources.hub_revision(name, revision)
    identity = {"kind": "hub", "name": name, "split": split, "revision": commit}
    return Source(name, identity, None, lambda start: sources.read_hub(name, split=split, revision=commit, start=start))


def _version(distribution: str, extra: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError as error:
        raise ModuleNotFoundError(
            f"this needs {distribution}: pip install 'coldforge-data[{extra}]'.", name=distribution
        ) from error


def evaluation_texts(found: Sequence[Source]) -> Iterator[str]:
    """Yields the texts of evaluation sets: columns of the usual names, and messages but for the system's.

    Raises:
        ValueError: A row could not be read, or holds no such text; an evaluation set must not be passed over in part.
    """
    for source in found:
        for row in source.read(0):
            if isinstance(row.data, Refusal):
                raise ValueError(f"the evaluation set {source.name}, row {row.index}: {row.data.detail}")
            turns = [turn for name in ("messages", "conversations") for turn in row.data.get(name) or []]
            turns = [turn for turn in turns if isinstance(turn, Mapping) and turn.get("role") != "system"]
            texts = [row.data.get(name) for name in _TEXTS]
            texts += [turn.get(name) for turn in turns for name in ("content", "value")]
            strings = [text for text in texts if isinstance(text, str)]
            if not strings:
                columns = ", ".join(map(str, row.data)) or "none"
                wanted = f"wanted messages, conversations, or one of {', '.join(_TEXTS)}"
                raise ValueError(
                    f"the evaluation set {source.name}, row {row.index}: its columns are {columns}; {wanted}."
                )
            yield from strings


def make_plan(
    found: Sequence[Source], evaluation: Sequence[Source], tokenizer: str, options: Options
) -> dict[str, Any]:
    """Returns the plan as JSON holds it. `tokenizer`: its fingerprint."""
    plan = {
        "version": importlib.metadata.version("coldforge-data"),
        "sources": {source.name: dict(source.identity) for source in found},
        "options": asdict(options) | {"decontaminate": {source.name: dict(source.identity) for source in evaluation}},
        "tokenizer": tokenizer,
    }
    return json.loads(json.dumps(plan))


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Says what differs between two plans, by name: "max_tokens was 2048 and is 4096"."""
    first, second = dict(_flat(before)), dict(_flat(now))
    differing = [name for name in first | second if first.get(name, _flat) != second.get(name, _flat)]
    return [
        f"{name.removeprefix('options.')} was {_shown(first, name)} and is {_shown(second, name)}" for name in differing
    ]


def _flat(plan: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in plan.items():
        if isinstance(value, Mapping) and prefix in ("", "options."):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, Mapping):
            yield f"{prefix}{key}", ", ".join(f"{name} {of}" for name, of in value.items())
        else:
            yield f"{prefix}{key}", value


def _shown(plan: Mapping[str, Any], name: str) -> str:
    if name not in plan:
        return "not there"
    text = str(plan[name])
    return text if len(text) <= 60 else f"{text[:57]}…"
