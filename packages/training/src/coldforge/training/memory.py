"""How much memory this process holds, on its devices and on the host, as metrics in GiB.

TPUs and GPUs tell; XLA's CPU devices do not (`memory_stats` is None): there the process's own memory is all of it.
The host is always measured, for its memory ends long runs on TPU hosts too.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import psutil

GIB = 1 << 30


def memory_metrics(devices: Iterable[Any] | None = None) -> dict[str, float]:
    """`memory/host_gib`, `memory/host_peak_gib` and, of the fullest device, `memory/device_{,peak_,limit_}gib`.

    Costs about 0.3 ms; a device's figures are its allocator's and wait for nothing.

    Args:
      devices: to ask; this process's own by default.
    """
    host = psutil.Process().memory_info()
    metrics = {"memory/host_gib": host.rss / GIB, "memory/host_peak_gib": _peak_rss(host) / GIB}
    stats = [s for d in (jax.local_devices() if devices is None else devices) if (s := d.memory_stats())]
    for name, key in (
        ("memory/device_gib", "bytes_in_use"),
        ("memory/device_peak_gib", "peak_bytes_in_use"),
        ("memory/device_limit_gib", "bytes_limit"),
    ):
        if found := [s[key] for s in stats if key in s]:
            metrics[name] = max(found) / GIB
    return metrics


def _peak_rss(now: Any) -> int:
    """Highest resident memory of this process in bytes; psutil knows it on Windows only."""
    if sys.platform == "linux":  # getrusage would count what the parent held before exec
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    if sys.platform == "win32":
        return int(now.peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
