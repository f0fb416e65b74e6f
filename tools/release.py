"""What a package still lacks before its release. Changes nothing, publishes nothing.

    python tools/release.py losses      # one package or app
    python tools/release.py --all       # every one that has no tag for its version yet

Checked, in this order: the version has the form X.Y.Z and is later than the last release; its tag `losses-v0.3.0` is
free; the changelog has a dated, written section for it, above the last one's; README, LICENSE and py.typed are there;
each sibling it depends on has bounds of the form `>=0.3,<0.4` (from 1.0 on `>=1.2,<2`) that the workspace's version
satisfies, since uv ignores bounds between siblings; the working tree is clean. Every finding says what to do.

Left out: whether the package works. The nox sessions `tests` and `wheel` show that.
"""

import argparse
import datetime as dt
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import lock
from workspace import ROOT, Member, find_members, requirement_name

_SPECIFIERS = re.compile(r"^[\w.-]+\s*(?:\[[^\]]*\])?(?P<bounds>[^;]*)")
_BOUNDS = re.compile(r"^>=(?P<low>\d+(?:\.\d+){0,2}),<(?P<high>\d+(?:\.\d+){0,2})$")
_HEADING = re.compile(r"^## (?P<version>\S+)(?: - (?P<date>\S+))?\s*$", re.MULTILINE)


@dataclass(frozen=True, order=True)
class Version:
    """A release's version X.Y.Z, ordered as numbers: 0.10.0 is later than 0.9.0."""

    major: int
    minor: int = 0
    patch: int = 0

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Returns the version that `text` spells as X.Y.Z without leading zeros, or None."""
        if not re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}", text):
            return None
        return cls(*(int(part) for part in text.split(".")))

    @classmethod
    def bound(cls, text: str) -> Self:
        """Returns the version that a bound means: `0.3` is 0.3.0."""
        return cls(*(int(part) for part in text.split(".")))

    def next_breaking(self) -> str:
        """Returns the upper bound of what may replace this version: 0.3.1 → "0.4", 1.2.0 → "2"."""
        return str(self.major + 1) if self.major else f"0.{self.minor + 1}"


def tag_of(member: Member) -> str:
    """Returns the tag of the version that the pyproject names: `losses-v0.3.0`."""
    return f"{member.name}-v{member.project.get('version')}"


def released(member: Member, root: Path) -> list[Version]:
    """Returns the versions that have a tag, in rising order."""
    prefix = f"{member.name}-v"
    tags = lock.git("tag", "--list", f"{prefix}*", root=root).split()
    return sorted(version for tag in tags if (version := Version.parse(tag.removeprefix(prefix))))


def check_version(member: Member, root: Path) -> list[str]:
    """The version is X.Y.Z, without a tag, and later than the last one that has a tag."""
    text = str(member.project.get("version"))
    version = Version.parse(text)
    if version is None:
        return [f"version is {text!r}; wanted X.Y.Z in {member.name}/pyproject.toml"]
    earlier = released(member, root)
    if version in earlier:
        return [f"tag {tag_of(member)} exists: {text} is released. Raise the version"]
    if earlier and version < earlier[-1]:
        last = earlier[-1]
        return [f"version {text} is before the last release {last.major}.{last.minor}.{last.patch}. Raise the version"]
    return []


def check_changelog(member: Member) -> list[str]:
    """CHANGELOG.md has `## X.Y.Z - YYYY-MM-DD` as its first released section, with text under it."""
    path = member.path / "CHANGELOG.md"
    if not path.exists():
        return ["CHANGELOG.md is missing"]
    text = path.read_text(encoding="utf-8")
    version = member.project.get("version")
    headings = list(_HEADING.finditer(text))
    sections = [heading for heading in headings if heading["version"].lower() != "unreleased"]
    here = next((heading for heading in sections if heading["version"] == version), None)
    if here is None:
        return [f"CHANGELOG.md has no section for this version; wanted `## {version} - YYYY-MM-DD`"]
    found = []
    if here is not sections[0]:
        found.append(f"CHANGELOG.md has {sections[0]['version']} above {version}; the newest comes first")
    if not _is_past_date(here["date"]):
        found.append(f"CHANGELOG.md dates {version} {here['date']!r}; wanted a day as YYYY-MM-DD, not in the future")
    following = next((heading.start() for heading in headings if heading.start() > here.start()), len(text))
    if not text[here.end() : following].strip():
        found.append(f"CHANGELOG.md says nothing under {version}; write what changed for users")
    return found


def _is_past_date(text: str | None) -> bool:
    """Whether `text` is a day as YYYY-MM-DD, today included (UTC's latest zone, for people ahead of us)."""
    try:
        day = dt.datetime.strptime(text or "", "%Y-%m-%d").date()
    except ValueError:
        return False
    return day <= dt.datetime.now(dt.timezone(dt.timedelta(hours=14))).date()


def check_files(member: Member) -> list[str]:
    """README.md, LICENSE and the type marker are there, and something in README.md."""
    markers = list(member.path.glob("src/coldforge/**/py.typed"))
    found = [f"{name} is missing or empty" for name in ("README.md", "LICENSE") if not _has_text(member.path / name)]
    return (
        found if markers else [*found, "py.typed is missing below src: users' type checkers would ignore the package"]
    )


def _has_text(path: Path) -> bool:
    return path.exists() and bool(path.read_text(encoding="utf-8").strip())


def check_siblings(member: Member, members: dict[str, Member]) -> list[str]:
    """Siblings among dependencies and extras have bounds of one shape that the workspace's versions satisfy."""
    found = []
    for need in member.needs:
        sibling = members.get(requirement_name(need))
        specifiers = _SPECIFIERS.match(need)
        if specifiers is None or sibling is None or sibling is member:
            continue
        version = Version.parse(str(sibling.project.get("version")))
        if version is None:
            found.append(f"depends on {sibling.name}, whose version is {sibling.project.get('version')!r}, not X.Y.Z")
            continue
        wanted = f">={version.major}.{version.minor},<{version.next_breaking()}"
        bounds = _BOUNDS.match("".join(specifiers["bounds"].split()))
        if bounds is None or Version.bound(bounds["high"]) != Version.bound(
            Version.bound(bounds["low"]).next_breaking()
        ):
            found.append(f"dependency {need!r} has bounds of another form; wanted `{sibling.distribution}{wanted}`")
        elif not Version.bound(bounds["low"]) <= version < Version.bound(bounds["high"]):
            found.append(f"dependency {need!r} excludes the workspace's {sibling.project['version']}; wanted {wanted}")
    return found


def check_tree(root: Path) -> list[str]:
    """Nothing is changed or untracked, but for a uv.lock that uv completed (tools/lock.py)."""
    dirty = [line[3:] for line in lock.git("status", "--porcelain", root=root).splitlines()]
    if "uv.lock" in dirty and _is_completed_lock(root):
        dirty.remove("uv.lock")
    return [f"The working tree is not clean: {', '.join(dirty)}. Commit first."] if dirty else []


def _is_completed_lock(root: Path) -> bool:
    """Whether the working tree's uv.lock, stripped, is HEAD's."""
    try:
        return lock.address_free((root / "uv.lock").read_text(encoding="utf-8")) == lock.git(
            "show", "HEAD:uv.lock", root=root
        )
    except (lock.LockError, FileNotFoundError):
        return False


def check(member: Member, members: dict[str, Member], root: Path) -> list[str]:
    """Returns what the member's release lacks, one line each; the working tree's state is left to `check_tree`."""
    return [
        *check_version(member, root),
        *check_changelog(member),
        *check_files(member),
        *check_siblings(member, members),
    ]


def choose(names: list[str], everything: bool, members: dict[str, Member], root: Path) -> list[Member]:
    """Returns the members that were asked for; with `everything`, those whose version has no tag.

    Raises:
        SystemExit: a name is no package or app; the message lists those there are.
    """
    if everything:
        tags = set(lock.git("tag", "--list", root=root).split())
        return [member for member in members.values() if tag_of(member) not in tags]
    by_name = {member.name: member for member in members.values()}
    if unknown := [name for name in names if name not in by_name]:
        raise SystemExit(f"release: no package or app {', '.join(unknown)}; there are {', '.join(sorted(by_name))}")
    return [by_name[name] for name in names]


def main(arguments: list[str] | None = None) -> int:
    """Prints what is missing for each member asked for; returns 1 if anything is, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="folders' names: losses, chat")
    parser.add_argument("--all", action="store_true", help="every package and app whose version has no tag yet")
    parser.add_argument("--root", type=Path, default=ROOT, help="the workspace (default: the one this file is in)")
    options = parser.parse_args(arguments)
    if bool(options.names) == options.all:
        parser.error("give names, or --all")
    try:
        members = find_members(options.root)
        chosen = choose(options.names, options.all, members, options.root)
        findings = [(tag_of(member), check(member, members, options.root)) for member in chosen]
        tree = check_tree(options.root)
    except lock.LockError as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    if not chosen:
        print("Nothing to release: every version has its tag.")
    for tag, found in findings:
        ready = "ready" if tree else f"ready. Next: git tag {tag}"
        print("\n  - ".join([f"{tag}: not ready", *found]) if found else f"{tag}: {ready}")
    for line in tree:
        print(line)
    return int(bool(tree) or any(found for _, found in findings))


if __name__ == "__main__":
    sys.exit(main())
