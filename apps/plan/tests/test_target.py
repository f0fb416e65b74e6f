"""What is set before JAX is loaded, and what is said where the compiler is missing."""

import importlib.util

import pytest

from coldforge.apps.plan import target
from coldforge.apps.plan.chips import Slice


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in target._ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "host-7")
    target.prepare_environment()
    assert target.os.environ["JAX_PLATFORMS"] == "cpu"  # a TPU in this machine is left alone
    assert target.os.environ["TPU_SKIP_MDS_QUERY"] == "1"
    assert target.os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] == "1"
    assert target.os.environ["TPU_WORKER_HOSTNAMES"] == "host-7"


def test_without_libtpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(target.MissingCompilerError, match=r"without a TPU: pip install 'coldforge-app-plan\[tpu\]'"):
        target.slice_devices(Slice.parse("v5e:2x4"))
