"""Adapters in PEFT's format, as peft, transformers and vLLM read and write them.

    save_peft(model, "adapter", base_model_name="google/gemma-3-1b-pt")
    model = with_peft(load(base), "adapter")

A directory of `adapter_config.json` and `adapter_model.safetensors` with, for every adapted projection,
`base_model.model.model.layers.N.self_attn.q_proj.lora_A.weight` `[rank, in]` and `lora_B.weight` `[out, rank]`. Here
keys and values share one A (they are one product); it is written for both. An adapter from elsewhere has two, and is
still read exactly, at twice the rank: `x [A_k A_v] [B_k 0; 0 B_v]`; the other projections' B then has rows of zeros.

Left out, and refused by name: rank or alpha per module, rsLoRA, DoRA, biases, fully trained modules, `.bin` files.
"""

import json
import re
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from coldforge.modeling import layout
from coldforge.modeling.atomic import new_directory
from coldforge.modeling.config import Gemma3Config
from coldforge.modeling.hf import canonical
from coldforge.modeling.layout import Part
from coldforge.modeling.lora import LoraConfig, add_lora
from coldforge.modeling.model import Gemma3
from coldforge.modeling.projections import Einsum, Linear
from coldforge.modeling.safetensors_file import Entry, read_header, read_whole
from coldforge.modeling.save import Specs, fetch, write
from coldforge.modeling.weights import Faults, WeightsError

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # PEFT's; the base model's own prefix follows
_BASE_PREFIX = "model."

# Fields of adapter_config.json whose value must be one of these.
_FIXED: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "use_rslora": (False, None),
    "use_dora": (False, None),
    "lora_bias": (False, None),
    "fan_in_fan_out": (False, None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None, []),
    "target_parameters": (None, []),
}


def save_peft(model: Gemma3, directory: str | PathLike, *, base_model_name: str | None = None) -> None:
    """Writes the model's adapter, in float32. With several processes all must call this; the first one writes.

    Args:
      model: with adapters.
      directory: must not exist, or be empty.
      base_model_name: what peft shall load as the base when given the adapter alone: a hub name or a path.

    Raises:
      ValueError: if the model has no adapters.
      FileExistsError: if the directory is not empty.
    """
    if model.lora is None:
        raise ValueError("the model has no LoRA adapters to save; add_lora makes them, save_hf writes a model without")
    adapted = _adapted(model)
    specs: Specs = {}
    for module, parts in adapted.values():
        for part in parts:
            for half, array in zip((part.lora_a(), part.lora_b()), _arrays(module), strict=True):
                specs[PREFIX + _BASE_PREFIX + half.name] = half.shape(array.shape), np.dtype(np.float32)
    with new_directory(Path(directory)) as partial:
        write(partial / TENSORS, specs, _tensors(adapted))
        if jax.process_index() == 0:
            names = [part.name for _, parts in adapted.values() for part in parts]
            config = _config_json(model.lora, names, model.config.num_layers, base_model_name)
            (partial / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def peft_config(directory: str | PathLike, config: Gemma3Config) -> LoraConfig:
    """What `add_lora` needs for the adapter in `directory` to fit a model of `config`.

    The rank is the adapter's, or twice that (and alpha too) if keys and values have different A.

    Raises:
      FileNotFoundError: if there is no adapter.
      WeightsError: if it is damaged, of another model, or uses what is not implemented.
    """
    return _Adapter(Path(directory), config).lora


def load_peft(model: Gemma3, directory: str | PathLike) -> None:
    """Puts the adapter in `directory` on a model that has adapters of that kind, in place; the base is not touched.

    Raises:
      ValueError: if the model's adapters are of another rank, alpha or other targets.
      FileNotFoundError, WeightsError: as `peft_config`.
    """
    adapter = _Adapter(Path(directory), model.config)
    adapted, lora = _adapted(model), model.lora
    same_size = lora is not None and (lora.rank, lora.alpha) == (adapter.lora.rank, adapter.lora.alpha)
    if not same_size or set(adapted) != set(adapter.modules):
        raise ValueError(
            f"the adapter in {directory} needs a model made by add_lora(base, peft_config(directory, base.config)), "
            f"that is with {adapter.lora}; the model has {lora}"
        )
    for path, (module, parts) in adapted.items():
        variables = [getattr(module, module.weight_name + suffix) for suffix in ("_lora_a", "_lora_b")]
        values = adapter.read(parts, adapter.modules[path], [fetch(v.get_value()) for v in variables])
        for variable, value in zip(variables, values, strict=True):
            old = variable.get_value()
            variable.set_value(jax.make_array_from_callback(value.shape, old.sharding, value.__getitem__))


def with_peft(model: Gemma3, directory: str | PathLike) -> Gemma3:
    """The model with the adapter in `directory`: `add_lora` and `load_peft` in one; the base's arrays are shared.

    Raises:
      ValueError: if the model has adapters already.
      FileNotFoundError, WeightsError: as `peft_config`.
    """
    adapted = add_lora(model, peft_config(directory, model.config), rngs=nnx.Rngs(0))
    load_peft(adapted, directory)
    return adapted


class _Adapter:
    """An adapter's directory: checked when made; values are read by `read`.

    Attributes:
      lora: what `add_lora` needs for it.
      modules: path of every adapted module → the entries (A, B) of each of its tensors, None where one has no adapter.
    """

    def __init__(self, directory: Path, config: Gemma3Config):
        self._place = directory
        settings = _read_config(directory)
        self._rank = int(settings["r"])
        self.modules = self._find(config, read_header(directory / TENSORS))
        doubled = any(not self._shares_a(halves) for halves in self.modules.values())
        rank = 2 * self._rank if doubled else self._rank
        alpha = float(settings["lora_alpha"]) * rank / self._rank
        self.lora = LoraConfig(rank=rank, alpha=alpha, targets=_targets(self.modules, config))

    def _find(
        self, config: Gemma3Config, entries: Mapping[str, Entry]
    ) -> dict[layout.Path, list[tuple[Entry, Entry] | None]]:
        have = {canonical(label.removeprefix(PREFIX)): (label, entry) for label, entry in entries.items()}
        modules: dict[layout.Path, list[tuple[Entry, Entry] | None]] = {}
        known: set[str] = set()
        missing: list[str] = []
        misshapen: list[str] = []
        for path, parts in layout.projections(config).items():
            halves = []
            for part in parts:
                rows, cols = part.shape(_shape(config, path))
                wanted = {part.lora_a().name: (self._rank, cols), part.lora_b().name: (rows, self._rank)}
                known |= wanted.keys()
                found = [have[name] for name in wanted if name in have]
                if len(found) == 1:
                    missing += [name for name in wanted if name not in have]
                misshapen += [
                    f"{have[name][0]} {list(have[name][1].shape)}, wanted {list(shape)}"
                    for name, shape in wanted.items()
                    if name in have and have[name][1].shape != shape
                ]
                halves.append((found[0][1], found[1][1]) if len(found) == 2 else None)
            if any(halves):
                modules[path] = halves
        faults = Faults(str(self._place / TENSORS))
        faults.add("missing", missing)
        faults.add("unexpected", [label for name, (label, _) in have.items() if name not in known])
        faults.add("of another shape", misshapen)
        faults.report()
        if not modules:
            raise WeightsError(f"{self._place / TENSORS} holds no adapter tensors")
        return modules

    def _shares_a(self, halves: list[tuple[Entry, Entry] | None]) -> bool:
        """Whether all tensors of a module that have an adapter have the same A."""
        first, *others = (read_whole(half[0]) for half in halves if half is not None)
        return all(np.array_equal(first, other) for other in others)

    def read(
        self, parts: tuple[Part, ...], halves: list[tuple[Entry, Entry] | None], old: list[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """A and B of a module as the model has them; columns of A that stay unused keep their values, B's are zero."""
        a, b = old[0].copy(), np.zeros_like(old[1])
        shared = self._shares_a(halves)
        for i, (part, half) in enumerate(zip(parts, halves, strict=True)):
            if half is None:
                continue
            ranks = slice(0, self._rank) if shared else slice(i * self._rank, (i + 1) * self._rank)
            view = part.lora_a().view(a[..., ranks])
            view[...] = read_whole(half[0]).reshape(view.shape)
            view = part.lora_b().view(b[ranks])
            view[...] = read_whole(half[1]).reshape(view.shape)
        return a, b


def _adapted(model: Gemma3) -> dict[layout.Path, tuple[Einsum | Linear, tuple[Part, ...]]]:
    """Every module with an adapter, by path in the order of the network, and the tensors of its weight."""
    modules = dict(nnx.iter_modules(model))
    adapted: dict[layout.Path, tuple[Einsum | Linear, tuple[Part, ...]]] = {}
    for path, parts in layout.projections(model.config).items():
        module = modules[path]
        if isinstance(module, Einsum | Linear) and hasattr(module, module.weight_name + "_lora_a"):
            adapted[path] = module, parts
    return adapted


def _arrays(module: Einsum | Linear) -> tuple[jax.Array, jax.Array]:
    return tuple(getattr(module, module.weight_name + suffix).get_value() for suffix in ("_lora_a", "_lora_b"))


def _tensors(adapted: Mapping[layout.Path, tuple[Einsum | Linear, tuple[Part, ...]]]) -> Iterator[np.ndarray]:
    for module, parts in adapted.values():
        a, b = (fetch(array) for array in _arrays(module))
        for part in parts:
            yield part.lora_a().take(a)
            yield part.lora_b().take(b)


def _config_json(lora: LoraConfig, adapted: list[str], num_layers: int, base: str | None) -> dict[str, Any]:
    """`adapted` are the names of the adapted weights, `layers.0.self_attn.q_proj.weight`."""
    names = [name.removesuffix(".weight") for name in adapted]
    kinds = {name.rsplit(".", 1)[-1] for name in names}
    everywhere = len(names) == len(kinds) * num_layers
    alpha = int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha
    return {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": lora.rank,
        "target_modules": sorted(kinds) if everywhere else names,  # ends of the modules' names
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }


def _read_config(directory: Path) -> dict[str, Any]:
    for name in (CONFIG, TENSORS):
        if not (directory / name).is_file():
            raise FileNotFoundError(
                f"{directory} has no {name}; wanted an adapter's directory with {CONFIG} and {TENSORS}"
            )
    try:
        settings = json.loads((directory / CONFIG).read_text("utf-8"))
        wrong = [
            f"{name} is {settings.get(name)!r}"
            for name, accepted in _FIXED.items()
            if settings.get(name) not in accepted
        ]
        if int(settings["r"]) < 1 or float(settings["lora_alpha"]) <= 0:
            wrong.append(f"r is {settings['r']} and lora_alpha {settings['lora_alpha']}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{directory / CONFIG} is not the config of a LoRA adapter: {error!r}") from error
    if wrong:
        raise WeightsError(f"the adapter in {directory} is of a kind that is not implemented: {'; '.join(wrong)}")
    return settings


def _targets(modules: Mapping[layout.Path, Any], config: Gemma3Config) -> tuple[str, ...]:
    """Module names if all layers have them, else the paths of the modules."""
    kinds = list(dict.fromkeys(str(path[-1]) for path in modules))
    if len(modules) == len(kinds) * config.num_layers:
        return tuple(kinds)
    return tuple(re.escape("/".join(map(str, path))) for path in modules)


def _shape(config: Gemma3Config, path: layout.Path) -> tuple[int, ...]:
    """The shape of a projection's weight."""
    d, f, n, k, h = config.embed_dim, config.mlp_dim, config.num_heads, config.num_kv_heads, config.head_dim
    return {
        "q_einsum": (d, n, h),
        "kv_einsum": (d, 2, k, h),
        "attn_vec_einsum": (n, h, d),
        "gate_proj": (d, f),
        "up_proj": (d, f),
        "down_proj": (f, d),
    }[str(path[-1])]
