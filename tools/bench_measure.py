"""How the benchmarks measure: wall time, CPU time and peak memory of a callable in this process, for every peer alike.

`measure` is for samplers (tokens made by a call), `measure_steps` for training (tokens learned in each step).

The first call is timed apart, since it compiles. Later calls give the smallest and the median wall time; their CPU
seconds help to tell a busy machine from a slow program. Peak memory is the kernel's high-water mark of resident memory,
reset before the first call, so that loading weights does not count. Linux only; standard library only.
"""

import resource
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def reset_peak() -> None:
    """Starts a new high-water mark at the memory that is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def status_gb(field: str) -> float:
    """`VmHWM` (peak since `reset_peak`) or `VmRSS` (now) of this process, in GB of 1e9 bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / 1e9
    raise ValueError(f"/proc/self/status has no field {field!r}; expected VmHWM or VmRSS")


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measure(run: Callable[[int], Any], new_tokens: int, repeats: int = 3) -> dict[str, Any]:
    """Calls `run(0)` once for the first result, then `run(1)`, `run(2)`, … for the steady state.

    Args:
      run: makes all samples and returns when they are on the host; the argument may serve as a seed.
      new_tokens: tokens that one call makes, all rows together.
      repeats: steady calls; 0 measures the first call only.
    """
    reset_peak()
    seconds, cpu = [], []
    for index in range(1 + repeats):
        start, cpu_start = time.perf_counter(), cpu_seconds()
        run(index)
        seconds.append(time.perf_counter() - start)
        cpu.append(cpu_seconds() - cpu_start)
    result: dict[str, Any] = {"new_tokens": new_tokens, "first_result_s": round(seconds[0], 2)}
    if repeats:
        result["steady_s"] = [round(s, 2) for s in seconds[1:]]
        result["steady_cpu_s"] = [round(s, 2) for s in cpu[1:]]
        result["min_s"] = round(min(seconds[1:]), 2)
        result["median_s"] = round(statistics.median(seconds[1:]), 2)
        result["tokens_per_s_best"] = round(new_tokens / min(seconds[1:]), 1)
        result["tokens_per_s_median"] = round(new_tokens / statistics.median(seconds[1:]), 1)
    return result | {"rss_peak_gb": round(status_gb("VmHWM"), 2), "rss_end_gb": round(status_gb("VmRSS"), 2)}


def measure_steps(step: Callable[[int], Any], trained: Sequence[int], warmup: int = 1) -> dict[str, Any]:
    """Calls `step(0)`, `step(1)`, …, one for each entry of `trained`, and gives rates over those after the warm-up.

    Args:
      step: takes one optimizer step and returns when it is done.
      trained: how many tokens each step learns, i.e. has a loss on; prompts and padding do not count.
      warmup: steps that compile or fill caches, not counted in the steady state; the first is reported apart.
    """
    reset_peak()
    seconds, cpu = [], []
    for index in range(len(trained)):
        start, cpu_start = time.perf_counter(), cpu_seconds()
        step(index)
        seconds.append(time.perf_counter() - start)
        cpu.append(cpu_seconds() - cpu_start)
    steady, tokens = seconds[warmup:], trained[warmup:]
    return {
        "first_step_s": round(seconds[0], 2),
        "steady_s": [round(s, 2) for s in steady],
        "median_s": round(statistics.median(steady), 3),
        "median_cpu_s": round(statistics.median(cpu[warmup:]), 2),
        "trained_per_step": round(statistics.mean(tokens), 1),
        "trained_tokens_per_s": round(sum(tokens) / sum(steady), 2),  # as a user's clock sees it
        "trained_tokens_per_s_median": round(statistics.median(t / s for t, s in zip(tokens, steady, strict=True)), 2),
        "rss_peak_gb": round(status_gb("VmHWM"), 2),
        "rss_end_gb": round(status_gb("VmRSS"), 2),
    }
