"""Presets: each a function that fills in an `SftConfig`, and says for what, with which command, and what it came to.

Where nothing else is said, numbers are those that the project began with: learning rate 2e-4, batch 2 × 4, 10 %
warm-up, decay 0.1, clipping at 0.1, LoRA of rank and alpha 64, the defaults in `config`. On a TPU slice the same 8 rows
a step are one micro-batch, a row for each chip, since a micro-batch of 2 would leave 6 of 8 chips idle. Rows are
packed, so a row of 4,096 tokens holds several examples. `coldforge-plan sft PRESET --topology …` says what a preset
takes.

The gates of the presets for TPUs let replies be as long as rows are that coldforge-prepare makes by default, 4,096
tokens. Where coldforge-grpo follows, whose `gemma3-1b` cuts samples off at 1,536, prepare with --max-tokens 1536.
"""

from collections.abc import Callable

from coldforge.apps.sft.config import BatchConfig, GateOptions, LoopConfig, OptimizerOptions, SftConfig
from coldforge.stages.options import LoraOptions, MeshConfig, ModelConfig


def tiny() -> SftConfig:
    """A random Gemma3 of about 100,000 parameters, to see everything happen; it learns its data by heart.

        coldforge-sft tiny --tokenizer tokenizer.model --data DATA --run RUN

    Hardware: any CPU. Full fine-tuning, as adapters on random weights learn little. Seconds for 60 short rows.
    """
    return SftConfig(
        model=ModelConfig(size="tiny", train="full", remat="none"),
        batches=BatchConfig(seq_len=256),
        optimizer=OptimizerOptions(learning_rate=1e-2, max_grad_norm=1.0),
        loop=LoopConfig(steps=50, eval_every=10, checkpoint_every=10),
        gate=GateOptions(prompts=16, min_prompts=8, max_new_tokens=128),
    )


def nano() -> SftConfig:
    """The model that coldforge-nano brings, on rows that it writes: form and some skill in a minute.

        coldforge-sft nano --data DATA --run RUN

    where `python -m coldforge.nano ROWS --cold-start 1200` and coldforge-prepare have made DATA. Hardware: two CPU
    cores, 1.3 GB. Seen: 68 steps in 45 s, loss 0.57 to 0.17; format 5 to 100 %, right answers 14.8 to 64.8 % (56–73) of
    128 held-out questions. Half of the rows are quick ways, which it takes on a third of the questions. A rate of 4e-3
    has a lower loss (0.11 against 0.15 held out) and answers 58.6 %: it spoils the arithmetic that the base has.
    """
    return SftConfig(
        model=ModelConfig(size="nano", remat="none"),
        lora=LoraOptions(rank=32, alpha=32.0),
        batches=BatchConfig(seq_len=256, rows=8, accumulation=1),
        optimizer=OptimizerOptions(learning_rate=1e-3, max_grad_norm=1.0),
        loop=LoopConfig(eval_every=30, eval_batches=4, checkpoint_every=20),
        gate=GateOptions(prompts=128, max_new_tokens=64, rows=128),
    )


def gemma3_270m() -> SftConfig:
    """Gemma3 270M on a CPU, with the base weights of the extra `gemma3-270m`.

        coldforge-sft gemma3-270m --data DATA --run RUN

    Hardware: two CPU cores, 3.2 GB to train and 6 GB for the gate. Seen: 3,773 rows of gsm_symbolic, 60 steps (0.27
    epochs) in 15 minutes on two busy cores, held-out loss 0.67 at step 20 and 0.27 at the end; gate passed on 73
    prompts: format 0 to 100 %, ended 98.6 %, cut off 1.4 %, right answers 0 to 4.1 % (+4.1 points, -2 to +10).
    Rows of 512 tokens keep a step at seconds, in float32, which a CPU multiplies faster than bfloat16 in a backward
    pass.
    """
    return SftConfig(
        model=ModelConfig(size="270m"),
        batches=BatchConfig(seq_len=512),
        loop=LoopConfig(eval_every=25, eval_batches=8, checkpoint_every=50, sample_every=100, sample_tokens=128),
        gate=GateOptions(prompts=100, max_new_tokens=384, rows=50),
    )


def gemma3_1b() -> SftConfig:
    """Gemma3 1B on a v5e-8 (a Kaggle or Colab notebook), weights replicated.

        coldforge-sft gemma3-1b --weights gemma-3-1b-pt --data DATA --run RUN --max-hours 8.7

    Hardware: TPU v5e-8. Hours and score: not run. 2 GB of bfloat16 weights fit on each chip, and with adapters nothing
    but small gradients then crosses chips: by XLA's cost model half the cycles of `fsdp 8`.
    """
    return SftConfig(
        model=ModelConfig(size="1b"),
        batches=BatchConfig(seq_len=4096, rows=8, accumulation=1),
        loop=LoopConfig(sample_every=100),
        gate=GateOptions(prompts=256, max_new_tokens=4096, rows=128),
    )


def gemma3_4b() -> SftConfig:
    """Gemma3 4B on a v5e-8, QLoRA.

        coldforge-sft gemma3-4b --weights gemma-3-4b-pt --data DATA --run RUN --max-hours 8.7

    Hardware: TPU v5e-8. Hours and score: not run. In int8 the projections take 3.2 GB, so that they still fit on every
    chip beside a row of 4,096 tokens.
    """
    return SftConfig(
        model=ModelConfig(size="4b"),
        lora=LoraOptions(quantize="int8"),
        batches=BatchConfig(seq_len=4096, rows=8, accumulation=1),
        loop=LoopConfig(sample_every=100),
        gate=GateOptions(prompts=256, max_new_tokens=4096, rows=64),
    )


def gemma3_12b() -> SftConfig:
    """Gemma3 12B on a v5e-8, QLoRA, weights split over the chips.

        coldforge-sft gemma3-12b --weights gemma-3-12b-pt --data DATA --run RUN --max-hours 8.7

    Hardware: TPU v5e-8. Hours and score: not run. 11 GB of int8 and a 2 GB embedding do not fit on one chip.
    """
    return SftConfig(
        model=ModelConfig(size="12b", remat="full"),
        lora=LoraOptions(quantize="int8"),
        batches=BatchConfig(seq_len=4096, rows=8, accumulation=1),
        loop=LoopConfig(sample_every=100),
        mesh=MeshConfig(data=1, fsdp=8),
        gate=GateOptions(prompts=256, max_new_tokens=4096, rows=64),
    )


def gemma3_27b() -> SftConfig:
    """Gemma3 27B on a v5e-64, its bfloat16 weights split over all chips.

        coldforge-sft gemma3-27b --weights gemma-3-27b-pt --data DATA --run RUN --distributed.initialize

    on every host, with paths that all hosts see. Hardware: TPU v5e-64 (16 hosts). Hours and score: not run. 64 rows a
    step, as in DeepSeek-R1's fine-tuning (supplement B.4.2), whose cosine to a tenth goes with them. 10.6 GiB a chip;
    eight copies of the weights, each split over eight chips, do not fit in 16.
    """
    return SftConfig(
        model=ModelConfig(size="27b", remat="full"),
        batches=BatchConfig(seq_len=4096, rows=64, accumulation=1),
        optimizer=OptimizerOptions(final_fraction=0.1),
        loop=LoopConfig(sample_every=100),
        mesh=MeshConfig(data=1, fsdp=64),
        gate=GateOptions(prompts=256, max_new_tokens=4096, rows=128),
    )


PRESETS: dict[str, Callable[[], SftConfig]] = {
    "tiny": tiny,
    "nano": nano,
    "gemma3-270m": gemma3_270m,
    "gemma3-1b": gemma3_1b,
    "gemma3-4b": gemma3_4b,
    "gemma3-12b": gemma3_12b,
    "gemma3-27b": gemma3_27b,
}
