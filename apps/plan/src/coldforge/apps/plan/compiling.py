"""One program compiled for a slice, or XLA's reason why it does not fit. Imports JAX when it is called."""

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from coldforge.apps.plan.memory import Refusal, read_refusal

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from coldforge.stages.options import MeshConfig


class CompilerError(Exception):
    """XLA failed to compile a program, for another reason than a chip's memory."""


class Compiled(NamedTuple):
    """What XLA made of a program.

    Attributes:
        program: JAX's compiled program; None if it was refused.
        refusal: Why, if it was.
        seconds: That it took on this machine.
    """

    program: Any
    refusal: Refusal | None
    seconds: float


def compile_lowered(lowered: Any) -> Compiled:
    """Compiles what `lower` of a jitted function gave.

    Raises:
        CompilerError: XLA failed, and not for lack of memory on a chip.
    """
    import jax

    start = time.perf_counter()
    program, refusal = None, None
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        refusal = read_refusal(str(error))
        if refusal is None:
            raise CompilerError(f"XLA cannot compile this step: {error}") from error
    return Compiled(program, refusal, time.perf_counter() - start)


def mesh_over(config: "MeshConfig", devices: list[Any]) -> "Mesh":
    """The mesh of a run on these devices; of one device too, which a run does without.

    Raises:
        ValueError: The sizes do not make up the number of devices.
    """
    from coldforge import modeling
    from coldforge.stages.devices import make_mesh

    return make_mesh(config, devices) or modeling.make_mesh(devices=devices)
