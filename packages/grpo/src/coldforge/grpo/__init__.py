"""GRPO: the loop from rollouts and rewards to policy updates. It knows neither model, tokenizer, sampler nor rewards.

Read in this order: `config` (all numbers), `parts` (what the loop is given), `loop` (what happens, and how it resumes),
`rollout` (questions asked, equal groups replaced), `judging` (judges beside the sampler), `advantage` (what each token
is worth), `packing` (samples in rows), `objective` (what is minimised); `experience` is what a rollout brings,
`measures` its numbers, `watch` the watchdog's rules.
"""

from coldforge.grpo.advantage import minibatches, update_weights, with_advantages
from coldforge.grpo.config import GrpoConfig
from coldforge.grpo.experience import Experience, Judgement, Steps
from coldforge.grpo.judging import JudgeError, StoppedError
from coldforge.grpo.loop import fit, new_start, resume, saved_state
from coldforge.grpo.measures import SCALARS, repeated_share, rollout_scalars
from coldforge.grpo.objective import grpo_loss, make_score
from coldforge.grpo.packing import BatchShape, Rows, is_empty, pack, shape_for
from coldforge.grpo.parts import FitResult, Parts, Start
from coldforge.grpo.rollout import Ask, collect
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
