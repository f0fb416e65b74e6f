"""Samples become a data set: which are kept, what is said of the others, and that nothing else decides the bytes."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from coldforge.data import Question, ReasoningFormat, Tokenizer, open_dataset, tokenize
from coldforge.data.records import question_id
from coldforge.data.rejection import (
    BUCKETS,
    Chat,
    NothingKeptError,
    Sampled,
    SampleLog,
    SampleLogs,
    Selected,
    Selection,
    Selector,
    find_chat,
    is_acceptable,
    selection_entry,
    write_selection,
)
from coldforge.data.rejection.acceptance import bucket

pytestmark = pytest.mark.whole

FORM = ReasoningFormat(template="Think, then answer.")
WAYS = (
    "Add both.",
    "Count on from the first.",
    "Five fingers and some more.",
    "Take one away, then put it back again.",
)


def asked(number: int, source: str = "sums") -> Question:
    text = f"What is {number} + 1?"
    return Question(question_id(source, text), text, str(number + 1), "auto", source)


def reply(number: int, way: str = WAYS[0], *, answer: str | None = None, **more: object) -> Sampled:
    given = str(number + 1) if answer is None else answer
    verdict = "right" if given == str(number + 1) else "wrong"
    fields = {"text": FORM.render(way, given), "tokens": 20, "ended": True, "verdict": verdict, "answer": given}
    return Sampled(**(fields | more))


def taken(tok: Tokenizer, samples: Sequence[Sampled], **options: object) -> tuple[list[int], dict[int, str]]:
    """Numbers of the chosen samples in the order in which they were, and the others' reasons."""
    with Selector(tok, FORM, len(samples), Selection(**options)) as selector:
        found = selector.take(3, asked(3), samples)
    return [one.sample for one in found.chosen], {one.sample: one.refusal.reason for one in found.passed}


def test_every_reason_has_its_name(tok: Tokenizer) -> None:
    text = FORM.render(WAYS[0], "4")
    circles = " ".join(["it goes round and round and never comes to any end at all"] * 9)
    samples = [
        reply(3),
        reply(3, ended=False),
        reply(3, text=text.replace("</answer>", "")),
        reply(3, WAYS[1].replace("first", "f\ufffdrst")),
        reply(3, answer="5"),
        reply(3, verdict="no answer"),
        reply(3, verdict="timeout", detail="5 s"),
        reply(3, verdict="error"),
        reply(3, "先把两个数加起来，再想一想。"),
        reply(3, "So it is, and so it was, my friend. " * 70),
        reply(3, "```python\nprint(4)\n```"),
        reply(3, circles),
        reply(3, WAYS[2] + " " + " ".join(map(str, range(200)))),
        reply(3, WAYS[0] + "  "),
        reply(3, WAYS[3]),
    ]
    chosen, passed = taken(tok, samples, max_tokens=200, per_question=1)
    names = ["cut-off", "broken-tags", "bad-unicode", "wrong", "no-answer", "timeout", "error", "mixed-language",
             "long-paragraph", "code-block", "repetition", "too-long"]  # fmt: skip
    assert [passed[i] for i in range(1, 13)] == names
    [first] = chosen
    assert first in (0, 13, 14)
    assert {passed[i] for i in (0, 13, 14) if i != first} <= {"not-needed", "duplicate"}
    assert len(chosen) + len(passed) == len(samples)


def test_which_are_chosen_follows_from_the_rule(tok: Tokenizer) -> None:
    samples = [reply(3, way) for way in (*WAYS[::-1], WAYS[2])]
    shortest, passed = taken(tok, samples, per_question=2, choose="shortest")
    lengths = [len(FORM.render(way, "4")) for way in WAYS]
    assert lengths == sorted(lengths)
    assert shortest == [3, 2]
    assert passed == {0: "not-needed", 1: "not-needed", 4: "not-needed"}
    lots = {tuple(taken(tok, samples, per_question=2, seed=seed)[0]) for seed in range(12)}
    assert len(lots) > 4
    assert all(len({samples[i].text for i in lot}) == 2 for lot in lots), "the same text twice is one"
    again = {tuple(taken(tok, samples, per_question=2, seed=0)[0]) for _ in range(3)}
    assert len(again) == 1


def test_near_duplicates_make_room_for_others(tok: Tokenizer) -> None:
    way = " ".join(f"Step {i} takes the {i * 7 % 11} and moves it by {i * 5 % 13} places." for i in range(8))
    other = " ".join(f"Then the {i * 3 % 7} goes before {i * 11 % 17}, as every child will tell." for i in range(12))
    samples = [reply(3, way), reply(3, f"{way} Good."), reply(3, other)]
    how = {"per_question": 2, "choose": "shortest"}
    assert taken(tok, samples, **how) == ([0, 1], {2: "not-needed"})
    assert taken(tok, samples, **how, near_duplicates=0.7) == ([0, 2], {1: "near-duplicate"})


def test_easy_questions_give_fewer(tok: Tokenizer) -> None:
    right = [reply(3, way) for way in WAYS]
    assert len(taken(tok, right)[0]) == 4
    assert Counter(taken(tok, right, easy=1)[1].values()) == {"too-easy": 3}
    assert taken(tok, right, easy=0)[0] == []
    assert len(taken(tok, [*right, reply(3, answer="9")], easy=0)[0]) == 4, "one of its samples was wrong"


def test_records_are_what_was_said_with_its_difficulty(tok: Tokenizer) -> None:
    samples = [reply(3, answer="4.0", verdict="right"), reply(3, answer="5"), reply(3, ended=False), reply(3, WAYS[1])]
    with Selector(tok, FORM, 4, Selection()) as selector:
        found = selector.take(3, asked(3), samples)
    assert (found.right, found.clean) == (3, 2), "the one that was cut off is right, and not clean"
    record = next(one.record for one in found.chosen if one.sample == 0)
    assert record.meta == {
        "question": asked(3).id, "right": 3, "samples": 4, "difficulty": 0.75, "sample": 0
    }  # fmt: skip
    assert (record.index, record.source, record.kind, record.answer) == (12, "sums", "number", "4.0")
    assert record.ids.tolist() == tokenize(record.example, tok, FORM).ids.tolist()
    prompt = tok.encode_chat([{"role": "user", "content": FORM.ask(asked(3).text)}])
    assert record.ids[record.parts == 0].tolist() == prompt, "as the sampler saw it"


def test_options_out_of_range_are_named() -> None:
    for name, value in (("per_question", 0), ("easy", -1), ("near_duplicates", 0.5), ("heldout_share", 2)):
        with pytest.raises(ValueError, match=f"{name} is {value}"):
            Selection(**{name: value})
    with pytest.raises(ValueError, match="choose is 'longest'"):
        Selection(choose="longest")  # type: ignore[arg-type]


def drawn(number: int, count: int = 4) -> list[Sampled]:
    """Some right, some wrong, some not well formed; of number 9 nothing is right, of 8 all."""
    right = {9: 0, 8: count}.get(number, 1 + number % 3)
    ways = [WAYS[(number + i) % 4] for i in range(count)]
    return [reply(number, way, answer=None if i < right else "0") for i, way in enumerate(ways)]


def log(directory: Path, numbers: Sequence[int], process: int = 0, piece: int = 2) -> None:
    with SampleLog(directory, process) as file:
        for number in numbers:
            for first in range(0, 4, piece):
                file.append(number, first, drawn(number)[first : first + piece])


QUESTIONS = [asked(number, "odd" if number % 2 else "even") for number in range(30)]


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    path = tmp_path / "chat.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": f"Hello {i}!"}, {"role": "assistant", "content": f"Hi, {i}."}]}
        for i in range(40)
    ]
    rows[5] = rows[4]
    rows[6] = {"messages": []}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write(tok: Tokenizer, out: Path, logs: SampleLogs, chat: Chat | None = None, **options: object) -> Selected:
    return write_selection(
        QUESTIONS, logs, out, tokenizer=tok, form=FORM, count=4, chat=chat,
        options=Selection(**({"heldout_questions": 8, "shard_records": 16} | options)), facts={"plan": {"form": {}}},
    )  # fmt: skip


def contents(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(directory.iterdir()) if file.is_file()}


def test_a_data_set_is_written_as_prepare_does(tok: Tokenizer, tmp_path: Path, chat: Path) -> None:
    log(tmp_path / "samples", range(30))
    made = write(tok, tmp_path / "out", SampleLogs(tmp_path / "samples"), find_chat([str(chat)], 0.25, FORM))
    dataset = open_dataset(tmp_path / "out")
    dataset.verify()
    assert dataset.tokenizer_hash == tok.fingerprint
    assert dataset.form == FORM
    records = [*dataset.train, *dataset.heldout]
    reasoned = [record for record in records if record.shows_work]
    assert len(records) - len(reasoned) == round(len(reasoned) / 3), "a quarter of all are conversations"
    assert {r.question for r in dataset.train}.isdisjoint({r.question for r in dataset.heldout})
    assert len({r.question for r in dataset.heldout}) == 8
    assert len(dataset.heldout) > 8, "with all their rows"
    assert Counter(r.meta["question"] for r in reasoned).most_common(1)[0][1] <= 4
    assert {r.question for r in reasoned} == {q.text for i, q in enumerate(QUESTIONS) if i != 9}
    assert all(record.answer == str(int(record.question.split()[2]) + 1) for record in reasoned)
    assert made.acceptance.total.questions == 30
    assert made.acceptance.total.kept == len(reasoned)
    assert made.acceptance.by_source()["odd"].questions == 15
    assert made.acceptance.by_difficulty()["all"].samples == 4
    assert made.acceptance.by_difficulty()["none"].gave == 0
    for name, account in made.audit.sources.items():
        assert account.rows == (60 if name in ("odd", "even") else 40)
    assert made.audit.sources["chat.jsonl"].dropped.keys() == {"duplicate", "wrong-roles", "not-needed"}
    page = (tmp_path / "out/audit.html").read_text()
    assert re.search(r"Accepted, by the share of right samples.*to 75 %", page, re.DOTALL)
    again = Selected.open(tmp_path / "out")
    assert again.acceptance.total == made.acceptance.total
    assert again.audit.to_dict() == made.audit.to_dict()


def test_bytes_do_not_depend_on_who_sampled_what_or_when(tok: Tokenizer, tmp_path: Path, chat: Path) -> None:
    log(tmp_path / "one", range(30))
    log(tmp_path / "two", range(29, -1, -2), process=1, piece=1)
    log(tmp_path / "two", range(0, 30, 2), process=0, piece=4)
    with (tmp_path / "two" / "00001.jsonl").open("ab") as file:
        file.write(b'{"question": 3, "first"')  # torn
    mixed = find_chat([str(chat)], 0.25, FORM)
    write(tok, tmp_path / "a", SampleLogs(tmp_path / "one"), mixed)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/train-00007.arrayrecord").write_bytes(b"of an earlier try")
    write(tok, tmp_path / "b", SampleLogs(tmp_path / "two"), mixed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    other = write(tok, tmp_path / "c", SampleLogs(tmp_path / "one"), mixed, seed=1)
    assert other.dataset.content_hash != open_dataset(tmp_path / "a").content_hash


def test_nothing_kept_says_why(tok: Tokenizer, tmp_path: Path) -> None:
    class Wrong:
        def of(self, question: int) -> list[Sampled]:
            return [reply(question, answer="0")] * 4 if question else [reply(0, ended=False)] * 4

    with pytest.raises(NothingKeptError, match=r"of 120 samples none was kept \(wrong 116, cut-off 4\); .*audit\.html"):
        write(tok, tmp_path / "out", Wrong())
    assert "the answer is &#x27;0&#x27;; wanted &#x27;" in (tmp_path / "out/audit.html").read_text()
    log(tmp_path / "samples", range(30))
    with pytest.raises(NothingKeptError, match="all 49 rows that were kept would be held out"):
        write(tok, tmp_path / "all", SampleLogs(tmp_path / "samples"), heldout_questions=100, per_question=2)


def test_what_stands_in_an_evaluation_set_is_left_out(tok: Tokenizer, tmp_path: Path) -> None:
    log(tmp_path / "samples", range(30))
    rows = [{"question": asked(number).text} for number in (3, 4, 9)]
    (tmp_path / "exam.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = write(tok, tmp_path / "out", SampleLogs(tmp_path / "samples"), decontaminate=(str(tmp_path / "exam.jsonl"),))
    told = {record.question for record in [*made.dataset.train, *made.dataset.heldout]}
    assert told == {asked(number).text for number in range(30) if number not in (3, 4, 9)}
    assert sum(account.dropped["contaminated"] for account in made.audit.sources.values()) == 3
    assert made.dataset.manifest["options"]["decontaminate"]["exam.jsonl"]["kind"] == "file"
    with pytest.raises(FileNotFoundError, match="nowhere"):
        selection_entry(Selection(decontaminate=("nowhere.jsonl",)))


def test_samples_that_are_missing_are_named(tok: Tokenizer, tmp_path: Path) -> None:
    log(tmp_path / "samples", range(29))
    with pytest.raises(ValueError, match="question 29 has 0 samples; wanted 4"):
        write(tok, tmp_path / "out", SampleLogs(tmp_path / "samples"))


def test_conversations_that_cannot_be_had_are_named(tok: Tokenizer, tmp_path: Path, chat: Path) -> None:
    assert find_chat([], 0.0, FORM) is None
    for names, share, said in (
        ([str(chat)], 1.0, r"share of conversations is 1\.0; wanted 0 to below 1"),
        ([str(chat)], 0.0, "and their share is 0"),
        ([], 0.2, r"share of conversations is 0\.2, and none are named"),
    ):
        with pytest.raises(ValueError, match=said):
            find_chat(names, share, FORM)
    (tmp_path / "bad.jsonl").write_text('{"messages": []}\n')
    with pytest.raises(ValueError, match=r"bad\.jsonl has no conversation that could be used; the first row, wrong-ro"):
        find_chat([str(tmp_path / "bad.jsonl")], 0.2, FORM)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jsonl"):
        find_chat([str(tmp_path / "nowhere.jsonl")], 0.2, FORM)
    log(tmp_path / "samples", range(30))
    with pytest.raises(ValueError, match=r"wants 60 conversations, and there are 38 of use\. .* to 0\.38\d+ at most"):
        write(tok, tmp_path / "out", SampleLogs(tmp_path / "samples"), find_chat([str(chat)], 0.5, FORM))


KILLED = """
import os, signal, sys
from pathlib import Path
from coldforge.data.rejection import SampleLog, Sampled
with SampleLog(Path(sys.argv[1]), 0) as log:
    log.append(0, 0, [Sampled("a", 1, True, "right")])
    os.write(log._file.fileno(), b'{"question": 1, "fi')
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_kill_has_torn_is_cut_and_the_rest_stays(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False)
    assert done.returncode == -9
    logs = SampleLogs(tmp_path)
    assert (logs.count, logs.has(0, 0), logs.has(1, 0)) == (1, True, False)
    with SampleLog(tmp_path, 0) as log:
        log.append(1, 0, [Sampled('b\n"\u2028', 2, False, "wrong", None, "ä")])
        with pytest.raises(OSError, match="another run is at work here"):
            SampleLog(tmp_path, 0)
    logs = SampleLogs(tmp_path)
    assert logs.of(1) == [Sampled('b\n"\u2028', 2, False, "wrong", None, "ä")]
    assert [question for question, _ in logs] == [0, 1]
    assert logs.of(7) == []


def test_a_log_that_is_none_is_named(tmp_path: Path) -> None:
    with SampleLog(tmp_path, 0) as log:
        log.append(0, 2, [Sampled("a", 1, True, "right")])
    with pytest.raises(ValueError, match="lacks samples 0 to 1 of question 0"):
        SampleLogs(tmp_path).of(0)
    (tmp_path / "00001.jsonl").write_text('{"question": 0}\n')
    with pytest.raises(ValueError, match=r"00001\.jsonl, line 1 holds no samples"):
        SampleLogs(tmp_path)


def test_buckets_and_a_quick_word() -> None:
    for samples in (1, 3, 4, 16, 64):
        found = [bucket(right, samples) for right in range(samples + 1)]
        assert found[0] == "none"
        assert found[-1] == "all"
        places = [BUCKETS.index(name) for name in found]
        assert places == sorted(places)
        for right in range(1, samples):
            upper = np.ceil(4 * right / samples) / 4
            assert found[right] == ("below all" if upper == 1 else f"to {upper:.0%}".replace("%", " %"))
    assert is_acceptable(reply(3), FORM)
    assert not is_acceptable(reply(3, ended=False), FORM)
    assert not is_acceptable(reply(3, answer="0"), FORM)
    assert not is_acceptable(reply(3, text="4"), FORM)
