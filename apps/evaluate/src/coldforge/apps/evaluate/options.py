"""What the program can be told. Imports no JAX, so that `--help` is quick."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from coldforge.stages.options import Shown


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalOptions:
    """A model on this machine's devices, and the room that its sampler has."""

    model: Annotated[Path | None, Shown] = None
    """Weights: a Hugging Face directory, a .gguf file or a Coldforge checkpoint. Without it, the 270m's from the
    extra."""
    adapter: Annotated[Path | None, Shown] = None
    """A run, or an adapter in PEFT's format."""
    tokenizer: Annotated[Path | None, Shown] = None
    """The tokenizer, where it lies neither with the adapter nor with the weights."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """What the weights become in memory. auto: float32 on a CPU, bfloat16 elsewhere."""
    slots: int | None = None
    """Samples that run at the same time. None: as many as the memory holds."""
    memory_gib: float | None = None
    """What the sampler may take on each device beside the weights. None: 70 % of what is free."""
    kv: Literal["model", "bf16", "int8"] = "model"
    """How caches hold keys and values."""
    weights: Literal["model", "int8"] = "model"
    """Sample from the weights as they are, or from a copy in int8."""
