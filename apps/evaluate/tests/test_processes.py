"""Two processes that evaluate together: the results of one, written once; and neither waits for one that has left."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coldforge.apps.evaluate.main import main
from coldforge.eval import find_samples, read_results
from coldforge.stages.testing import Ended, run_together

pytestmark = pytest.mark.whole

PROGRAM = "from coldforge.apps.evaluate.main import main; main()"
FULL_DISK = """
from coldforge.eval.store import Store

def add_replies(*_):
    raise OSError("the disk is full")

Store.add_replies = add_replies
"""
STOP_SOON = """
from coldforge.training import Stopper

calls = []

def should_stop(self):
    calls.append(1)
    self.reason = "a test" if len(calls) > 3 else None
    return self.reason is not None

Stopper.should_stop = should_stop
"""


@pytest.fixture(scope="module")
def words(weights: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two tasks, one of which begins with an example that all of its prompts share."""
    path = tmp_path_factory.mktemp("tasks")
    for name, count in (("numbers", 14), ("more", 3)):
        rows = [{"question": f"Say {i} {name}", "answer": str(i)} for i in range(count)]
        (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = [str(path / "numbers.jsonl"), str(path / "more.jsonl")]
    return ["--model", str(weights), "--adapter", str(run), "--tasks", *tasks, "--samples", "2",
            "--max-new-tokens", "16", "--device.slots", "16"]  # fmt: skip


@pytest.fixture
def together(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Ended]]:
    """Runs the program in two processes of two devices each; exit code, output and messages of both."""
    compiled = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(tmp_path_factory.mktemp("compiled"))
    variables = os.environ | {
        "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_COMPILATION_CACHE_DIR": compiled, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }  # fmt: skip

    def go(words: list[str], first: str = PROGRAM, other: str = PROGRAM) -> list[Ended]:
        return run_together([[sys.executable, "-c", program, *words] for program in (first, other)], env=variables)

    return go


def found(directory: Path) -> dict[tuple[str, str, int], tuple[str, Any, bool]]:
    """Texts and verdicts of all samples."""
    return {
        (each.task, each.question, each.number): (each.text, each.verdict, each.ended)
        for each, _ in find_samples(directory)
    }


def test_two_processes_find_what_one_does(
    words: list[str], together: Callable[..., list[Ended]], tmp_path: Path
) -> None:
    """Asked once more, they only read; asked for something else, both are refused."""
    with pytest.raises(SystemExit) as left:
        main([*words, "--out", str(tmp_path / "one")])
    assert left.value.code == 0
    line = [*words, "--out", str(tmp_path / "two")]
    (code, said, notes), (other, others_said, others_notes) = together(line)
    assert (code, other) == (0, 0), notes + others_notes
    assert "numbers, 14 questions: avg@2" in said
    assert "numbers" not in others_said
    assert found(tmp_path / "two") == found(tmp_path / "one")
    assert len(found(tmp_path / "two")) == 34
    one, two = (read_results(tmp_path / name) for name in ("one", "two"))
    assert two.tasks["numbers"].metrics == one.tasks["numbers"].metrics
    assert two.model == one.model

    written = (tmp_path / "two/samples.jsonl").read_bytes()
    assert [code for code, *_ in together(line)] == [0, 0]
    assert (tmp_path / "two/samples.jsonl").read_bytes() == written
    (code, _, notes), (other, _, others_notes) = together([*line, "--temperature", "0.9"])
    assert (code, other) == (2, 2)
    assert "sampling.temperature is 0.6 there and 0.9 here" in notes
    assert "sampling.temperature" not in others_notes


@pytest.mark.slow
def test_an_error_of_the_first_process_ends_the_other_too(
    words: list[str], together: Callable[..., list[Ended]], tmp_path: Path
) -> None:
    (code, _, notes), (other, _, _) = together([*words, "--out", str(tmp_path)], first=FULL_DISK + PROGRAM)
    assert code == 2
    assert "the disk is full" in notes
    assert other != 0


@pytest.mark.slow
def test_stopped_in_time_both_go_on_with_the_same_samples(
    words: list[str], together: Callable[..., list[Ended]], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit):
        main([*words, "--out", str(tmp_path / "one")])
    line = [*words, "--out", str(tmp_path / "two")]
    (code, said, notes), (other, *_) = together(line, first=STOP_SOON + PROGRAM, other=STOP_SOON + PROGRAM)
    assert (code, other) == (75, 75), notes
    assert "avg@2" not in said
    assert "What was sampled is kept" in notes
    assert "To go on, start the same command again" in notes
    assert not (tmp_path / "two/results.json").exists()
    begun = (tmp_path / "two/samples.jsonl").read_text().count("\n")
    assert 0 < begun < 34
    assert [code for code, *_ in together(line)] == [0, 0]
    assert found(tmp_path / "two") == found(tmp_path / "one")
