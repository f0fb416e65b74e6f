"""Sampling from a Gemma3: token ids in, samples out."""

from coldforge.rollout.generation import Sample, generate, stream
from coldforge.rollout.sampling import RowParams, SamplingParams, sample

__all__ = ["RowParams", "Sample", "SamplingParams", "generate", "sample", "stream"]
