"""Presets: each a function that fills in a `RejectConfig`, and says for what, with which command, and what it came to.

`r1` has DeepSeek-R1's numbers (arXiv:2501.12948v2, supplement B.3.3 and B.4.2). The others sample as the preset of
coldforge-grpo with the same name, and hold out as many questions as the gate of coldforge-sft's preset then asks; nano
draws 3 samples of a question, not 8, and holds out 100, not 128.
"""

import dataclasses
from collections.abc import Callable

from coldforge.apps.reject.config import RejectConfig, SamplingOptions
from coldforge.data.rejection import Selection
from coldforge.stages.options import ModelConfig, QuestionOptions


def tiny() -> RejectConfig:
    """A Gemma3 of about 100,000 parameters, to see everything happen in a minute or two.

        coldforge-reject tiny --from GRPO_RUN --out DATA --questions.sources QUESTIONS.jsonl

    Hardware: any CPU.
    """
    return RejectConfig(
        model=ModelConfig(size="tiny"),
        questions=QuestionOptions(heldout=100),
        sampling=SamplingOptions(samples=8, max_prompt_tokens=192, max_new_tokens=48),
        keep=Selection(max_tokens=256, heldout_questions=16),
    )


def nano() -> RejectConfig:
    """The model that coldforge-nano brings, on questions that it writes.

        coldforge-reject nano --from GRPO_RUN --out DATA --questions.sources ROWS/rl.jsonl

    where `python -m coldforge.nano ROWS` has written them. Hardware: two CPU cores.
    """
    return RejectConfig(
        model=ModelConfig(size="nano"),
        questions=QuestionOptions(heldout=300),
        ask=1000,
        sampling=SamplingOptions(samples=3, max_prompt_tokens=112, max_new_tokens=64, slots=128),
        keep=Selection(per_question=2, max_tokens=256, heldout_questions=100),
    )


def gemma3_270m() -> RejectConfig:
    """Gemma3 270M on a CPU, with the base weights of the extra `gemma3-270m`.

        coldforge-reject gemma3-270m --from GRPO_RUN --out DATA --ask 1000 \
            --questions.sources "chain_sum:6000?min_terms=2&max_terms=3&min_digits=1&max_digits=1"

    Hardware: two CPU cores. Hours and score: not run. Of 8 samples a question the shorter of a few are kept, and one of
    what the policy never fails at.
    """
    return RejectConfig(
        model=ModelConfig(size="270m"),
        sampling=SamplingOptions(samples=8, max_prompt_tokens=128, max_new_tokens=128, slots=128),
        keep=Selection(per_question=2, choose="shortest", easy=1, max_tokens=512, heldout_questions=100),
    )


def gemma3_1b() -> RejectConfig:
    """Gemma3 1B on a v5e-8 (a Kaggle or Colab notebook), weights replicated.

        coldforge-reject gemma3-1b --from GRPO_RUN --weights gemma-3-1b-pt --out DATA --max-hours 8.7 \
            --questions.sources openai/gsm8k:main

    Hardware: TPU v5e-8. Hours and score: not run.
    """
    return RejectConfig(
        model=ModelConfig(size="1b"),
        sampling=SamplingOptions(max_new_tokens=1536),
        keep=Selection(heldout_questions=256),
    )


def r1() -> RejectConfig:
    """DeepSeek-R1's numbers, for Gemma3 1B on a v5e-8: three rows of reasoning to one of conversation.

        coldforge-reject r1 --from GRPO_RUN --weights gemma-3-1b-pt --out DATA --max-hours 8.7 \
            --questions.sources QUESTIONS --chat.sources CHAT.jsonl --chat.share 0.25

    Hardware: TPU v5e-8 and up. Hours and score: not run. The paper keeps all right samples of a question, 600,000 in
    all, of at most 32,768 tokens, without mixed languages, long paragraphs and code blocks, and adds 200,000 rows that
    do not reason; it does not say how many samples were drawn (16 here), what a long paragraph is (2,000 characters),
    nor the temperature (1, as in its first RL stage). Without --chat.sources no conversations are mixed in. Its second
    fine-tuning, of the base, is then

        coldforge-sft gemma3-1b --weights gemma-3-1b-pt --data DATA --run RUN --max-hours 8.7 --model.remat full \
            --mesh.fsdp 8 --batches.seq-len 32768 --loop.epochs 2 --optimizer.learning-rate 5e-5 \
            --optimizer.final-fraction 0.1 --gate.max-new-tokens 31744

    (its rate of 5e-6 is for all parameters; an adapter wants about ten times as much).
    """
    base = gemma3_1b()
    return dataclasses.replace(
        base,
        sampling=SamplingOptions(samples=16, max_prompt_tokens=1024, max_new_tokens=31744),
        keep=Selection(per_question=16, max_tokens=32768, heldout_questions=1000),  # conversations count, too
    )


PRESETS: dict[str, Callable[[], RejectConfig]] = {
    "tiny": tiny,
    "nano": nano,
    "gemma3-270m": gemma3_270m,
    "gemma3-1b": gemma3_1b,
    "r1": r1,
}
