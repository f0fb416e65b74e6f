"""Sampling from a Gemma3: token ids in, samples out."""

from coldforge.rollout.batcher import Stats
from coldforge.rollout.engine import Engine, EngineConfig
from coldforge.rollout.generation import generate, stream
from coldforge.rollout.requests import Group, Request, Sample
from coldforge.rollout.sampling import RowParams, SamplingParams, sample

__all__ = [
    "Engine",
    "EngineConfig",
    "Group",
    "Request",
    "RowParams",
    "Sample",
    "SamplingParams",
    "Stats",
    "generate",
    "sample",
    "stream",
]
