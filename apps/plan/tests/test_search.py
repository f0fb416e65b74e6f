"""Searches: processes that end in every way, the cache, and what is printed."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from coldforge.apps.plan import cache, search
from coldforge.apps.plan.cache import Cache, cache_key
from coldforge.apps.plan.candidates import REMATS
from coldforge.apps.plan.chips import Slice
from coldforge.apps.plan.plan import Failure, Plan
from coldforge.apps.sft import main as sft
from coldforge.apps.sft.presets import PRESETS

MakePlan = Callable[..., Plan]
CONFIG = PRESETS["gemma3-1b"]()


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def test_a_process_gives_a_plan(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan()
    (tmp_path / "plan.json").write_text(json.dumps(plan.to_dict()))
    found = search.run_process(python("import sys; print(open(sys.argv[1]).read())", str(tmp_path / "plan.json")), 60)
    assert isinstance(found, Plan)
    assert json.dumps(found.to_dict()) == json.dumps(plan.to_dict())


def test_a_wrong_request_stops_the_search() -> None:
    with pytest.raises(ValueError, match=r"^no such slice$"):
        search.run_process(
            python("import sys; print('coldforge-plan: no such slice', file=sys.stderr); sys.exit(2)"), 60
        )


def test_a_killed_process_is_an_outcome() -> None:
    found = search.run_process(python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"), 60)
    assert found == Failure("killed by SIGKILL: too little memory on this machine?")


def test_a_compiler_that_fails_is_an_outcome() -> None:
    found = search.run_process(
        python("import sys; print('coldforge-plan: XLA cannot', file=sys.stderr); sys.exit(3)"), 60
    )
    assert found == Failure("XLA cannot")


def test_a_crash_is_not_swallowed() -> None:
    with pytest.raises(RuntimeError, match=r"failed:[\s\S]*ZeroDivisionError"):
        search.run_process(python("1 / 0"), 60)


def test_a_process_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    code = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1], "w").write(str(child.pid))
time.sleep(600)
"""
    started = time.monotonic()
    assert search.run_process(python(code, str(tmp_path / "pid")), 2) == Failure("stopped after 0.0333333 minutes")
    assert time.monotonic() - started < 30
    child = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not _running(child):
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    raise AssertionError("the child lives on")


def _running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_cache_keeps_plans_and_failures(make_plan: MakePlan, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "plan.json"
    store = Cache(path)
    store.put("a", make_plan(), 20)
    store.put("b", Failure("stopped after 20 minutes"), 20)
    again = Cache(path)
    assert again.get("a", 20) == Plan.from_dict(json.loads(json.dumps(make_plan().to_dict())))
    assert again.get("b", 10) == Failure("stopped after 20 minutes")
    assert again.get("b", 30) is None  # there is more time now
    assert again.get("c", 20) is None
    assert list(path.parent.iterdir()) == [path]


def test_key_depends_on_the_step_and_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"jax": "1", "libtpu": "2"}

    def key(preset: str = "gemma3-1b", topology: str = "v5e:2x4", counted: float = 1.0) -> str:
        return cache_key(PRESETS[preset](), topology, counted, versions)

    assert key() == key()
    assert len({key(), key("gemma3-4b"), key(topology="v5e:4x4"), key(counted=0.5)}) == 4
    before = key()
    monkeypatch.setattr(cache, "source_hash", lambda: "another")
    assert key() != before


@pytest.fixture
def planned(make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that a search has run; plans without recomputation do not fit."""
    commands: list[list[str]] = []

    def run(words: list[str], seconds: float) -> Plan:
        commands.append(words)
        none = "--model.remat" in words and words[words.index("--model.remat") + 1] == "none"
        return make_plan(temporaries=(20 if none else 3) * 2**30)

    monkeypatch.setattr(search, "run_process", run)
    monkeypatch.setattr(search, "require_compiler", lambda: "0.0.52")
    return commands


def look(tmp_path: Path, compiles: int, *, as_json: bool = False) -> int:
    limits = search.Limits(compiles=compiles, minutes=1, cache=tmp_path / "plan.json")
    return search.search("gemma3-1b", CONFIG, CONFIG, Slice.parse("v5e:2x4"), limits, counted=1.0, as_json=as_json)


def test_a_search_recommends_and_goes_on(planned, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert look(tmp_path, 2) == 0
    assert len(planned) == 2
    out = capsys.readouterr().out
    [line] = [line for line in out.splitlines() if "coldforge-sft" in line]
    assert (
        line.strip() == "coldforge-sft gemma3-1b --data DATA --run RUN --mesh.data 8"
    )  # remat is the preset's already
    assert sft.parse(line.split()[1:]).config.mesh.data == 8
    assert "not compiled yet: the same command goes on with them" in out
    assert look(tmp_path, 2) == 0
    assert len(planned) == 4  # the first two came from the cache
    assert len({tuple(words) for words in planned}) == 4
    assert planned[0][2:7] == ["coldforge.apps.plan.main", "sft", "gemma3-1b", "--topology", "v5e:2x4"]
    assert "--json" in planned[0]


def test_a_search_as_json(planned, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert look(tmp_path, 2, as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["fits"] for one in found] == [True, False]


def test_the_table_holds_what_did_not_come_to_a_plan(make_plan: MakePlan) -> None:
    from coldforge.apps.plan.candidates import candidates

    [first, *_] = candidates(CONFIG, 8, 4)
    row, style = search.cells(first, Failure("stopped after 20 minutes"))
    assert row[:5] == ["data 8 × fsdp 1 × tensor 1", REMATS[0], "8 × 1", "", "stopped after 20 minutes"]
    assert style == "dim"
    assert search.cells(first, make_plan())[1] == ""
