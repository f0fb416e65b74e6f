"""Supervised fine-tuning: the loop, and the gate that its result has to pass.

Where to read: `loss` is what is minimised; `loop` trains, over callables; `gate` judges replies to held-out
prompts.
"""

from coldforge.sft.gate import (
    Check,
    GateLimits,
    GateResult,
    Graded,
    Paired,
    Rate,
    Rates,
    examples,
    judge,
    paired,
    rates,
)
from coldforge.sft.loop import FitConfig, FitResult, Parts, Start, fit, resume
from coldforge.sft.loss import Apply, Batch, means, padding_share, sft_loss, trained_tokens

__all__ = [
    "Apply",
    "Batch",
    "Check",
    "FitConfig",
    "FitResult",
    "GateLimits",
    "GateResult",
    "Graded",
    "Paired",
    "Parts",
    "Rate",
    "Rates",
    "Start",
    "examples",
    "fit",
    "judge",
    "means",
    "padding_share",
    "paired",
    "rates",
    "resume",
    "sft_loss",
    "trained_tokens",
]
