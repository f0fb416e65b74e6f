"""What will be done, as the program says it before it does anything."""

import dataclasses
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from coldforge.apps.pipeline.config import Estimate, Options, PipelineConfig
from coldforge.apps.pipeline.ledger import fingerprint
from coldforge.apps.pipeline.main import NAMES, parse, run, within
from coldforge.apps.pipeline.presets import PRESETS
from coldforge.apps.pipeline.stages import content, seeded, stages_of
from coldforge.apps.pipeline.view import budget, show_plan
from coldforge.apps.pipeline.work import Work
from coldforge.apps.reject import presets as reject
from coldforge.apps.sft.inputs import check_prompts
from coldforge.apps.sft.main import parse as parse_sft
from coldforge.data import AnswerKind, Record
from coldforge.stages.testing import asked_for_help

HUB = [name for name, preset in PRESETS.items() if any("/" in spec for spec in preset().data.rows)]


def options(**changes: Any) -> Options:
    return Options(run=Path("runs/x"), config=PRESETS["gemma3-270m-cpu"](), **changes)


def test_stages_follow_each_other_and_read_what_came_before() -> None:
    done: set[str] = set()
    for stage in stages_of(options()):
        assert set(stage.work.reads) <= done
        assert stage.group in NAMES
        done.add(stage.work.name)
    assert [stage.group for stage in stages_of(options())][:6] == list(NAMES[:6])


def test_until_ends_after_a_stage() -> None:
    assert [stage.work.name for stage in within(options(until="rl-1"))] == ["data", "cold-start", "rl-1"]


def test_from_after_until_is_refused() -> None:
    with pytest.raises(ValueError, match="--from sft-2 comes after --until rl-1"):
        within(options(start="sft-2", until="rl-1"))


@pytest.mark.parametrize("hours", ["0", "-1", "nan"])
def test_a_session_without_time_is_refused(hours: str, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"--max-hours is \S+: a session without time does nothing; wanted more than 0"
    ):
        run(parse(["nano", "--run", str(tmp_path / "run"), "--max-hours", hours]))
    assert not (tmp_path / "run").exists()


def test_the_second_fine_tuning_reads_the_policy_only_where_it_starts_from_it() -> None:
    def reads(chosen: Options) -> tuple[str, ...]:
        return next(stage.work.reads for stage in stages_of(chosen) if stage.work.name == "sft-2")

    for start, wanted in (("base", ("reject",)), ("rl-1", ("reject", "rl-1"))):
        config = dataclasses.replace(options().config, sft_2_from=start)  # type: ignore[arg-type]
        assert reads(dataclasses.replace(options(), config=config)) == wanted


def test_weights_are_known_by_their_content_wherever_they_lie(tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(bytes(3_000_000) + b"end")
    before = content(tmp_path / "here")
    assert before == content(tmp_path / "there")
    assert before is not None
    (tmp_path / "there" / "model.safetensors").write_bytes(bytes(3_000_000) + b"END")
    assert content(tmp_path / "there") != before
    assert content(None) is None


@pytest.mark.parametrize(("take", "decides"), [("last", False), ("best", True)])
def test_which_state_is_handed_on_decides_a_fine_tuning(take: str, decides: bool) -> None:
    def work(**output: Any) -> Work:
        config = options().config
        cold = dataclasses.replace(
            config.cold_start, output=dataclasses.replace(config.cold_start.output, take=take),
            loop=dataclasses.replace(config.cold_start.loop, **output),
        )  # fmt: skip
        chosen = dataclasses.replace(options(), config=dataclasses.replace(config, cold_start=cold))
        return next(stage.work for stage in stages_of(chosen) if stage.work.name == "cold-start")

    reads = {"data": "0"}
    assert (fingerprint(work(eval_every=5), reads) != fingerprint(work(eval_every=6), reads)) == decides
    other = next(stage.work for stage in stages_of(options()) if stage.work.name == "cold-start")
    assert (fingerprint(work(), reads) != fingerprint(other, reads)) == decides


def prints(config: PipelineConfig) -> dict[str, str]:
    """The fingerprint of every stage, by its own settings alone."""
    chosen = Options(run=Path("runs/x"), config=config)
    return {stage.work.name: fingerprint(stage.work, {}) for stage in stages_of(chosen)}


@pytest.mark.parametrize("change", [{"remat": "full"}, {"layers": "scan"}, {"train": "full"}])
def test_what_only_training_reads_of_a_model_decides_no_rejection_sampling(change: dict[str, Any]) -> None:
    config = options().config
    other = dataclasses.replace(config.reject, model=dataclasses.replace(config.reject.model, **change))
    assert prints(dataclasses.replace(config, reject=other)) == prints(config)


def test_an_evaluation_is_of_a_dtype() -> None:
    config = options().config
    model = dataclasses.replace(config.cold_start.model, dtype="bfloat16")
    changed = dataclasses.replace(config, cold_start=dataclasses.replace(config.cold_start, model=model))
    before, after = prints(config), prints(changed)
    assert {name for name in before if before[name] != after[name]} == {
        "cold-start", "evaluation/base", "evaluation/cold-start", "evaluation/grpo-1", "evaluation/sft-2",
        "evaluation/grpo-2",
    }  # fmt: skip


def test_a_seed_moves_all_seeds() -> None:
    config = PRESETS["gemma3-270m-cpu"]()
    moved = seeded(config, 5)
    for part in ("cold_start", "rl_1", "sft_2", "rl_2"):
        assert getattr(moved, part).loop.seed == getattr(config, part).loop.seed + 5
    assert moved.rl_1.questions.seed == config.rl_1.questions.seed + 5
    assert moved.reject.seed == config.reject.seed + 5
    assert seeded(config, 0) == config


@pytest.mark.parametrize("preset", HUB)
def test_rows_as_long_as_may_be_pass_the_check_of_the_gate_and_fit_into_what_is_trained_on(preset: str) -> None:
    config = PRESETS[preset]()
    length = config.data.prepare.max_tokens
    parts = np.ones(length, np.uint8)
    parts[0] = 0  # a prompt of one token, shorter than any
    row = Record(np.zeros(length, np.int32), parts, "rows", 0, "?", "", "So.", "1", AnswerKind.NUMBER)
    check_prompts([row] * config.cold_start.gate.prompts, config.cold_start)
    assert length <= config.cold_start.batches.seq_len
    assert config.reject.longest <= config.reject.keep.max_tokens <= config.sft_2.batches.seq_len
    for stage in (config.rl_1, config.rl_2):
        assert stage.longest <= stage.seq_len


@pytest.mark.parametrize("preset", HUB)
def test_no_stage_cuts_off_what_the_one_before_has_taught(preset: str) -> None:
    config = PRESETS[preset]()
    lengths = [
        config.data.prepare.max_tokens, config.cold_start.gate.max_new_tokens, config.rl_1.rollout.max_new_tokens,
        config.reject.sampling.max_new_tokens, config.sft_2.gate.max_new_tokens, config.rl_2.rollout.max_new_tokens,
        config.evaluation.max_new_tokens,
    ]  # fmt: skip
    assert lengths == sorted(lengths)


def test_r1_has_the_papers_numbers() -> None:
    config = PRESETS["r1"]()
    first, second, last = config.rl_1, config.sft_2, config.rl_2
    assert (last.rollout.temperature, last.loop.steps, last.rewards.language) == (0.7, 1700, 1.0)
    rest = dataclasses.replace(
        last, rollout=first.rollout, loop=dataclasses.replace(last.loop, steps=first.loop.steps), gate=first.gate
    )
    assert rest == first, "otherwise as GRPO 1"
    assert (config.sft_2_from, second.loop.epochs, second.batches.seq_len) == ("base", 2, 32768)
    assert second.optimizer.final_fraction == 0.1
    assert second.optimizer.learning_rate == pytest.approx(10 * 5e-6)
    asked = config.evaluation
    assert (asked.samples, asked.temperature, asked.top_p, asked.max_new_tokens) == (16, 0.6, 0.95, 32768)


def test_the_command_of_reject_r1_is_the_second_fine_tuning_of_the_pipeline() -> None:
    [command] = re.findall(r"coldforge-sft (gemma3-1b .*)", reject.r1.__doc__ or "")
    assert parse_sft(command.split()).config == PRESETS["r1"]().sft_2


@pytest.mark.parametrize("preset", PRESETS)
def test_a_dry_run_shows_the_plan_at_80_columns(preset: str, tmp_path: Path) -> None:
    chosen = parse([preset, "--run", str(tmp_path / "run"), "--dry-run", "--max-hours", "0.5"])
    console = Console(width=80, file=io.StringIO(), record=True)
    show_plan([(stage, None) for stage in within(chosen)], chosen, console)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "GRPO 1: rewards by rules" in text
    assert "stages are left" in text
    assert not (tmp_path / "run").exists()


def test_the_budget_says_where_a_session_will_end() -> None:
    stages = within(options(until="rl-1"))
    known = {
        "data": Estimate(minutes=1, gb=1),
        "cold-start": Estimate(minutes=50, gb=1),
        "rl-1": Estimate(minutes=90, gb=1),
    }
    assert budget(stages, known, None) == "3 stages are left: about 2.4 h."
    assert "will probably end in rl-1; the same command goes on, about 3 sessions in all" in budget(stages, known, 1.0)
    assert budget(stages, known, 9.0).endswith("this session has 9.0 h.")
    assert budget([], known, 9.0) == "All stages are done."


def test_a_stage_that_nobody_knows_is_named() -> None:
    assert budget(within(options(until="cold-start")), {"data": Estimate(minutes=1, gb=1)}, None) == (
        "2 stages are left: about 60 s and cold-start, whose time is not known."
    )


def test_help_imports_neither_jax_nor_what_draws() -> None:
    """`coldforge --help` took four seconds, of which these were three."""
    page, imported = asked_for_help("coldforge.apps.pipeline.main")
    assert "usage: coldforge" in page
    assert not imported & {"jax", "flax", "matplotlib", "reasoning_gym", "scipy", "sympy"}
