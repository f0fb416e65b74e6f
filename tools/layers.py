"""Who may import whom: import-linter's contracts, made from the table [tool.coldforge.layers] in pyproject.toml.

    python tools/layers.py

Each package and app that exists gives two contracts: which siblings it may import, directly or through others, and
which third-party modules its own files may import. Rows of packages that do not exist yet wait; a package without a
row is an error. Sources are read, not imported, and need not be installed. Imports inside functions count.

Left out: whether a package declares what it imports; the environments of the nox sessions `tests` show that.
"""

import argparse
import json
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output
from importlinter.cli import lint_imports

from workspace import ROOT, Member, find_members


class TableError(Exception):
    """A package and the table do not fit: which, and what to write."""


class ThirdPartyContract(Contract):
    """Lets a package's files import the standard library, coldforge, and the named third-party modules only."""

    type_name = "third_party"
    source = fields.ModuleField()
    allowed = fields.SetField(subfield=fields.StringField(), required=False)

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Collects the imports that are not allowed, as `file's module, line number, imported module`."""
        allowed = {"coldforge"} | sys.stdlib_module_names | (self.allowed or set())  # type: ignore[operator]
        package = self.source.name  # type: ignore[attr-defined]
        broken = [
            f"{importer} (l.{detail['line_number']}) imports {imported}"
            for importer in sorted({package} | graph.find_descendants(package))
            for imported in sorted(graph.find_modules_directly_imported_by(importer))
            if imported.split(".")[0] not in allowed
            for detail in graph.get_import_details(importer=importer, imported=imported)
        ]
        return ContractCheck(kept=not broken, metadata={"broken": broken})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Prints a line for each import that is not allowed."""
        for line in check.metadata["broken"]:
            output.print_error(f"- {line}")
        output.new_line()


def contracts(table: dict[str, dict[str, list[str]]], members: list[Member]) -> list[dict[str, Any]]:
    """Returns import-linter's contracts for the packages and apps that exist.

    Args:
        table: row → {"ours": rows it may import, "third-party": modules it may import}. The row `apps/*` is every
            app's that has none of its own. In `ours`, "*" stands for every package; an app is named as "apps/sft".
        members: the packages and apps there are.

    Raises:
        TableError: a package has no row, or a row names one that the table lacks.
    """
    packages = [row for row in table if not row.startswith("apps/")]
    made = []
    for member in members:
        row = "apps/*" if member.is_app and member.row not in table else member.row
        if row not in table:
            raise TableError(f"[tool.coldforge.layers] has no row {row!r}. Add it, with what {member.row} may import.")
        ours = [one for name in table[row]["ours"] for one in (packages if name == "*" else [name])]
        apps = {other.row for other in members if other.is_app}
        if unknown := sorted(set(ours) - set(packages) - apps):
            raise TableError(f"[tool.coldforge.layers] lets {row} import {unknown}, which have no rows of their own.")
        if forbidden := [other.module for other in members if other != member and other.row not in ours]:
            made.append(
                {
                    "name": f"{member.row} imports of ours only: {', '.join(ours) or 'nothing'}",
                    "type": "forbidden",
                    "source_modules": [member.module],
                    "forbidden_modules": forbidden,
                }
            )
        allowed = table[row]["third-party"]
        made.append(
            {
                "name": f"{member.row} imports of others only: {', '.join(allowed) or 'nothing'}",
                "type": "third_party",
                "source": member.module,
                "allowed": allowed,
            }
        )
    return made


def configuration(members: list[Member], made: list[dict[str, Any]]) -> str:
    """Returns import-linter's TOML file. A JSON string or list of strings is also TOML."""
    lines = [
        "[tool.importlinter]",
        f"root_packages = {json.dumps([member.module for member in members])}",
        "include_external_packages = true",
        'contract_types = ["third_party: layers.ThirdPartyContract"]',
    ]
    for contract in made:
        lines += ["[[tool.importlinter.contracts]]", *(f"{key} = {json.dumps(contract[key])}" for key in contract)]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Checks the workspace; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="the workspace (default: the one this file is in)")
    root = parser.parse_args(arguments).root
    pyproject = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    members = list(find_members(root).values())
    try:
        made = contracts(pyproject["tool"]["coldforge"]["layers"], members)
    except TableError as error:
        print(f"layers: {error}", file=sys.stderr)
        return 1
    # The checked sources come first, then this file's folder, from which import-linter takes our contract type.
    sys.path[:0] = [*(str(member.path / "src") for member in members), str(ROOT / "tools")]
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "importlinter.toml")
        file.write_text(configuration(members, made), encoding="utf-8")
        return lint_imports(config_filename=str(file), no_cache=True, no_logo=True)


if __name__ == "__main__":
    sys.exit(main())
