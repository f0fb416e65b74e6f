"""Files that are whole at every moment: written beside their name and renamed, or appended to in whole records.

`replace_file` is for what is rewritten, `AppendFile` for what grows. Both reach the disk when they say so (fsync), and
leave the old content as it was when the disk is full.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replace_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write into; it becomes `path` when the block ends without an exception, else it is deleted.

    A process killed inside the block leaves `.NAME.partial`, which the next call overwrites.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # of a write, which does not say where
            raise _full(error, path) from error
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Makes a rename inside `directory` outlive a power failure."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _full(error: OSError, path: Path) -> OSError:
    """`error` with the file's name and what to do about it."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return OSError(error.errno, error.strerror, str(path))
    advice = "make room, then start again with the same command: the run continues from its last checkpoint"
    return OSError(error.errno, f"{error.strerror}; {advice}", str(path))


class AppendFile:
    """A file that grows by whole records, each handed to the operating system at once.

    So a killed process loses no record; what a power failure may take is what came after the last `sync`. A record that
    does not fit on the disk is taken back, and the OSError says what to do.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=0)

    def append(self, record: bytes) -> None:
        """Adds one record.

        Raises:
          OSError: if the disk is full; the file is then as it was before.
        """
        size = os.fstat(self._file.fileno()).st_size
        try:
            written = self._file.write(record)
            while written < len(record):  # a nearly full disk takes a part; the next write says why
                written += self._file.write(record[written:])
        except OSError as error:
            with suppress(OSError):  # then half a record stays, which readers and the next start leave out
                os.ftruncate(self._file.fileno(), size)
            raise _full(error, self.path) from error

    def sync(self) -> None:
        """Returns when everything appended so far is on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        if not self._file.closed:
            self.sync()
            self._file.close()
