"""Nothing that was generated is lost, and half a line is none."""

import json
import multiprocessing

import pytest

from coldforge.eval.records import Graded, Reply
from coldforge.eval.store import (
    BusyError,
    Store,
    line_of,
    locked,
    prompts_carried,
    read_samples,
    replacing,
    sample_at,
    sample_of,
)


def graded(question="q", number=0, **values):
    given = {"text": "12", "tokens": 3, "ended": True, "correct": True, "verdict": "right"} | values
    return Graded(task="sums", question=question, number=number, **given)


EVIL = 'a\u2028b\x85c\r\nd\ttab "quoted" \\ \x00 \ud83d lone, 漢字 🙂'


def test_a_line_gives_the_sample_back():
    sample = graded(
        text=EVIL, category="α", extracted=None, gold=None, well_formed=False, credit=0.5, why=EVIL, ended=False,
        measures={"strict": (1, 2)}, prompt=({"role": "user", "content": EVIL},),
    )  # fmt: skip
    line = line_of(sample)
    assert line.count(b"\n") == 1
    assert sample_of(line, "here") == sample
    assert sample_of(line_of(graded()), "here") == graded()
    assert sample.truncated


@pytest.mark.parametrize("line", [b"", b"[]", b'{"task": "sums"}', b'{"task": 1', b"null", b'{"measures": 3}'])
def test_what_is_no_sample_is_named(line):
    with pytest.raises(ValueError, match="here is no sample"):
        sample_of(line, "here")


def test_samples_and_replies_are_there_when_it_is_opened_again(tmp_path):
    with Store.open(tmp_path, lambda _: None) as (store, waiting):
        assert (waiting, store.kept) == ([], {})
        store.add_replies("sums", "q", 0, [Reply("12", 3, True), Reply(EVIL, 4, False)])
        store.add_replies("sums", "r", 5, [Reply("7", 1, True)])
        store.add_samples([graded()])
    taken = []
    with Store.open(tmp_path, taken.append) as (store, waiting):
        assert taken == [graded()]
        assert [each[:3] for each in waiting] == [("sums", "q", 1), ("sums", "r", 5)]
        assert waiting[0].reply == Reply(EVIL, 4, False)
        store.add_samples([graded("r", 5), graded("q", 1, text=EVIL)])
        store.finish([("sums", "q", 0), ("sums", "q", 1), ("sums", "r", 5)])
    assert not (tmp_path / "replies.jsonl").exists()
    found = list(read_samples(tmp_path / "samples.jsonl"))
    assert [(sample.question, sample.number) for _, sample in found] == [("q", 0), ("q", 1), ("r", 5)]
    assert [sample_at(tmp_path / "samples.jsonl", place) for place, _ in found] == [sample for _, sample in found]


@pytest.mark.parametrize("name", ["samples.jsonl", "replies.jsonl"])
@pytest.mark.parametrize("lost", [1, 10, 40])
def test_a_torn_line_is_cut_and_what_follows_is_whole(tmp_path, name, lost):
    with Store.open(tmp_path, lambda _: None) as (store, _):
        store.add_replies("sums", "q", 0, [Reply("12", 3, True), Reply("13", 3, True)])
        store.add_samples([graded(number=0), graded(number=1)])
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-lost])
    with Store.open(tmp_path, lambda _: None) as (store, waiting):
        whole = name == "samples.jsonl"
        assert list(store.kept) == [("sums", "q", number) for number in range(1 if whole else 2)]
        assert [each.number for each in waiting] == ([1] if whole else [])
        store.add_replies("sums", "s", 0, [Reply("1", 1, True)])
        store.add_samples([graded("s")])
    for line in path.read_bytes().splitlines():
        json.loads(line)
    assert path.read_bytes().count(b"\n") == 2


def test_damage_is_named_with_its_line(tmp_path):
    (tmp_path / "samples.jsonl").write_bytes(line_of(graded()) + b"{}\n" + line_of(graded(number=1)))
    with pytest.raises(ValueError, match=r"samples.jsonl, line 2 is no sample"), Store.open(tmp_path, print):
        pass
    (tmp_path / "samples.jsonl").write_bytes(line_of(graded()) * 2)
    with pytest.raises(ValueError, match="sample 0 of question q of sums twice"), Store.open(tmp_path, lambda _: None):
        pass
    (tmp_path / "samples.jsonl").unlink()
    (tmp_path / "replies.jsonl").write_bytes(b"{}\n")
    with pytest.raises(ValueError, match=r"replies.jsonl, line 1 is no reply"), Store.open(tmp_path, print):
        pass


def test_a_full_disk_leaves_whole_lines_and_says_what_to_do(tmp_path):
    """A limit on the size of files stands for a full disk."""
    child = multiprocessing.get_context("fork").Process(target=_fill, args=(tmp_path,))
    child.start()
    child.join()
    assert child.exitcode == 0
    lines = (tmp_path / "samples.jsonl").read_bytes()
    assert lines.endswith(b"\n")
    assert 1 < len(list(read_samples(tmp_path / "samples.jsonl"))) < 100


def _fill(directory):
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))
    with Store.open(directory, lambda _: None) as (store, _):
        for number in range(100):
            try:
                store.add_samples([graded(number=number)])
            except OSError as error:
                assert "samples.jsonl" in str(error)  # noqa: PT017
                assert "what is done stays done" in str(error)  # noqa: PT017
                return
    raise AssertionError("nothing was full")


def test_a_file_is_replaced_at_once_or_not_at_all(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(b"half"[: 4 // 0])
    assert path.read_bytes() == b"old"
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_only_one_works_in_a_directory(tmp_path):
    with (
        locked(tmp_path / "new"),
        pytest.raises(BusyError, match="another process evaluates"),
        locked(tmp_path / "new"),
    ):
        pass
    with locked(tmp_path / "new"):
        pass


def test_every_sample_gets_its_questions_prompt():
    samples = [graded("a", 0, prompt="A?"), graded("b", 0, prompt="B?"), graded("a", 1), graded("c", 3)]
    assert [prompt for _, prompt in prompts_carried(samples)] == ["A?", "B?", "A?", ""]
