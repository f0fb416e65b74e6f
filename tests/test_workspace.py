"""Rules on the whole workspace: what every package and app has, and what the root says about them."""

import re
import tomllib
from pathlib import Path

import pytest

from workspace import closure, find_members, requirement_name

ROOT = Path(__file__).parent.parent
MEMBERS = find_members(ROOT)
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

each_member = pytest.mark.parametrize("member", MEMBERS.values(), ids=lambda member: member.row)


def test_there_are_members():
    assert MEMBERS


def test_namespaces_have_no_init():
    """An __init__.py in src/coldforge would hide every other package's modules."""
    namespaces = [*ROOT.glob("*/*/src/coldforge"), *ROOT.glob("*/*/src/coldforge/apps")]
    assert namespaces
    assert [path for path in namespaces if (path / "__init__.py").exists()] == []


@each_member
def test_names_follow_the_folder(member):
    assert member.distribution == f"coldforge-{member.name}"
    backend = member.pyproject["tool"]["uv"]["build-backend"]
    assert backend["module-name"] == member.module
    source = member.path / "src" / member.module.replace(".", "/")
    assert (source / "__init__.py").exists()
    assert (source / "py.typed").exists()


@each_member
def test_project_table(member):
    assert re.fullmatch(r"\d+\.\d+\.\d+", member.project["version"])
    assert member.project["requires-python"] == ">=3.12"
    assert member.project["license"] == "Apache-2.0"
    assert member.project["readme"] == "README.md"
    assert member.project["description"]
    assert member.pyproject["build-system"]["build-backend"] == "uv_build"


@each_member
def test_files(member):
    assert (member.path / "LICENSE").read_text(encoding="utf-8") == (ROOT / "LICENSE").read_text(encoding="utf-8")
    for name in ("README.md", "CHANGELOG.md"):
        assert member.distribution in (member.path / name).read_text(encoding="utf-8"), name
    assert list((member.path / "tests").glob("test_*.py")), "a package without tests fails its nox sessions"


@each_member
def test_groups_are_what_the_sessions_need(member):
    """The nox sessions install the group `test`, and check shapes by beartype where jaxtyping is declared."""
    group = {requirement_name(need) for need in member.pyproject["dependency-groups"]["test"]}
    assert "pytest" in group
    assert "jaxtyping" not in member.dependencies or "beartype" in group
    assert "pytest" not in member.pyproject.get("tool", {}), "pytest's settings are the root's, once for all"


@each_member
def test_root_knows_it(member):
    assert PYPROJECT["tool"]["uv"]["sources"].get(member.distribution) == {"workspace": True}
    assert f"{member.path.parent.name}/{member.path.name}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_root_installs_every_app_and_forwards_its_extras():
    apps = [member for member in MEMBERS.values() if member.is_app]
    assert PYPROJECT["project"]["dependencies"] == [app.distribution for app in apps]
    forwarded = PYPROJECT["project"].get("optional-dependencies", {})
    for app in apps:
        for extra in app.project.get("optional-dependencies", {}):
            assert f"{app.distribution}[{extra}]" in forwarded.get(extra, []), extra


def test_layer_table_has_the_designs_rows():
    apps = ["apps/*", "apps/evaluate", "apps/pipeline", "apps/plan"]
    rows = PYPROJECT["tool"]["coldforge"]["layers"]
    packages = {"data", "modeling", "losses", "rewards", "training", "rollout", "sft", "grpo", "eval", "nano", "stages"}
    assert rows.keys() == packages | set(apps)
    assert [row for row in rows if "tyro" in rows[row]["third-party"]] == ["stages", *apps]
    assert [row for row in rows if "rich" in rows[row]["third-party"]] == ["training", "stages", *apps]
    no_jax = [row for row in rows if row in packages and "jax" not in rows[row]["third-party"]]
    assert no_jax == ["data", "rewards", "nano", "eval"]


@pytest.mark.parametrize(
    ("requirement", "name"),
    [
        ("jax", "jax"),
        ("jax>=0.8", "jax"),
        ("jax[tpu] >= 0.8 ; python_version > '3'", "jax"),
        ("coldforge-data @ file:///x.whl", "coldforge-data"),
    ],
)
def test_requirement_name(requirement, name):
    assert requirement_name(requirement) == name


def test_members_come_packages_first_and_closures_once(workspace):
    workspace.add("modeling")
    workspace.add("rollout", needs=("coldforge-modeling>=0.1,<0.2", "jax"))
    workspace.add("chat", kind="apps", needs=("coldforge-rollout>=0.1,<0.2", "coldforge-modeling>=0.1,<0.2"))
    (workspace.root / "packages" / "notes").mkdir()
    members = find_members(workspace.root)
    assert [member.row for member in members.values()] == ["modeling", "rollout", "apps/chat"]
    assert [member.module for member in members.values()][-1] == "coldforge.apps.chat"
    needed = closure(members["coldforge-app-chat"], members)
    assert [member.name for member in needed] == ["app-chat", "modeling", "rollout"]
