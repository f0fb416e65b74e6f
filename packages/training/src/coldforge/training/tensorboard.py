"""An event file for TensorBoard, written in the caller's thread: when a method returns, the operating system has it.

tensorboardX encodes; its `SummaryWriter` is not used. That one hands events to a queue and a thread: what is queued is
lost with a killed process whatever `flush` says, two starts within a second write the same file, and on a full disk the
thread dies and the eleventh event waits for it for ever.
"""

import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import text as text_summary

from coldforge.training.files import AppendFile


class EventFile:
    """A new event file in `directory`; what earlier files hold from step `purge_step` on is hidden by TensorBoard."""

    def __init__(self, directory: Path, *, purge_step: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads a directory's files by name: seconds first, as everyone writes them, then nanoseconds.
        now = time.time_ns()
        name = f"events.out.tfevents.{now // 10**9}.{socket.gethostname()}.{now % 10**9:09d}"
        self._file = AppendFile(directory / name)
        self._write(file_version="brain.Event:2")
        self._write(step=purge_step, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One point for each curve; nan and infinities are stored as such."""
        self._write(step=step, summary=Summary(value=[Summary.Value(tag=k, simple_value=v) for k, v in values.items()]))

    def text(self, step: int, tag: str, text: str) -> None:
        """A text as it is: TensorBoard would take it for Markdown and drop its tags, so it goes in as a code block."""
        block = "\n".join("    " + line for line in text.split("\n"))
        self._write(step=step, summary=text_summary(tag, block.encode("utf-8", "backslashreplace").decode()))

    def sync(self) -> None:
        self._file.sync()

    def close(self) -> None:
        self._file.close()

    def _write(self, **fields: Any) -> None:
        """One TFRecord: length, its checksum, the event, its checksum."""
        event = Event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack("<Q", len(event))
        self._file.append(
            length + struct.pack("<I", masked_crc32c(length)) + event + struct.pack("<I", masked_crc32c(event))
        )
