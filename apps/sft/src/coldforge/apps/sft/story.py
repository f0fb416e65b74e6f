"""What the page of a cold start tells: its title, its curves, what the two models are called."""

from coldforge.stages.gate import COLD_START
from coldforge.stages.report import Curves, Story

CURVES: Curves = {
    "Loss, nats a token": ({"train/loss": "trained on", "eval/loss": "held out"}, False),
    "Loss by part": (
        {
            "train/loss_reasoning": "reasoning", "train/loss_answer": "answer",
            "eval/loss_reasoning": "reasoning, held out", "eval/loss_answer": "answer, held out",
        },
        False,
    ),
    "Gradient norm": ({"train/grad_norm": "before clipping", "train/grad_norm_clipped": "after"}, True),
    "Learning rate": ({"train/learning_rate": "rate"}, False),
    "Tokens a second": (
        {"train/tokens_per_second": "without padding", "train/trained_tokens_per_second": "with a loss weight"}, False,
    ),
}  # fmt: skip

STORY = Story("Cold start", CURVES, COLD_START)
