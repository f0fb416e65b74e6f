"""Losses of language models as pure functions of arrays; only JAX is needed.

Read in this order: `means` (sums and weights that add up over micro-batches, devices and hosts), `scores`
(`token_scores`: log-probabilities, entropy and logsumexp from hidden states, with `chunks` for the arithmetic and
`shards` for the mesh), `cross_entropy` (what supervised fine-tuning minimises and reports).
"""

from coldforge.losses.cross_entropy import CrossEntropy, cross_entropy, next_tokens
from coldforge.losses.means import WeightedSum, masked_mean, segment_sums, token_mean, weighted_sum
from coldforge.losses.scores import TokenScores, token_scores

__all__ = [
    "CrossEntropy",
    "TokenScores",
    "WeightedSum",
    "cross_entropy",
    "masked_mean",
    "next_tokens",
    "segment_sums",
    "token_mean",
    "token_scores",
    "weighted_sum",
]
