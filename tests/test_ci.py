"""`.ci/run` with stand-ins for Python and uv: which commands it runs, what it prints, what it exits with."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PYTHON = """#!/bin/sh
echo "python $*" >>"$CALLS"
case "$*" in
  "-m pip install"*) exit "$PIP_EXIT" ;;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && cp "$STANDINS/uv" "$3/bin/uv" ;;
  *find_uv_bin*) echo "$STANDINS/uv" ;;
esac
"""

UV = """#!/bin/sh
echo "$0 $* CI=$CI PYENV_VERSION=${PYENV_VERSION-unset}" >>"$CALLS"
[ "$1" = --version ] && { echo "uv 0.0"; exit; }
cat  # would hang if standard input were open
echo "nox > Running session tests-3.12(data)"
echo "============ 3 passed, 1 skipped in 0.12s ============"
echo "nox > Running session wheel(data-lowest)"
echo "============ 1 failed, 2 passed in 0.34s ============"
exit "$NOX_EXIT"
"""


@pytest.fixture
def run(tmp_path):
    """Copies the script into an empty clone and runs it, from another folder, where python3.12 is a broken shim."""
    standins = tmp_path / "bin"
    standins.mkdir()
    for name, text in (("python3.12", "#!/bin/sh\nexit 127\n"), ("python3.13", PYTHON), ("uv", UV)):
        (standins / name).write_text(text)
        (standins / name).chmod(0o755)
    clone = tmp_path / "clone"
    (clone / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", clone / ".ci" / "run")

    def start(*, nox: int = 0, pip: int = 0) -> tuple[subprocess.CompletedProcess, list[str]]:
        calls = tmp_path / "calls"
        environment = {
            "PATH": f"{standins}{os.pathsep}/usr/bin{os.pathsep}/bin", "HOME": str(tmp_path), "STANDINS": str(standins),
            "CALLS": str(calls), "NOX_EXIT": str(nox), "PIP_EXIT": str(pip), "PYENV_VERSION": "3.8.0",
        }  # fmt: skip
        script = ["bash", str(clone / ".ci" / "run")]
        done = subprocess.run(
            script,
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.PIPE,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
        )
        return done, calls.read_text().splitlines()

    return start


def test_runs_the_readmes_command_and_repeats_the_closing_lines(run, tmp_path):
    done, calls = run()
    assert done.returncode == 0, done.stderr
    assert "python -m pip install --quiet uv" in calls
    assert calls[-1] == f"{tmp_path}/bin/uv run nox CI=true PYENV_VERSION=unset"
    assert done.stdout.splitlines()[-3:] == [
        "tests-3.12(data): ============ 3 passed, 1 skipped in 0.12s ============",
        "wheel(data-lowest): ============ 1 failed, 2 passed in 0.34s ============",
        "ci: all sessions passed",
    ]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "pip install uv && uv run nox" in readme


@pytest.mark.parametrize("code", [1, 3])
def test_exits_with_noxs_code(run, code):
    done, _ = run(nox=code)
    assert done.returncode == code
    assert done.stdout.splitlines()[-1] == f"ci: failed with code {code}"


def test_where_pip_is_refused_uv_comes_from_the_path_or_a_new_environment(run, tmp_path):
    """PEP 668: pip fails on the system's Python, here in the environment too; uv on PATH is the last resort."""
    done, calls = run(pip=1)
    assert done.returncode == 0, done.stderr
    assert "python -m venv .nox/uv" in calls
    assert calls[-1].startswith(f"{tmp_path}/bin/uv run nox")


def test_without_any_uv_it_says_so(run, tmp_path):
    (tmp_path / "bin" / "uv").unlink()
    done, _ = run(pip=1)
    assert done.returncode == 1
    assert "uv could not be installed by python3.13" in done.stderr


def test_without_python_it_says_so(run, tmp_path):
    for name in ("python3.13", "python3", "python"):
        stand_in = tmp_path / "bin" / name
        stand_in.write_text("#!/bin/sh\nexit 127\n")
        stand_in.chmod(0o755)
    (tmp_path / "calls").touch()
    done, _ = run()
    assert done.returncode == 1
    assert "no Python to install uv with" in done.stderr
