"""Which questions are for what: decided by a hash of the question's text, so that no text is in two splits.

However many questions are made, and from whatever seed: a text is always of the same split. Of 16 texts, on average 8
are for pretraining, 3 for the cold start, 4 for reinforcement learning and 1 is held out.
"""

import hashlib
from typing import Literal, get_args

Split = Literal["pretrain", "cold-start", "rl", "heldout"]
SPLITS: tuple[Split, ...] = get_args(Split)

_SHARES: tuple[Split, ...] = ("pretrain",) * 8 + ("cold-start",) * 3 + ("rl",) * 4 + ("heldout",)


def split_of(question: str) -> Split:
    """The split of a question; texts with the same words between white space are the same."""
    words = " ".join(question.split())
    return _SHARES[hashlib.sha256(words.encode()).digest()[0] % len(_SHARES)]
