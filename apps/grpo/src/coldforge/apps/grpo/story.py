"""What the page of a GRPO run tells: its title, its curves, what the two policies are called."""

from coldforge.stages.gate import Labels
from coldforge.stages.report import Curves, Story

CURVES: Curves = {
    "Reward, mean of a rollout": (
        {"reward/total": "total", "reward/accuracy": "accuracy", "reward/format": "format",
         "reward/language": "language", "reward/repetition": "repetition", "reward/overlong": "overlong"},
        False,
    ),
    "Right answers": ({"rollout/correct": "samples", "rollout/solved": "questions", "eval/correct": "held out"}, False),
    "Form": (
        {"rollout/format": "well formed", "rollout/truncated": "cut off", "rollout/repetition": "repeated"}, False,
    ),
    "Tokens of a sample": (
        {"rollout/length": "all", "rollout/length_right": "right", "rollout/length_wrong": "wrong",
         "rollout/length_max": "longest"},
        False,
    ),
    "Groups without signal": ({"rollout/zero_variance": "asked", "rollout/kept_equal": "in the update"}, False),
    "Entropy, nats a token": ({"policy/entropy": "policy"}, False),
    "KL, nats a token": ({"policy/kl_k3": "to the reference", "policy/old_kl": "to the policy that sampled"}, False),
    "Sampler against trainer, nats": ({"policy/gap": "mean", "policy/gap_max": "largest"}, True),
    "Clipped tokens": (
        {"policy/clip_low": "below", "policy/clip_high": "above", "policy/clip_dual": "dual clip"}, False,
    ),
    "Gradient norm": ({"train/grad_norm": "before clipping", "train/grad_norm_clipped": "after"}, True),
    "Checks that failed, samples": ({"rewards/timeouts": "took too long", "rewards/errors": "crashed"}, False),
    "Seconds": (
        {"time/rollout": "sampling", "time/rewards": "waiting for rewards", "time/score": "scoring",
         "time/update": "an update"},
        True,
    ),
    "Tokens a second": ({"rollout/tokens_per_second": "sampled", "train/tokens_per_second": "trained"}, False),
}  # fmt: skip

STORY = Story("GRPO", CURVES, Labels("after", "before"))
