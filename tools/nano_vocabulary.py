"""The nano model's vocabulary: a SentencePiece model of Gemma's kind, trained on its corpus.

BPE with byte fallback, text taken as it is, digits one by one, newlines and turn markers as pieces of their own. Unlike
Gemma's, " + ", " - ", " * " and " = " are single pieces too: a step of a sum then takes 9 tokens in place of 13.
"""

import io
from collections.abc import Iterable
from typing import Any

import sentencepiece

SIZE = 768
PIECES = ["<mask>", "<start_of_turn>", "<end_of_turn>", "\n", "\n\n", "▁+▁", "▁-▁", "▁*▁", "▁=▁"]


def train(lines: Iterable[str], size: int = SIZE) -> bytes:
    """The content of a tokenizer.model. One thread, so that the same lines give the same bytes."""
    model = io.BytesIO()
    roles: dict[str, Any] = {}
    for index, role in enumerate(("pad", "eos", "bos", "unk")):
        roles |= {f"{role}_id": index, f"{role}_piece": f"<{role}>"}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=size,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        split_digits=True,
        character_coverage=1.0,
        user_defined_symbols=PIECES,
        num_threads=1,
        minloglevel=2,
        **roles,
    )
    return model.getvalue()
