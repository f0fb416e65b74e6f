"""What a pipeline has done: an entry for each stage, kept in the manifest of the pipeline's own run.

    ledger = Ledger.of(run)
    what = ledger.decide(stage)          # is it done, does it go on, does it begin, or begin again, and why
    ledger.begin(stage, what)
    ledger.end(stage, code, note)

A stage's fingerprint is a hash of the settings that decide its result and of the fingerprints of the stages that it
reads, so that a changed option reaches all that depends on it and nothing else. What a stage had made under other
settings is moved to `superseded/`, never deleted. What `--from` asks to be done again is marked until the run has
ended, so that the same command goes on with it in the next session. Imports JAX (by `coldforge.training`).
"""

import hashlib
import itertools
import json
import time
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self

from coldforge import training
from coldforge.apps.pipeline.memory import peak_gb, reset_peak
from coldforge.apps.pipeline.work import Decision, Work
from coldforge.stages import devices
from coldforge.training.compare import differences, plain
from coldforge.training.run import Status

ENTRIES, SUPERSEDED = "stages", "superseded"
ASKED = "asked for by --from"


class Ledger:
    """The entries of a pipeline's stages.

    Attributes:
        entries: Stage → its entry: status, code, note, seconds (over all sessions), sessions, peak_gb, fingerprint,
            reads and settings.
    """

    def __init__(self, entries: Mapping[str, Mapping[str, Any]], path: Path, run: training.Run | None = None) -> None:
        """Entries as the manifest in `path` holds them; without a run they are only looked at."""
        self._path, self._run = path, run
        self.entries: dict[str, dict[str, Any]] = {name: dict(entry) for name, entry in entries.items()}
        self._wanted: dict[str, str] = {}  # fingerprints of the stages as they are asked for now
        self._clock = 0.0

    @classmethod
    def of(cls, run: training.Run) -> Self:
        """That of an open run."""
        return cls(run.manifest.figures.get(ENTRIES, {}), run.path, run)

    def decide(self, work: Work, *, again: bool = False) -> Decision:
        """Says what is to be done. Stages are asked for in their order, those that a stage reads before it.

        Args:
            work: The stage.
            again: Do it again whatever is there.
        """
        reads = {name: self._wanted[name] for name in work.reads}
        self._wanted[work.name] = fingerprint(work, reads)
        entry = self.entries.get(work.name)
        if entry is None or (entry["status"] == "finished" and not (self._path / work.name).exists()):
            return Decision("begin", asked=again)
        if again and not entry.get("asked"):
            return Decision("again", [ASKED], asked=True)
        if entry["fingerprint"] != self._wanted[work.name]:
            changed, others = self._changes(work, entry, reads)
            if not changed and not others:  # of an earlier version, which counted what does not decide the result
                self._wanted[work.name] = entry["fingerprint"]
                return Decision("done" if entry["status"] == "finished" else "go on")
            only_last = not others and all(_matches(name, work.last) for name in changed)
            return Decision("remake" if only_last else "again", [*changed.values(), *others], asked=again)
        return Decision("done" if entry["status"] == "finished" else "go on")

    def current(self, work: Work) -> Mapping[str, Any] | None:
        """The entry of a stage that has been decided; None where there is none, or one of other settings."""
        entry = self.entries.get(work.name)
        return entry if entry is not None and entry["fingerprint"] == self._wanted[work.name] else None

    def begin(self, work: Work, decision: Decision) -> None:
        """Writes that a stage runs. What it had made under other settings is moved away first."""
        run = self._opened()
        place = run.path / work.name
        if decision.todo in ("begin", "again"):
            self.entries.pop(work.name, None)
            self._write()  # before the move: a kill in between leaves a directory without an entry, moved next time
            if devices.first() and place.exists():  # the others do not even look, lest their file system remembers it
                _move_away(place, run.path / SUPERSEDED)
        if decision.todo == "remake" and work.product is not None and devices.first():
            (place / work.product).unlink(missing_ok=True)
        devices.together()
        entry = self.entries.get(work.name, {"seconds": 0.0, "sessions": 0, "peak_gb": 0.0})
        self.entries[work.name] = entry | {
            "status": "running", "code": None, "note": "", "sessions": entry["sessions"] + 1,
            "fingerprint": self._wanted[work.name], "reads": {name: self._wanted[name] for name in work.reads},
            "settings": plain(work.settings), "asked": entry.get("asked", False) or decision.asked,
        }  # fmt: skip
        self._write()
        reset_peak()
        self._clock = time.monotonic()

    def end(self, work: Work, status: Status, code: int | None, note: str = "") -> None:
        """Writes how a stage ended."""
        entry = self.entries[work.name]
        entry |= {
            "status": status, "code": code, "note": note,
            "seconds": entry["seconds"] + time.monotonic() - self._clock,
            "peak_gb": max(entry["peak_gb"], peak_gb()),
        }  # fmt: skip
        self._write()

    def close(self) -> None:
        """Writes that the run has ended: `--from` means again, from now on."""
        for entry in self.entries.values():
            entry["asked"] = False
        self._write()

    def _write(self) -> None:
        self._opened().update(figures={ENTRIES: self.entries})

    def _opened(self) -> training.Run:
        if self._run is None:
            raise ValueError("the ledger was only read; open the run to write")
        return self._run

    def _changes(
        self, work: Work, entry: Mapping[str, Any], reads: Mapping[str, str]
    ) -> tuple[dict[str, str], list[str]]:
        """In words: each changed setting, by its name; the stages that it reads and that are others."""
        changed = differences(entry["settings"], plain(work.settings), may_differ=work.may_differ)
        found = {each.field: f"{each.field} was {each.there}, is {each.here}" for each in changed}
        return found, [f"{name} is another" for name in reads if entry["reads"].get(name) != reads[name]]


def fingerprint(work: Work, reads: Mapping[str, str]) -> str:
    """The hash of what decides a stage's result: hex.

    >>> same = fingerprint(Work("a", {"x": 1, "log": 2}, (), ("log",)), {})
    >>> same == fingerprint(Work("a", {"x": 1, "log": 3}, (), ("log",)), {})
    True
    """
    decisive = _without(plain(work.settings), work.may_differ)
    return hashlib.sha256(json.dumps([decisive, dict(reads)], sort_keys=True).encode()).hexdigest()


def _without(values: Mapping[str, Any], patterns: Collection[str], prefix: str = "") -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            kept |= _without(value, patterns, f"{name}.")
        elif not _matches(name, patterns):
            kept[name] = value
    return kept


def _matches(name: str, patterns: Collection[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _move_away(place: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    places = (folder / f"{place.name}-{number}" for number in itertools.count(1))
    place.replace(next(each for each in places if not each.exists()))
