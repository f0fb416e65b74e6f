"""A run is a directory: what it was told, where it stands, and what it made.

    runs/NAME/config.yaml       the resolved configuration
              manifest.json     stage, status, command, versions, identity, base, tokenizer, data set,
                                adapter, gate, figures
              metrics.jsonl  tensorboard/  checkpoints/  samples.jsonl  report.html
              run.lock          held while a process writes

`open_run` makes one, or goes on with one of the same config and identity; anything else it refuses, field by field.
Files are replaced whole, so they can be read at any moment. With several processes the first one writes, and what it
refuses all refuse.
"""

import dataclasses
import fcntl
import json
import logging
import os
import platform
import shlex
import socket
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

import jax
import numpy as np
import yaml
from jax.experimental import multihost_utils

from coldforge.training.compare import differences, plain, spelled, table
from coldforge.training.files import replace_file

VERSION = 1
CONFIG, MANIFEST, LOCK = "config.yaml", "manifest.json", "run.lock"
Status = Literal["running", "stopped", "finished", "failed"]
_THIRD_PARTY = ("jax", "jaxlib", "libtpu", "flax", "qwix", "optax", "orbax-checkpoint", "numpy", "grain")
_LOG = logging.getLogger(__name__)


class RunError(RuntimeError):
    """A run's directory is not what is wanted; the message says what is, and what to do."""


class GateError(RunError):
    """The stage before has not passed its gate."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What `manifest.json` holds, for people and for the next stage.

    Attributes:
      stage: "sft", "grpo", …
      status: "running" is also what a killed process leaves; "stopped" can go on; "finished"; "failed".
      note: why it stopped or failed.
      created: when, in UTC.
      updated: when the manifest was last written.
      command: what started it, or went on with it last.
      versions: of Python and of the packages that took part.
      identity: what its checkpoints depend on: fingerprint of the base weights, hashes of tokenizer and data set.
      base: path, fingerprint and config of the base model.
      tokenizer: where from, and its hash.
      dataset: where from, and its hash.
      adapter: what was trained, a path inside the run or from elsewhere; see `adapter_path`.
      gate: the verdict: "passed", and "checks" with a "why" each.
      figures: numbers worth keeping: steps, tokens, hours, losses.
      directory: where the manifest was read; not stored.
    """

    stage: str
    status: Status = "running"
    note: str = ""
    created: str
    updated: str
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)
    base: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    dataset: Mapping[str, Any] = field(default_factory=dict)
    adapter: str | None = None
    gate: Mapping[str, Any] | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)
    directory: Path = Path()

    @property
    def adapter_path(self) -> Path | None:
        """Where the adapter is, wherever the run's directory has moved to."""
        return None if self.adapter is None else self.directory / self.adapter


class Run:
    """An open run: its paths, its manifest, and the lock. Made by `open_run`; a context manager.

    `close` says how it ended. Leaving the context by an exception marks the run as failed, with the message (as stopped
    after KeyboardInterrupt); but if it was `identify` that refused, the run is left as it was found.

    Attributes:
      path: the directory, absolute.
      manifest: as last written.
      previous: the manifest as it was found; None for a new run.
      config: the configuration, plain.
    """

    def __init__(
        self, path: Path, manifest: Manifest, previous: Manifest | None, config: Mapping[str, Any], lock: int | None
    ) -> None:
        self.path, self.manifest, self.previous, self.config = path, manifest, previous, config
        self.metrics = path / "metrics.jsonl"
        self.tensorboard = path / "tensorboard"
        self.checkpoints = path / "checkpoints"
        self.samples = path / "samples.jsonl"
        self.report = path / "report.html"
        self._lock = lock
        self._closed = False
        self._found_config: bytes | None = None  # config.yaml as it was found
        self._refusal: RunError | None = None

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._closed:
            return
        try:
            if error is None:
                self.close("stopped", "it ended without saying how")
            elif error is self._refusal:
                self.put_back(str(error))
            elif isinstance(error, KeyboardInterrupt):
                self.close("stopped", "KeyboardInterrupt")
            else:
                self.close("failed", f"{type(error).__name__}: {error}")
        except OSError as full:  # the first error says more
            _LOG.warning("%s could not be updated: %s", self.path / MANIFEST, full)
            if error is None:
                raise

    def update(self, **fields: Any) -> Manifest:
        """Changes fields of the manifest and writes it; `figures` are added to those that are there.

        Raises:
          TypeError: for a field that a manifest does not have, or a value that JSON cannot hold.
        """
        if "figures" in fields:
            fields["figures"] = {**self.manifest.figures, **fields["figures"]}
        if (adapter := fields.get("adapter")) is not None and Path(adapter).is_relative_to(self.path):
            fields["adapter"] = Path(adapter).relative_to(self.path)
        self.manifest = dataclasses.replace(self.manifest, updated=_now(), **plain(fields))
        if jax.process_index() == 0:
            _write_manifest(self.manifest)
        return self.manifest

    def identify(self, identity: Mapping[str, Any]) -> None:
        """Stores what the run's checkpoints depend on, or compares it with what the run began with.

        For what is known only when the weights are loaded; `open_run` does the same with what it is given.

        Raises:
          RunError: if it is another; each field with both values.
        """
        found = {**self.manifest.identity, **plain(identity, "identity")}
        try:
            require_identity(self.manifest, {k: found[k] for k in plain(identity) if k in self.manifest.identity})
        except RunError as error:
            self._refusal = error
            raise
        self.update(identity=found)

    def close(self, status: Status, note: str = "") -> None:
        """Writes how the run ended and lets go of it."""
        self._closed = True
        try:
            self.update(status=status, note=note)
        finally:
            self._release()

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def put_back(self, why: str) -> None:
        """Lets go of a run that this start does not fit: config and manifest are again as they were found."""
        if self.previous is None:
            self.close("failed", why)
            return
        self._closed = True
        try:
            if jax.process_index() == 0:
                if self._found_config is not None:
                    with replace_file(self.path / CONFIG) as file:
                        file.write(self._found_config)
                _write_manifest(self.previous)
        finally:
            self._release()

    def how_to_continue(self) -> str:
        """A sentence for people: the command that goes on with this run."""
        return f"To go on from the last checkpoint, start the same command again:\n  {self.manifest.command}"


def open_run(
    path: str | PathLike[str],
    *,
    stage: str,
    config: Mapping[str, Any] | Any,
    identity: Mapping[str, Any] | None = None,
    may_differ: Collection[str] = (),
    command: str | None = None,
) -> Run:
    """A new run in `path`, or the one that is there if stage, config and identity are the same.

    With several processes all of them call this; the directory is on a file system that they share.

    Args:
      path: a directory; made if it does not exist.
      stage: "sft", "grpo", …
      config: a dataclass or mapping of what JSON holds, nested as it likes.
      identity: see `Manifest`; more can be added later by `Run.identify`.
      may_differ: fields that may change when a run goes on, say `("log_every", "max_hours", "logging.*")`.
      command: what to start again; default this process's own command line.

    Raises:
      RunError: if the directory holds something else, or another config, stage or identity; if another process writes
        it.
      TypeError: if a config file cannot hold a value, naming its field.
    """
    path = Path(path).absolute()
    wanted = plain(config, "")
    lock: int | None = None
    previous: Manifest | None = None
    found_config: bytes | None = None

    def begin() -> None:
        nonlocal lock, previous, found_config
        path.mkdir(parents=True, exist_ok=True)
        lock = _take_lock(path)
        try:
            previous = _check(path, stage, wanted, may_differ)
            found_config = (path / CONFIG).read_bytes() if previous is not None else None
            with replace_file(path / CONFIG) as file:
                file.write(_config_text(wanted, stage).encode())
            now = _now()
            manifest = dataclasses.replace(
                previous or Manifest(stage=stage, created=now, updated=now, directory=path),
                status="running", note="", updated=now, versions=versions(),
                command=command_line() if command is None else command,
            )  # fmt: skip
            _write_manifest(manifest)
        except BaseException:
            os.close(lock)
            raise

    _by_the_first(begin)
    manifest = read_manifest(path)
    run = Run(path, manifest, previous, wanted, lock)
    run._found_config = found_config
    if identity is not None:
        try:
            run.identify(identity)
        except RunError as error:
            run.put_back(str(error))
            raise
    return run


def read_manifest(path: str | PathLike[str]) -> Manifest:
    """The manifest of the run in the directory `path`.

    Raises:
      RunError: if there is none, or it cannot be read.
    """
    directory = Path(path).absolute()
    file = directory / MANIFEST
    if not file.is_file():
        raise RunError(f"{directory} is not a run: it has no {MANIFEST}. The output directory of a stage is wanted.")
    try:
        stored = json.loads(file.read_text("utf-8"))
        version = stored.pop("version")
        if version != VERSION:
            raise RunError(f"{file} is of version {version}; this release reads version {VERSION}")
        if stored["status"] not in get_args(Status):
            raise RunError(f"{file} has status {stored['status']!r}; wanted one of {', '.join(get_args(Status))}")
        return Manifest(**stored, directory=directory)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{file} is not what a run writes: {error!r}") from error


def require_gate(manifest: Manifest, *, force: bool = False) -> None:
    """Returns if the run has passed its gate; the next stage calls this before it starts.

    Args:
      manifest: of the stage before.
      force: go on all the same, with a warning of this module's logger.

    Raises:
      GateError: if it has not, with each limit that failed and why.
    """
    gate, where = manifest.gate, f"the {manifest.stage} run in {manifest.directory}"
    if gate is not None and gate.get("passed") is True:
        return
    if gate is None:
        problem = f"{where} (status: {manifest.status}) has not been through its gate."
    else:
        failed = [c for c in gate.get("checks", ()) if not c.get("passed")]
        reasons = "".join(f"\n  {c.get('name', 'limit')}: {c.get('why', 'failed')}" for c in failed)
        problem = f"{where} has failed its gate:{reasons or ' it does not say why'}"
    if not force:
        raise GateError(f"{problem}\nTrain that stage again, or insist if you know better.")
    _LOG.warning("%s\nGoing on all the same, as asked.", problem)


def require_identity(manifest: Manifest, identity: Mapping[str, Any]) -> None:
    """Returns if the run has these values in its identity; the fields that are not given do not matter.

    Raises:
      RunError: if one differs or is absent, with both values.
    """
    stored = {key: manifest.identity[key] for key in identity if key in manifest.identity}
    if found := differences(stored, plain(identity, "identity")):
        raise RunError(
            f"The {manifest.stage} run in {manifest.directory} does not fit:\n"
            f"{table(found, there='it has', here='here it is')}\n"
            "Use another run directory, or the weights, tokenizer and data that it was made with."
        )


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that can change a run."""
    found = {"python": platform.python_version()}
    for distribution in metadata.distributions():
        name = distribution.name.lower()
        if name.startswith("coldforge-") or name in _THIRD_PARTY:
            found[name] = distribution.version
    return dict(sorted(found.items()))


def command_line() -> str:
    """This process's command, as one types it: `coldforge-sft tiny`, or `python train.py tiny`."""
    program = sys.orig_argv if sys.argv[0].endswith(".py") else sys.argv  # a script on the PATH, or a file of Python's
    return shlex.join([Path(program[0]).name, *program[1:]])


def _check(path: Path, stage: str, wanted: Mapping[str, Any], may_differ: Collection[str]) -> Manifest | None:
    """The manifest of the run that is there, None if the directory is empty; see `open_run`."""
    if not (path / CONFIG).is_file():
        if strangers := sorted(p.name for p in path.iterdir() if p.name != LOCK and not p.name.endswith(".partial")):
            raise RunError(
                f"{path} is not empty and not a run: it holds {', '.join(strangers[:5])} but no {CONFIG}. "
                "Choose another directory."
            )
        return None
    previous = read_manifest(path) if (path / MANIFEST).is_file() else None
    if previous is not None and previous.stage != stage:
        raise RunError(f"{path} is a run of stage {previous.stage!r}, not {stage!r}. Choose another directory.")
    try:
        stored = yaml.safe_load((path / CONFIG).read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunError(f"{path / CONFIG} cannot be read: {error}") from error
    if not isinstance(stored, Mapping | None):
        raise RunError(f"{path / CONFIG} is not what a run writes: it holds {stored!r:.80}, wanted fields with values")
    if found := differences(stored or {}, wanted, may_differ=may_differ):
        allowed = f"What may change: {', '.join(may_differ)}." if may_differ else ""
        raise RunError(
            f"{path} is a run of another config:\n{table(found, there='the run has', here='asked for is')}\n"
            f"Choose another directory, or go on with the run's own values. {allowed}".rstrip()
        )
    for change in differences(stored or {}, wanted):
        _LOG.warning("%s: from here on %s, before %s", change.field, change.here, change.there)
    return previous


def _take_lock(path: Path) -> int:
    """A descriptor that holds the lock; the system takes it back when the process ends, however that happens."""
    descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise RunError(
            f"another process writes {path} ({holder}). Wait for it or end it, or choose another directory."
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}, since {_now()}\n".encode(), 0)
    return descriptor


def _by_the_first(action: Callable[[], None]) -> None:
    """Runs `action` in the first process; all return when it has, or raise if it did."""
    error: Exception | None = None
    if jax.process_index() == 0:
        try:
            action()
        except Exception as raised:
            error = raised
    if jax.process_count() > 1:
        fine = bool(multihost_utils.broadcast_one_to_all(np.int32(error is None)))
        if not fine and jax.process_index() > 0:
            raise RunError("the first process has refused the run directory; its message says why")
    if error is not None:
        raise error


def _write_manifest(manifest: Manifest) -> None:
    stored = {"version": VERSION, **{k: v for k, v in plain(manifest).items() if k != "directory"}}
    text = json.dumps(spelled(stored), indent=2, ensure_ascii=False, allow_nan=False)
    with replace_file(manifest.directory / MANIFEST) as file:
        file.write(text.encode("utf-8", "backslashreplace") + b"\n")  # a path that is no UTF-8, as JSON escapes it


def _config_text(config: Mapping[str, Any], stage: str) -> str:
    heading = f"# The configuration of this {stage} run, as resolved. A record: editing it only makes the run refuse.\n"
    return heading + yaml.safe_dump(config, sort_keys=False, allow_unicode=True)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
