"""noxfile.py: which sessions there are, and what it keeps out of them."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from workspace import find_members

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def sessions() -> list[dict]:
    """Every session as nox itself lists it."""
    command = [sys.executable, "-m", "nox", "--noxfile", str(ROOT / "noxfile.py"), "--list", "--json", "-k", "not none"]
    listed = subprocess.run(command, capture_output=True, check=True, encoding="utf-8")
    return json.loads(listed.stdout)


def test_every_member_has_its_sessions(sessions):
    names = {session["session"] for session in sessions}
    for member in find_members(ROOT).values():
        name = member.name
        wanted = {f"tests-3.12({name})", f"wheel({name}-lowest)"}
        assert wanted <= names
        assert wanted == {session["session"] for session in sessions if name in session["tags"]}
    assert {"lint", "root", "wheels"} <= names


def test_all_is_every_session_that_is_a_check(noxfile, sessions, monkeypatch, capsys, tmp_path):
    ran = []

    def one(name, log):
        ran.append(name)
        log.write_bytes(f"said by {name}\xff\n".encode("latin-1"))
        return int(name == "root"), 1.0

    monkeypatch.setattr(noxfile, "one", one)
    monkeypatch.setattr(noxfile, "ROOT", tmp_path)

    class Session:
        posargs = ()
        log = staticmethod(print)

        @staticmethod
        def error(text):
            raise AssertionError(text)

    with pytest.raises(AssertionError, match=r"^failed: root$"):
        noxfile.everything.func(Session())
    checks = {session["session"] for session in sessions} - {"all", "real", "slow", "harness", "tpu", "bench"}
    assert sorted(ran) == sorted(checks)
    assert ran[0] == noxfile.LONGEST[0]
    said = capsys.readouterr().out
    assert "said by lint\N{REPLACEMENT CHARACTER}\n" in said
    assert f" of {len(checks)}: root failed in 1 s" in said


def test_ctrl_c_begins_no_other_session(noxfile, monkeypatch, tmp_path):
    ran = []

    def one(name, log):
        ran.append(name)
        if len(ran) > 1:
            time.sleep(0.2)
        raise KeyboardInterrupt

    monkeypatch.setattr(noxfile, "one", one)
    monkeypatch.setattr(noxfile, "ROOT", tmp_path)
    with pytest.raises(KeyboardInterrupt):
        noxfile.everything.func(SimpleNamespace(posargs=(), log=print))
    assert len(ran) < 20


def test_a_session_in_a_nox_of_its_own(noxfile, tmp_path):
    code, seconds = noxfile.one("no-such-session", tmp_path / "log")
    assert code != 0
    assert "no-such-session" in (tmp_path / "log").read_text()
    assert seconds > 0


def test_both_pythons_run_every_members_tests(sessions):
    for member in find_members(ROOT).values():
        pythons = {session["python"] for session in sessions if member.name in session["tags"]}
        assert pythons == {"3.12"}
    assert [session["python"] for session in sessions if session["session"] == "wheels"] == ["3.13"]


@pytest.fixture(scope="module")
def noxfile():
    """The noxfile as a module; its change of PYENV_VERSION is undone."""
    before = dict(os.environ)
    sys.path.insert(0, str(ROOT))
    try:
        import noxfile as module

        yield module
    finally:
        sys.path.remove(str(ROOT))
        os.environ.clear()
        os.environ.update(before)


@pytest.mark.parametrize(
    "name",
    ["PYTHONPATH", "XLA_FLAGS", "JAX_PLATFORMS", "JAX_ENABLE_X64", "PYTEST_ADDOPTS", "UV_FROZEN", "LIBTPU_INIT_ARGS"],
)
def test_surprises_are_kept_out(noxfile, name):
    assert noxfile.SURPRISES.match(name)


@pytest.mark.parametrize(
    "name", ["PATH", "HOME", "UV_INDEX_URL", "UV_CACHE_DIR", "PYTHONUNBUFFERED", "CI", "SSL_CERT_FILE"]
)
def test_what_the_machine_needs_stays(noxfile, name):
    assert not noxfile.SURPRISES.match(name)


def test_newest_pyenv_of_each_python(noxfile, tmp_path):
    for name in ("3.11.7", "3.12.1", "3.12.10", "3.12-dev", "3.13.0", "3.13.0rc1", "pypy3.10"):
        (tmp_path / name).mkdir()
    assert noxfile.pyenv_versions(tmp_path) == ["3.12.10", "3.13.0"]
    assert noxfile.pyenv_versions(tmp_path / "none") == []
