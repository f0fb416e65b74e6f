"""Presets: each a function that fills in a `PipelineConfig`, and says for what, with which command, what it came to.

Stages are presets of their own programs, changed where the pipeline asks for it. `coldforge PRESET --dry-run` shows the
plan with time and memory.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from coldforge.apps.grpo import presets as grpo
from coldforge.apps.grpo.config import GrpoRunConfig, RowOptions
from coldforge.apps.pipeline.config import DataOptions, Estimate, EvaluationOptions, PipelineConfig
from coldforge.apps.reject import presets as reject
from coldforge.apps.sft import presets as sft
from coldforge.data.prepare import Options as PrepareOptions
from coldforge.stages.options import LoraOptions, MeshConfig

SUMS = "min_terms=2&max_terms=3&min_digits=1"
LONGEST = 2048  # tokens of a row of gemma3-1b-v5e8, and of a reply in each of its stages


def default_run(preset: str) -> Path:
    """Where a preset's run goes unless --run says otherwise."""
    return Path("runs") / preset


def estimates(stages: Mapping[str, tuple[float, float]], *, measured: bool = False) -> dict[str, Estimate]:
    """What stages take, in minutes and GB."""
    return {name: Estimate(minutes=minutes, gb=gb, measured=measured) for name, (minutes, gb) in stages.items()}


def second_stage(first: GrpoRunConfig) -> GrpoRunConfig:
    """DeepSeek-R1's second RL stage as far as rules go (3.2.2): temperature 0.7, language rewarded as well.

    It starts where there is little left to gain, and one answer less of 300 (93.7 % after 94.0 %, p = 1) would end the
    run: its gate allows for 5 points.
    """
    return dataclasses.replace(
        first, rollout=dataclasses.replace(first.rollout, temperature=0.7),
        rewards=dataclasses.replace(first.rewards, language=1.0),
        gate=dataclasses.replace(first.gate, accuracy_drop=0.05),
    )  # fmt: skip


def nano() -> PipelineConfig:
    """The model that coldforge-nano brings, through every stage in minutes. The default.

        coldforge

    Hardware: two CPU cores, 2.2 GB. Hours: 0.12 (7.4 minutes on an AMD EPYC with nothing compiled before). Seen, of 300
    held-out questions: base 25.7 %, cold start 46.0, GRPO 87.0, SFT 89.3, GRPO 91.3 % (87.6–94.3).
    """
    first = grpo.nano()
    return PipelineConfig(
        data=DataOptions(
            rows=("nano:1200",), questions=("nano:4000",), heldout=("nano:300",),
            prepare=PrepareOptions(max_tokens=256, heldout_rows=128),
        ),
        cold_start=sft.nano(),
        rl_1=first,
        reject=reject.nano(),
        sft_2=sft.nano(),
        rl_2=dataclasses.replace(
            second_stage(first),
            algorithm=dataclasses.replace(first.algorithm, resample=2.0),
            optimizer=dataclasses.replace(first.optimizer, learning_rate=1.5e-4),
            loop=dataclasses.replace(first.loop, steps=10),
        ),
        evaluation=EvaluationOptions(max_new_tokens=64, slots=128),
        estimates=estimates({
            "data": (0.13, 0.4), "cold-start": (1.8, 1.2), "rl-1": (1.8, 1.9), "reject": (0.4, 1.6),
            "sft-2": (1.3, 1.9), "rl-2": (0.95, 2.2), "evaluation/base": (0.6, 1.9), "evaluation": (0.1, 1.9),
        }, measured=True),
    )  # fmt: skip


def gemma3_270m_cpu() -> PipelineConfig:
    """The real Gemma3 270M on two CPU cores, with the extra's weights and reasoning-gym's sums.

        coldforge gemma3-270m-cpu

    Hardware: two CPU cores, 10 GB. Hours: 1.7, beside other jobs. Seen, of 150 held-out sums of one digit: base 0 %,
    cold start 62.0, GRPO 78.7 (+16.7 points, +7 to +26), SFT 76.7, GRPO 74.0 % (66.2-80.8). What GRPO asks decides
    whether it gains: with sums of one or two digits seven in ten groups of samples were all wrong or all right, and
    twelve updates at 8e-5 lost 6 points.
    """
    cold = sft.gemma3_270m()
    cold = dataclasses.replace(
        cold,
        batches=dataclasses.replace(cold.batches, accumulation=2),
        optimizer=dataclasses.replace(cold.optimizer, learning_rate=5e-4),
        loop=dataclasses.replace(cold.loop, steps=40, eval_every=20, checkpoint_every=10, sample_every=0),
        gate=dataclasses.replace(cold.gate, prompts=128, max_new_tokens=128, rows=128),
    )
    first = grpo.gemma3_270m()
    first = dataclasses.replace(
        first,
        questions=dataclasses.replace(first.questions, heldout=128),
        gate=dataclasses.replace(first.gate, accuracy_drop=0.05),  # of 128 questions, chance alone takes 3 points
        rollout=dataclasses.replace(first.rollout, max_prompt_tokens=96, max_new_tokens=64),
        optimizer=dataclasses.replace(first.optimizer, final_fraction=0.1),
        loop=dataclasses.replace(first.loop, steps=26, eval_every=0),
    )
    chosen, second = reject.gemma3_270m(), second_stage(first)
    second = dataclasses.replace(
        second,
        optimizer=dataclasses.replace(second.optimizer, learning_rate=2e-5),
        loop=dataclasses.replace(second.loop, steps=6),
    )
    return PipelineConfig(
        data=DataOptions(
            rows=(f"sums:2500?{SUMS}&max_digits=2",), questions=(f"sums:600?{SUMS}&max_digits=1",),
            heldout=(f"sums:150?{SUMS}&max_digits=1",),
            prepare=PrepareOptions(max_tokens=512, heldout_rows=150),
        ),
        cold_start=cold,
        rl_1=first,
        reject=dataclasses.replace(
            chosen, ask=400, sampling=dataclasses.replace(chosen.sampling, samples=4),
            keep=dataclasses.replace(chosen.keep, heldout_questions=80),
        ),
        sft_2=dataclasses.replace(
            cold, optimizer=dataclasses.replace(cold.optimizer, learning_rate=1e-4),
            loop=dataclasses.replace(cold.loop, steps=16, eval_every=8),
        ),
        sft_2_from="rl-1",  # of the base: a few hundred rows, all that 1,600 samples come to, would be too few
        rl_2=second,
        evaluation=EvaluationOptions(max_new_tokens=128, slots=128),
        estimates=estimates({
            "data": (0.3, 0.5), "cold-start": (11, 4.8), "rl-1": (44, 7.5), "reject": (12, 8.5), "sft-2": (16, 5.4),
            "rl-2": (9, 8.2), "evaluation/base": (6.5, 9.6), "evaluation": (1.1, 8.7),
        }, measured=True),
    )  # fmt: skip


def gemma3_1b_v5e8() -> PipelineConfig:
    """Gemma3 1B on a v5e-8 (a Kaggle or Colab notebook): Bespoke-Stratos and GSM8K, in sessions of 9 hours.

        coldforge gemma3-1b-v5e8 --weights gemma-3-1b-pt --max-hours 8.7

    Hardware: TPU v5e-8. Wants the extra `hub`. Rows of more than 2,048 tokens are left out, and a reply may have as
    many in every stage. Of the first 2,000 rows of Bespoke-Stratos, 14.6 % have at most 1,792: if the others are like
    them, 2,400 are left. Score: not run. Hours: about 11, two sessions, worked out, not measured, from what XLA's cost
    model says of its programs (`coldforge-plan`): an update of 512 samples 4 s, sampling them 37 s where one of them
    takes all 2,048 tokens (18 ms a step); a step of fine-tuning 0.3 s; 2 minutes to load and compile a stage.
    """
    cold, first, chosen = sft.gemma3_1b(), grpo.gemma3_1b(), reject.gemma3_1b()
    cold = dataclasses.replace(cold, gate=dataclasses.replace(cold.gate, max_new_tokens=LONGEST))
    first = dataclasses.replace(first, rollout=dataclasses.replace(first.rollout, max_new_tokens=LONGEST))
    return PipelineConfig(
        data=DataOptions(
            rows=("bespokelabs/Bespoke-Stratos-17k",), questions=("openai/gsm8k:main",), heldout=("openai/gsm8k:main",),
            prepare=PrepareOptions(max_tokens=LONGEST, heldout_rows=300),
        ),
        cold_start=cold,
        rl_1=first,
        reject=dataclasses.replace(
            chosen, sampling=dataclasses.replace(chosen.sampling, max_new_tokens=LONGEST)
        ),
        sft_2=cold,
        rl_2=second_stage(first),
        evaluation=EvaluationOptions(max_new_tokens=LONGEST),
        estimates=estimates({
            "data": (3, 1.5), "cold-start": (10, 5), "rl-1": (290, 10), "reject": (20, 10),
            "sft-2": (10, 5), "rl-2": (290, 10), "evaluation": (4, 10),
        }),
    )  # fmt: skip


def gemma3_4b_v5e64() -> PipelineConfig:
    """Gemma3 4B on a v5e-64: Bespoke-Stratos and GSM8K; a host's four chips share the weights where it samples.

        coldforge gemma3-4b-v5e64 --weights gemma-3-4b-pt --distributed.initialize

    on every host, with paths that all hosts see. Hardware: TPU v5e-64 (16 hosts). Wants the extra `hub`. Score: not
    run. Hours: about 10, worked out from XLA's cost model (`coldforge-plan grpo`): sampling a rollout of 1,024 samples
    at most 19 s (113,000 tokens/s), scoring 5 s, the update 15 s, where all of them take 2,048 tokens. With weights on
    every chip two samples a chip would have room, at 6,700 tokens/s, and the update none (16.3 of 15.75 GiB).
    """
    small, cold = gemma3_1b_v5e8(), sft.gemma3_4b()
    cold = dataclasses.replace(
        cold, batches=dataclasses.replace(cold.batches, rows=64), lora=LoraOptions(),
        gate=dataclasses.replace(cold.gate, max_new_tokens=LONGEST),
    )  # fmt: skip
    first = dataclasses.replace(
        small.rl_1,
        model=cold.model,
        rollout=dataclasses.replace(small.rl_1.rollout, questions=64),
        rows=RowOptions(seq_len=8192, rows=16),
        mesh=MeshConfig(tensor=4),
    )
    minutes = {"rl-1": (260.0, 14.4), "rl-2": (260.0, 14.4)}  # 400 updates, all samples of 2,048 tokens
    return dataclasses.replace(
        small, estimates=estimates(minutes), cold_start=cold, rl_1=first, sft_2=cold, rl_2=second_stage(first),
        reject=dataclasses.replace(small.reject, model=cold.model, mesh=MeshConfig(tensor=4)),
    )  # fmt: skip


def r1() -> PipelineConfig:
    """The paper's numbers as far as adapters and rules go, for Gemma3 1B on a v5e-8; weeks of it, so above all to read.

        coldforge r1 --weights gemma-3-1b-pt --max-hours 8.7

    Hardware: TPU v5e-8. Wants the extra `hub`. The paper's (arXiv:2501.12948v2) are GRPO 1 (3.2.1), rejection sampling
    and SFT 2 (B.3.3, B.4.2: of the base, two epochs, a cosine to a tenth), GRPO 2 (3.2.2: 1,700 steps at temperature
    0.7) and how checkpoints are asked (D.1); `coldforge-grpo r1` and `coldforge-reject r1` say more. Not the paper's:

    - Adapters, at ten times its rates of all parameters: 3e-5 for 3e-6 (GRPO), 5e-5 for 5e-6 (SFT 2).
    - The cold start, of which it gives no numbers, is that of gemma3-1b-v5e8; nor does it say how long GRPO 1 is.
    - GSM8K alone, where it has mathematics, code, science, logic and general questions. SFT 2 learns no conversations,
      a quarter of its rows, unless it is given some: --reject.chat.sources FILE --reject.chat.share 0.25.
    - GRPO 2 has neither the preference rewards nor the general questions of its last 400 steps.
    - A step of SFT 2 has 8 packed rows, about 32 samples of 8,000 tokens; the paper's has 64.
    - A dual clip, since a ratio of a negative advantage has no bound at ε = 10.
    - Held-out questions are kept out by their text, not by ten words in a row; --data.prepare.decontaminate and
      --reject.keep.decontaminate do that.

    Score: not run. Hours: about 215, worked out from XLA's cost model (`coldforge-plan grpo r1`) for samples of 8,000
    tokens on average: a rollout of 8,192 samples 45 minutes (24,500 tokens/s), its 16 updates 10, 100 rollouts in GRPO
    1 and 107 in GRPO 2; SFT 2 150 minutes where half of the samples are kept (262,144 tokens in 2.5 s), and its gate 90
    at most (four times 128 replies of 31,744 tokens, 41 ms a step).
    """
    first, base = grpo.r1(), gemma3_1b_v5e8()
    longest = reject.r1().keep.max_tokens
    second = dataclasses.replace(  # on its own answers, which are as long as samples are
        base.sft_2,
        model=dataclasses.replace(base.sft_2.model, remat="full"),
        mesh=MeshConfig(fsdp=8),
        batches=dataclasses.replace(base.sft_2.batches, seq_len=longest),
        optimizer=dataclasses.replace(base.sft_2.optimizer, learning_rate=5e-5, final_fraction=0.1),
        loop=dataclasses.replace(base.sft_2.loop, epochs=2),
        gate=dataclasses.replace(base.sft_2.gate, max_new_tokens=first.rollout.max_new_tokens),
    )
    last = second_stage(first)
    return dataclasses.replace(
        base, rl_1=first, reject=reject.r1(), sft_2=second,
        rl_2=dataclasses.replace(last, loop=dataclasses.replace(last.loop, steps=1700)),
        evaluation=EvaluationOptions(samples=16, max_new_tokens=32_768),
        estimates=base.estimates
        | estimates({
            "rl-1": (5500, 15), "reject": (650, 15), "sft-2": (240, 7), "rl-2": (5900, 15), "evaluation": (115, 15),
        }),
    )  # fmt: skip


PRESETS: dict[str, Callable[[], PipelineConfig]] = {
    "nano": nano,
    "gemma3-270m-cpu": gemma3_270m_cpu,
    "gemma3-1b-v5e8": gemma3_1b_v5e8,
    "gemma3-4b-v5e64": gemma3_4b_v5e64,
    "r1": r1,
}
