"""tools/layers.py: each rule of the table, broken once in a small workspace, and the table's own faults."""

import json
import tomllib
from pathlib import Path

import pytest

import layers
from workspace import find_members

ROOT = Path(__file__).parent.parent
TABLE = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["coldforge"]["layers"]


@pytest.fixture
def check(workspace, run_tool):
    """Runs the tool on the workspace under the project's own table; returns exit code and output."""
    rows = "".join(f"{json.dumps(row)} = {{ {pairs(entry)} }}\n" for row, entry in TABLE.items())
    workspace.write("pyproject.toml", f"[tool.coldforge.layers]\n{rows}")

    def run() -> tuple[int, str]:
        done = run_tool("layers", "--root", str(workspace.root))
        return done.returncode, done.stdout + done.stderr

    return run


def pairs(entry: dict[str, list[str]]) -> str:
    return ", ".join(f"{key} = {json.dumps(value)}" for key, value in entry.items())


def test_what_the_table_allows_passes(workspace, check):
    workspace.add("modeling", source="import json\nimport jax.numpy\nfrom flax import nnx\n")
    workspace.add("rollout", source="from coldforge.modeling import x\nimport jax\n")
    workspace.add("rewards", source="import re\nimport math_verify\n")
    workspace.add("eval", source="import numpy\nimport coldforge.rewards\n")
    workspace.add("chat", kind="apps", source="import tyro, rich.console\nimport coldforge.rollout, coldforge.eval\n")
    code, printed = check()
    assert (code, "9 kept, 0 broken" in printed) == (0, True), printed


@pytest.mark.parametrize(
    ("name", "source", "imported"),
    [
        ("data", "import jax\n", "jax"),
        ("rewards", "import jax.numpy as jnp\n", "jax"),
        ("rewards", "import numpy\n", "numpy"),
        ("eval", "def f():\n    import jax\n", "jax"),
        ("losses", "import flax\n", "flax"),
        ("losses", "import optax\n", "optax"),
        ("modeling", "from rich import print\n", "rich"),
        ("training", "try:\n    import tyro\nexcept ImportError:\n    pass\n", "tyro"),
        ("sft", "import not_there\n", "not_there"),
    ],
)
def test_third_party_limits(workspace, check, name, source, imported):
    workspace.add(name, source=source)
    code, printed = check()
    assert code == 1
    assert f"coldforge.{name} (l.{source[: source.index('import')].count(chr(10)) + 1}) imports {imported}" in printed


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("sft", "grpo"), ("grpo", "sft"), ("rollout", "eval"), ("eval", "rollout"), ("sft", "rollout"), ("sft", "data"),
        ("losses", "modeling"), ("modeling", "data"), ("data", "rewards"), ("training", "losses"),
    ],
)  # fmt: skip
def test_siblings_outside_the_row(workspace, check, importer, imported):
    workspace.add(importer, source=f"def f():\n    from coldforge.{imported} import x\n")
    workspace.add(imported)
    code, printed = check()
    assert code == 1
    assert f"coldforge.{importer} is not allowed to import coldforge.{imported}" in printed


def test_no_way_round_through_an_allowed_sibling(workspace, check):
    workspace.add("sft", source="import coldforge.losses\n")
    workspace.add("losses", source="import coldforge.data\n")
    workspace.add("data")
    code, printed = check()
    assert code == 1
    assert "coldforge.sft is not allowed to import coldforge.data" in printed


def test_packages_do_not_import_apps_nor_apps_each_other(workspace, check):
    workspace.add("chat", kind="apps", source="import coldforge.apps.serve\n")
    workspace.add("serve", kind="apps")
    workspace.add("data", source="import coldforge.apps.chat\n")
    code, printed = check()
    assert code == 1
    assert "coldforge.apps.chat is not allowed to import coldforge.apps.serve" in printed
    assert "coldforge.data is not allowed to import coldforge.apps.chat" in printed


def test_submodules_count(workspace, check):
    folder = workspace.add("losses")
    (folder / "src/coldforge/losses/deep.py").write_text("import torch\n")
    code, printed = check()
    assert code == 1
    assert "coldforge.losses.deep (l.1) imports torch" in printed


def test_package_without_a_row_is_an_error(workspace, check):
    workspace.add("extras")
    code, printed = check()
    assert code == 1
    assert "has no row 'extras'" in printed


def test_row_that_names_an_unknown_package_is_an_error(workspace):
    workspace.add("data")
    members = list(find_members(workspace.root).values())
    with pytest.raises(layers.TableError, match="losess"):
        layers.contracts({"data": {"ours": ["losess"], "third-party": []}}, members)
