"""A data set on disk: shards of tokenized examples in two splits, read in any order, and a manifest that says it all.

    DIR/manifest.json                  last to be written: where it is, the data set is complete
    DIR/train-00000.arrayrecord        records, each compressed by itself; Grain reads these files too
    DIR/train-00000.lengths.npy        int32, the tokens of each record, so that no record is read for them
    DIR/heldout-00000.arrayrecord …

In this order: `Record` and its bytes; `Split` and `Dataset`, which read; `write_shard` and `write_manifest`, which
`prepare` writes with, and `write_dataset`, which does all of it for records at hand. Files are written under a
temporary name and then renamed. What is damaged, not finished or of a newer make is refused with the file or field
named: sizes and counts on opening, a record's checksum on reading it, everything by `Dataset.verify`.

A record is a msgpack map: ids (int32, little endian) and parts (uint8) as bytes; source, index, question, system,
reasoning, answer, kind, and meta where there is some. One of 2,000 tokens is read in 60 µs. Left out: packing and
batches (`batches`).
"""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from itertools import accumulate, batched
from pathlib import Path
from typing import Any, Self, SupportsIndex

import numpy as np
import numpy.typing as npt

from coldforge.data.extras import needs
from coldforge.data.format import ReasoningFormat
from coldforge.data.records import AnswerKind, Example
from coldforge.data.tokenizer import Tokenizer
from coldforge.data.tokens import Tokens

SCHEMA, WITH_META = 1, 2  # of data sets whose records have no meta, and may have some
MANIFEST, UNFINISHED = "manifest.json", "unfinished.sqlite"
SAMPLES = "samples"  # of `rejection`, beside what was made of them
SPLITS = ("train", "heldout")
SHARD_RECORDS = 2048
NO_RECORDS = hashlib.sha256(b"coldforge records").hexdigest()
"""The hash of a split without records; see `chained`."""

_WRITER_OPTIONS = "group_size:1,zstd:3"  # each record by itself: a random read unpacks no neighbours
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"  # for random access, as array_record recommends


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """A tokenized example as it is stored.

    Attributes:
        ids: int32, shape [length].
        parts: uint8, shape [length]; the `Part` of each id.
        meta: What else there is to know of it, as msgpack holds it: how hard the question is, say.
        Others: As `Example` has them; of a `Conversation` the reasoning is "", and the reply is the answer.
    """

    ids: npt.NDArray[np.int32]
    parts: npt.NDArray[np.uint8]
    source: str
    index: int
    question: str
    system: str
    reasoning: str
    answer: str
    kind: AnswerKind
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, example: Example, tokens: Tokens, meta: Mapping[str, Any] | None = None) -> Self:
        """Puts an example and its tokens together."""
        texts = (example.question, example.system, example.reasoning, example.answer)
        return cls(tokens.ids, tokens.parts, example.source, example.index, *texts, example.kind, meta or {})

    @property
    def shows_work(self) -> bool:
        """Whether it is an example with reasoning, or else a conversation."""
        return bool(self.reasoning)

    @property
    def example(self) -> Example:
        """The example, which `prompt` and `messages` can be asked of.

        Raises:
            ValueError: It is a conversation.
        """
        if not self.shows_work:
            raise ValueError(
                f"row {self.index} of {self.source} is a conversation, not an example: it has no reasoning."
            )
        return Example(
            self.source, self.index, self.question, self.reasoning, self.answer, AnswerKind(self.kind), self.system
        )

    def pack(self) -> bytes:
        """Returns the record's bytes."""
        fields: dict[str, Any] = {"ids": self.ids.astype("<i4").tobytes(), "parts": self.parts.tobytes()}
        fields |= {"source": self.source, "index": self.index, "question": self.question, "system": self.system}
        fields |= {"reasoning": self.reasoning, "answer": self.answer, "kind": str(self.kind)}
        if self.meta:  # else the bytes are those of a version that knew none
            fields["meta"] = dict(self.meta)
        return _msgpack().packb(fields)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Reads a record's bytes.

        Raises:
            ValueError: They are none, or a field is missing or of another shape.
        """
        fields = _msgpack().unpackb(data)
        try:
            fields["ids"] = np.frombuffer(fields["ids"], "<i4").astype(np.int32, copy=False)
            fields["parts"] = np.frombuffer(fields["parts"], np.uint8)
            fields["kind"] = AnswerKind(fields["kind"])
            record = cls(**fields)
        except (KeyError, TypeError) as error:
            raise ValueError(f"the record lacks a field or has another: {error}") from error
        if record.ids.shape != record.parts.shape:
            raise ValueError(f"the record has {len(record.ids)} ids and {len(record.parts)} parts; wanted as many.")
        return record


def chained(digest: str, record: bytes) -> str:
    """Returns the hash of a split with one more record: SHA-256 of the hash so far and the record.

    So it depends on records and their order, not on how they are cut into shards, and can be continued after a restart.
    """
    return hashlib.sha256(bytes.fromhex(digest) + record).hexdigest()


class Split(Sequence[Record]):
    """The records of a split, in any order: `len(split)`, `split[i]`, `split.lengths`.

    It can be pickled and copied; files are opened when they are needed, in each process for itself.

    Attributes:
        name: "train" or "heldout".
        hash: What `chained` gives for all of its records.
    """

    def __init__(self, directory: Path, name: str, digest: str, shards: Sequence[Mapping[str, Any]]) -> None:
        """Takes what the manifest says; `open_dataset` does it. Nothing is read."""
        self.name, self.hash = name, digest
        self._paths = [directory / shard["name"] for shard in shards]
        self._counts = [int(shard["records"]) for shard in shards]
        self._sizes = [int(shard["bytes"]) for shard in shards]
        self._starts = np.array([0, *accumulate(self._counts)])
        self._readers: dict[int, Any] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: SupportsIndex) -> Record:  # type: ignore[override]
        """Reads a record.

        Raises:
            IndexError: There is no such record.
            ValueError: It is damaged; file and place are named.
        """
        place = index.__index__()
        if not -len(self) <= place < len(self):
            raise IndexError(f"{self.name} has {len(self)} records; {place} is none of them.")
        shard, data = self._read(place % len(self))
        try:
            return Record.unpack(data)
        except ValueError as error:
            raise ValueError(f"{self._paths[shard]}, record {place}: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_readers": {}}

    def __repr__(self) -> str:
        return f"Split({self.name!r}, {len(self):,} records)"

    @cached_property
    def lengths(self) -> npt.NDArray[np.int32]:
        """Tokens of each record: int32, shape [len(self)]. Read from files of its own, once.

        Raises:
            ValueError: Such a file is damaged; it is named.
        """
        found = [np.empty(0, np.int32)]
        for path, count in zip(self._paths, self._counts, strict=True):
            file = lengths_path(path)
            try:
                lengths = np.load(file)
            except (OSError, ValueError, EOFError) as error:
                raise ValueError(f"{file} is missing or damaged: {error}. {_AGAIN}") from error
            if lengths.dtype != np.int32 or lengths.shape != (count,) or (count and lengths.min() < 1):
                raise ValueError(f"{file} holds {lengths.dtype} {lengths.shape}; wanted int32 ({count},). {_AGAIN}")
            found.append(lengths)
        return np.concatenate(found)

    def check(self) -> None:
        """Compares each file's size with the manifest; no file is read.

        Raises:
            ValueError: A file is missing or of another size.
        """
        for path, size in zip(self._paths, self._sizes, strict=True):
            found = path.stat().st_size if path.is_file() else None
            if found != size:
                has = "is missing" if found is None else f"has {found:,} bytes"
                raise ValueError(f"{path} {has}; {MANIFEST} says {size:,} bytes. {_AGAIN}")

    def verify(self) -> None:
        """Reads all records and compares them with the manifest.

        Raises:
            ValueError: Something is damaged, or differs from what was written.
        """
        self.check()
        digest, lengths = NO_RECORDS, self.lengths
        for place in range(len(self)):
            shard, data = self._read(place)
            digest = chained(digest, data)
            if (length := len(Record.unpack(data))) != lengths[place]:
                file = lengths_path(self._paths[shard])
                raise ValueError(f"{file} says {lengths[place]} tokens; record {place} has {length}. {_AGAIN}")
        if digest != self.hash:
            raise ValueError(f"{self.name}'s records have the hash {digest}; {MANIFEST} says {self.hash}. {_AGAIN}")

    def _read(self, place: int) -> tuple[int, bytes]:
        """Returns the shard and the bytes of a record."""
        shard = int(np.searchsorted(self._starts, place, side="right")) - 1
        path = self._paths[shard]
        try:
            if shard not in self._readers:
                self._readers[shard] = self._opened(path, self._counts[shard])
            [data] = self._readers[shard].read([place - int(self._starts[shard])])
        except RuntimeError as error:  # array_record's for everything
            raise ValueError(f"{path}, record {place} of {self.name} is damaged: {error}. {_AGAIN}") from error
        return shard, data

    @staticmethod
    def _opened(path: Path, count: int) -> Any:
        reader = _array_record().ArrayRecordReader(str(path), _READER_OPTIONS)
        if (found := reader.num_records() if reader.ok() else 0) != count:
            raise ValueError(f"{path} has {found} records that can be read; {MANIFEST} says {count}. {_AGAIN}")
        return reader


_AGAIN = "Copy it again, or prepare the data set again in an empty directory."


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set that `open_dataset` has opened.

    Attributes:
        path: Its directory.
        manifest: What manifest.json holds.
        train, heldout: Its splits. No question is in both.
        form: The format of its replies.
    """

    path: Path
    manifest: Mapping[str, Any] = field(repr=False)
    train: Split
    heldout: Split
    form: ReasoningFormat

    @property
    def content_hash(self) -> str:
        """SHA-256 (hex) of records, their order, tokenizer and format: what decides what a model is trained on."""
        return str(self.manifest["content_hash"])

    @property
    def tokenizer_hash(self) -> str:
        """The `fingerprint` of the tokenizer that the ids are of."""
        return str(self.manifest["tokenizer"]["sha256"])

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Makes sure that the ids are those of a tokenizer.

        Raises:
            ValueError: They are another's.
        """
        ours = self.manifest["tokenizer"]
        if tokenizer.fingerprint != self.tokenizer_hash:
            raise ValueError(
                f"{self.path} was prepared with another tokenizer: {ours['name']}, {ours['vocab_size']:,} tokens, "
                f"sha256 {self.tokenizer_hash[:16]}…; this one has {tokenizer.vocab_size:,} tokens, sha256 "
                f"{tokenizer.fingerprint[:16]}…. Pass the one it was prepared with, or prepare the rows again."
            )

    def verify(self) -> None:
        """Reads everything and compares it with the manifest: some 15,000 records a second.

        Raises:
            ValueError: Something is damaged; it is named.
        """
        for split in (self.train, self.heldout):
            split.verify()
        if (found := content_hash(self.manifest)) != self.content_hash:
            raise ValueError(f"{self.path / MANIFEST}: content_hash is {self.content_hash}, the content's is {found}.")


def open_dataset(path: str | Path) -> Dataset:
    """Opens a data set: reads its manifest, and looks whether its files are there in full.

    Raises:
        FileNotFoundError: There is no data set.
        ValueError: It is not finished, damaged, or written by a newer version: file or field is named.
    """
    path = Path(path)
    manifest = read_manifest(path)
    file = path / MANIFEST
    try:
        form = manifest["format"]
        reasoning, answer = tuple(form["reasoning"]), tuple(form["answer"])
        splits = {name: manifest["splits"][name] for name in SPLITS}
        train, heldout = (Split(path, name, split["hash"], split["shards"]) for name, split in splits.items())
        wanted = {name: int(split["records"]) for name, split in splits.items()}
        _ = manifest["content_hash"], [manifest["tokenizer"][key] for key in ("name", "sha256", "vocab_size")]
        dataset = Dataset(path, manifest, train, heldout, ReasoningFormat(reasoning, answer, form["template"]))
    except KeyError as error:
        raise ValueError(f"{file} has no field {error}. {_AGAIN}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} has a field of the wrong kind: {error}. {_AGAIN}") from error
    for split in (dataset.train, dataset.heldout):
        if len(split) != wanted[split.name]:
            raise ValueError(f"{file}: splits.{split.name}.records is {wanted[split.name]}, its shards' {len(split)}.")
        split.check()
    return dataset


def read_manifest(path: Path) -> dict[str, Any]:
    """Reads the manifest of a data set that is complete and of a schema that is known here.

    Raises:
        FileNotFoundError, ValueError: As `open_dataset`.
    """
    file = path / MANIFEST
    if not file.is_file():
        if (path / UNFINISHED).is_file() or (path / SAMPLES).is_dir():
            raise ValueError(f"{path} is not finished; run the command again that it was begun with, and it goes on.")
        raise FileNotFoundError(f"{path} holds no data set (no {MANIFEST}); wanted what coldforge-prepare wrote.")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        schema = manifest["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged or no data set's: {error!r}. {_AGAIN}") from error
    if not isinstance(schema, int) or not 1 <= schema <= WITH_META:
        raise ValueError(
            f"{file}: schema is {schema!r}; this version reads up to {WITH_META}. Install a newer coldforge-data."
        )
    return manifest


def lengths_path(shard: Path) -> Path:
    """Where the lengths of a shard's records are."""
    return shard.with_suffix(".lengths.npy")


def write_shard(
    directory: Path, split: str, number: int, records: Iterable[bytes], lengths: Sequence[int]
) -> dict[str, Any]:
    """Writes a shard and its lengths, and reads its count back.

    Args:
        directory, split, number: Where, of which split, and the how-manieth of it.
        records: `Record.pack` of each.
        lengths: Tokens of each.

    Returns:
        What the manifest says of it: name, records, tokens, bytes.

    Raises:
        OSError: It cannot be written, e.g. because the disk is full. Nothing half written is left.
    """
    path = directory / f"{split}-{number:05d}.arrayrecord"
    atomic(lengths_path(path), lambda file: _save_lengths(file, lengths))
    atomic(path, lambda file: _write_records(file, records, len(lengths)))
    return {"name": path.name, "records": len(lengths), "tokens": sum(lengths), "bytes": path.stat().st_size}


def _save_lengths(path: Path, lengths: Sequence[int]) -> None:
    with path.open("wb") as file:
        np.save(file, np.array(lengths, np.int32))


def _write_records(path: Path, records: Iterable[bytes], count: int) -> None:
    module = _array_record()
    try:
        writer = module.ArrayRecordWriter(str(path), _WRITER_OPTIONS)
        for record in records:
            writer.write(record)
        writer.close()
        reader = module.ArrayRecordReader(str(path), _READER_OPTIONS)
        found = reader.num_records() if reader.ok() else 0
    except RuntimeError as error:  # array_record's for everything
        number = errno.ENOSPC if os.strerror(errno.ENOSPC) in str(error) else errno.EIO
        raise OSError(number, f"cannot be written: {error}", str(path)) from error
    if found != count:
        raise OSError(errno.EIO, f"{count} records were written and {found} can be read back", str(path))


def atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` make a file under another name, puts it on the disk, and gives it its name. Nothing half is left."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Completes a data set: `manifest` with its schema and content hash becomes manifest.json.

    Args:
        path: The directory.
        manifest: `format` (`asdict` of a `ReasoningFormat`), `tokenizer` (`tokenizer_identity`), `splits` (name →
            `split_entry`), and whatever else there is to say: `schema` WITH_META where records have meta.
    """
    complete = {"schema": SCHEMA, "content_hash": content_hash(manifest)} | dict(manifest)
    text = json.dumps(complete, indent=1, ensure_ascii=False) + "\n"
    atomic(path / MANIFEST, lambda file: _write_text(file, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def content_hash(manifest: Mapping[str, Any]) -> str:
    """Returns the SHA-256 (hex) of what decides what a model is trained on: records, order, tokenizer and format."""
    splits = {name: manifest["splits"][name]["hash"] for name in SPLITS}
    form = {key: manifest["format"][key] for key in ("reasoning", "answer", "template")}
    content = {"tokenizer": manifest["tokenizer"]["sha256"], "format": form, "splits": splits}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def tokenizer_identity(tokenizer: Tokenizer, name: str) -> dict[str, Any]:
    """What a manifest says of a tokenizer. `name`: for people, e.g. its file's."""
    return {"name": name, "sha256": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size}


def split_entry(shards: Sequence[Mapping[str, Any]], digest: str, lengths: npt.NDArray[np.int32]) -> dict[str, Any]:
    """What a manifest says of a split: counts, hash, a summary of its lengths in tokens, its shards."""
    summary: dict[str, int] = {}
    if lengths.size:
        points = np.percentile(lengths, [0, 50, 90, 99, 100], method="inverted_cdf")
        summary = dict(zip(("min", "p50", "p90", "p99", "max"), map(int, points), strict=True))
    counts = {"records": len(lengths), "tokens": int(lengths.sum(dtype=np.int64))}
    return counts | {"hash": digest, "lengths": summary, "shards": [dict(shard) for shard in shards]}


def write_dataset(
    path: str | Path,
    train: Iterable[Record],
    heldout: Iterable[Record] = (),
    *,
    tokenizer: Tokenizer,
    form: ReasoningFormat | None = None,
    shard_records: int = SHARD_RECORDS,
) -> Dataset:
    """Writes a data set of records at hand and opens it. Rows become records by `prepare`.

    Raises:
        FileExistsError: The directory holds something already.
        OSError: It cannot be written.
    """
    path, schema = Path(path), SCHEMA
    path.mkdir(parents=True, exist_ok=True)
    if any(path.iterdir()):
        raise FileExistsError(f"{path} is not empty; wanted a new directory, as nothing is written over.")
    splits = {}
    for name, records in zip(SPLITS, (train, heldout), strict=True):
        shards, digest, lengths = [], NO_RECORDS, [np.empty(0, np.int32)]
        for number, chunk in enumerate(batched(records, shard_records)):
            packed = [record.pack() for record in chunk]
            schema = max(schema, WITH_META if any(record.meta for record in chunk) else SCHEMA)
            for data in packed:
                digest = chained(digest, data)
            lengths.append(np.array([len(record) for record in chunk], np.int32))
            shards.append(write_shard(path, name, number, packed, lengths[-1].tolist()))
        splits[name] = split_entry(shards, digest, np.concatenate(lengths))
    identity = tokenizer_identity(tokenizer, "unnamed")
    manifest = {"schema": schema, "format": asdict(form or ReasoningFormat()), "tokenizer": identity, "splits": splits}
    write_manifest(path, manifest)
    return open_dataset(path)


@cache
def _msgpack() -> Any:
    return needs("msgpack", "training", "a data set")


@cache
def _array_record() -> Any:
    return needs("array_record.python.array_record_module", "training", "a data set")
