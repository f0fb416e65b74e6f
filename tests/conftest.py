"""Makes the scripts in tools/ importable, and gives the tests throwaway workspaces under git."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))


class Workspace:
    """A small workspace in a temporary git repository, with packages that import and require what a test wants."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.git("init", "--quiet", "--initial-branch=main")
        self.write("pyproject.toml", '[project]\nname = "workspace"\nversion = "0"\nrequires-python = ">=3.12"\n')

    def git(self, *arguments: str) -> str:
        """Runs git, whatever the user's own configuration and the repository around the tests."""
        identity = {
            f"GIT_{who}_{what}": "test@example" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
        }
        clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        alone = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        command = ["git", "-C", str(self.root), *arguments]
        return subprocess.run(
            command, env=clean | identity | alone, check=True, capture_output=True, encoding="utf-8"
        ).stdout

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message=test")

    def add(
        self,
        name: str,
        *,
        version: str = "0.1.0",
        needs: tuple[str, ...] = (),
        source: str = "",
        kind: str = "packages",
    ) -> Path:
        """Adds a package or app that is ready for release, and returns its folder."""
        folder = f"{kind}/{name}"
        distribution = f"coldforge-app-{name}" if kind == "apps" else f"coldforge-{name}"
        module = f"coldforge/apps/{name}" if kind == "apps" else f"coldforge/{name}"
        self.write(
            f"{folder}/pyproject.toml",
            f'[project]\nname = "{distribution}"\nversion = "{version}"\nrequires-python = ">=3.12"\n'
            f"dependencies = {list(needs)}\n",
        )
        self.write(f"{folder}/README.md", "# What it is\n")
        self.write(f"{folder}/LICENSE", "Do what you like.\n")
        self.write(f"{folder}/CHANGELOG.md", f"# Changelog\n\n## {version} - 2026-01-02\n\n- News.\n")
        self.write(f"{folder}/src/{module}/__init__.py", source)
        self.write(f"{folder}/src/{module}/py.typed", "")
        return self.root / folder


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty workspace, not committed yet."""
    return Workspace(tmp_path)


@pytest.fixture
def run_tool() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a script of tools/ as its users do, in a process of its own."""

    def run(name: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "tools" / f"{name}.py"), *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, encoding="utf-8", check=False)

    return run
