"""What is done again, and what is not: the ledger of a run."""

import shutil
from pathlib import Path

import pytest

from coldforge import training
from coldforge.apps.pipeline.ledger import Ledger, fingerprint
from coldforge.apps.pipeline.work import Work

SETTINGS = {"config": {"loop": {"steps": 3, "eval_every": 1}, "rate": 0.5}}


def works(rate: float = 0.5, eval_every: int = 1, last: int = 0) -> list[Work]:
    first = {"config": {"loop": {"steps": 3, "eval_every": eval_every}, "rate": rate}}
    return [
        Work("data", {"rows": 7}),
        Work("cold-start", first, ("data",), ("config.loop.eval_*",)),
        Work("rl-1", {"x": last}, ("data", "cold-start")),
    ]


def open_run(path: Path) -> training.Run:
    return training.open_run(path, stage="pipeline", config={}, may_differ=("*",))


def do(run: training.Run, stages: list[Work], *, until: int = 3) -> list[str]:
    """Does what is to be done, as the program does; returns what it was."""
    ledger, found = Ledger.of(run), []
    for work in stages[:until]:
        decision = ledger.decide(work)
        found.append(decision.todo)
        if decision.todo != "done":
            ledger.begin(work, decision)
            place = run.path / work.name
            place.mkdir(exist_ok=True)
            (place / "made").write_text("x")
            ledger.end(work, "finished", 0)
    return found


def test_a_finished_stage_is_not_done_again_whoever_asks(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        assert do(run, works()) == ["begin"] * 3
    with open_run(tmp_path / "run") as run:
        assert do(run, works()) == ["done"] * 3
    assert not (tmp_path / "run" / "superseded").exists()


def test_what_does_not_decide_a_result_changes_nothing(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        do(run, works())
        assert do(run, works(eval_every=9)) == ["done"] * 3


def test_a_changed_option_reaches_what_depends_on_it_and_says_why(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        do(run, works())
        ledger = Ledger.of(run)
        decisions = [ledger.decide(work) for work in works(rate=0.25)]
        assert [each.todo for each in decisions] == ["done", "again", "again"]
        assert list(decisions[1].why) == ["config.rate was 0.5, is 0.25"]
        assert list(decisions[2].why) == ["cold-start is another"]
        assert do(run, works(rate=0.25, last=1)) == ["done", "again", "again"]
        assert do(run, works(rate=0.25, last=1)) == ["done"] * 3
        # Nothing is lost: what was made before lies aside.
        assert sorted(each.name for each in (run.path / "superseded").iterdir()) == ["cold-start-1", "rl-1-1"]
        assert (run.path / "superseded" / "cold-start-1" / "made").exists()


def test_an_unfinished_stage_goes_on_and_its_times_add_up(tmp_path: Path) -> None:
    (work,) = works()[:1]
    with open_run(tmp_path / "run") as run:
        ledger = Ledger.of(run)
        ledger.begin(work, ledger.decide(work))
        ledger.end(work, "stopped", 75, "in time")
        first = ledger.entries["data"]["seconds"]
    with open_run(tmp_path / "run") as run:
        ledger = Ledger.of(run)
        assert ledger.decide(work).todo == "go on"
        ledger.begin(work, ledger.decide(work))
        ledger.end(work, "finished", 0)
        entry = ledger.entries["data"]
    assert entry["sessions"] == 2
    assert entry["seconds"] > first > 0
    assert entry["peak_gb"] > 0.01


def test_a_directory_without_an_entry_is_moved_away_before_the_stage_begins(tmp_path: Path) -> None:
    """A kill after an entry was dropped and before its directory was moved leaves one."""
    with open_run(tmp_path / "run") as run:
        (run.path / "data").mkdir()
        (run.path / "data" / "old").write_text("x")
        do(run, works(), until=1)
        assert (run.path / "superseded" / "data-1" / "old").exists()
        assert not (run.path / "data" / "old").exists()


def test_what_no_longer_counts_redoes_nothing(tmp_path: Path) -> None:
    """A version that leaves a field out of the fingerprint takes what one that counted it has made."""
    counted = [*works()[:1], Work("cold-start", works()[1].settings, ("data",)), works()[2]]
    with open_run(tmp_path / "run") as run:
        do(run, counted)
        assert fingerprint(counted[1], {}) != fingerprint(works()[1], {})
        assert do(run, works()) == ["done"] * 3
        assert do(run, works(eval_every=9)) == ["done"] * 3
        assert do(run, works(rate=0.25)) == ["done", "again", "again"]


def test_a_stage_can_be_asked_for_again(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        do(run, works())
        decision = Ledger.of(run).decide(works()[0], again=True)
        assert (decision.todo, list(decision.why)) == ("again", ["asked for by --from"])


def test_what_from_asks_for_goes_on_until_the_run_has_ended(tmp_path: Path) -> None:
    (work,) = works()[:1]
    with open_run(tmp_path / "run") as run:
        do(run, works())
        ledger = Ledger.of(run)
        ledger.begin(work, ledger.decide(work, again=True))
        (run.path / "data").mkdir()
        ledger.end(work, "stopped", 75, "in time")
    with open_run(tmp_path / "run") as run:
        ledger = Ledger.of(run)
        assert ledger.decide(work, again=True).todo == "go on"
        ledger.begin(work, ledger.decide(work, again=True))
        ledger.end(work, "finished", 0)
        assert ledger.decide(work, again=True).todo == "done"
        ledger.close()
        assert ledger.decide(work, again=True).todo == "again"


@pytest.mark.parametrize("before", ["nothing", "other settings"])
def test_what_from_asks_for_goes_on_whatever_was_there_before(before: str, tmp_path: Path) -> None:
    """A stage that had not begun, or that another option would have done again in any case."""
    (work,) = works()[:1]
    with open_run(tmp_path / "run") as run:
        if before == "other settings":
            do(run, [Work("data", {"rows": 6})])
            ledger = Ledger.of(run)
            ledger.begin(Work("data", {"rows": 6}), ledger.decide(Work("data", {"rows": 6}), again=True))
            ledger.end(work, "stopped", 75, "in time")
        ledger = Ledger.of(run)
        decision = ledger.decide(work, again=True)
        assert decision.todo == ("begin" if before == "nothing" else "again")
        ledger.begin(work, decision)
        ledger.end(work, "stopped", 75, "in time")
        assert Ledger.of(run).decide(work, again=True).todo == "go on"


def test_only_the_end_of_a_stage_is_made_again(tmp_path: Path) -> None:
    def reject(keep: int, samples: int = 4) -> Work:
        return Work("reject", {"keep": {"most": keep}, "samples": samples}, last=("keep.*",), product="made")

    with open_run(tmp_path / "run") as run:
        do(run, [reject(2)])
        (run.path / "reject" / "samples").write_text("dear")
        ledger = Ledger.of(run)
        decision = ledger.decide(reject(3))
        assert (decision.todo, list(decision.why)) == ("remake", ["keep.most was 2, is 3"])
        ledger.begin(reject(3), decision)
        assert [each.name for each in (run.path / "reject").iterdir()] == ["samples"]
        assert ledger.decide(reject(3, samples=5)).todo == "again"


def test_a_stage_whose_directory_is_gone_begins(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        do(run, works())
        shutil.rmtree(run.path / "cold-start")
        assert do(run, works()) == ["done", "begin", "done"]


def test_what_was_removed_from_superseded_is_in_nobodys_way(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        for rate in (0.5, 0.25, 0.125):
            do(run, works(rate=rate), until=2)
        shutil.rmtree(run.path / "superseded" / "cold-start-1")
        do(run, works(rate=1.0), until=2)
        names = sorted(each.name for each in (run.path / "superseded").iterdir())
    assert names == ["cold-start-1", "cold-start-2"]


@pytest.mark.parametrize(
    ("settings", "reads", "same"),
    [
        ({"config": {"loop": {"steps": 3, "eval_every": 5}, "rate": 0.5}}, {"data": "1"}, True),
        ({"config": {"loop": {"steps": 4, "eval_every": 1}, "rate": 0.5}}, {"data": "1"}, False),
        (SETTINGS, {"data": "2"}, False),
    ],
)
def test_a_fingerprint_is_of_what_decides(settings: dict[str, object], reads: dict[str, str], same: bool) -> None:
    first = fingerprint(Work("a", SETTINGS, ("data",), ("config.loop.eval_*",)), {"data": "1"})
    other = fingerprint(Work("a", settings, ("data",), ("config.loop.eval_*",)), reads)
    assert (first == other) == same
