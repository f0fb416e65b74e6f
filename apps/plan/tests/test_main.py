"""The command line."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from coldforge.apps.plan import main as program
from coldforge.apps.plan.compiling import CompilerError
from coldforge.apps.plan.memory import Refusal
from coldforge.apps.plan.options import STAGES, parse, whole
from coldforge.apps.plan.plan import Plan
from coldforge.apps.plan.plan_grpo import GrpoPlan

pytestmark = pytest.mark.whole


def test_every_option_of_the_step_can_be_overridden_by_long_or_short_name() -> None:
    words = "gemma3-12b --topology v5e:2x4 --mesh.fsdp 4 --data=2 --remat block --rows 16 --seq-len 8192 --quantize nf4"
    preset, options = parse("sft", words.split())
    config = whole("sft", preset, options)
    assert (config.mesh.data, config.mesh.fsdp, config.model.remat) == (2, 4, "block")
    assert (config.batches.rows, config.batches.seq_len, config.lora.quantize) == (16, 8192, "nf4")
    preset_config = STAGES["sft"].presets["gemma3-12b"]()
    assert config.optimizer == preset_config.optimizer
    assert config.gate == preset_config.gate


def test_so_can_those_of_grpo() -> None:
    words = "r1 --topology v5e:2x4 --fsdp 1 --kv int8 --rollout.max-new-tokens 7168 --rows=16 --seq-len 8192 --beta 0"
    preset, options = parse("grpo", words.split())
    config = whole("grpo", preset, options)
    assert (config.mesh.fsdp, config.rollout.kv, config.rollout.max_new_tokens) == (1, "int8", 7168)
    assert (config.rows.rows, config.rows.seq_len, config.policy.beta) == (16, 8192, 0.0)
    base = STAGES["grpo"].presets["r1"]()
    assert config.rewards == base.rewards
    assert config.policy.clip_high == base.policy.clip_high


@pytest.mark.parametrize("stage", STAGES)
def test_no_two_sections_share_a_name(stage: str) -> None:
    sections = dataclasses.fields(STAGES[stage].parts)
    names = [field.name for section in sections for field in dataclasses.fields(section.type)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("dpo gemma3-1b", "there is no stage 'dpo' to plan; there is sft, grpo"),
        ("grpo r1 --topology v5e:2x4 --search", "--search is for sft alone"),
        ("sft gemma3-1b --topology v5e-8", "write v5e:2x4"),
        ("sft gemma3-1b --topology v5e:2x4 --counted 0", "above 0 and at most 1; got 0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    words: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.setattr(program, "require_compiler", lambda: "0.0.52")
    with pytest.raises(SystemExit) as ended:
        program.main(words.split())
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("coldforge-plan: ")
    assert message in error
    assert error.count("\n") == 1


def test_without_libtpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        program.main(["sft", "gemma3-1b", "--topology", "v5e:2x4"])
    assert ended.value.code == 2
    assert "pip install 'coldforge-app-plan[tpu]'" in capsys.readouterr().err


def test_exit_codes_and_json(make_plan: Callable[..., Plan], capsys, monkeypatch) -> None:
    plans = [make_plan(), dataclasses.replace(make_plan(), memory=None, cost=None, refusal=Refusal(0, 0, "no"))]
    monkeypatch.setattr(program, "require_compiler", lambda: "0.0.52")
    monkeypatch.setattr(program, "plan_sft", lambda *a, **k: plans.pop(0))
    for code in (0, 1):
        with pytest.raises(SystemExit) as ended:
            program.main(["sft", "tiny", "--topology", "v5e:2x4", "--json"])
        assert ended.value.code == code
        data = json.loads(capsys.readouterr().out)
        assert data["fits"] is (code == 0)
        assert (data["seconds"] is None) is (code == 1)


def test_exit_codes_and_json_of_grpo(make_grpo_plan: Callable[..., GrpoPlan], capsys, monkeypatch) -> None:
    plans = [make_grpo_plan(), make_grpo_plan(sampler=None)]
    monkeypatch.setattr(program, "require_compiler", lambda: "0.0.52")
    monkeypatch.setattr(program, "plan_grpo", lambda *a, **k: plans.pop(0))
    for code in (0, 1):
        with pytest.raises(SystemExit) as ended:
            program.main(["grpo", "r1", "--topology", "v5e:2x4", "--json"])
        assert ended.value.code == code
        data = json.loads(capsys.readouterr().out)
        assert data["fits"] is (code == 0)
        assert [one["name"] for one in data["programs"]] == ["prefill", "admit", "decode", "score", "update"]
        assert data["programs"][-1]["seconds"] > 0


def test_a_compiler_that_fails(capsys, monkeypatch) -> None:
    def fail(*args, **options):
        raise CompilerError("XLA cannot compile this step: INTERNAL: Mosaic")

    monkeypatch.setattr(program, "require_compiler", lambda: "0.0.52")
    monkeypatch.setattr(program, "plan_sft", fail)
    with pytest.raises(SystemExit) as ended:
        program.main(["sft", "tiny", "--topology", "v5e:2x4"])
    assert ended.value.code == 3
    assert "INTERNAL: Mosaic" in capsys.readouterr().err


def test_usage_is_quick() -> None:
    """Help and complaints come before JAX is loaded."""
    code = """
import sys
from coldforge.apps.plan.main import main
try:
    main(sys.argv[1:])
finally:
    assert 'jax' not in sys.modules
"""
    for words in (
        [],
        ["--help"],
        ["sft", "gemma3-1b", "--help"],
        ["grpo", "r1", "--help"],
        ["sft", "gemma3-1b", "--topology", "v5e-8"],
    ):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr
        assert done.returncode == (0 if "--help" in words else 2)
        assert "coldforge-plan" in done.stdout + done.stderr
