"""What a run reads, found and checked before anything expensive: data set, tokenizer, weights, held-out prompts.

All of it without JAX, in a second or so: a data set of another tokenizer, rows longer than the model is to see, too few
prompts for the gate, or a limit on new tokens that the data's own replies exceed are told apart by name right away.
"""

import dataclasses
from pathlib import Path

import numpy as np

from coldforge.apps.sft.config import Options, SftConfig
from coldforge.data import Dataset, Record, Split, Tokenizer, open_dataset
from coldforge.stages.find import Policy, find_policy, find_tokenizer, find_weights


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What was found.

    Attributes:
        dataset: With its splits and its format.
        tokenizer: That of the data set.
        weights: Where the base is; None for random weights.
        prompts: Held-out records that the gate asks, each question once.
        start: The policy that training goes on with; None: it begins from the base.
    """

    dataset: Dataset
    tokenizer: Tokenizer
    weights: Path | None
    prompts: list[Record]
    start: Policy | None = None

    @property
    def identity(self) -> dict[str, str]:
        """What the run's checkpoints depend on besides the base weights."""
        found = {} if self.start is None else self.start.identity
        start = found.get("adapter") or found.get("model") or "base"
        return {"dataset": self.dataset.content_hash, "tokenizer": self.dataset.tokenizer_hash, "start": start}


def find_inputs(options: Options) -> Inputs:
    """Finds and checks what a run reads.

    Raises:
        RunError, GateError: There is no run to start from, or its gate is failed.
        FileNotFoundError: Data set, weights or tokenizer are not where they should be.
        ModuleNotFoundError: The extra with the 270M's weights is wanted and not installed.
        ValueError: They do not fit together, or not to the configuration.
    """
    config = options.config
    dataset = open_dataset(options.data)
    weights = find_weights(options.weights, config.model.size)
    start = None
    if options.start is not None:
        size = config.model.size
        start = find_policy(
            options.start, weights=options.weights, size=size, tokenizer=options.tokenizer, force=options.force
        )
    tokenizer = find_tokenizer(options.tokenizer, weights) if start is None else start.tokenizer
    dataset.check_tokenizer(tokenizer)
    for split in (dataset.train, dataset.heldout):
        check_lengths(split, config.batches.seq_len)
    prompts = choose_prompts(dataset.heldout, config.gate.prompts)
    check_prompts(prompts, config)
    return Inputs(dataset, tokenizer, weights, prompts, start)


def check_lengths(split: Split, seq_len: int) -> None:
    """Makes sure that every example fits into a row: none is ever cut."""
    if not len(split):
        raise ValueError(f"the split {split.name!r} has no examples; prepare the data again, with more rows held out")
    long = int((split.lengths > seq_len).sum())
    if long:
        raise ValueError(
            f"{long} of {len(split)} {split.name} examples have more than batches.seq-len = {seq_len} tokens. Pass "
            f"--batches.seq-len {split.lengths.max()}, the longest's, or drop them when you prepare the data"
        )


def choose_prompts(heldout: Split, count: int) -> list[Record]:
    """`count` held-out records that show their work, or as many as there are, each question once; always the same."""
    chosen: dict[str, Record] = {}
    for index in np.random.default_rng(0).permutation(len(heldout)):
        record = heldout[int(index)]
        if record.shows_work:  # a conversation has no form to show, and no answer to be right
            chosen.setdefault(record.question, record)
        if len(chosen) == count:
            break
    return list(chosen.values())


def prompt_ids(record: Record) -> np.ndarray:
    """The prompt's tokens, exactly as they were trained on: int32 [prompt]."""
    return record.ids[: int(np.argmax(record.parts > 0))]


def check_prompts(prompts: list[Record], config: SftConfig) -> None:
    """Makes sure that the gate can be passed at all."""
    gate = config.gate
    if len(prompts) < gate.min_prompts:
        raise ValueError(
            f"the gate asks at least gate.min-prompts = {gate.min_prompts} prompts, and there are {len(prompts)} "
            f"(gate.prompts is {gate.prompts}). Hold out more rows when you prepare the data, or lower the minimum"
        )
    long = [int((record.parts > 0).sum()) for record in prompts]
    over = sum(length > gate.max_new_tokens for length in long)
    if over > gate.truncated * len(prompts):
        raise ValueError(
            f"{over} of {len(prompts)} held-out replies of the data are themselves longer than gate.max-new-tokens = "
            f"{gate.max_new_tokens} (the longest has {max(long)}): a model that has learnt them would be cut off. Pass "
            f"--gate.max-new-tokens {max(long)} or more"
        )
