"""GRPO: the loop from rollouts and rewards to policy updates. It knows neither model, tokenizer, sampler nor rewards.

Read in this order: `config` (all numbers), `loop` (what happens, and how it resumes), `rollout` (questions asked,
samples judged, equal groups replaced), `advantage` (who weighs what), `packing` (samples in rows), `objective` (what
is minimised); `experience` is what a rollout brings, `measures` its numbers, `watch` the watchdog's rules.
"""

from coldforge.grpo.advantage import minibatches, update_weights, with_advantages
from coldforge.grpo.config import GrpoConfig
from coldforge.grpo.experience import Experience, Judgement, Steps
from coldforge.grpo.loop import FitResult, Parts, Start, fit, new_start, resume, saved_state
from coldforge.grpo.measures import SCALARS, repeated_share, rollout_scalars
from coldforge.grpo.objective import grpo_loss, make_score
from coldforge.grpo.packing import BatchShape, Rows, is_empty, pack, shape_for
from coldforge.grpo.rollout import Ask, JudgeError, StoppedError, collect
from coldforge.grpo.watch import RlLimits, rl_rules

__all__ = [
    "SCALARS",
    "Ask",
    "BatchShape",
    "Experience",
    "FitResult",
    "GrpoConfig",
    "JudgeError",
    "Judgement",
    "Parts",
    "RlLimits",
    "Rows",
    "Start",
    "Steps",
    "StoppedError",
    "collect",
    "fit",
    "grpo_loss",
    "is_empty",
    "make_score",
    "minibatches",
    "new_start",
    "pack",
    "repeated_share",
    "resume",
    "rl_rules",
    "rollout_scalars",
    "saved_state",
    "shape_for",
    "update_weights",
    "with_advantages",
]
