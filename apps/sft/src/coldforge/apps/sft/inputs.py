"""What a run reads, found and checked before anything expensive: data set, tokenizer, weights, held-out prompts.

In a second or two, and without JAX (but for `--from`, as a run's manifest is read by a package that imports it): a
data set of another tokenizer, rows that teach something else than they say (the prompt, no end of the turn, half a
reply), rows longer than the model is to see, too few prompts for the gate, answers that nobody can compare, or a limit
on new tokens that the data's own replies exceed are told apart by name.
"""

import dataclasses
import math
from pathlib import Path

import numpy as np

from coldforge.apps.sft.config import Options, SftConfig
from coldforge.data import AnswerKind, Dataset, Record, Split, Tokenizer, check_rows, open_dataset
from coldforge.data.answers import is_prose
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
    check_weights(config)
    check_rows(dataset, tokenizer)  # before what would be said of lengths that are the prompts'
    for split in (dataset.train, dataset.heldout):
        check_lengths(split, config.batches.seq_len)
    prompts = choose_prompts(dataset.heldout, config.gate.prompts)
    check_answers(prompts, config)
    check_prompts(prompts, config)
    return Inputs(dataset, tokenizer, weights, prompts, start)


def check_weights(config: SftConfig) -> None:
    """Makes sure that the end of the turn, which counts with the answer, is learnt."""
    if config.batches.answer_weight == 0:
        raise ValueError(
            "batches.answer-weight is 0: neither answers nor <end_of_turn>, which counts with them, would be learnt, "
            "and the model would never stop. Pass a weight above 0"
        )


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
            f"(gate.prompts is {gate.prompts}): {len(prompts)} prompts show a share of a half to "
            f"±{98 / math.sqrt(max(1, len(prompts))):.0f} points. Hold out more rows when you prepare the data, or "
            "lower the minimum"
        )
    long = [int((record.parts > 0).sum()) for record in prompts]
    over = sum(length > gate.max_new_tokens for length in long)
    if over > gate.truncated * len(prompts):
        raise ValueError(
            f"{over} of {len(prompts)} held-out replies of the data are themselves longer than gate.max-new-tokens = "
            f"{gate.max_new_tokens} (the longest has {max(long)}): a model that has learnt them would be cut off. Pass "
            f"--gate.max-new-tokens {max(long)} or more"
        )


def check_answers(prompts: list[Record], config: SftConfig) -> None:
    """Makes sure that the held-out answers are such that a reply's can be compared with them."""
    others = (AnswerKind.CODE, AnswerKind.PROOF)  # labelled, and not compared
    prose = [record for record in prompts if record.kind not in others and is_prose(record.answer)]
    if len(prose) > config.gate.prose * len(prompts):
        raise ValueError(
            f"the answers of {len(prose)} of {len(prompts)} held-out prompts are prose, as {prose[0].answer!r:.80}, "
            "and not a value that a grader can compare: a model that has learnt them is right by chance only, and the "
            "gate would not see its accuracy fall. Prepare the rows again with coldforge-prepare, which takes the "
            "value out of a solution; or pass --gate.prose 1, if such answers are meant"
        )
