"""The packages and apps there are, found by their folders, for noxfile.py and the tools. Standard library only."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Member:
    """A package or app, as its folder and its pyproject.toml describe it."""

    path: Path
    pyproject: dict[str, Any]

    @property
    def name(self) -> str:
        """What nox's sessions and the tags use: `data`, for an app `app-chat`, since a stage has both (sft)."""
        return f"app-{self.path.name}" if self.is_app else self.path.name

    @property
    def is_app(self) -> bool:
        """Whether it lies in apps/ rather than in packages/."""
        return self.path.parent.name == "apps"

    @property
    def row(self) -> str:
        """What the layer table calls it: `data`, `apps/chat`."""
        return f"apps/{self.path.name}" if self.is_app else self.path.name

    @property
    def module(self) -> str:
        """The name it is imported by: `coldforge.data`, `coldforge.apps.chat`."""
        return f"coldforge.{self.row.replace('/', '.')}"

    @property
    def project(self) -> dict[str, Any]:
        """The [project] table."""
        table: dict[str, Any] = self.pyproject["project"]
        return table

    @property
    def distribution(self) -> str:
        """The name it is installed by: `coldforge-data`."""
        return str(self.project["name"])

    @property
    def needs(self) -> list[str]:
        """The requirements as written, those of extras included: `["jax>=0.8", "coldforge-data>=0.1,<0.2"]`."""
        extras = self.project.get("optional-dependencies", {}).values()
        return [*self.project.get("dependencies", []), *(need for extra in extras for need in extra)]

    @property
    def dependencies(self) -> set[str]:
        """The names alone of what it requires: `{"jax", "coldforge-data"}`."""
        return {requirement_name(need) for need in self.needs}


def requirement_name(requirement: str) -> str:
    """Returns the distribution's name, without extras, bounds and markers: `jax[tpu]>=0.8` → `jax`."""
    return re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0]


def find_members(root: Path = ROOT) -> dict[str, Member]:
    """Returns the members by distribution name: packages first, then apps, each in alphabetical order."""
    found = {}
    for file in [*sorted(root.glob("packages/*/pyproject.toml")), *sorted(root.glob("apps/*/pyproject.toml"))]:
        member = Member(file.parent, tomllib.loads(file.read_text(encoding="utf-8")))
        found[member.distribution] = member
    return found


def closure(member: Member, members: dict[str, Member]) -> list[Member]:
    """Returns the member and the siblings that it requires, directly and through others, each once."""
    found = [member]
    for one in found:
        found += [members[name] for name in sorted(one.dependencies & members.keys()) if members[name] not in found]
    return found
