"""LoRA and QLoRA through qwix: small trainable matrices beside frozen weights, which may be int8 or nf4.

    model = add_lora(model, LoraConfig(rank=64), rngs=nnx.Rngs(0))   # shares the base's arrays
    adapter = lora_state(model)                                      # what is trained and stored
    fast = quantized(model)                                          # int8 weights under the same adapter
    set_lora(model, other)                                           # same base, another adapter

Output of a target: `x W + (x A B) alpha / rank` (Hu et al., arXiv 2106.09685, section 4.1), A random, B zero, so a
fresh adapter changes nothing. A and B are float32 whatever the base is: bf16 loses updates smaller than 1/256 of a
weight. qwix finds parameters by tracing a product; each kind of projection is traced once, by itself and without
values, and the values are made afterwards, each on the devices where it will live.
"""

import dataclasses
import functools
import math
import re
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from coldforge.modeling.init import model_mesh, variable_sharding
from coldforge.modeling.model import Gemma3
from coldforge.modeling.projections import Einsum, Linear

TARGETS = ("q_einsum", "kv_einsum", "attn_vec_einsum", "gate_proj", "up_proj", "down_proj")
NF4_TILE = 64  # weights that share one scale in nf4, as in QLoRA (arXiv 2305.14314, section 3)


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """What is trained, and how the frozen rest is stored.

    Attributes:
      rank: columns of A, rows of B.
      alpha: the adapter's output is scaled by `alpha / rank`.
      targets: names of the modules that get an adapter, or regular expressions for whole module paths
        (`layers/.*/attn/q_einsum`).
      quantize: None keeps the base as it is; "int8" (a scale per output channel) or "nf4" (a scale per 64 weights)
        stores the weights of all six projections so. Embedding and norms are never quantised.
    """

    rank: int = 64
    alpha: float = 64.0
    targets: tuple[str, ...] = TARGETS
    quantize: Literal["int8", "nf4"] | None = None

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"LoRA rank must be at least 1, got {self.rank}")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"LoRA alpha must be positive, got {self.alpha}")
        if not self.targets or isinstance(self.targets, str):
            raise ValueError(f"LoRA targets must be a tuple of module names, got {self.targets!r}")
        if self.quantize not in (None, "int8", "nf4"):
            raise ValueError(f"quantize must be None, 'int8' or 'nf4', got {self.quantize!r}")


def add_lora(model: Gemma3, config: LoraConfig, *, rngs: nnx.Rngs) -> Gemma3:
    """A model with adapters on `config.targets` that shares every array of `model` which is not quantised.

    Shardings follow the base: parameters placed on a mesh get adapters placed on it by `sharding.RULES`. An abstract
    base (`abstract_model`) gives an abstract result.

    Raises:
      ValueError: if the model has adapters already, or a target matches no module (the message lists the modules).
    """
    if model.lora is not None:
        raise ValueError("the model has LoRA adapters already; use set_lora to exchange them, or start from the base")
    adapted = _adapted(model, config, config.targets, rngs)
    adapted.lora = config
    return adapted


def _adapted(model: Gemma3, config: LoraConfig, targets: tuple[str, ...], rngs: nnx.Rngs) -> Gemma3:
    """Adapters on `targets` (maybe none), and all projections quantised if `config` says so."""
    adapted = nnx.merge(*nnx.split(model))  # modules of its own, the same arrays
    mesh, rules = model_mesh(model), _rules(model, config, targets)
    for path, module in _projections(adapted).items():
        if path not in rules:
            continue
        name = module.weight_name
        base = getattr(module, name)
        axes, like = base.get_metadata()["axes"], base.get_value()
        made = _as_qwix_makes_it(
            type(module), module.equation, module.contracted, like.shape, axes, like.dtype, rules[path]
        )
        for suffix in ("_lora_a", "_lora_b"):
            if (variable := getattr(made, name + suffix, None)) is not None:
                module.lora_scale = config.alpha / config.rank
                setattr(module, name + suffix, _init_adapter(module, name + suffix, variable, base, rngs, mesh))
        if config.quantize is not None:
            setattr(module, name, _quantise(base.get_value(), getattr(nnx.clone(made), name), mesh))
    return adapted


def quantized(model: Gemma3, kind: Literal["int8", "nf4"] = "int8") -> Gemma3:
    """The model with the weights of all six projections as int8 or nf4; every other array is shared.

    An adapter stays what it is: for sampling fast from weights that are trained on a finer base.

    Raises:
      ValueError: if the weights are quantised already.
    """
    if any(not isinstance(getattr(m, m.weight_name), nnx.Variable) for m in _projections(model).values()):
        raise ValueError("the weights are quantised already")
    base = nnx.merge(*nnx.split(model))
    base.lora = None
    for module in _projections(base).values():
        if module.lora_scale is not None:
            delattr(module, module.weight_name + "_lora_a")
            delattr(module, module.weight_name + "_lora_b")
            module.lora_scale = None
    if model.lora is None:
        return _adapted(base, LoraConfig(quantize=kind), (), nnx.Rngs(0))
    result = add_lora(base, dataclasses.replace(model.lora, quantize=kind), rngs=nnx.Rngs(0))
    set_lora(result, lora_state(model))
    return result


def lora_state(model: Gemma3) -> nnx.State:
    """The adapter: the state of the LoRA parameters alone (a pytree to train, store or exchange).

    Raises:
      ValueError: if the model has no adapters.
    """
    if model.lora is None:
        raise ValueError("the model has no LoRA adapters; add_lora makes them")
    return jax.tree.map(lambda x: x, nnx.state(model, nnx.LoRAParam))  # new variables, the same arrays


def set_lora(model: Gemma3, adapter: nnx.State) -> None:
    """Puts another adapter on the same base, in place; nothing of the base is copied.

    Arrays that lie elsewhere than the model's own adapter (another mesh, the host) are moved to where that lies.

    Raises:
      ValueError: if names, shapes or dtypes differ from the model's adapter; the message lists them.
    """
    have = {path: variable.get_value() for path, variable in nnx.to_flat_state(lora_state(model))}
    new_state = dict(nnx.to_flat_state(adapter)).items()
    new = {path: variable.get_value() for path, variable in new_state}
    wrong = [f"{_name(p)} is missing" for p in have.keys() - new.keys()]
    wrong += [f"{_name(p)} is unexpected" for p in new.keys() - have.keys()]
    for path in have.keys() & new.keys():
        if new[path].shape != have[path].shape:
            wrong.append(f"{_name(path)} has shape {new[path].shape}, wanted {have[path].shape}")
        if new[path].dtype != have[path].dtype:
            wrong.append(f"{_name(path)} is {new[path].dtype}, wanted {have[path].dtype}")
    if wrong:
        raise ValueError(
            f"adapter does not fit the model's ({len(wrong)} differences): " + "; ".join(sorted(wrong)[:10])
        )
    placed = {path: variable.replace(placed_like(variable.get_value(), have[path])) for path, variable in new_state}
    nnx.update(model, nnx.from_flat_state(placed))


def placed_like(new: Any, old: Any) -> Any:
    """`new` where `old` lies; as it is if either has no place (a tracer, a shape)."""
    if any(isinstance(x, jax.core.Tracer | jax.ShapeDtypeStruct) for x in (new, old)):
        return new
    return new if getattr(new, "sharding", None) == old.sharding else jax.device_put(new, old.sharding)


def _projections(model: Gemma3) -> dict[str, Einsum | Linear]:
    """The modules that can have an adapter, by their paths as qwix writes them."""
    modules = nnx.iter_modules(model)
    return {"/".join(map(str, path)): module for path, module in modules if isinstance(module, Einsum | Linear)}


def _rules(model: Gemma3, config: LoraConfig, targets: tuple[str, ...]) -> dict[str, Any]:
    """Qwix's rule for each projection, by its path: LoRA for targets, and quantising alone for others, if at all."""
    import qwix  # 0.3 s: not for those who only load a model

    paths = _projections(model)
    targeted = {p for p in paths for t in targets if re.fullmatch(t, p) or re.fullmatch(t, p.rsplit("/", 1)[-1])}
    for target in targets:
        if not any(re.fullmatch(target, p) or re.fullmatch(target, p.rsplit("/", 1)[-1]) for p in paths):
            raise ValueError(f"LoRA target {target!r} matches no module; there are {', '.join(TARGETS)} in each layer")
    rules: dict[str, Any] = {}
    for path, module in paths.items():
        kind: dict = {}
        if config.quantize is not None:
            kind = {"weight_qtype": "int8" if config.quantize == "int8" else "nf4"}
            if config.quantize == "nf4":
                kind["tile_size"] = _nf4_tile(_weight(module).shape[: module.contracted])
        if path in targeted:
            rules[path] = qwix.LoraRule(rank=config.rank, alpha=config.alpha, **kind)
        elif kind:
            rules[path] = qwix.QuantizationRule(**kind)
    return rules


def _weight(module: Einsum | Linear) -> jax.Array | jax.ShapeDtypeStruct:
    return getattr(module, module.weight_name).get_value()


def _nf4_tile(contracted: tuple[int, ...]) -> int:
    """Qwix tiles the last contracted dimension only, so a scale covers tile × the others: (4 heads, 256) takes 16."""
    return math.gcd(contracted[-1], max(1, NF4_TILE // math.prod(contracted[:-1])))


@functools.cache  # six traces, not one of each layer's products: 27B has 434
def _as_qwix_makes_it(
    kind: type[Einsum | Linear],
    equation: str,
    contracted: int,
    shape: tuple[int, ...],
    axes: tuple[str, ...],
    dtype,
    rule: Any,
) -> Einsum | Linear:
    """A projection by itself as qwix makes it, with shapes in place of values. Not to be changed: clone it."""
    import qwix

    def apply():
        bare = kind(equation, shape, axes, contracted=contracted, dtype=dtype, rngs=nnx.Rngs(0))
        x = jnp.zeros((1, 1, *shape[:contracted]), dtype)
        return qwix.apply_lora_to_model(bare, qwix.LoraProvider([rule]), x, rngs=nnx.Rngs(0))

    return nnx.eval_shape(apply)


def _init_adapter(
    module, name: str, variable: nnx.Variable, base: nnx.Variable, rngs: nnx.Rngs, mesh: Mesh | None
) -> nnx.Variable:
    """A: uniform with variance 2 / fan_in (qwix's default, He et al. 2015); B: zero. Both in float32."""
    shape, is_a = variable.get_value().shape, name.endswith("_lora_a")
    axes = base.get_metadata()["axes"]
    axes = (*axes[: module.contracted], "rank") if is_a else ("rank", *axes[module.contracted :])
    variable = variable.replace(jax.ShapeDtypeStruct(shape, jnp.float32))
    variable.set_metadata("axes", axes)
    sharding = None if mesh is None else variable_sharding(variable, mesh)
    if isinstance(base.get_value(), jax.ShapeDtypeStruct):
        return variable.replace(jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding))
    return variable.replace(_adapter_maker(shape, is_a, sharding)(rngs.params()))


@functools.cache  # one compilation for all layers
def _adapter_maker(shape: tuple[int, ...], is_a: bool, sharding):
    init = jax.nn.initializers.he_uniform() if is_a else jax.nn.initializers.zeros
    return jax.jit(lambda key: init(key, shape, jnp.float32), out_shardings=sharding)


def _quantise(weight: jax.Array | jax.ShapeDtypeStruct, made, mesh: Mesh | None):
    """`made`, a weight as qwix holds it, with the quantised values of `weight`."""
    parts = {name: getattr(made.array, name) for name in ("qvalue", "scale")}
    shardings = tuple(None if mesh is None else variable_sharding(v, mesh) for v in parts.values())
    how = made.how
    quantise = _quantiser(how.qtype, tuple(how.channelwise_axes), tuple(how.tiled_axes.items()), shardings)
    if isinstance(weight, jax.ShapeDtypeStruct):
        quantise = functools.partial(jax.eval_shape, quantise)
    for variable, value in zip(parts.values(), quantise(weight), strict=True):
        variable.set_value(value)
    return made


@functools.cache
def _quantiser(qtype, channelwise_axes, tiled_axes, shardings):
    import qwix

    def quantise(weight):
        q = qwix.quantize(weight, qtype, channelwise_axes=channelwise_axes, tiled_axes=dict(tiled_axes))
        return q.qvalue, q.scale

    return jax.jit(quantise, out_shardings=None if shardings[0] is None else shardings)


def _name(path) -> str:
    return ".".join(map(str, path))
