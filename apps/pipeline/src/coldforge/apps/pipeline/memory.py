"""How much memory a stage took at most: of this process, and of its devices where they tell."""

from pathlib import Path

import psutil

CLEAR = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")


def reset_peak() -> None:
    """Lets the process's peak begin anew, where the system can (Linux); else peaks are those since the start."""
    if CLEAR.exists():
        CLEAR.write_text("5")


def peak_gb() -> float:
    """The process's largest resident size since `reset_peak`, in GB (10⁹ bytes)."""
    if STATUS.exists():
        found = next((line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:")), None)
        if found is not None:
            return int(found.split()[1]) * 1024 / 1e9
    return psutil.Process().memory_info().rss / 1e9
