"""Presets: each a function that fills in a `GrpoRunConfig`, and says for what, with which command, and what it came to.

`r1` has DeepSeek-R1's numbers (arXiv:2501.12948, section 3.2.1); `dapo`, `dr_grpo` and `gspo` are
the published variants of it on the same hardware. `gemma3-270m` and `gemma3-1b` are for a CPU and for a v5e-8. Learning
rates are those of adapters, about ten times those of the papers, which train all parameters (LoRA Without Regret finds
the same factor for supervised training and RL); clipping at ε = 10 is given a dual clip, since a ratio of a negative
advantage has no bound otherwise. `coldforge-plan grpo PRESET --topology …` says what a preset takes.
"""

import dataclasses
from collections.abc import Callable

from coldforge.apps.grpo.config import (
    AlgorithmOptions,
    GrpoAdamW,
    GrpoGate,
    GrpoLoop,
    GrpoRunConfig,
    PolicyOptions,
    RewardOptions,
    RolloutOptions,
    RowOptions,
)
from coldforge.stages.options import LoraOptions, ModelConfig, QuestionOptions


def tiny() -> GrpoRunConfig:
    """A Gemma3 of about 100,000 parameters, to see everything happen in a minute or two.

        coldforge-grpo tiny --from SFT_RUN --run RUN --questions.sources QUESTIONS.jsonl

    Hardware: any CPU. All parameters are trained, as the preset tiny of coldforge-sft does. The gate asks for no form.
    """
    return GrpoRunConfig(
        model=ModelConfig(size="tiny", train="full", remat="none"),
        questions=QuestionOptions(heldout=100),
        rollout=RolloutOptions(questions=16, group_size=8, max_prompt_tokens=192, max_new_tokens=48),
        rows=RowOptions(rows=4),
        optimizer=GrpoAdamW(learning_rate=1e-3),
        loop=GrpoLoop(steps=100, eval_every=50, checkpoint_every=25, texts=2),
        gate=GrpoGate(format=0.0, ended=0.0, truncated=1.0, min_prompts=8),
    )


def nano() -> GrpoRunConfig:
    """The model that coldforge-nano brings, on questions that it writes: two minutes.

        coldforge-grpo nano --from SFT_RUN --run RUN --questions.sources ROWS/rl.jsonl

    where `python -m coldforge.nano ROWS` has written them. Hardware: two CPU cores, 1.4 GB. Half of the cold start's
    solutions are quick and often wrong, so what is to be found out is that working it out pays. Seen: 67.0 to 89.3 % of
    300 held-out questions in 20 updates, 2.8 s each; right samples at temperature 1 30 to 78 %. At 1e-3 it peaks after
    ten updates (87 % of samples) and ends at 75.7 %.
    """
    return GrpoRunConfig(
        model=ModelConfig(size="nano", remat="none"),
        lora=LoraOptions(rank=32, alpha=32.0),
        questions=QuestionOptions(heldout=300),
        rollout=RolloutOptions(questions=16, group_size=8, max_prompt_tokens=112, max_new_tokens=64, slots=128),
        rows=RowOptions(seq_len=512, rows=4),
        optimizer=GrpoAdamW(learning_rate=5e-4, final_fraction=0.1),
        loop=GrpoLoop(steps=20, eval_every=0, checkpoint_every=5, texts=2),
    )


def gemma3_270m() -> GrpoRunConfig:
    """Gemma3 270M on a CPU, with the base weights of the extra `gemma3-270m`.

        coldforge-grpo gemma3-270m --from SFT_RUN --run RUN --rollout.max-new-tokens 64 \
            --questions.sources "chain_sum:6000?min_terms=2&max_terms=3&min_digits=1&max_digits=1"

    Hardware: two CPU cores. Short questions with short replies, or an update takes minutes: 110 s for these, 26 of
    them 50 minutes. Score: 32.8 % to 55.6 % of 250 held-out sums at temperature 1 (+22.8 points, 95 %: +16 to +29),
    after 26 updates from a cold start of 40 steps. Noise decides the learning rate: 2e-4 with rollouts of 8 × 8
    samples, of which a few groups teach anything, took the same start from 33 % to 14 % in eight updates, and the
    watchdog stopped it.
    """
    return GrpoRunConfig(
        model=ModelConfig(size="270m"),
        rollout=RolloutOptions(questions=16, group_size=8, max_prompt_tokens=128, max_new_tokens=128, slots=128),
        rows=RowOptions(seq_len=512, rows=2),
        policy=PolicyOptions(beta=0.0),
        optimizer=GrpoAdamW(learning_rate=3e-5),
        loop=GrpoLoop(steps=40, eval_every=20, checkpoint_every=4),
    )


def gemma3_1b() -> GrpoRunConfig:
    """Gemma3 1B on a v5e-8 (a Kaggle or Colab notebook), weights replicated.

        coldforge-grpo gemma3-1b --from SFT_RUN --weights gemma-3-1b-pt --run RUN --max-hours 8.7 \
            --questions.sources openai/gsm8k:main

    Hardware: TPU v5e-8. Hours and score: not run. One update per rollout of 32 × 16 samples, so that it is on-policy.
    """
    return GrpoRunConfig(
        model=ModelConfig(size="1b"),
        rollout=RolloutOptions(max_prompt_tokens=512, max_new_tokens=1536),
        rows=RowOptions(seq_len=8192, rows=8),
        policy=PolicyOptions(beta=0.001),
        loop=GrpoLoop(steps=400),
    )


def r1() -> GrpoRunConfig:
    """DeepSeek-R1's first RL stage, for Gemma3 1B on a v5e-8: 8,192 samples a rollout, 16 updates of 32 × 16.

        coldforge-grpo r1 --from SFT_RUN --weights gemma-3-1b-pt --run RUN --questions.sources QUESTIONS --max-hours 8.7

    Hardware: TPU v5e-8. Hours and score: not run. The paper's numbers: 16 samples a question, 32 questions an
    update, 512 a rollout, one inner epoch, T 1, ε 10, β 0.001, 32,768 tokens, reference := policy every 400 steps,
    accuracy, format and language with equal weights. Weights on each chip: by XLA's cost model a micro-batch of 8 rows
    takes 2.1 s (2.5 with fsdp 8), in 8.0 GiB. Not the paper's: the learning rate (3e-6 trains all parameters)
    and the dual clip.
    """
    return GrpoRunConfig(
        model=ModelConfig(size="1b", remat="full"),
        rollout=RolloutOptions(questions=512, group_size=16, max_prompt_tokens=1024, max_new_tokens=31744),
        rewards=RewardOptions(language=1.0),
        algorithm=AlgorithmOptions(minibatches=16, refresh_reference=400),
        policy=PolicyOptions(clip_low=10.0, clip_high=10.0, dual_clip=3.0, beta=0.001),
        rows=RowOptions(seq_len=32768, rows=8),
        loop=GrpoLoop(steps=1600, eval_every=80, checkpoint_every=4),
    )


def dapo() -> GrpoRunConfig:
    """DAPO (arXiv:2503.14476): clip-higher, token mean, dynamic sampling, soft overlong punishment, no KL.

        coldforge-grpo dapo --from SFT_RUN --weights gemma-3-1b-pt --run RUN --questions.sources QUESTIONS

    Hardware: TPU v5e-8. Hours and score: not run. The paper: 512 questions × 16, 16 updates a rollout, ε 0.2 and 0.28,
    20,480 tokens of which the last 4,096 are dear. Overlong samples are masked, too.
    """
    base = r1()
    return dataclasses.replace(
        base,
        rollout=dataclasses.replace(base.rollout, max_new_tokens=20480),
        rewards=RewardOptions(overlong=1.0, overlong_cache=4096),
        algorithm=AlgorithmOptions(aggregation="token", minibatches=16, resample=3.0, overlong_filter=True),
        policy=PolicyOptions(clip_low=0.2, clip_high=0.28),
        rows=RowOptions(seq_len=21504, rows=8),
    )


def dr_grpo() -> GrpoRunConfig:
    """Dr. GRPO (arXiv:2503.20783): no division by the standard deviation, nor by a sample's own length.

        coldforge-grpo dr-grpo --from SFT_RUN --weights gemma-3-1b-pt --run RUN --questions.sources QUESTIONS

    Hardware: TPU v5e-8. Hours and score: not run. On-policy rollouts of 128 samples and no KL, as in the paper, whose
    rewards are 0 or 1: accuracy alone.
    """
    base = gemma3_1b()
    return dataclasses.replace(
        base,
        rollout=dataclasses.replace(base.rollout, questions=16, group_size=8),
        rewards=RewardOptions(format=0.0, gate=True),
        algorithm=AlgorithmOptions(advantage="dr_grpo", aggregation="constant"),
        policy=PolicyOptions(),
    )


def gspo() -> GrpoRunConfig:
    """GSPO (arXiv:2507.18071): ratio and clip of whole sequences, four updates a rollout.

        coldforge-grpo gspo --from SFT_RUN --weights gemma-3-1b-pt --run RUN --questions.sources QUESTIONS

    Hardware: TPU v5e-8. Hours and score: not run. ε 3e-4 and 4e-4, four minibatches a rollout, as in the paper's
    experiments. A sequence's ratio is a mean over its tokens, so that it stays near 1.
    """
    base = gemma3_1b()
    return dataclasses.replace(
        base,
        rollout=dataclasses.replace(base.rollout, questions=128),
        algorithm=AlgorithmOptions(minibatches=4),
        policy=PolicyOptions(ratio="sequence", clip_low=3e-4, clip_high=4e-4),
    )


PRESETS: dict[str, Callable[[], GrpoRunConfig]] = {
    "tiny": tiny,
    "nano": nano,
    "gemma3-270m": gemma3_270m,
    "gemma3-1b": gemma3_1b,
    "r1": r1,
    "dapo": dapo,
    "dr-grpo": dr_grpo,
    "gspo": gspo,
}
