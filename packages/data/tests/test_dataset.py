"""What is written comes back; what is damaged, unfinished or another's is named."""

import json
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import grain
import numpy as np
import pytest

from coldforge.data import (
    Dataset,
    Example,
    ReasoningFormat,
    Record,
    Row,
    Tokenizer,
    convert,
    open_dataset,
    tokenize,
    write_dataset,
)
from coldforge.data.dataset import UNFINISHED, write_shard

FORM = ReasoningFormat()


@pytest.fixture(scope="module")
def records(stratos: list[tuple[dict, object]], tok: Tokenizer) -> list[Record]:
    found = [convert(Row("stratos", index, columns)) for index, (columns, _) in enumerate(stratos)]
    return [Record.of(one, tokenize(one, tok, FORM)) for one in found if isinstance(one, Example)][:60]


@pytest.fixture(scope="module")
def written(records: list[Record], tok: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "set"
    write_dataset(path, records[8:], records[:8], tokenizer=tok, shard_records=20)
    return path


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "copy")


def same(first: Record, second: Record) -> bool:
    return (
        first.ids.tolist() == second.ids.tolist()
        and first.parts.tolist() == second.parts.tolist()
        and (astuple(first)[2:] == astuple(second)[2:])
    )


def test_records_come_back_in_any_order(written: Path, records: list[Record]) -> None:
    dataset = open_dataset(written)
    train = dataset.train
    assert [len(dataset.train), len(dataset.heldout)] == [52, 8]
    for place in np.random.default_rng(0).permutation(52).tolist():
        assert same(train[place], records[8 + place])
        assert same(train[np.int64(place)], records[8 + place])
    assert same(train[-1], records[-1])
    assert [same(*pair) for pair in zip(dataset.heldout, records, strict=False)] == [True] * 8
    assert train.lengths.dtype == np.int32
    assert train.lengths.tolist() == [len(record) for record in records[8:]]
    assert train[3].example.messages(FORM)[-1]["role"] == "assistant"
    assert dataset.form == FORM
    with pytest.raises(IndexError, match="train has 52 records; 52 is none"):
        train[52]
    dataset.verify()


def test_no_record_is_read_for_the_lengths(copy: Path) -> None:
    dataset = open_dataset(copy)
    for shard in copy.glob("*.arrayrecord"):
        shard.unlink()
    assert len(dataset.train.lengths) == 52


def test_a_split_goes_to_other_processes(written: Path, records: list[Record]) -> None:
    train = open_dataset(written).train
    assert same(train[5], records[13])
    assert same(pickle.loads(pickle.dumps(train))[5], records[13])


def test_grain_reads_splits_and_files(written: Path, records: list[Record]) -> None:
    loaded = grain.MapDataset.source(open_dataset(written).train).shuffle(seed=1)
    assert sorted(record.index for record in loaded) == sorted(record.index for record in records[8:])
    files = [str(file) for file in sorted(written.glob("train-*.arrayrecord"))]
    raw = grain.sources.ArrayRecordDataSource(files)
    assert same(Record.unpack(raw[30]), records[38])


def test_the_content_hash_is_that_of_the_content(
    written: Path, records: list[Record], tok: Tokenizer, tmp_path: Path
) -> None:
    def made(name: str, train: list[Record], form: ReasoningFormat = FORM, shard_records: int = 7) -> str:
        return write_dataset(
            tmp_path / name, train, records[:8], tokenizer=tok, form=form, shard_records=shard_records
        ).content_hash

    hashed = open_dataset(written).content_hash
    assert made("a", records[8:]) == hashed
    other = ReasoningFormat(answer=("<final>", "</final>"))
    assert len({hashed, made("b", records[9:]), made("c", records[:7:-1]), made("d", records[8:], other)}) == 4


def test_an_empty_split_and_no_split_of_its_own(records: list[Record], tok: Tokenizer, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "a", records[:3], tokenizer=tok)
    assert (len(dataset.heldout), dataset.heldout.lengths.shape) == (0, (0,))
    dataset.verify()
    with pytest.raises(FileExistsError, match="is not empty; wanted a new directory"):
        write_dataset(tmp_path / "a", records[:3], tokenizer=tok)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"stratos") if b"stratos" in content else 300] ^= 1
    path.write_bytes(content)


def edit(path: Path, change: Callable[[dict], object]) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def everything(path: Path) -> None:
    open_dataset(path).verify()


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (
            lambda p: (p / "train-00001.arrayrecord").unlink(),
            r"train-00001\.arrayrecord is missing; manifest\.json says",
        ),
        (lambda p: (p / "train-00001.arrayrecord").write_bytes(b"x"), r"train-00001\.arrayrecord has 1 bytes; .* says"),
        (lambda p: flip(p / "train-00001.arrayrecord"), r"train-00001\.arrayrecord, record \d+ of train is damaged"),
        (lambda p: (p / "train-00002.lengths.npy").unlink(), r"train-00002\.lengths\.npy is missing or damaged"),
        (lambda p: (p / "train-00002.lengths.npy").write_bytes(b"x" * 99), r"train-00002\.lengths\.npy is missing or"),
        (lambda p: np.save(p / "heldout-00000.lengths.npy", np.ones(7, np.int32)), r"heldout.*int32 \(7,\); wanted"),
        (
            lambda p: np.save(p / "heldout-00000.lengths.npy", np.ones(8, np.int32)),
            r"heldout-0.*says 1 tokens; record 0",
        ),
        (lambda p: (p / "manifest.json").write_text('{"schema":'), r"manifest\.json is damaged or no data set's"),
        (lambda p: edit(p, lambda m: m.update(schema=3)), r"manifest\.json: schema is 3; this version reads up to 2"),
        (lambda p: edit(p, lambda m: m.pop("format")), r"manifest\.json has no field 'format'"),
        (lambda p: edit(p, lambda m: m["splits"]["train"].pop("hash")), r"manifest\.json has no field 'hash'"),
        (lambda p: edit(p, lambda m: m["tokenizer"].pop("sha256")), r"manifest\.json has no field 'sha256'"),
        (
            lambda p: edit(p, lambda m: m["splits"]["train"].update(records="x")),
            r"manifest\.json has a field of the wr",
        ),
        (lambda p: edit(p, lambda m: m["splits"]["train"].update(records=51)), r"splits\.train\.records is 51, its sh"),
        (lambda p: edit(p, lambda m: m["splits"]["train"].update(hash="00" * 32)), r"train's records have the hash"),
        (lambda p: edit(p, lambda m: m.update(content_hash="0")), r"content_hash is 0, the content's is"),
    ],
)
def test_damage_is_named(damage: Callable[[Path], object], complaint: str, copy: Path) -> None:
    damage(copy)
    with pytest.raises(ValueError, match=complaint):
        everything(copy)


def test_a_record_of_another_kind_is_named(copy: Path) -> None:
    entry = write_shard(copy, "train", 1, [b"\x80"] * 20, [1] * 20)
    edit(copy, lambda m: m["splits"]["train"]["shards"][1].update(entry))
    with pytest.raises(ValueError, match=r"train-00001\.arrayrecord, record 25: the record lacks a field .*'ids'"):
        open_dataset(copy).train[25]


def test_what_is_not_there_or_not_finished_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent holds no data set \(no manifest\.json\)"):
        open_dataset(tmp_path / "absent")
    (tmp_path / UNFINISHED).touch()
    with pytest.raises(ValueError, match="is not finished; run the command again"):
        open_dataset(tmp_path)


def test_another_tokenizer_is_refused(
    written: Path, tok: Tokenizer, train: Callable[..., bytes], tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.model").write_bytes(train(vocab_size=900))
    dataset: Dataset = open_dataset(written)
    dataset.check_tokenizer(tok)
    assert dataset.tokenizer_hash == tok.fingerprint
    with pytest.raises(ValueError, match=r"set was prepared with another tokenizer: unnamed, 1,200 tokens.*900 tokens"):
        dataset.check_tokenizer(Tokenizer.load(tmp_path))


FULL = """
import random, resource, sys
from pathlib import Path
from coldforge.data.dataset import write_shard
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))  # as if there were no more space
records = [random.Random(n).randbytes(9_000) for n in range(100)]
try:
    write_shard(Path(sys.argv[1]), "train", 0, records, [1] * len(records))
except OSError as error:
    print(error)
"""


def test_a_shard_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, check=True)
    assert re.search(r"cannot be written: .*File too large.*train-00000\.arrayrecord", done.stdout), done
    assert [file.name for file in tmp_path.iterdir()] == ["train-00000.lengths.npy"]


def test_importing_the_package_brings_no_extra() -> None:
    code = "import sys, coldforge.data, coldforge.data.prepare; print([m for m in sys.modules if m in %r])"
    extras = ("array_record", "msgpack", "grain", "pyarrow", "datasets", "jax")
    done = subprocess.run([sys.executable, "-c", code % (extras,)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
