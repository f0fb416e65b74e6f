"""Checkpoints of a run, from which it goes on exactly: arrays by Orbax, everything else in one small file beside them.

    DIRECTORY/step_00000040/state/            parameters, optimizer state, step, random key: an Orbax PyTree checkpoint
    DIRECTORY/step_00000040/coldforge.json    data iterator, metrics, config, identity, and the sizes of all files
    DIRECTORY/.step_00000050.partial/         being written, or what a killed process left

A save copies the arrays off the devices, and the rest happens in threads. The directory gets its name, by one rename,
when all of it is written; a checkpoint to be deleted loses its name first. So whatever has a name was complete, and the
sizes tell a copy that broke off or a disk that lost something. Every process writes its shards; the first one names.

Arrays are stored by path (`params.layers.0.kernel`), so any pytree with the same paths reads them, on any mesh.
"""

import json
import logging
import math
import os
import re
import shutil
import threading
import time
from collections.abc import Collection, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import SingleDeviceSharding
from jaxtyping import PyTree

from coldforge.training.compare import differences, plain, table
from coldforge.training.files import replace_file, sync_directory

VERSION = 1
MARKER = "coldforge.json"
STATE = "state"
_FIELDS = {"step", "identity", "config", "data_state", "metrics", "arrays", "files"}
_NAME = re.compile(r"step_(\d+)")
_LOG = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message says which, and what still stands."""


class ForeignCheckpointError(CheckpointError):
    """A checkpoint of another run: its identity, config or arrays are not what is wanted."""


class Restored(NamedTuple):
    """What a checkpoint holds; `state` is a pytree like the abstract one, with values."""

    step: int
    state: Any
    data_state: dict[str, Any]
    metrics: dict[str, float | None]


class SaveTimes(NamedTuple):
    """Seconds of the last save: while training stood still, and until it was complete."""

    stall: float
    total: float


class Checkpointer:
    """Saves and restores the states of a run, in a directory of its own.

    All processes of a run make one and call its methods alike; the directory is on a file system that they share. Use
    it as a context manager, or `close` it: only then is the last save complete. Make it before the first step: it
    imports Orbax, after which JAX (0.12) compiles anew what it has compiled.

    Args:
      directory: is made when the first checkpoint is written.
      identity: what a checkpoint depends on besides its arrays: hashes of base weights, tokenizer, data set.
      config: stored, and compared if given.
      may_differ: fields of the config that a run may change when it goes on (`compare.differences`).
      keep_last: how many of the newest checkpoints stay.
      keep_best: how many of the best stay besides, by `best_metric`.
      best_metric: a name in the metrics passed to `save`; checkpoints without it are no candidates.
      best_mode: "min" or "max".

    Raises:
      ValueError: if an option is out of its range.
      TypeError: if JSON cannot hold the identity or the config.
    """

    def __init__(
        self,
        directory: str | PathLike[str],
        *,
        identity: Mapping[str, Any],
        config: Mapping[str, Any] | None = None,
        may_differ: Collection[str] = (),
        keep_last: int = 2,
        keep_best: int = 0,
        best_metric: str = "eval/loss",
        best_mode: str = "min",
    ) -> None:
        import orbax.checkpoint as ocp  # takes a second or more, and the command line should answer before

        if keep_last < 1 or keep_best < 0:
            raise ValueError(f"keep_last must be at least 1 and keep_best 0, got {keep_last} and {keep_best}")
        if best_mode not in ("min", "max"):
            raise ValueError(f'best_mode must be "min" or "max", got {best_mode!r}')
        self.directory = Path(directory).absolute()
        self.times: SaveTimes | None = None
        self._identity = plain(identity, "identity")
        self._config = None if config is None else plain(config, "config")
        self._may_differ = may_differ
        self._keep_last, self._keep_best = keep_last, keep_best
        self._metric, self._sign = best_metric, 1 if best_mode == "min" else -1
        self._orbax = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=False))
        self._thread: threading.Thread | None = None
        self._failure: tuple[int, BaseException] | None = None
        self._cleaned = False

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def save(
        self, step: int, state: PyTree, data_state: Mapping[str, Any], metrics: Mapping[str, float] | None = None
    ) -> None:
        """Starts to write a checkpoint; returns when the state may change again.

        Waits for the save before it, if that is still going on. A checkpoint of the same step is replaced.

        Args:
          step: how many steps the state has seen.
          state: a pytree of arrays.
          data_state: of the batch iterator, whatever JSON holds. The first process's is stored: it must be that of all.
          metrics: numbers by name.

        Raises:
          CheckpointError: if the save before this one failed, or this one cannot start.
          TypeError: if JSON cannot hold `data_state`.
        """
        import orbax.checkpoint as ocp

        self.wait()
        began = time.monotonic()
        arrays = dict(_named(state))
        record = {
            "version": VERSION,
            "step": step,
            "saved": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "identity": self._identity,
            "config": self._config,
            "data_state": plain(data_state, "data_state"),
            "metrics": {k: _finite(v) for k, v in (metrics or {}).items()},
            "arrays": {name: _shape(array) for name, array in arrays.items()},
        }
        partial = self._partial(step)
        try:
            if jax.process_index() == 0:
                self._clean()
                partial.mkdir(parents=True)
            self._orbax.save(partial / STATE, args=ocp.args.PyTreeSave(arrays))
        except Exception as error:
            self._drop(partial)
            raise self._failed(step, error) from error
        stall = time.monotonic() - began
        self._thread = threading.Thread(
            target=self._finish, args=(step, record, began, stall), name=f"checkpoint of step {step}"
        )
        self._thread.start()

    def wait(self) -> None:
        """Returns when the last save is complete.

        Raises:
          CheckpointError: if it failed; once for each failure.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            (step, error), self._failure = self._failure, None
            raise self._failed(step, error) from error

    def close(self) -> None:
        """Waits for the last save, and lets go of Orbax's threads."""
        try:
            self.wait()
        finally:
            self._orbax.close()

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        return [step for step, path in self._found() if _incomplete(path) is None]

    def best(self) -> int | None:
        """The step of the best complete checkpoint, None if none has the metric."""
        ranked = self._ranked(self.steps())
        return ranked[0] if ranked else None

    def restore_latest(self, abstract_state: PyTree) -> Restored | None:
        """The newest complete checkpoint; None if there is none.

        What is not complete is named in a warning of this module's logger, and passed over.

        Args:
          abstract_state: gives paths, shapes, types and shardings: `jax.ShapeDtypeStruct`s or arrays.

        Raises:
          ForeignCheckpointError: if it belongs to another run; each differing field is named with both values.
          CheckpointError: if its arrays cannot be read.
        """
        self.wait()
        faults, chosen = [], None
        for step, path in reversed(self._found()):
            fault = _incomplete(path)
            if fault is None:
                chosen = step
                break
            faults.append(f"{path} is not complete ({fault})")
        faults += [f"{path} was never completed" for path in sorted(self.directory.glob(".step_*.partial"))]
        onwards = "there is no complete checkpoint" if chosen is None else f"going on from step {chosen}"
        for fault in faults if jax.process_index() == 0 else ():
            _LOG.warning("%s: passed over, %s", fault, onwards)
        if jax.process_count() > 1:
            multihost_utils.assert_equal(
                np.int32(-1 if chosen is None else chosen),
                f"the processes see different checkpoints in {self.directory}: do they share that file system?",
            )
        return None if chosen is None else self.restore(chosen, abstract_state)

    def restore(self, step: int, abstract_state: PyTree) -> Restored:
        """The checkpoint of `step`; see `restore_latest`.

        Raises:
          CheckpointError: also if there is none, or it is not complete.
        """
        import orbax.checkpoint as ocp

        self.wait()
        path = self._path(step)
        if (fault := _incomplete(path)) is not None:
            raise CheckpointError(f"{path} is not a complete checkpoint: {fault}; complete are steps {self.steps()}")
        record = _read(path)
        self._check(path, record, abstract_state)
        wanted = {
            name: ocp.ArrayRestoreArgs(restore_type=jax.Array, sharding=_sharding(leaf), dtype=leaf.dtype)
            for name, leaf in _named(abstract_state)
        }
        try:
            arrays = self._orbax.restore(path / STATE, args=ocp.args.PyTreeRestore(restore_args=wanted))
        except Exception as error:
            raise CheckpointError(
                f"{path} is damaged: {type(error).__name__}: {error}\n"
                "Move it away to go on from the checkpoint before it."
            ) from error
        leaves = [arrays[name] for name, _ in _named(abstract_state)]
        state = jax.tree.unflatten(jax.tree.structure(abstract_state), leaves)
        return Restored(record["step"], state, record["data_state"], record["metrics"])

    def _finish(self, step: int, record: dict[str, Any], began: float, stall: float) -> None:
        """In a thread: waits for Orbax, then names the checkpoint and deletes those that are not kept."""
        partial = self._partial(step)
        try:
            self._orbax.wait_until_finished()
            if jax.process_index() == 0:
                record["files"] = _sizes(partial)
                _sync(partial)
                with replace_file(partial / MARKER) as file:
                    file.write(json.dumps(record, indent=1).encode())  # a nan of the data state comes back as one
                replaced = self._unname(self._path(step))
                partial.replace(self._path(step))
                sync_directory(self.directory)
                if replaced is not None:  # deleting takes a while, in which the step would have no checkpoint
                    shutil.rmtree(replaced)
                for path in self._superseded():
                    self._delete(path)
            self.times = SaveTimes(stall, time.monotonic() - began)
        except BaseException as error:  # the caller's thread raises it at its next call
            self._drop(partial)
            self._failure = step, error

    def _failed(self, step: int, error: BaseException) -> CheckpointError:
        kept = ", ".join(map(str, self.steps())) or "none"
        free = shutil.disk_usage(next(p for p in (self.directory, *self.directory.parents) if p.exists())).free
        return CheckpointError(
            f"the checkpoint of step {step} could not be written to {self.directory}: {type(error).__name__}: {error}\n"
            f"Complete checkpoints, untouched: {kept}. Free on that disk: {free / 1e6:,.0f} MB. "
            "Make room or mend the disk, then start again with the same command: "
            "the run continues from the newest of them."
        )

    def _check(self, path: Path, record: Mapping[str, Any], abstract_state: PyTree) -> None:
        found = differences(record["identity"], self._identity)
        if self._config is not None:
            found += differences(record["config"] or {}, self._config, may_differ=self._may_differ)
        if found:
            raise ForeignCheckpointError(
                f"{path} belongs to another run:\n{table(found, there='the checkpoint has', here='this run')}\n"
                "Use another run directory, or what the checkpoint was made with."
            )
        arrays = {name: _shape(leaf) for name, leaf in _named(abstract_state)}
        if found := differences(record["arrays"], arrays):
            raise ForeignCheckpointError(
                f"{path} holds other arrays ({len(found)} differ):\n"
                f"{table(found[:5], there='the checkpoint has', here='this run')}\n"
                "Are model, adapter and optimizer those that the run began with?"
            )

    def _found(self) -> list[tuple[int, Path]]:
        """Everything with a checkpoint's name, by step."""
        if not self.directory.exists():
            return []
        matches = ((_NAME.fullmatch(path.name), path) for path in self.directory.iterdir())
        return sorted((int(match[1]), path) for match, path in matches if match)

    def _superseded(self) -> list[Path]:
        steps = self.steps()
        keep = {*steps[-self._keep_last :], *self._ranked(steps)[: self._keep_best]}
        return [self._path(step) for step in steps if step not in keep]

    def _ranked(self, steps: list[int]) -> list[int]:
        values = {step: _read(self._path(step))["metrics"].get(self._metric) for step in steps}
        return sorted((s for s in steps if values[s] is not None), key=lambda s: (self._sign * values[s], -s))

    def _clean(self) -> None:
        """Deletes what killed processes left, before the first save: a reader must not do it."""
        if not self._cleaned and self.directory.exists():
            for path in self.directory.glob(".step_*"):
                shutil.rmtree(path)
        self._cleaned = True

    def _drop(self, partial: Path) -> None:
        """Makes room again after a failure; what cannot be deleted has no name and is never read."""
        if jax.process_index() == 0:
            shutil.rmtree(partial, ignore_errors=True)

    def _delete(self, path: Path) -> None:
        if (nameless := self._unname(path)) is not None:
            shutil.rmtree(nameless)

    def _unname(self, path: Path) -> Path | None:
        if not path.exists():
            return None
        return path.replace(path.with_name(f".{path.name}.deleted"))

    def _path(self, step: int) -> Path:
        return self.directory / f"step_{step:08d}"

    def _partial(self, step: int) -> Path:
        return self.directory / f".step_{step:08d}.partial"


def _incomplete(path: Path) -> str | None:
    """Why a checkpoint's directory is not complete, or None if it is."""
    if not (path / MARKER).is_file():
        return f"it has no {MARKER}" if path.is_dir() else "there is no such directory"
    try:
        record = _read(path)
    except ForeignCheckpointError:
        raise
    except CheckpointError as error:
        return str(error)
    sizes = _sizes(path)
    for name, size in record["files"].items():
        if name not in sizes:
            return f"{name} is absent"
        if sizes[name] != size:
            return f"{name} has {sizes[name]} of {size} bytes"
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads((path / MARKER).read_text("utf-8"))
        version = record["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{MARKER} cannot be read: {error!r}") from error
    if version != VERSION:
        raise ForeignCheckpointError(f"{path} is of version {version}; this release reads version {VERSION}")
    if lacking := _FIELDS - record.keys():
        raise CheckpointError(f"{MARKER} lacks {', '.join(sorted(lacking))}")
    return record


def _sizes(path: Path) -> dict[str, int]:
    """Bytes of every file below `path` but the marker's."""
    files = (file for file in sorted(path.rglob("*")) if file.is_file() and not file.name.startswith(MARKER))
    return {file.relative_to(path).as_posix(): file.stat().st_size for file in files}


def _sync(path: Path) -> None:
    """Makes what is below `path` outlive the machine: a preempted one does not write its caches back."""
    for file in path.rglob("*"):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    sync_directory(path)


def _named(tree: PyTree) -> list[tuple[str, Any]]:
    """Leaves by path: `params.layers.0.kernel`."""
    named = [(jax.tree_util.keystr(p, simple=True, separator="."), x) for p, x in jax.tree.leaves_with_path(tree)]
    if len({name for name, _ in named}) != len(named):
        raise ValueError("two arrays of the state have the same path; a key with a dot in it?")
    return named


def _shape(leaf: Any) -> str:
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"


def _sharding(leaf: Any) -> Any:
    return getattr(leaf, "sharding", None) or SingleDeviceSharding(jax.local_devices()[0])


def _finite(value: float) -> float | None:
    value = float(value)
    return value if math.isfinite(value) else None
