"""Run directories: made, gone on with, refused field by field, locked, and what the next stage reads of them."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from coldforge.training import (
    GateError,
    OptimizerConfig,
    RunError,
    command_line,
    open_run,
    read_manifest,
    require_gate,
    require_identity,
)


@dataclasses.dataclass(frozen=True)
class Config:
    model: str = "nano"
    rank: int = 64
    path: Path = Path("data")
    mesh: tuple[int, ...] = (1, 8)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    log_every: int = 10
    max_hours: float | None = None


@pytest.fixture
def start(tmp_path):
    """Opens the run in one directory."""

    def start(config=None, **options):
        return open_run(tmp_path / "run", **({"stage": "sft", "config": config or Config()} | options))

    return start


def test_a_new_run(start, tmp_path):
    with start(command="coldforge-sft tiny", identity={"base": "b", "tokenizer": "t"}) as run:
        assert run.previous is None
        manifest = read_manifest(tmp_path / "run")
        assert (manifest.stage, manifest.status, manifest.command) == ("sft", "running", "coldforge-sft tiny")
        assert manifest.identity == {"base": "b", "tokenizer": "t"}
        assert {"coldforge-training", "jax", "python"} <= manifest.versions.keys()
        assert manifest.directory == run.path == tmp_path / "run"
        assert run.checkpoints == run.path / "checkpoints"
        assert "coldforge-sft tiny" in run.how_to_continue()
        run.close("finished")
    assert read_manifest(run.path).status == "finished"


def test_the_config_is_written_and_reads_back_exactly(start):
    with start() as run:
        text = (run.path / "config.yaml").read_text()
    assert text.startswith("# The configuration of this sft run, as resolved.")
    assert yaml.safe_load(text) == run.config
    optimizer = run.config["optimizer"]
    assert (optimizer["learning_rate"], optimizer["eps"], run.config["mesh"]) == (2e-4, 1e-8, [1, 8])
    assert list(run.config)[:2] == ["model", "rank"]  # in the order in which it was defined


def test_a_run_goes_on(start):
    with start(identity={"base": "b"}) as run:
        run.update(figures={"steps": 10})
        run.close("stopped", "SIGTERM")
    with start(identity={"base": "b"}, command="again") as run:
        assert (run.previous.status, run.previous.note) == ("stopped", "SIGTERM")
        assert (run.manifest.status, run.manifest.note, run.manifest.command) == ("running", "", "again")
        assert run.manifest.figures == {"steps": 10}
        assert run.manifest.created == run.previous.created


def test_another_config_is_refused_field_by_field(start):
    start().close("stopped")
    other = Config(rank=32, optimizer=OptimizerConfig(learning_rate=1e-3), log_every=1)
    with pytest.raises(RunError) as caught:
        start(other, may_differ=("log_every", "max_hours"))
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("/run is a run of another config:")
    assert lines[1:3] == [
        "  rank: the run has 64, asked for is 32",
        "  optimizer.learning_rate: the run has 0.0002, asked for is 0.001",
    ]
    assert lines[3:] == [
        "Choose another directory, or go on with the run's own values. What may change: log_every, max_hours."
    ]
    start().close("stopped")  # nothing was changed, nothing is locked


def test_what_may_differ_is_taken_over(start, messages):
    start().close("stopped")
    with start(Config(log_every=1, max_hours=2.0), may_differ=("log_every", "max_hours")) as run:
        assert yaml.safe_load((run.path / "config.yaml").read_text())["log_every"] == 1
    assert messages() == ["log_every: from here on 1, before 10", "max_hours: from here on 2.0, before None"]


def test_another_stage_is_refused(start):
    start().close("finished")
    with pytest.raises(RunError, match="is a run of stage 'sft', not 'grpo'"):
        start(stage="grpo")


def test_another_identity_is_refused(start):
    start(identity={"base": "b", "dataset": "d"}).close("stopped")
    with pytest.raises(RunError, match="does not fit:\n  base: it has 'b', here it is 'c'\nUse another run directory"):
        start(identity={"base": "c", "dataset": "d"})
    with start() as run:  # what is known only later is compared then
        with pytest.raises(RunError, match="dataset: it has 'd', here it is 'e'"):
            run.identify({"dataset": "e"})
        run.identify({"dataset": "d", "tokenizer": "t"})
        assert run.manifest.identity == {"base": "b", "dataset": "d", "tokenizer": "t"}


@pytest.mark.parametrize("late", [False, True])
def test_what_is_refused_leaves_the_run_as_it_was(start, tmp_path, late):
    """The weights turn out to be others when the run is open: status, command and config are not this start's."""
    with start(identity={"base": "b"}, command="coldforge-sft tiny") as run:
        run.close("finished", "passed its gate")
    found = {path.name: path.read_bytes() for path in run.path.glob("[cm]*")}
    other = {"config": Config(max_hours=9.0), "may_differ": ("max_hours",), "command": "coldforge-sft tiny --base c"}

    def identify_late():
        with start(**other) as run:
            run.identify({"base": "c"})

    with pytest.raises(RunError, match="base: it has 'b', here it is 'c'"):
        identify_late() if late else start(**other, identity={"base": "c"})
    assert found.keys() == {"config.yaml", "manifest.json"}
    assert {path.name: path.read_bytes() for path in run.path.glob("[cm]*")} == found
    start(identity={"base": "b"}).close("finished")  # and the lock is free


def test_figures_that_are_not_finite_are_seen(start):
    with start() as run:
        run.update(figures={"loss": np.float32("nan"), "speed": float("inf"), "deep": [{"x": -float("inf")}]})
        run.close("finished")
    assert read_manifest(run.path).figures == {"loss": "NaN", "speed": "Infinity", "deep": [{"x": "-Infinity"}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"rank", "is not what a run writes: it holds 'rank'"), (b"- 1", "is not what a run writes"),
     (b"a: \xff\xfe", "cannot be read: .*codec can't decode")],
)  # fmt: skip
def test_a_config_that_is_none(start, content, message):
    run = start()
    run.close("stopped")
    (run.path / "config.yaml").write_bytes(content)
    with pytest.raises(RunError, match=rf"config\.yaml {message}"):
        start()


def test_a_path_that_is_no_utf8(start):
    path = os.fsdecode(b"runs/caf\xe9")
    with start({"base": path}, command=f"coldforge-sft {path}") as run:
        run.close("finished")
    assert read_manifest(run.path).command == f"coldforge-sft {path}"
    start({"base": path}).close("finished")


def test_a_directory_of_something_else_is_refused(start, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match=r"is not empty and not a run: it holds thesis\.tex but no config\.yaml"):
        start()
    assert (tmp_path / "run" / "thesis.tex").read_text() == "years of work"


def test_killed_before_the_manifest_was_written(start):
    run = start()
    run.close("stopped")
    (run.path / "manifest.json").unlink()
    with start() as again:
        assert again.previous is None
    assert read_manifest(run.path).stage == "sft"


def test_a_config_that_cannot_be_read(start):
    run = start()
    run.close("stopped")
    (run.path / "config.yaml").write_text("a: [1")
    with pytest.raises(RunError, match=r"config\.yaml cannot be read"):
        start()


@pytest.mark.parametrize(
    ("argv", "orig_argv", "command"),
    [(["/venv/bin/coldforge-sft", "tiny", "--run", "a b"], ["/venv/bin/python", "/venv/bin/coldforge-sft", "tiny"],
      "coldforge-sft tiny --run 'a b'"),
     (["/src/__main__.py", "tiny"], ["/usr/bin/python3", "-m", "coldforge.apps.sft", "tiny"],
      "python3 -m coldforge.apps.sft tiny")],
)  # fmt: skip
def test_the_command_is_what_one_types(monkeypatch, argv, orig_argv, command):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", orig_argv)
    assert command_line() == command


def test_a_value_that_no_file_holds(start):
    with pytest.raises(TypeError, match=r"optimizer\.eps is .* of type set, which a config file cannot hold"):
        start({"optimizer": {"eps": {1}}})


def test_numpy_numbers_are_numbers(start):
    with start({"a": np.float32(0.5), "b": np.int64(3), "c": {"d": (1, None)}}) as run:
        assert run.config == {"a": 0.5, "b": 3, "c": {"d": [1, None]}}


HOLD = """
import sys
from coldforge.training import open_run
run = open_run(sys.argv[1], stage="sft", config={})
print("open", flush=True)
sys.stdin.read()
"""


@pytest.mark.whole
def test_two_processes_do_not_write_one_run(tmp_path):
    path = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, stdin=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(RunError, match=rf"another process writes {path} \(process {holder.pid} on .*, since 20"):
            open_run(path, stage="sft", config={})
        holder.kill()  # SIGKILL: nothing has to be cleaned up
        holder.wait()
        assert read_manifest(path).status == "running"
        open_run(path, stage="sft", config={}).close("stopped")


def test_an_exception_is_a_failure(start):
    with pytest.raises(ValueError, match="a bad row"), start() as run:
        raise ValueError("a bad row")
    manifest = read_manifest(run.path)
    assert (manifest.status, manifest.note) == ("failed", "ValueError: a bad row")
    with pytest.raises(KeyboardInterrupt), start():
        raise KeyboardInterrupt
    assert read_manifest(run.path).status == "stopped"


def test_the_first_error_is_the_one_that_is_raised(start, monkeypatch, messages):
    def full(self, target):
        raise OSError(28, "No space left on device", str(target))

    def train():
        with start():
            monkeypatch.setattr(Path, "replace", full)
            raise ValueError("a bad row")

    with pytest.raises(ValueError, match="a bad row"):
        train()
    assert "manifest.json could not be updated" in messages()[-1]
    monkeypatch.undo()
    start().close("stopped")  # and the lock is free


def test_the_manifest_is_whole_at_every_moment(start, monkeypatch):
    run = start()

    def killed(self, target):
        raise KeyboardInterrupt

    before = (run.path / "manifest.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            run.update(figures={"steps": 1})
    assert (run.path / "manifest.json").read_bytes() == before
    run.close("stopped")


def test_unknown_fields_are_refused(start):
    with start() as run, pytest.raises(TypeError, match="colour"):
        run.update(colour="blue")


def test_the_adapter_moves_with_the_run(start, tmp_path):
    with start() as run:
        run.update(adapter=run.path / "adapter")
        assert json.loads((run.path / "manifest.json").read_text())["adapter"] == "adapter"
    run.path.rename(tmp_path / "moved")
    assert read_manifest(tmp_path / "moved").adapter_path == tmp_path / "moved" / "adapter"
    assert dataclasses.replace(run.manifest, adapter="/elsewhere").adapter_path == Path("/elsewhere")


def test_no_run(tmp_path):
    with pytest.raises(RunError, match=r"is not a run: it has no manifest\.json"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"version": 2}, "version 2; this release reads version 1"), ({"status": "asleep"}, "status 'asleep'"),
     ({"colour": "blue"}, "is not what a run writes: .*colour")],
)  # fmt: skip
def test_a_strange_manifest(start, change, message):
    with start() as run:
        pass
    file = run.path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(RunError, match=message):
        read_manifest(run.path)


CHECKS = [
    {"name": "format", "passed": False, "why": "80.0 % well formed, wanted 95 %"},
    {"name": "ended", "passed": True, "why": "99 %"},
]


def test_the_gate(start, messages):
    with start() as run:
        pass
    with pytest.raises(GateError, match=r"the sft run in .* \(status: stopped\) has not been through its gate"):
        require_gate(run.manifest)
    failed = run.update(gate={"passed": False, "checks": CHECKS})
    with pytest.raises(
        GateError, match=r"has failed its gate:\n  format: 80\.0 % well formed, wanted 95 %\nTr"
    ) as caught:
        require_gate(failed)
    assert "ended" not in str(caught.value)
    require_gate(failed, force=True)
    assert "Going on all the same, as asked." in messages()[-1]
    require_gate(run.update(gate={"passed": True, "checks": []}))
    assert read_manifest(run.path).gate == {"passed": True, "checks": []}


def test_what_the_next_stage_requires(start):
    with start(identity={"base": "b", "tokenizer": "t"}) as run:
        pass
    require_identity(run.manifest, {"tokenizer": "t"})
    with pytest.raises(RunError, match="tokenizer: it has 't', here it is 'u'"):
        require_identity(run.manifest, {"tokenizer": "u"})
    with pytest.raises(RunError, match="window: it has absent, here it is 512"):
        require_identity(run.manifest, {"window": 512})
