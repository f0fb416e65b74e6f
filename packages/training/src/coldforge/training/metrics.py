"""What a run measures, written twice: `metrics.jsonl` for programs and people, TensorBoard for curves.

    with MetricLog(run, step=restored_step) as log:       # or step=None: from the beginning
        log.scalars(step, {"train/loss": 1.23})           # one JSON object per call, one point per curve
        log.text(step, "sample/0", text)                  # one JSON object in samples.jsonl
        log.sync()                                        # before a checkpoint that is to find its lines

    curves = read_metrics(run)                            # {"train/loss": (steps, values)}

A line is with the operating system when the call returns, so a killed process loses none; half a line, which a power
failure can leave, is dropped at the next start. A run that continues at step N drops the lines after N first, by
rewriting the file beside its name, and TensorBoard purges its points from there on: each curve goes on once.

Numbers that are not finite are written as the strings "NaN", "Infinity" and "-Infinity": valid JSON, and easy to find.
`SCALARS` lists the names. Means over devices or hosts are not made here: only process 0 writes, what it is given.
"""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np

from coldforge.training.compare import spelled
from coldforge.training.files import AppendFile, replace_file
from coldforge.training.tensorboard import EventFile

METRICS, SAMPLES, TENSORBOARD = "metrics.jsonl", "samples.jsonl", "tensorboard"
KEYS = ("step", "time")  # of every line, beside the scalars

# Name → meaning and unit. A loop may add names of its own in the same groups.
SCALARS: dict[str, str] = {
    "train/loss": "what is minimised: mean over the weighted tokens of the whole batch, nats",
    "train/nll": "train/loss without the z-loss, where there is one",
    "train/loss_reasoning": "mean negative log-likelihood of a reasoning token, nats",
    "train/loss_answer": "the same of an answer token, its end-of-turn included",
    "train/entropy": "mean entropy of the predictions over trained tokens, nats, where it is summed",
    "train/grad_norm": "global norm of the gradient before clipping",
    "train/grad_norm_clipped": "the same after clipping",
    "train/update_norm": "global norm of the change of the parameters, 0 for a step that was not applied",
    "train/learning_rate": "of this step",
    "train/applied": "1, or 0 for a step that was not applied: loss or gradient not finite, or no token with a weight",
    "train/weight": "sum of the loss weights of the batch",
    "train/epoch": "passes over the training split so far, a fraction",
    "train/tokens_per_second": "tokens without padding, all devices; steps with a pause in them have no rate",
    "train/trained_tokens_per_second": "tokens with a loss weight, all devices",
    "data/padding_share": "share of the batch's positions that are padding",
    "eval/loss": "train/loss on held-out rows",
    "eval/loss_reasoning": "train/loss_reasoning on held-out rows",
    "eval/loss_answer": "train/loss_answer on held-out rows",
    "memory/host_gib": "resident memory of this process",
    "memory/host_peak_gib": "its highest so far",
    "memory/device_gib": "in use on the fullest of this process's devices (not on CPUs)",
    "memory/device_peak_gib": "its highest so far",
    "memory/device_limit_gib": "what such a device offers",
    "time/step": "seconds since the metrics of the step before, pauses left out",
    "time/first_step": "seconds from the start to the first step's metrics, its compilation included",
    "time/data": "seconds of the step spent waiting for the batch",
    "time/checkpoint": "seconds that the loop stood still for a checkpoint",
    "time/eval": "seconds that the loop stood still for an evaluation",
    "time/samples": "seconds that the loop stood still for text samples",
}

LINE_BREAKS = {c: f"\\u{c:04x}" for c in (0x85, 0x2028, 0x2029)}

logger = logging.getLogger(__name__)


class MetricLog:
    """Scalars and texts of a run, in `directory`; see the top of this file.

    Args:
      directory: of the run; made if missing.
      step: of the checkpoint that the run continues from; what was logged after it is dropped. None: the run starts
        from the beginning, and everything logged before is dropped.
      enabled: whether to write; None: in process 0 only. Where it is False nothing is read or written.
    """

    def __init__(self, directory: str | Path, *, step: int | None = None, enabled: bool | None = None) -> None:
        self.directory = Path(directory)
        self.enabled = jax.process_index() == 0 if enabled is None else enabled
        self._files: tuple[AppendFile, AppendFile, EventFile] | None = None
        if self.enabled:
            self.directory.mkdir(parents=True, exist_ok=True)
            for name in (METRICS, SAMPLES):
                drop_lines_after(self.directory / name, step)
            self._files = (
                AppendFile(self.directory / METRICS),
                AppendFile(self.directory / SAMPLES),
                EventFile(self.directory / TENSORBOARD, purge_step=0 if step is None else step + 1),
            )

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Logs the values of one step. A second call for the same step adds a line, which `read_metrics` joins.

        Raises:
          ValueError: for a name that is a line's own (`step`, `time`), or a value that is no single number.
          OSError: if the disk is full; nothing written before is lost.
        """
        if self._files is None:
            return
        metrics, _, events = self._files
        numbers = {name: _number(name, value) for name, value in values.items()}
        if numbers:
            metrics.append(_line({"step": int(step), "time": time.time(), **spelled(numbers)}))
            events.scalars(int(step), numbers)

    def text(self, step: int, tag: str, text: str) -> None:
        """Logs a text: a sample, or what the watchdog found.

        Raises:
          OSError: as `scalars`.
        """
        if self._files is None:
            return
        _, samples, events = self._files
        samples.append(_line({"step": int(step), "time": time.time(), "tag": tag, "text": text}))
        events.text(int(step), tag, text)

    def sync(self) -> None:
        """Returns when everything logged so far is on the disk; call it before saving a checkpoint."""
        for file in self._files or ():
            file.sync()

    def close(self) -> None:
        for file in self._files or ():
            file.close()

    def __enter__(self) -> "MetricLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def read_metrics(path: str | Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The curves of a run, also while it is being written: name → (steps int64 [n], values float64 [n]), by step.

    Args:
      path: a run directory, or its metrics.jsonl.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: naming the line that is no JSON object. Half a line at the end is left out: it is being written.
    """
    path = Path(path)
    path = path / METRICS if path.is_dir() else path
    curves: dict[str, dict[int, float]] = {}
    for number, _, row in _rows(path):
        if row is None:
            raise ValueError(f"{path}:{number} is not a line of metrics: a JSON object with an integer step")
        for name, value in row.items():
            if name not in KEYS:
                try:
                    curves.setdefault(name, {})[row["step"]] = float(value)
                except (TypeError, ValueError) as error:
                    raise ValueError(f"{path}:{number}: {name} is no number but {value!r}") from error
    return {
        name: (np.array(sorted(points), np.int64), np.array([points[s] for s in sorted(points)], np.float64))
        for name, points in curves.items()
    }


def drop_lines_after(path: Path, step: int | None) -> None:
    """Drops the lines of steps after `step` (None: all lines), half a line at the end, and lines that are broken.

    The file is rewritten beside its name and renamed, and not touched if nothing is to be dropped. Broken lines inside
    the file, which no killed process leaves, are logged as a warning with their numbers.
    """
    if not path.exists():
        return
    size = 0
    for number, line, row in _rows(path):
        if row is None:
            logger.warning("%s:%d is broken and is dropped: %s", path, number, line[:80])
        elif step is not None and row["step"] <= step:
            size += len(line)
    if size == path.stat().st_size:
        return
    with replace_file(path) as file:
        for _, line, row in _rows(path):
            if row is not None and step is not None and row["step"] <= step:
                file.write(line)


def _rows(path: Path) -> Iterator[tuple[int, bytes, dict[str, Any] | None]]:
    """Number from 1, bytes and content of each whole line; None for content that is no object with a step."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return  # half a line
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            whole = isinstance(row, dict) and isinstance(row.get("step"), int)
            yield number, line, row if whole else None


def _number(name: str, value: Any) -> float:
    if name in KEYS:
        raise ValueError(f"{name!r} is a key of every line, not a name for a scalar; put it in a group: train/{name}")
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a single number, got {value!r}") from error


def _line(row: Mapping[str, Any]) -> bytes:
    # str.splitlines breaks at three more characters than \n; a lone surrogate cannot be written as UTF-8. JSON has an
    # escape for each.
    text = json.dumps(row, ensure_ascii=False, allow_nan=False).translate(LINE_BREAKS)
    return text.encode("utf-8", "backslashreplace") + b"\n"
