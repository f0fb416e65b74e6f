"""The address-free form of uv.lock: write it, keep it by a git filter, check what is committed.

A full uv.lock names the index that made it and the address and hash of every file, so it serves only people who reach
that index. The committed form keeps what was decided (which packages, which versions, who needs whom) and leaves the
addresses out: every `registry = "…"` says `"default"`, and the `sdist` and `wheels` entries and the
`[package.metadata]` tables are gone. uv takes such a file as preferences: on the first `uv run` or `uv sync` of a clone
it resolves again against the index in force, keeps every pinned version, and completes the file in the working tree in
about a second. That the working tree then differs from the commit is meant; with the filter, `git diff` shows nothing
of it, and `git status` nothing after the next `git add`.

    python tools/lock.py setup    # in a clone, once: a git filter strips the file whenever it is added
    python tools/lock.py write    # without the filter: strip the file in the working tree, then commit it
    python tools/lock.py check    # HEAD's uv.lock has no address, and its pins are what HEAD's pyprojects ask for
    python tools/lock.py clean    # the filter itself: standard input to standard output

Left out: hashes. An installation's integrity rests on the index in force, as it does for `pip install`.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILTER = "address-free"

_REGISTRY = re.compile(r'\bregistry = "[^"]*"')
_TABLE = re.compile(r"^\[")
_METADATA = re.compile(r"^\[package\.metadata[\].]")


class LockError(Exception):
    """What is wrong with a lock file, and what to do about it."""


def address_free(text: str) -> str:
    """Returns the committed form of a uv.lock.

    Works on lines, as uv writes one entry a line and a list's brackets on lines of their own; a TOML parser would lose
    uv's layout, and with it readable diffs. Stripping twice is stripping once.

    Args:
        text: a lock file, complete or stripped already.

    Raises:
        LockError: an address is left, as in `source = { git = "…" }`: such a dependency cannot be committed.
    """
    kept: list[str] = []
    in_metadata = in_wheels = False
    for line in text.splitlines():
        if in_wheels:
            in_wheels = line != "]"
            continue
        if _TABLE.match(line):
            in_metadata = bool(_METADATA.match(line))
        if in_metadata or line.startswith("sdist = "):
            continue
        if line.startswith("wheels = ["):
            in_wheels = not line.endswith("]")
            continue
        kept.append(_REGISTRY.sub('registry = "default"', line))
    stripped = re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip("\n") + "\n"
    if left := addresses(stripped):
        raise LockError(
            "uv.lock has addresses that cannot be left out:\n  "
            + "\n  ".join(left)
            + "\nDepend on a released version instead of a repository or a file's address."
        )
    return stripped


def addresses(text: str) -> list[str]:
    """Returns the lines that hold an address, or a registry that is not called "default"."""
    foreign = re.compile(r'://|\bregistry = "(?!default")')
    return [line.strip() for line in text.splitlines() if foreign.search(line)]


def decisions(text: str) -> dict[tuple[str, str], frozenset[str]]:
    """Returns what a lock file decides: (package, version) → the names that it depends on, groups and extras included.

    The rest of the file (revision, markers' spelling) differs between releases of uv and decides nothing.
    """
    found = {}
    for package in tomllib.loads(text).get("package", []):
        needs = list(package.get("dependencies", []))
        for table in ("optional-dependencies", "dev-dependencies"):
            needs += [need for group in package.get(table, {}).values() for need in group]
        found[package["name"], package.get("version", "")] = frozenset(need["name"] for need in needs)
    return found


def differences(committed: str, wanted: str) -> list[str]:
    """Returns one line for each decision of `wanted` that `committed` does not hold, and the other way round."""
    have, want = decisions(committed), decisions(wanted)
    lines = []
    for key in sorted(have.keys() | want.keys()):
        name = " ".join(key).strip()
        if key not in have:
            lines.append(f"{name}: the pyprojects ask for it, the committed uv.lock lacks it")
        elif key not in want:
            lines.append(f"{name}: in the committed uv.lock, but the pyprojects do not lead to it")
        elif have[key] != want[key]:
            lines.append(f"{name}: depends on {sorted(want[key])}, committed is {sorted(have[key])}")
    return lines


def find_uv(environment: Mapping[str, str] = os.environ) -> str:
    """Returns uv's path: the one that runs us (`uv run` sets UV), else the one on PATH."""
    if uv := environment.get("UV") or shutil.which("uv"):
        return uv
    raise LockError("uv is not to be found. Install it: pip install uv")


def git(*arguments: str, root: Path) -> str:
    """Runs git in `root` and returns what it prints. Raises LockError with git's own words if it fails."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise LockError(f"git {' '.join(arguments)} failed in {root}: {done.stderr.strip()}")
    return done.stdout


def resolve(root: Path, commit: str = "HEAD") -> str:
    """Returns the uv.lock, stripped, that uv makes of a commit's pyprojects and of its uv.lock's pins.

    Happens in a temporary folder: neither the working tree nor its uv.lock is touched.
    """
    tracked = git("ls-tree", "-r", "--name-only", commit, root=root).splitlines()
    wanted = [name for name in tracked if Path(name).name in {"pyproject.toml", "uv.lock", ".python-version"}]
    with tempfile.TemporaryDirectory() as scratch:
        for name in wanted:
            target = Path(scratch, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(git("show", f"{commit}:{name}", root=root), encoding="utf-8")
        command = [find_uv(), "lock", "--quiet", "--python", sys.executable]
        done = subprocess.run(command, cwd=scratch, capture_output=True, encoding="utf-8", check=False)
        if done.returncode:
            raise LockError(f"uv cannot resolve the pyprojects of {commit}:\n{done.stderr.strip()}")
        return address_free(Path(scratch, "uv.lock").read_text(encoding="utf-8"))


def check(root: Path) -> None:
    """Raises LockError unless HEAD's uv.lock is address-free and its pins are what HEAD's pyprojects ask for."""
    remedy = "Run `uv lock`, then `python tools/lock.py write`, and commit uv.lock."
    try:
        committed = git("show", "HEAD:uv.lock", root=root)
    except LockError as error:
        raise LockError(f"no committed uv.lock to check: {error}\n{remedy}") from error
    if left := addresses(committed):
        raise LockError(f"the committed uv.lock holds {len(left)} addresses, the first: {left[0]}\n{remedy}")
    if committed != address_free(committed):
        raise LockError(f"the committed uv.lock is not in its address-free form.\n{remedy}")
    if stale := differences(committed, resolve(root)):
        raise LockError("\n  ".join(["the committed uv.lock is stale:", *stale]) + f"\n{remedy}")


def write(root: Path) -> None:
    """Strips the working tree's uv.lock in place."""
    path = root / "uv.lock"
    if not path.exists():
        raise LockError(f"{path} does not exist. Make it: uv lock")
    path.write_text(address_free(path.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")


def setup(root: Path) -> None:
    """Configures the clone's git filter, so that adding a complete uv.lock commits the address-free one.

    The interpreter is named by its path, and not the environment's: a filter must outlive `.venv`.
    """
    interpreter = getattr(sys, "_base_executable", None) or sys.executable
    git("config", f"filter.{FILTER}.clean", shlex.join([interpreter, "tools/lock.py", "clean"]), root=root)


def clean() -> None:
    """Copies standard input to standard output, stripped."""
    text = sys.stdin.buffer.read().decode("utf-8")
    sys.stdout.buffer.write(address_free(text).encode("utf-8"))


def main(arguments: list[str] | None = None) -> int:
    """Runs one of the four commands; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["setup", "write", "check", "clean"])
    parser.add_argument("--root", type=Path, default=ROOT, help="the workspace (default: the one this file is in)")
    options = parser.parse_args(arguments)
    try:
        if options.command == "clean":
            clean()
        else:
            {"setup": setup, "write": write, "check": check}[options.command](options.root)
    except LockError as error:
        print(f"lock: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
