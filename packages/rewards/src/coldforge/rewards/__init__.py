"""Rule rewards for language models: answers found and compared, form, language, repetition, length. No JAX.

Read in this order: `replies` (what goes in and comes out), `extraction` (where the answer is), `equality` (whether it
is right: by `quantities` and `units`, `choices`, `spelling`, and for expressions by `algebra` and `verifier` in the
processes of `pool`), `grader` (both together), `rules` and `language` (rewards), `compose` (their weighted sum).
"""

from coldforge.rewards.compose import RewardError, Rewards, Weighted
from coldforge.rewards.equality import Compared, Equality, Kind, Pair, equal, equal_many
from coldforge.rewards.extraction import Fallback, extract, reasoning_of
from coldforge.rewards.grader import Grader, Scorer
from coldforge.rewards.language import LanguageConsistency, by_function_words
from coldforge.rewards.pool import MathPool, Outcome, Pool, PoolStats
from coldforge.rewards.quantities import Quantity, read_quantity, same_quantity
from coldforge.rewards.replies import Form, Judged, Response, Score, Tags, Verdict
from coldforge.rewards.rules import (
    Accuracy,
    CosineLength,
    FormatParts,
    FormatStrict,
    Length,
    Repetition,
    Reward,
    SoftOverlong,
    each,
)

__all__ = [
    "Accuracy",
    "Compared",
    "CosineLength",
    "Equality",
    "Fallback",
    "Form",
    "FormatParts",
    "FormatStrict",
    "Grader",
    "Judged",
    "Kind",
    "LanguageConsistency",
    "Length",
    "MathPool",
    "Outcome",
    "Pair",
    "Pool",
    "PoolStats",
    "Quantity",
    "Repetition",
    "Response",
    "Reward",
    "RewardError",
    "Rewards",
    "Score",
    "Scorer",
    "SoftOverlong",
    "Tags",
    "Verdict",
    "Weighted",
    "by_function_words",
    "each",
    "equal",
    "equal_many",
    "extract",
    "read_quantity",
    "reasoning_of",
    "same_quantity",
]
