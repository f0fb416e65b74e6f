"""Memory: the fullest device, the host's own figures."""

import numpy as np
import pytest

from coldforge.training.memory import memory_metrics


class Device:
    def __init__(self, stats):
        self.stats = stats

    def memory_stats(self):
        return self.stats


def test_the_host_is_measured():
    before = memory_metrics()
    held = np.ones(100 << 20, np.uint8)
    after = memory_metrics()
    assert after["memory/host_gib"] - before["memory/host_gib"] == pytest.approx(100 / 1024, abs=0.02)
    assert after["memory/host_peak_gib"] >= after["memory/host_gib"] - 0.01
    assert "memory/device_gib" not in before  # CPU devices do not tell
    del held


def test_the_fullest_device_counts():
    gib = 1 << 30
    devices = [
        Device({"bytes_in_use": 2 * gib, "peak_bytes_in_use": 5 * gib, "bytes_limit": 16 * gib}),
        Device({"bytes_in_use": 3 * gib, "peak_bytes_in_use": 4 * gib, "bytes_limit": 16 * gib}),
        Device(None),
    ]
    metrics = memory_metrics(devices)
    assert [metrics[f"memory/device_{x}gib"] for x in ("", "peak_", "limit_")] == [3, 5, 16]


def test_a_device_that_tells_little():
    metrics = memory_metrics([Device({"bytes_in_use": 1 << 30}), Device({})])
    assert metrics["memory/device_gib"] == 1
    assert "memory/device_peak_gib" not in metrics
