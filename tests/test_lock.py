"""tools/lock.py: what is stripped, what is refused, the git filter, and that uv completes the stripped file again."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import lock

ROOT = Path(__file__).parent.parent

COMPLETE = """\
version = 1
revision = 3
requires-python = ">=3.12"

[manifest]
members = [
    "coldforge-data",
]

[[package]]
name = "coldforge-data"
version = "0.1.0"
source = { editable = "packages/data" }
dependencies = [
    { name = "numpy" },
]

[package.dev-dependencies]
test = [
    { name = "pytest" },
]

[package.metadata]
requires-dist = [{ name = "numpy", specifier = ">=2" }]

[package.metadata.requires-dev]
test = [
    { name = "pytest", specifier = ">=8" },
]

[[package]]
name = "numpy"
version = "2.1.0"
source = { registry = "https://mirror.example/simple" }
sdist = { url = "https://mirror.example/numpy-2.1.0.tar.gz", hash = "sha256:00", size = 1 }
wheels = [
    { url = "https://mirror.example/numpy-2.1.0-cp312.whl", hash = "sha256:01", size = 2 },
    { url = "https://mirror.example/numpy-2.1.0-cp313.whl", hash = "sha256:02", size = 3 },
]

[[package]]
name = "pytest"
version = "8.0.0"
source = { registry = "https://mirror.example/simple" }
wheels = [{ url = "https://mirror.example/pytest-8.0.0.whl", hash = "sha256:03" }]
dependencies = [
    { name = "numpy", marker = "python_full_version < '3.13'" },
]
"""


def test_addresses_go_and_decisions_stay():
    stripped = lock.address_free(COMPLETE)
    assert lock.addresses(COMPLETE)
    assert not lock.addresses(stripped)
    assert lock.decisions(stripped) == lock.decisions(COMPLETE)
    expected = tomllib.loads(COMPLETE)
    for package in expected["package"]:
        for key in ("sdist", "wheels", "metadata"):
            package.pop(key, None)
        if "registry" in package["source"]:
            package["source"] = {"registry": "default"}
    assert tomllib.loads(stripped) == expected


def test_stripping_twice_is_stripping_once():
    stripped = lock.address_free(COMPLETE)
    assert lock.address_free(stripped) == stripped
    assert lock.address_free(stripped.replace("\n", "\r\n")) == stripped


@pytest.mark.parametrize(
    "source", ['{ git = "https://forge.example/x?rev=1#2" }', '{ url = "https://files.example/x.whl" }']
)
def test_dependency_on_an_address_is_refused(source):
    text = COMPLETE.replace('{ registry = "https://mirror.example/simple" }', source, 1)
    with pytest.raises(lock.LockError, match=re.escape(source)):
        lock.address_free(text)


def test_differences_name_each_kind():
    wanted = COMPLETE.replace('"2.1.0"', '"2.2.0"').replace('    { name = "pytest" },\n', "", 1)
    assert lock.differences(COMPLETE, COMPLETE) == []
    assert [line.split(":")[0] for line in lock.differences(COMPLETE, wanted)] == [
        "coldforge-data 0.1.0",
        "numpy 2.1.0",
        "numpy 2.2.0",
    ]


def test_clean_is_a_filter_and_its_errors_exit_1(run_tool):
    done = run_tool("lock", "clean", stdin=COMPLETE)
    assert (done.returncode, done.stdout, done.stderr) == (0, lock.address_free(COMPLETE), "")
    done = run_tool("lock", "clean", stdin='source = { git = "https://forge.example/x" }\n')
    assert (done.returncode, done.stdout) == (1, "")
    assert "Depend on a released version" in done.stderr


def test_write_strips_in_place(workspace, run_tool):
    file = workspace.write("uv.lock", COMPLETE)
    assert run_tool("lock", "write", "--root", str(workspace.root)).returncode == 0
    assert file.read_text() == lock.address_free(COMPLETE)


@pytest.mark.parametrize("command", ["write", "check"])
def test_without_a_lock_file_the_error_says_how_to_make_one(workspace, run_tool, command):
    workspace.commit()
    done = run_tool("lock", command, "--root", str(workspace.root))
    assert done.returncode == 1
    assert "uv.lock" in done.stderr
    assert "uv lock" in done.stderr
    assert "Traceback" not in done.stderr


def test_setup_makes_git_commit_the_stripped_file(workspace, run_tool):
    workspace.write(".gitattributes", (ROOT / ".gitattributes").read_text())
    for name in ("lock.py", "workspace.py"):
        workspace.write(f"tools/{name}", (ROOT / "tools" / name).read_text())
    assert run_tool("lock", "setup", "--root", str(workspace.root)).returncode == 0
    workspace.write("uv.lock", COMPLETE)
    workspace.commit()
    assert workspace.git("show", "HEAD:uv.lock") == lock.address_free(COMPLETE)
    assert (workspace.root / "uv.lock").read_text() == COMPLETE
    workspace.write("uv.lock", COMPLETE.replace("mirror.example", "other.example"))
    assert workspace.git("diff") == ""
    workspace.git("add", "--all")
    assert workspace.git("status", "--porcelain") == ""


def test_without_setup_git_takes_the_file_and_check_refuses_it(workspace, run_tool):
    workspace.write(".gitattributes", (ROOT / ".gitattributes").read_text())
    workspace.write("uv.lock", COMPLETE)
    workspace.commit()
    assert workspace.git("show", "HEAD:uv.lock") == COMPLETE
    done = run_tool("lock", "check", "--root", str(workspace.root))
    assert done.returncode == 1
    assert "holds 6 addresses" in done.stderr
    assert "python tools/lock.py write" in done.stderr


def uv(workspace, *arguments):
    """Runs uv without an index, with the tests' own interpreter."""
    surprises = {"VIRTUAL_ENV", "UV_FROZEN", "UV_LOCKED"}
    environment = {key: value for key, value in os.environ.items() if key not in surprises}
    command = [lock.find_uv(), "--offline", *arguments, "--python", sys.executable]
    subprocess.run(command, cwd=workspace.root, env=environment, check=True)


class TestWithUv:
    """A workspace whose only requirement is another folder, so that uv needs no index."""

    @pytest.fixture
    def locked(self, workspace, run_tool):
        workspace.write(
            "pyproject.toml",
            '[project]\nname = "workspace"\nversion = "0"\nrequires-python = ">=3.12"\n'
            'dependencies = ["coldforge-data"]\n'
            '[tool.uv]\npackage = false\n[tool.uv.workspace]\nmembers = ["packages/*"]\n'
            "[tool.uv.sources]\ncoldforge-data = { workspace = true }\n",
        )
        workspace.add("data")
        uv(workspace, "lock")
        assert run_tool("lock", "write", "--root", str(workspace.root)).returncode == 0
        workspace.commit()
        return workspace

    def test_fresh_lock_passes(self, locked, run_tool):
        done = run_tool("lock", "check", "--root", str(locked.root))
        assert (done.returncode, done.stderr) == (0, "")

    def test_completing_the_file_in_the_working_tree_changes_nothing(self, locked, run_tool):
        uv(locked, "lock")
        assert run_tool("lock", "check", "--root", str(locked.root)).returncode == 0
        assert run_tool("lock", "write", "--root", str(locked.root)).returncode == 0
        assert locked.git("status", "--porcelain") == ""

    def test_check_leaves_the_working_tree_alone(self, locked, run_tool):
        before = (locked.root / "uv.lock").read_text()
        run_tool("lock", "check", "--root", str(locked.root))
        assert (locked.root / "uv.lock").read_text() == before
        assert locked.git("status", "--porcelain") == ""

    def test_new_package_makes_the_committed_lock_stale(self, locked, run_tool):
        locked.add("losses")
        locked.commit()
        done = run_tool("lock", "check", "--root", str(locked.root))
        assert done.returncode == 1
        assert "coldforge-losses 0.1.0: the pyprojects ask for it" in done.stderr

    def test_new_requirement_makes_the_committed_lock_stale(self, locked, run_tool):
        locked.add("losses")
        uv(locked, "lock")
        run_tool("lock", "write", "--root", str(locked.root))
        locked.commit()
        assert run_tool("lock", "check", "--root", str(locked.root)).returncode == 0
        locked.add("losses", needs=("coldforge-data",))
        locked.commit()
        done = run_tool("lock", "check", "--root", str(locked.root))
        assert done.returncode == 1
        assert "coldforge-losses 0.1.0: depends on ['coldforge-data'], committed is []" in done.stderr

    def test_impossible_requirements_are_uvs_error(self, locked, run_tool):
        locked.add("losses", needs=("coldforge-data[",))
        locked.commit()
        done = run_tool("lock", "check", "--root", str(locked.root))
        assert done.returncode == 1
        assert "uv cannot resolve the pyprojects of HEAD" in done.stderr


def test_pins_hold_when_the_index_has_newer_releases(workspace, run_tool, tmp_path_factory):
    """A pin survives stripping and completing, which is what the committed form is for."""
    index = tmp_path_factory.mktemp("index")
    for version in ("1.0.0", "1.1.0"):
        project = f'[project]\nname = "pinned"\nversion = "{version}"\n'
        backend = '[build-system]\nrequires = ["uv_build"]\nbuild-backend = "uv_build"\n'
        workspace.write(f"sources/{version}/pyproject.toml", project + backend)
        workspace.write(f"sources/{version}/src/pinned/__init__.py", "")
        uv(workspace, "build", "--wheel", f"--out-dir={index}", f"sources/{version}")
    folder = f'[tool.uv]\nno-index = true\nfind-links = ["{index}"]\n'
    project = '[project]\nname = "workspace"\nversion = "0"\nrequires-python = ">=3.12"\ndependencies = ["pinned{}"]\n'
    for bounds in ("<1.1", ""):
        workspace.write("pyproject.toml", project.format(bounds) + folder)
        uv(workspace, "lock")
        assert ("pinned", "1.0.0") in lock.decisions((workspace.root / "uv.lock").read_text())
        assert run_tool("lock", "write", "--root", str(workspace.root)).returncode == 0
