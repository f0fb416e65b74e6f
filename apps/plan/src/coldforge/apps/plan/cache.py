"""What searches have found out, on disk: each plan under all that it depends on.

That is the configuration of the step, the slice, the versions of jax and libtpu, and the source of our packages: a line
changed in the model makes its plans old.
"""

import dataclasses
import functools
import hashlib
import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coldforge.apps.plan.plan import Failure, Outcome, Plan
from coldforge.apps.sft.config import SftConfig

PACKAGES = ("modeling", "losses", "training", "sft", "stages", "apps.sft")  # whose source a step is made of


class Cache:
    """Outcomes on disk: one JSON file, written anew and renamed after each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def get(self, key: str, minutes: float) -> Outcome | None:
        """What is known, if anything; a failure counts only for a limit no longer than the one it had."""
        entry = self.entries.get(key)
        if entry is None:
            return None
        if "plan" in entry:
            return Plan.from_dict(entry["plan"])
        return Failure(entry["failure"]) if entry["minutes"] >= minutes else None

    def put(self, key: str, outcome: Outcome, minutes: float) -> None:
        """Keeps an outcome."""
        if isinstance(outcome, Plan):
            self.entries[key] = {"plan": outcome.to_dict()}
        else:
            self.entries[key] = {"failure": outcome.reason, "minutes": minutes}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_name(f"{self.path.name}.{os.getpid()}.new")
        new.write_text(json.dumps(self.entries), encoding="utf-8")
        new.replace(self.path)


def cache_path() -> Path:
    """Where results are kept unless told otherwise."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "coldforge" / "plan.json"


def cache_key(config: SftConfig, topology: str, counted: float, versions: Mapping[str, str]) -> str:
    """A name for all that a plan depends on."""
    parts = {
        name: value for name, value in dataclasses.asdict(config).items() if name not in ("loop", "gate", "output")
    }
    whole = [parts, topology, counted, dict(versions), source_hash()]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


@functools.cache
def source_hash() -> str:
    """Of the source files that a step is made of, so that a change to them makes results old. Imports none of them."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        spec = importlib.util.find_spec(f"coldforge.{package}")
        assert spec is not None
        for folder in spec.submodule_search_locations or ():
            for file in sorted(Path(folder).rglob("*.py")):
                digest.update(file.read_bytes())
    return digest.hexdigest()
