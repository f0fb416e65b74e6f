"""Directories that appear under their name complete or not at all, also when the writer is killed."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from jax.experimental import multihost_utils


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A directory beside `path` to write into, renamed to `path` when the block ends without an exception.

    What a killed writer left behind is deleted first. With several processes all of them enter, on a shared file
    system; the first one creates and renames, the others may only write what they are asked to by code that knows of
    them (Orbax).

    Raises:
      FileExistsError: if something other than an empty directory is at `path`.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{path} exists and is not empty; remove it or choose another place")
    partial = path.with_name(f".{path.name}.partial")
    first = jax.process_index() == 0
    if first:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    wait_for_all(f"{path} begun")
    yield partial
    wait_for_all(f"{path} written")
    if first:
        partial.replace(path)
    wait_for_all(f"{path} renamed")


def wait_for_all(what: str) -> None:
    """Returns when every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)
