"""Presets and options: the papers' numbers, the packages' defaults; every preset builds its step without weights."""

import dataclasses
import resource
from functools import cache
from pathlib import Path

import jax
import pytest

from coldforge import training
from coldforge.apps.grpo.build import batch_shape, build, loop_config
from coldforge.apps.grpo.config import MAY_DIFFER, AlgorithmOptions, GrpoRunConfig, PolicyOptions
from coldforge.apps.grpo.judge import weighted_rewards
from coldforge.apps.grpo.main import parse
from coldforge.apps.grpo.presets import PRESETS
from coldforge.data import ReasoningFormat
from coldforge.grpo import GrpoConfig
from coldforge.losses import PolicyLoss
from coldforge.modeling import Gemma3
from coldforge.stages.model import abstract_model
from coldforge.stages.options import LoraOptions, ModelConfig
from coldforge.stages.testing import asked_for_help

pytestmark = pytest.mark.whole

LINE = ["--from", "cold", "--run", "run"]


@cache
def shapes(model: ModelConfig, lora: LoraOptions) -> Gemma3:
    """A preset's model; most presets have the same."""
    return abstract_model(model, lora, None)


def test_defaults_are_those_of_the_packages() -> None:
    policy = dataclasses.asdict(PolicyLoss())
    assert dataclasses.asdict(PolicyOptions()) == {name: policy[name] for name in dataclasses.asdict(PolicyOptions())}
    loop = dataclasses.asdict(GrpoConfig(steps=1, questions=1, group_size=2))
    options = dataclasses.asdict(AlgorithmOptions())
    assert {name for name in options if options[name] != loop[name]} == {"aggregation"}, "GRPO's own: a sample's mean"
    assert options["aggregation"] == "sequence_mean"


def test_r1_has_the_papers_numbers() -> None:
    config = PRESETS["r1"]()
    loop = loop_config(config)
    assert (loop.questions, loop.group_size, loop.samples, loop.minibatches, loop.inner_epochs) == (
        512,
        16,
        8192,
        16,
        1,
    )
    assert loop.samples // loop.minibatches == 32 * 16
    assert (loop.policy.clip_low, loop.policy.clip_high, loop.policy.beta, loop.policy.kl) == (10, 10, 0.001, "k3")
    assert (loop.advantage, loop.aggregation, loop.old) == ("grpo", "sequence_mean", "sampler")
    assert (config.rollout.temperature, config.longest, config.seq_len) == (1.0, 32768, 32768)
    assert (loop.refresh_reference, loop.refresh_reference % loop.minibatches) == (400, 0)
    rewards = weighted_rewards(config.rewards, ReasoningFormat(template=""), config.rollout.max_new_tokens)
    assert [(part.name, part.weight) for part in rewards] == [("accuracy", 1), ("format", 1), ("language", 1)]


def test_variants_have_their_papers_numbers() -> None:
    dapo, dr_grpo, gspo = (loop_config(PRESETS[name]()) for name in ("dapo", "dr-grpo", "gspo"))
    assert (dapo.policy.clip_low, dapo.policy.clip_high, dapo.policy.beta, dapo.aggregation) == (0.2, 0.28, 0, "token")
    assert (dapo.samples, dapo.updates, dapo.overlong_filter, dapo.resample > 1) == (8192, 16, True, True)
    assert PRESETS["dapo"]().rewards.overlong_cache == 4096
    assert (dr_grpo.advantage, dr_grpo.aggregation, dr_grpo.policy.beta) == ("dr_grpo", "constant", 0)
    assert (gspo.policy.ratio, gspo.policy.clip_low, gspo.policy.clip_high, gspo.updates) == ("sequence", 3e-4, 4e-4, 4)


@pytest.mark.parametrize("name", PRESETS)
def test_every_option_of_every_preset_can_be_overridden(name: str) -> None:
    changed = parse([
        name, *LINE, "--policy.dual-clip", "2.5", "--rollout.slots", "7", "--rewards.fallbacks", "boxed",
        "--algorithm.advantage", "rloo", "--max-hours", "8.5", "--questions.sources", "a", "b",
    ])  # fmt: skip
    assert changed.config.policy == dataclasses.replace(PRESETS[name]().policy, dual_clip=2.5)
    assert (changed.config.rollout.slots, changed.config.rewards.fallbacks) == (7, ("boxed",))
    assert (changed.max_hours, changed.config.questions.sources, changed.start) == (8.5, ("a", "b"), Path("cold"))
    assert loop_config(changed.config).advantage == "rloo"
    assert parse([name, *LINE]).config == PRESETS[name]()


def test_docstrings_give_the_command_and_the_hardware() -> None:
    for name, preset in PRESETS.items():
        said = preset.__doc__ or ""
        assert f"coldforge-grpo {name} " in said
        assert "Hardware: " in said


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_built_from_shapes(name: str) -> None:
    config = PRESETS[name]()
    built = build(shapes(config.model, config.lora), config, mesh=None)
    leaves = jax.tree.leaves((built.params, built.frozen, built.state, built.batch))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(built.params)} == {"float32"}
    assert (built.batch.ref_logprobs is not None) == (config.policy.beta > 0)
    shape = built.shape
    assert built.batch.tokens.shape == shape
    update = built.loop.samples // built.loop.minibatches
    assert shape.accumulation * shape.rows * (shape.seq_len // config.longest) >= update, "the longest samples fit"


@pytest.mark.parametrize("name", PRESETS)
def test_a_run_directory_knows_its_configuration_again(name: str, tmp_path: Path) -> None:
    """Through YAML and back: the same goes on, another learning rate does not, another mesh does."""

    def opened(config: GrpoRunConfig) -> None:
        with training.open_run(tmp_path, stage="grpo", config=config, may_differ=MAY_DIFFER) as run:
            assert run.config["policy"]["clip_low"] == config.policy.clip_low
            run.close("stopped")

    config = PRESETS[name]()
    opened(config)
    opened(config)
    opened(dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, tensor=2)))
    for part, odd in (("optimizer", {"learning_rate": 0.5}), ("loop", {"eval_temperature": 0.7})):
        other = dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **odd)})
        with pytest.raises(training.RunError, match=next(iter(odd))):
            opened(other)


def test_fields_that_may_differ_exist() -> None:
    whole = dataclasses.asdict(PRESETS["tiny"]())
    for pattern in MAY_DIFFER:
        group, _, name = pattern.partition(".")
        assert any(field.startswith(name.rstrip("*")) for field in whole[group]), pattern


@pytest.mark.parametrize("rows", [8, 16])
def test_rows_are_split_over_data_and_fsdp(rows: int) -> None:
    config = PRESETS["r1"]()
    mesh = jax.sharding.AbstractMesh((1, 16, 1), ("data", "fsdp", "tensor"))
    changed = dataclasses.replace(config, rows=dataclasses.replace(config.rows, rows=rows))
    if rows == 16:
        assert batch_shape(changed, mesh).rows == 16
    else:
        with pytest.raises(
            ValueError, match=r"rows\.rows is 8, and the mesh splits them over data × fsdp = 16 devices"
        ):
            batch_shape(changed, mesh)


@pytest.mark.parametrize("words", [[], ["r1"]])
def test_help_is_quick(words: list[str]) -> None:
    """It imports neither JAX nor what needs it; in seconds of processor time, as others may be at work."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    page, imported = asked_for_help("coldforge.apps.grpo.main", *words)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "usage: coldforge-grpo" in page
    assert not imported & {"jax", "flax", "orbax", "matplotlib", "reasoning_gym", "sympy"}
    assert after.ru_utime - before.ru_utime < 5
