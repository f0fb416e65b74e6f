"""Evaluation that can be believed: benchmarks as tasks, metrics with intervals, paired comparison, reports. No JAX."""

from coldforge.eval.records import Ask, Generate, Graded, Prompt, Reply, Sampling, as_text, from_function

__all__ = ["Ask", "Generate", "Graded", "Prompt", "Reply", "Sampling", "as_text", "from_function"]
