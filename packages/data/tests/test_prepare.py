"""Rows become a data set with an account of each, the same one however often the run is killed, in bounded memory."""

import errno
import json
import multiprocessing
import random
import re
import runpy
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from coldforge.data import Part, Tokenizer, open_dataset, sources
from coldforge.data.dataset import MANIFEST, UNFINISHED
from coldforge.data.prepare import Options, Prepared, Progress, prepare, run, shards, state
from coldforge.data.prepare.heldout import QUESTIONS, HeldOut, question_number
from coldforge.data.prepare.run import NothingLeftError

pytestmark = pytest.mark.whole


def turns(question: str, reply: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": reply}]


@pytest.fixture(scope="module")
def files(stratos: list[tuple[dict, object]], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The rows of the recipe in two files, `conversations` in one and `messages` in the other, each with a bad line."""
    folder = tmp_path_factory.mktemp("rows")
    lines: dict[str, list[str]] = {"conversations.jsonl": [], "messages.jsonl": []}
    for columns, _ in stratos:
        lines["messages.jsonl" if "messages" in columns else "conversations.jsonl"].append(json.dumps(columns))
    for name, found in lines.items():
        (folder / name).write_bytes("\n".join([*found, '{"question": "caf\udce9"}']).encode(errors="surrogateescape"))
    return [folder / name for name in lines]


@pytest.fixture
def make(files: list[Path], tok: Tokenizer, tmp_path: Path) -> Callable[..., Prepared]:
    """Prepares the recipe's rows in this process, unless told otherwise."""

    def call(out: str = "set", where: list[Path | str] | None = None, **changes: object) -> Prepared:
        how = {name: changes.pop(name) for name in ("processes", "progress", "commit_seconds") if name in changes}
        how = {"processes": 1} | how
        options = Options(**{"max_tokens": 9000, "shard_records": 64} | changes)  # type: ignore[arg-type]
        return prepare(where or files, tmp_path / out, tokenizer=tok, options=options, **how)  # type: ignore[arg-type]

    return call


def content(path: Path) -> dict[str, object]:
    """All files of a data set, without what tells one run from another."""
    found: dict[str, object] = {file.name: file.read_bytes() for file in path.iterdir() if file.name != MANIFEST}
    manifest = json.loads((path / MANIFEST).read_text())
    assert manifest.pop("run")["seconds"] > 0
    return found | {MANIFEST: manifest}


def test_every_oddity_in_both_schemas(
    make: Callable[..., Prepared], stratos: list[tuple[dict, object]], tok: Tokenizer
) -> None:
    prepared = make(heldout_share=0.1)
    dataset = prepared.dataset
    dataset.verify()
    dataset.check_tokenizer(tok)
    expected = Counter(outcome for _, outcome in stratos if isinstance(outcome, str)) | Counter({"bad-encoding": 2})
    dropped = sum((account.dropped for account in prepared.audit.sources.values()), Counter())
    too_long = dropped.pop("too-long")
    assert dropped == expected
    assert too_long > 10
    assert sum(account.rows for account in prepared.audit.sources.values()) == len(stratos) + 2
    assert len(dataset.train) + len(dataset.heldout) + dropped.total() + too_long == len(stratos) + 2
    wanted = {name: [] for name in ("conversations.jsonl", "messages.jsonl")}  # type: dict[str, list[object]]
    for columns, outcome in stratos:
        wanted["messages.jsonl" if "messages" in columns else "conversations.jsonl"].append(outcome)
    assert min(len(outcomes) for outcomes in wanted.values()) > 60
    for record in [*dataset.train, *dataset.heldout]:
        assert (record.answer, record.kind) == wanted[record.source][record.index]
        assert len(record) <= 9000
        text = tok.decode(record.ids, skip_special=False)
        assert text.startswith("<bos><start_of_turn>user\nYou are given a problem.")
        assert text.endswith("</answer><end_of_turn>")
        reply = tok.decode(record.ids[record.parts != Part.PROMPT])
        assert dataset.form.parse(reply) == (record.reasoning, record.answer)
        assert "<|" not in reply
    assert dataset.manifest["sources"]["messages.jsonl"]["kind"] == "file"
    assert dataset.manifest["splits"]["train"]["lengths"]["max"] == dataset.train.lengths.max()
    assert 0 < dataset.manifest["run"]["tokenizer_share"] < 1


def test_no_question_is_in_both_splits(make: Callable[..., Prepared], files: list[Path], tmp_path: Path) -> None:
    lines = []
    for number in range(60):
        for trace in range(number % 4 + 1):
            question = f"{'What  is' if trace else 'WHAT is'} {number}?"
            reply = f"<think>Let me see, {trace}.</think>7"
            lines.append(json.dumps({"conversations": turns(question, reply)}))
    random.Random(0).shuffle(lines)
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    questions = []
    for name, options in {
        "a": {"heldout_share": 0.3},
        "b": {"heldout_rows": 20},
        "c": {"seed": 1, "heldout_rows": 20},
    }.items():
        dataset = make(name, [tmp_path / "a.jsonl"], **options).dataset
        splits = [
            {record.question.lower().replace("  ", " ") for record in split}
            for split in (dataset.train, dataset.heldout)
        ]
        assert splits[0].isdisjoint(splits[1])
        assert len(splits[0] | splits[1]) == 60
        if "heldout_rows" in options:
            assert 20 <= len(dataset.heldout) <= 23
        else:
            assert 8 < len(splits[1]) < 29
        questions.append(splits[1])
    assert questions[1] < questions[0] or questions[0] <= questions[1]  # the lowest numbers both times
    assert questions[1] != questions[2]


@pytest.mark.parametrize("wanted", [0, 1, 30, 1000])
def test_the_lowest_questions_are_held_out_whatever_the_order(wanted: int) -> None:
    draw = random.Random(wanted)
    questions = [question_number(f"number {draw.randrange(80)}", 0) for _ in range(300)]
    counts = Counter(questions)
    expected, rows = set(), 0
    for question in sorted(counts):
        if rows < wanted:
            expected.add(question)
            rows += counts[question]
    for _ in range(5):
        draw.shuffle(questions)
        splits: dict[str, Counter[int]] = {"train": Counter(), "heldout": Counter()}
        judge = HeldOut(0.5, wanted)
        for place, question in enumerate(questions):
            split, leaving = judge.place(question)
            splits[split][question] += 1
            for gone in leaving:
                splits["train"][gone] += splits["heldout"].pop(gone)
            if place % 50 == 0:  # as after a restart
                judge = HeldOut(0.5, wanted, splits["heldout"].copy())
        assert set(splits["heldout"]) == expected
        assert splits["train"] + splits["heldout"] == counts
    assert all(0 <= question < QUESTIONS for question in questions)


HARD = {"near_duplicates": 0.7, "heldout_rows": 12, "shard_records": 30}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("options", [{}, HARD])
def test_a_run_stopped_anywhere_goes_on_to_the_same_result(
    options: dict, make: Callable[..., Prepared], tmp_path: Path
) -> None:
    whole = make("whole", **options)
    steps: list[Progress] = []

    def stop(progress: Progress) -> None:
        steps.append(progress)
        raise Killed

    made = None
    while made is None:
        try:
            made = make("parts", **options, progress=stop, commit_seconds=0.0)
        except Killed:
            with pytest.raises(ValueError, match="is not finished"):
                open_dataset(tmp_path / "parts")
    assert len(steps) > 8
    assert made.resumed == steps[-1].rows
    assert [step.rows for step in steps] == sorted({step.rows for step in steps})
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    assert made.dataset.content_hash == whole.dataset.content_hash
    assert made.dataset.manifest["run"]["runs"] == len(steps) + 1
    assert not list((tmp_path / "parts").glob("*.sqlite*"))


def test_what_was_not_committed_is_done_again(
    make: Callable[..., Prepared], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A shard has its name, but the commit after it is not reached; then the manifest is there, and the state too."""
    make("whole", **HARD)
    monkeypatch.setattr(run, "_forget", lambda out: (_ for _ in ()).throw(Killed))
    real = state.State.commit
    for number in range(12):
        calls = iter(range(number))

        def commit(self: state.State, facts: dict, calls: object = calls) -> None:
            if next(calls, None) is None:  # type: ignore[call-overload]
                raise Killed
            real(self, facts)

        monkeypatch.setattr(state.State, "commit", commit)
        with pytest.raises(Killed):
            make("parts", **HARD, commit_seconds=0.0 if number % 2 else 99.0)
    assert {MANIFEST, UNFINISHED} <= {file.name for file in (tmp_path / "parts").iterdir()}
    monkeypatch.undo()
    assert make("parts", **HARD).resumed == 262
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_processes_make_the_same(make: Callable[..., Prepared], tmp_path: Path) -> None:
    make("one", **HARD)
    make("three", **HARD, processes=3)
    assert content(tmp_path / "one") == content(tmp_path / "three")
    assert open_dataset(tmp_path / "three").manifest["run"]["processes"] == 3


CHILD = """
import sys
from coldforge.data import Tokenizer
from coldforge.data.prepare import Options, prepare
if __name__ == "__main__":
    *files, out, model = sys.argv[1:]
    options = Options(max_tokens=9000, near_duplicates=0.7, heldout_rows=12, shard_records=30)
    how = {"processes": 2, "commit_seconds": 0.0, "progress": lambda progress: print(progress.rows, flush=True)}
    prepare(files, out, tokenizer=Tokenizer.load(model), options=options, **how)
"""


def test_a_killed_program_goes_on(
    make: Callable[..., Prepared], files: list[Path], model_path: Path, tmp_path: Path
) -> None:
    make("whole", **HARD)
    (tmp_path / "child.py").write_text(CHILD)
    command = [sys.executable, "child.py", *map(str, files), "parts", str(model_path)]
    draw, seen, workers, done = random.Random(0), list[str](), set[int](), False
    while not done:
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            seen += [child.stdout.readline() for _ in range(draw.choice((1, 1, 3)) if len(seen) < 4 else 99)]
            workers |= children(child.pid)
            time.sleep(draw.uniform(0.0, 0.02))
            child.send_signal(signal.SIGKILL if len(seen) < 50 else 0)
            child.stdout.close()
        done = child.returncode == 0
    rows = [int(line) for line in seen if line]
    assert rows == sorted(rows)
    assert len(workers) > 2
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    for _ in range(100):  # whom it started ends by itself
        if not any(Path(f"/proc/{worker}").exists() for worker in workers):
            break
        time.sleep(0.1)
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]


def children(parent: int) -> set[int]:
    found = Path(f"/proc/{parent}/task/{parent}/children")
    return set(map(int, found.read_text().split())) if found.exists() else set()


def test_another_plan_is_refused_and_what_differs_is_named(make: Callable[..., Prepared], tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        raise Killed

    for out, has in (
        ("begun", "holds an unfinished data set that was begun"),
        ("done", "holds a data set that was prep"),
    ):
        if out == "begun":
            with pytest.raises(Killed):
                make(out, progress=stop, commit_seconds=0.0)
        else:
            make(out)
        before = {file.name for file in (tmp_path / out).iterdir()}
        with pytest.raises(
            ValueError, match=f"{has}.*: max_tokens was 9000 and is 80; keep_prose was True and is False"
        ):
            make(out, max_tokens=80, keep_prose=False)
        with pytest.raises(
            ValueError, match=r"conversations\.jsonl was .* and is not there; sources\.gsm_symbolic was not th"
        ):
            make(out, ["gsm_symbolic:10"])
        with pytest.raises(
            ValueError, match=r"tags was \['<answer>', '</answer>'\] and is \['<final>', '</final>'\]\. Ask"
        ):
            make(out, answer_tags=("<final>", "</final>"))
        assert {file.name for file in (tmp_path / out).iterdir()} == before
        make(out)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"other holds other files \(thesis\.tex\); wanted a new directory"):
        make("other")


def test_a_file_that_changed_is_another_plan(make: Callable[..., Prepared], files: list[Path], tmp_path: Path) -> None:
    moved = tmp_path / "moved" / files[0].name
    moved.parent.mkdir()
    moved.write_bytes(files[0].read_bytes())
    make("set", [files[0]])
    assert make("set", [moved]).resumed > 0
    moved.write_bytes(moved.read_bytes() + b"\n")
    with pytest.raises(ValueError, match=r"sources\.conversations\.jsonl was kind file.*and is kind file"):
        make("set", [moved])


def test_two_runs_at_once_are_kept_apart(make: Callable[..., Prepared]) -> None:
    def again(progress: Progress) -> None:
        with pytest.raises(OSError, match=r"another run is at work here.*unfinished\.sqlite"):
            make()
        raise Killed

    with pytest.raises(Killed):
        make(progress=again)
    make()


def test_sources_of_all_kinds_together(make: Callable[..., Prepared], files: list[Path], tmp_path: Path) -> None:
    rows = [{"problem": f"What is {n} and 1?", "solution": f"One more. \\boxed{{{n + 1}}}"} for n in range(9)]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes())
    where = [tmp_path / "a.parquet", files[0], "gsm_symbolic:12", "gsm_symbolic:8:3"]
    prepared = make("set", where, limit=10)
    counts = {name: account.rows for name, account in prepared.audit.sources.items()}
    assert list(counts.values()) == [9, 10, 10, 8]
    assert list(counts)[:2] == ["a.parquet", "conversations.jsonl"]
    assert all(re.fullmatch(r"gsm_symbolic \([0-9a-f]{6}\)", name) for name in list(counts)[2:])
    with pytest.raises(ValueError, match=r"a\.parquet \([0-9a-f]{6}\) is named 2 times with the same content"):
        make("two", [tmp_path / "a.parquet", tmp_path / "b"])
    with pytest.raises(FileNotFoundError, match=r"there is no absent\.jsonl; wanted a path, owner/name on the hub"):
        make("none", ["absent.jsonl"])
    with pytest.raises(ValueError, match="gsm_symbolic has no end; say how many rows, as gsm_symbolic:1000"):
        make("none", ["gsm_symbolic"])
    with pytest.raises(ValueError, match="no source is named"):
        prepare([], tmp_path / "none", tokenizer=None)  # type: ignore[arg-type]


def kinds_of_rows(prepared: Prepared) -> Counter[str]:
    records = [*prepared.dataset.train, *prepared.dataset.heldout]
    return Counter(record.question.split()[0] for record in records)


def test_a_limit_takes_rows_from_all_parts_of_a_sorted_source(make: Callable[..., Prepared], tmp_path: Path) -> None:
    """The run that this project began with took the first 2,000 rows of 16,710, all of one kind."""
    rows = [
        {"question": f"{kind} number {n}?", "solution": f"It is so.\n#### {n}"}
        for kind in ("maths", "code", "science")
        for n in range(100)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "sorted.jsonl").write_text(text)
    prepared = make("set", [tmp_path / "sorted.jsonl"], limit=30)
    assert kinds_of_rows(prepared) == {"maths": 10, "code": 10, "science": 10}
    assert prepared.first_only == ()
    (tmp_path / "open.jsonl").write_text(text.rstrip("\n"))  # one more row than line ends
    assert kinds_of_rows(make("open", [tmp_path / "open.jsonl"], limit=7)).total() == 7

    (tmp_path / "sorted.json").write_text(json.dumps(rows))  # how many there are is known at its end
    prepared = make("array", [tmp_path / "sorted.json"], limit=30)
    assert kinds_of_rows(prepared) == {"maths": 30}
    assert prepared.first_only == ("sorted.json",)
    assert make("array", [tmp_path / "sorted.json"], limit=30).first_only == ("sorted.json",), "asked again"
    page = (tmp_path / "array" / "audit.html").read_text()
    assert "the first 30 rows, in their order, of sorted.json" in page
    assert make("less", [tmp_path / "sorted.json"], limit=301).first_only == ()


def test_a_limit_goes_on_where_it_was_ended(make: Callable[..., Prepared], tmp_path: Path) -> None:
    rows = [{"question": f"number {n}?", "solution": f"It is so.\n#### {n}"} for n in range(900)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def stop(now: Progress) -> None:
        if now.rows >= 64:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make("set", [tmp_path / "rows.jsonl"], limit=100, commit_seconds=0, progress=stop)
    resumed, whole = (make(name, [tmp_path / "rows.jsonl"], limit=100) for name in ("set", "other"))
    assert resumed.resumed > 0
    assert content(resumed.dataset.path) == content(whole.dataset.path)


def test_a_hub_set_is_pinned(make: Callable[..., Prepared], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"question": f"What is {n} and 1?", "answer": f"One more.\n#### {n + 1}"} for n in range(9)]
    asked = []

    def read(name: str, **options: object) -> object:
        asked.append((name, options))
        return (sources.Row(name, index, data) for index, data in enumerate(rows))

    monkeypatch.setattr(sources, "read_hub", read)
    monkeypatch.setattr(sources, "hub_revision", lambda name, revision: revision or "0a1b")
    made = make("set", ["owner/rows:test"])
    assert asked == [("owner/rows", {"split": "test", "revision": "0a1b", "start": 0})]
    wanted = {"kind": "hub", "name": "owner/rows", "split": "test", "revision": "0a1b"}
    assert made.dataset.manifest["sources"] == {"owner/rows": wanted}
    assert made.audit.sources["owner/rows"].kept == 9
    with pytest.raises(ValueError, match=r"revision 0a1b and is .*revision ffff"):
        make("set", ["owner/rows:test@ffff"])


def test_real_word_problems(make: Callable[..., Prepared], tmp_path: Path) -> None:
    prepared = make("set", ["gsm_symbolic:120:5"], heldout_rows=20)
    [account] = prepared.audit.sources.values()
    assert (account.kept, dict(account.kinds)) == (120, {"number": 120})
    assert (len(prepared.dataset.train), len(prepared.dataset.heldout)) == (100, 20)
    prepared.dataset.verify()
    clean = make("clean", ["gsm_symbolic:120:5"], decontaminate=("gsm_symbolic:30:6",))
    [account] = clean.audit.sources.values()
    assert (
        5 < account.dropped["contaminated"] < 115
    )  # problems of the same template, not all that share the instruction
    (tmp_path / "short.jsonl").write_text('{"id": 3}\n')
    with pytest.raises(ValueError, match=r"evaluation set short\.jsonl, row 0: its columns are id; wanted messages"):
        make("none", ["gsm_symbolic:120:5"], decontaminate=(str(tmp_path / "short.jsonl"),))


def test_filters_by_option(make: Callable[..., Prepared], tmp_path: Path) -> None:
    texts = {
        "mixed-language": "Let me see, так и есть, yes.",
        "repetition": "one two three four five six seven eight nine ten eleven\n\n" * 9,
        "long-paragraph": " ".join(f"one{n}" for n in range(50)),
        "code-block": "See\n```\nx = 1\n```",
        "duplicate": "Quite so.",
        "near-duplicate": "\n\n".join(f"word{n}" for n in range(300)),
    }
    lines = []
    for number, (reason, text) in enumerate(texts.items()):
        for copy in range(2 if "duplicate" in reason else 1):
            varied = text.replace("word150", "other") if copy and "near" in reason else text
            reply = f"<think>{varied}</think>\\boxed{{{number}}}"
            lines.append({"conversations": turns(f"What is {number}?", reply)})
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    where: list[Path | str] = [tmp_path / "a.jsonl"]
    off = {"mixed_language": None, "repetition": None, "duplicates": False, "heldout_share": 0.0}
    [account] = make("off", where, **off).audit.sources.values()
    assert (account.kept, account.dropped) == (8, Counter())
    on = {"long_paragraphs": 250, "code_blocks": True, "near_duplicates": 0.8, "heldout_share": 0.0}
    [account] = make("on", where, **on).audit.sources.values()
    assert account.dropped == Counter(dict.fromkeys(texts, 1))
    assert account.kept == 2


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ({"max_tokens": 0}, "max_tokens is 0; wanted 1 to"),
        ({"near_duplicates": 0.5}, "near_duplicates is 0.5; wanted 0.7 to 1"),
        ({"heldout_share": 2.0}, "heldout_share is 2.0; wanted 0 to 1"),
        ({"limit": 0}, "limit is 0; wanted 1 to"),
        ({"answer_tags": ("<reasoning>", "x")}, "cannot be told apart"),
    ],
)
def test_options_out_of_range_are_named(option: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Options(**option)


def test_nothing_to_train_on_is_an_error_and_the_directory_is_free(
    make: Callable[..., Prepared], tmp_path: Path
) -> None:
    with pytest.raises(
        NothingLeftError, match=r"of 262 rows none was kept \(too-long 232, .*audit\.html shows some"
    ) as failed:
        make(max_tokens=5)
    assert sum(account.rows for account in failed.value.audit.sources.values()) == 262
    assert [file.name for file in (tmp_path / "set").iterdir()] == ["audit.html"]
    with pytest.raises(NothingLeftError, match=r"all \d+ rows that were kept would be held out; ask for fewer"):
        make(heldout_share=1.0)
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(NothingLeftError, match=r"of 0 rows none was kept \(there were none\)"):
        make(where=[tmp_path / "empty.jsonl"])
    assert make().dataset.train


def test_a_source_that_breaks_loses_nothing(make: Callable[..., Prepared], files: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "array.json"
    path.write_text("[" + ",".join(line for line in files[0].read_text(errors="replace").splitlines()[:70]) + ', {"a"')
    for _ in range(2):
        with pytest.raises(ValueError, match=r"array\.json cannot be read to its end.*item 70"):
            make(where=[path], commit_seconds=0.0)
        with sqlite3.connect(tmp_path / "set" / UNFINISHED) as database:
            assert database.execute("SELECT COUNT(*) FROM pending").fetchone()[0] > 40
        database.close()


def test_a_full_disk_is_named_and_then_goes_on(
    make: Callable[..., Prepared], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make("whole", **HARD)
    real, written = shards.write_shard, []

    def full(directory: Path, split: str, number: int, records: object, lengths: list[int]) -> dict:
        if len(written) == 2:
            written.append(number)
            for _ in zip(records, range(7), strict=False):  # type: ignore[call-overload]
                pass
            raise OSError(errno.ENOSPC, "No space left on device", str(directory / "train-00002.arrayrecord"))
        written.append(number)
        return real(directory, split, number, records, lengths)  # type: ignore[arg-type]

    monkeypatch.setattr(shards, "write_shard", full)
    with pytest.raises(OSError, match=r"No space left on device: .*train-00002\.arrayrecord"):
        make("parts", **HARD)
    with pytest.raises(ValueError, match="is not finished"):
        open_dataset(tmp_path / "parts")
    assert make("parts", **HARD).resumed > 0
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


FULL = """
import resource, sys
from coldforge.data import Tokenizer
from coldforge.data.prepare import Options, prepare
model, out, limit, *files = sys.argv[1:]
tokenizer = Tokenizer.load(model)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))  # as if the disk were full
try:
    options = Options(max_tokens=9000, shard_records=64)
    prepare(files, out, tokenizer=tokenizer, options=options, processes=1, commit_seconds=0.0)
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [20_000, 100_000, 1 << 30])
def test_files_that_cannot_grow(
    limit: int, make: Callable[..., Prepared], files: list[Path], model_path: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", FULL, model_path, "set", str(limit), *files]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    if limit < 1 << 30:
        assert "cannot be " in done.stdout
        assert not (tmp_path / "set" / MANIFEST).exists()
    else:
        assert done.stdout == ""
    make("set")
    make("whole")
    assert content(tmp_path / "set") == content(tmp_path / "whole")


def test_a_row_that_breaks_the_code_is_named(make: Callable[..., Prepared], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coldforge.data.prepare.judge.tokenize", lambda *_: 1 / 0)
    with pytest.raises(RuntimeError, match=r"row \d+ of conversations\.jsonl could not be judged: ZeroDivisionError"):
        make()


def test_a_process_that_dies_is_said(make: Callable[..., Prepared], tmp_path: Path) -> None:
    def kill(progress: Progress) -> None:
        for process in multiprocessing.active_children():
            process.kill()

    with pytest.raises(RuntimeError, match="a process ended before its work was done, most likely for want of memory"):
        make("parts", processes=2, progress=kill, commit_seconds=0.0)
    make("whole")
    assert make("parts").resumed > 0
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


PEAK = """
import resource, sys
from coldforge.data import Tokenizer
from coldforge.data.prepare import Options, prepare
model, source, out = sys.argv[1:]
options = Options(heldout_rows=50, shard_records=512)
prepare([source], out, tokenizer=Tokenizer.load(model), options=options, processes=1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_rows(model_path: Path, tmp_path: Path) -> None:
    peaks = []
    for rows in (2_000, 12_000):
        source = tmp_path / f"{rows}.jsonl"
        runpy.run_path(str(Path(__file__).parent / "many_rows.py"))["write"](rows, source)
        command = [sys.executable, "-c", PEAK, model_path, source, tmp_path / f"set{rows}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] < peaks[0] + 12  # MB: SQLite's caches are not full after 2,000 rows
