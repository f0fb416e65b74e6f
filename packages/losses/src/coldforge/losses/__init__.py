"""Losses of language models as pure functions of arrays; only JAX is needed.

Read in this order: `means` (sums and weights that add up over micro-batches, devices and hosts), `scores`
(`token_scores`: log-probabilities, entropy and logsumexp from hidden states, with `chunks` for the arithmetic and
`shards` for the mesh), `cross_entropy` (what supervised fine-tuning minimises and reports). For policies: `advantages`
(from rewards), `aggregation` (each token's weight and the one denominator), `kl`, `importance` (ratios, clips,
corrections; with `sequences` for packed rows), and `policy`, which puts them together.
"""

from coldforge.losses import advantages, importance, kl
from coldforge.losses.aggregation import Aggregation, AggregationKind, aggregation_weights
from coldforge.losses.cross_entropy import CrossEntropy, cross_entropy, next_tokens
from coldforge.losses.means import WeightedSum, masked_mean, segment_sums, token_mean, weighted_sum
from coldforge.losses.policy import PolicyLoss, PolicyTerms, policy_loss
from coldforge.losses.scores import TokenScores, token_scores

__all__ = [
    "Aggregation",
    "AggregationKind",
    "CrossEntropy",
    "PolicyLoss",
    "PolicyTerms",
    "TokenScores",
    "WeightedSum",
    "advantages",
    "aggregation_weights",
    "cross_entropy",
    "importance",
    "kl",
    "masked_mean",
    "next_tokens",
    "policy_loss",
    "segment_sums",
    "token_mean",
    "token_scores",
    "weighted_sum",
]
