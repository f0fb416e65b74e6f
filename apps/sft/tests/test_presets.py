"""Presets and options: their defaults are the packages', and every preset builds its step without weights."""

import dataclasses

import jax
import pytest

from coldforge import modeling, training
from coldforge.apps.sft.build import build
from coldforge.apps.sft.config import MAY_DIFFER, GateOptions, OptimizerOptions
from coldforge.apps.sft.main import parse
from coldforge.apps.sft.presets import PRESETS
from coldforge.apps.sft.verdict import limits
from coldforge.data.prepare import Options as PrepareOptions
from coldforge.sft import GateLimits
from coldforge.stages.model import abstract_model
from coldforge.stages.options import LoraOptions

LINE = ["--data", "data", "--run", "run"]


def test_defaults_are_those_of_the_packages() -> None:
    options = dataclasses.asdict(OptimizerOptions())
    config = dataclasses.asdict(training.OptimizerConfig())
    assert {name: options[name] for name in config} == config
    assert limits(GateOptions()) == GateLimits()
    lora = modeling.LoraConfig()
    assert (LoraOptions().rank, LoraOptions().alpha) == (lora.rank, lora.alpha)


def test_the_seeds_numbers_are_the_defaults() -> None:
    config = PRESETS["gemma3-270m"]()
    optimizer, batches = config.optimizer, config.batches
    assert (optimizer.learning_rate, optimizer.warmup, optimizer.weight_decay, optimizer.max_grad_norm) == (
        2e-4,
        0.1,
        0.1,
        0.1,
    )
    assert (batches.rows, batches.accumulation) == (2, 4)
    assert (config.lora.rank, config.lora.alpha, config.model.train) == (64, 64.0, "lora")


@pytest.mark.parametrize("name", PRESETS)
def test_every_option_of_every_preset_can_be_overridden(name: str) -> None:
    changed = parse([name, *LINE, "--optimizer.learning-rate", "3e-5", "--mesh.data", "4", "--gate.format", "0.9",
                     "--optimizer.max-grad-norm", "None", "--max-hours", "8.5"])  # fmt: skip
    assert changed.config.optimizer == dataclasses.replace(
        PRESETS[name]().optimizer, learning_rate=3e-5, max_grad_norm=None
    )
    assert changed.config.mesh.data == 4
    assert changed.max_hours == 8.5
    assert parse([name, *LINE]).config == PRESETS[name]()


def test_docstrings_give_the_command_and_the_hardware() -> None:
    for name, preset in PRESETS.items():
        said = preset.__doc__ or ""
        assert f"coldforge-sft {name} " in said
        assert "Hardware: " in said


@pytest.mark.parametrize("name", ["gemma3-1b", "gemma3-4b", "gemma3-12b", "gemma3-27b"])
def test_rows_as_they_are_prepared_by_default_fit_into_batches_and_gate(name: str) -> None:
    config, longest = PRESETS[name](), PrepareOptions().max_tokens
    assert config.batches.seq_len >= longest
    assert config.gate.max_new_tokens >= longest


def test_fields_that_may_differ_exist() -> None:
    whole = dataclasses.asdict(PRESETS["tiny"]())
    for pattern in MAY_DIFFER:
        group, _, name = pattern.partition(".")
        assert any(field.startswith(name.rstrip("*")) for field in whole[group]), pattern


@pytest.mark.parametrize("name", ["tiny", "gemma3-270m", "gemma3-4b"])
def test_a_step_is_built_from_shapes(name: str) -> None:
    config = PRESETS[name]()
    built = build(abstract_model(config.model, config.lora, None), config, steps=10, mesh=None)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves((built.params, built.frozen)))
    assert built.batch.tokens.shape == (config.batches.accumulation, config.batches.rows, config.batches.seq_len)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(built.params)} == {"float32"}
    quantised = [leaf for leaf in jax.tree.leaves(built.frozen) if leaf.dtype.name == "int8"]
    assert bool(quantised) == (name == "gemma3-4b")
