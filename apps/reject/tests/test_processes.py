"""The program in processes of its own: killed at work, told to stop, and two that sample together."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coldforge.data.rejection import SampleLogs
from coldforge.stages.testing import run_together

Program = Callable[..., list[str]]


@pytest.fixture(scope="session")
def sessions(
    words: Program, mixed: tuple[str, ...], variables: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., list[str]]:
    """Runs sessions in processes of their own, one after the other; returns what each said. See disturbed.py."""
    directory = tmp_path_factory.mktemp("said")

    def run(out: Path, *wanted: dict[str, Any]) -> list[str]:
        told = [
            {"what": "nothing", "count": 0, "signal": "SIGKILL"} | one
            | {"words": words(out, *mixed), "said": str(directory / str(number))}
            for number, one in enumerate(wanted)
        ]  # fmt: skip
        done = subprocess.run(
            [sys.executable, str(Path(__file__).parent / "disturbed.py"), json.dumps(told)],
            capture_output=True, text=True, timeout=500, check=True, env=variables,
        )  # fmt: skip
        said = [Path(one["said"]).read_text() for one in told]
        assert [int(code) for code in done.stdout.split()] == [one.get("code", 0) for one in wanted], "\n".join(said)
        return said

    return run


def contents(directory: Path) -> dict[str, bytes]:
    """The data set: all files but the samples."""
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir()) if path.is_file()}


@pytest.mark.whole
def test_a_run_that_is_killed_and_stopped_goes_on_to_the_same_bytes(
    sessions: Callable[..., list[str]], finished: Path, tmp_path: Path
) -> None:
    """And nothing that was judged is made again."""
    out = tmp_path / "out"
    *_, stopped, _, last = sessions(
        out,
        {"what": "sample", "count": 3, "code": -9},  # pieces are under way, some are judged
        {"what": "torn", "count": 4, "code": -9},  # in the midst of writing down
        {"what": "log", "count": 5, "signal": "SIGTERM", "code": 75},
        {"what": "choose", "count": 7, "code": -9},  # all is sampled, and half of it chosen
        {},
    )
    assert "stopped: SIGTERM. What was judged is kept." in stopped
    assert "coldforge-reject tiny --from" in stopped
    assert "20 questions × 12 samples; 240 are there." in last
    assert contents(out) == contents(finished)
    lines = (out / "samples/00000.jsonl").read_text().splitlines()
    pieces = [(row["question"], row["first"]) for row in map(json.loads, lines)]
    assert sorted(pieces) == [(question, first) for question in range(20) for first in (0, 8)], "each once"


@pytest.mark.whole
def test_two_processes_sample_their_shares_of_the_same_data_set(
    command: Program, mixed: tuple[str, ...], variables: dict[str, str], finished: Path, tmp_path: Path
) -> None:
    """What one process has begun, two go on with."""
    out = tmp_path / "out"
    (out / "samples").mkdir(parents=True)
    shutil.copy(finished / "samples/plan.json", out / "samples")
    begun = (finished / "samples/00000.jsonl").read_bytes().splitlines(keepends=True)[:5]
    (out / "samples/00000.jsonl").write_bytes(b"".join(begun))
    said = run_together([command(out, *mixed)] * 2, env=variables)
    assert [one.code for one in said] == [0, 0], said
    assert "Accepted, by source" in said[0].out
    assert "Accepted" not in said[1].out
    assert contents(out) == contents(finished)
    shares = []
    for rank in range(2):
        rows = map(json.loads, (out / f"samples/{rank:05d}.jsonl").read_text().splitlines())
        shares.append({row["question"] for row in list(rows)[5 if rank == 0 else 0 :]})
    assert shares[0] == {number for number in shares[0] if number % 2 == 0}
    assert shares[1] == {number for number in shares[1] if number % 2 == 1}
    assert SampleLogs(out / "samples").count == 240


@pytest.mark.whole
def test_a_second_run_is_kept_out(words: Program, exit_code: Callable[..., int], finished: Path, tmp_path: Path,
                                  capsys: pytest.CaptureFixture[str], mixed: tuple[str, ...]) -> None:  # fmt: skip
    from coldforge.data.rejection import SampleLog

    out = tmp_path / "out"
    (out / "samples").mkdir(parents=True)
    shutil.copy(finished / "samples/plan.json", out / "samples")
    with SampleLog(out / "samples", 0):
        assert exit_code(words(out, *mixed)) == 2
    assert "another run is at work here" in capsys.readouterr().err
