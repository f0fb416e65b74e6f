"""The compiler for TPUs on a machine that has none: its environment, and the devices of a slice.

libtpu holds XLA's compiler for all TPUs and runs on any x86-64 Linux machine. `prepare_environment` comes before the
first import of JAX: JAX then runs on the CPU, and libtpu neither asks a cloud's metadata server what it runs on, nor
complains in the terminal that it does not know, nor refuses to be loaded while another process has it.
"""

import importlib.metadata
import importlib.util
import os
from typing import Any

from coldforge.apps.plan.chips import Slice

_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    # Any valid pair keeps it quiet; which topology is compiled for is said in every call.
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


class MissingCompilerError(Exception):
    """libtpu is not installed."""


def prepare_environment() -> None:
    """Sets what libtpu and JAX read when they are loaded. A TPU in this machine is left alone."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def require_compiler() -> str:
    """The version of libtpu.

    Raises:
        MissingCompilerError: It is not installed.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise MissingCompilerError(
            "XLA's compiler for TPUs is not installed. It is the package libtpu, which runs on any x86-64 Linux "
            "machine, without a TPU: pip install 'coldforge-app-plan[tpu]'"
        )
    return importlib.metadata.version("libtpu")


def slice_devices(slice_: Slice) -> list[Any]:
    """The devices of a slice, to compile for; they cannot run anything.

    Raises:
        MissingCompilerError: As `require_compiler`.
        ValueError: There is no such slice; the message is libtpu's.
    """
    require_compiler()
    import jax
    from jax.experimental import topologies

    # A compile that comes from a cache says nothing about how long it takes.
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=slice_.name).devices)
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(
            f"libtpu knows no slice {slice_.name}: {str(error).removeprefix('INVALID_ARGUMENT: ')}"
        ) from error
