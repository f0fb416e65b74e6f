"""How parameters of the model correspond to tensors of a file, under Hugging Face's names.

A file holds a projection as one matrix `[out, in]`; the model holds it with the contracted dimensions first and heads
apart, and keys and values in one array. `Part` says which tensor fills which part of a parameter, and in what order of
dimensions; loading, merging and the adapter formats all go by this one table. Nothing here reads or holds values.

    parameter                     shape            tensors, as in the files without their prefix (`model.` and others)
    embedder.input_embedding      [V, D]           embed_tokens.weight [V, D]
    layers.N.attn.q_einsum.w      [D, N, H]        layers.N.self_attn.q_proj.weight [N H, D]
    layers.N.attn.kv_einsum.w     [D, 2, K, H]     ….k_proj.weight, ….v_proj.weight, both [K H, D]
    layers.N.attn.attn_vec_einsum.w  [N, H, D]     ….o_proj.weight [D, N H]
    layers.N.mlp.gate_proj.kernel [D, F]           layers.N.mlp.gate_proj.weight [F, D]
    every norm's scale            [size]           ….weight [size], the same numbers
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from coldforge.modeling.config import Gemma3Config

Path = tuple[str | int, ...]


@dataclasses.dataclass(frozen=True)
class Part:
    """One tensor of a file and its place in a parameter.

    Attributes:
      name: the tensor's name in Hugging Face's checkpoints, without the prefix.
      rows: dimensions of the parameter that make up the tensor's first dimension.
      cols: those of its second dimension; none for a vector. For a projection these are the contracted ones.
      at: (dimension, index) that the tensor fills alone, for a parameter made of several.
    """

    name: str
    rows: tuple[int, ...]
    cols: tuple[int, ...]
    at: tuple[int, int] | None = None

    def shape(self, parameter: tuple[int, ...]) -> tuple[int, ...]:
        """The tensor's shape, given the parameter's: `(D, 2, K, H)` → `(K H, D)`."""
        groups = (self.rows, self.cols) if self.cols else (self.rows,)
        return tuple(math.prod(parameter[d] for d in group) for group in groups)

    def view(self, array: Any) -> Any:
        """The tensor's part of the parameter `array`, dimensions in the order `(*rows, *cols)`, without a copy."""
        if self.at is None:
            return array.transpose(self.rows + self.cols)
        dim, index = self.at
        array = array[(slice(None),) * dim + (index,)]
        return array.transpose(tuple(d - (d > dim) for d in self.rows + self.cols))

    def take(self, array: Any) -> Any:
        """The tensor itself, `[out, in]`, from the parameter `array`."""
        return self.view(array).reshape(self.shape(array.shape))

    def lora_a(self) -> "Part":
        """The same for LoRA's A: `[*contracted, rank]` here, `[rank, in]` in PEFT's `lora_A.weight`."""
        return Part(self.name.removesuffix("weight") + "lora_A.weight", (len(self.cols),), self.cols)

    def lora_b(self) -> "Part":
        """The same for LoRA's B: `[rank, *out]` here, `[out, rank]` in PEFT's `lora_B.weight`."""
        shift = len(self.cols) - 1
        at = None if self.at is None else (self.at[0] - shift, self.at[1])
        return Part(self.name.removesuffix("weight") + "lora_B.weight", tuple(d - shift for d in self.rows), (0,), at)


_EMBEDDING = Part("embed_tokens.weight", (0,), (1,))

# Projections of a layer, by the module's path in it: parts without the `layers.N.` in front.
_PROJECTIONS: Mapping[Path, tuple[Part, ...]] = {
    ("attn", "q_einsum"): (Part("self_attn.q_proj.weight", (1, 2), (0,)),),
    ("attn", "kv_einsum"): (
        Part("self_attn.k_proj.weight", (2, 3), (0,), at=(1, 0)),
        Part("self_attn.v_proj.weight", (2, 3), (0,), at=(1, 1)),
    ),
    ("attn", "attn_vec_einsum"): (Part("self_attn.o_proj.weight", (2,), (0, 1)),),
    ("mlp", "gate_proj"): (Part("mlp.gate_proj.weight", (1,), (0,)),),
    ("mlp", "up_proj"): (Part("mlp.up_proj.weight", (1,), (0,)),),
    ("mlp", "down_proj"): (Part("mlp.down_proj.weight", (1,), (0,)),),
}

_NORMS: Mapping[Path, str] = {
    ("pre_attention_norm",): "input_layernorm.weight",
    ("attn", "_query_norm"): "self_attn.q_norm.weight",
    ("attn", "_key_norm"): "self_attn.k_norm.weight",
    ("post_attention_norm",): "post_attention_layernorm.weight",
    ("pre_ffw_norm",): "pre_feedforward_layernorm.weight",
    ("post_ffw_norm",): "post_feedforward_layernorm.weight",
}


def projections(config: Gemma3Config) -> dict[Path, tuple[Part, ...]]:
    """The tensors of every projection, by the path of its module."""
    return {
        ("layers", i, *module): tuple(dataclasses.replace(part, name=f"layers.{i}.{part.name}") for part in parts)
        for i in range(config.num_layers)
        for module, parts in _PROJECTIONS.items()
    }


def parameters(config: Gemma3Config) -> dict[Path, tuple[Part, ...]]:
    """The tensors of every parameter of the base model, by the parameter's path, in the order of the network."""
    table: dict[Path, tuple[Part, ...]] = {("embedder", "input_embedding"): (_EMBEDDING,)}
    table |= {(*path, "w" if path[2] == "attn" else "kernel"): parts for path, parts in projections(config).items()}
    for i in range(config.num_layers):
        for module, name in _NORMS.items():
            table["layers", i, *module, "scale"] = (Part(f"layers.{i}.{name}", (0,), ()),)
    table["final_norm", "scale"] = (Part("norm.weight", (0,), ()),)
    return table
