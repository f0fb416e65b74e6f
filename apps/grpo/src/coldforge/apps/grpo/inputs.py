"""What a run reads, found and checked before anything expensive: cold start, weights, tokenizer, questions.

All of it without JAX: a failed gate, another tokenizer, an empty task, or questions longer than the sampler takes are
told by name right away.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from itertools import batched
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from coldforge.apps.grpo.config import GrpoRunConfig, Options
from coldforge.data import ReasoningFormat, Tokenizer
from coldforge.data.questions import Question, Questions, open_questions, order, split_questions
from coldforge.rewards.grader import UNGRADED
from coldforge.stages.find import find_tokenizer, find_weights, form_of

if TYPE_CHECKING:
    from coldforge import training

PIECE = 1024  # questions that are encoded together


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What was found.

    Attributes:
        manifest: Of the run to start from.
        weights: Where the base is; None for random weights.
        adapter: That of the run to start from; None where it has trained all of the model.
        tokenizer: That of the run to start from.
        form: Of the replies.
        questions: To train on.
        heldout: To ask before and after.
    """

    manifest: "training.Manifest"
    weights: Path | None
    adapter: Path | None
    tokenizer: Tokenizer
    form: ReasoningFormat
    questions: Questions
    heldout: Questions

    def prompt(self, question: Question) -> np.ndarray:
        """The user's turn and the opening of the model's: int32 `[tokens]`."""
        return encode([question], self.tokenizer, self.form)[0]

    @property
    def identity(self) -> dict[str, str]:
        """What the run's checkpoints depend on besides the base weights."""
        found = {
            "questions": self.questions.content_hash, "heldout": self.heldout.content_hash,
            "tokenizer": self.tokenizer.fingerprint,
        }  # fmt: skip
        if self.adapter is not None:
            with (self.adapter / "adapter_model.safetensors").open("rb") as file:
                found["adapter"] = hashlib.file_digest(file, "sha256").hexdigest()
        return found


def find_inputs(options: Options) -> Inputs:
    """Finds and checks what a run reads.

    Raises:
        RunError, GateError: There is no run to start from, or its gate is failed.
        FileNotFoundError: Weights, tokenizer or questions are not where they should be.
        ValueError: They do not fit together, or not to the configuration.
    """
    from coldforge import training

    manifest = training.read_manifest(options.start)
    if manifest.stage not in ("sft", "grpo"):
        raise ValueError(f"{options.start} is a run of stage {manifest.stage!r}; wanted one of coldforge-sft")
    training.require_gate(manifest, force=options.force)
    adapter = manifest.adapter_path
    weights = _weights(options, manifest)
    tokenizer = find_tokenizer(options.tokenizer or _own_tokenizer(manifest), weights)
    stored = manifest.tokenizer.get("sha256")
    if stored not in (None, tokenizer.fingerprint):
        raise ValueError(
            f"{options.start} was trained with another tokenizer ({stored[:12]}…) than this one "
            f"({tokenizer.fingerprint[:12]}…): pass its own with --tokenizer"
        )
    form = form_of(manifest)
    questions, heldout = find_questions(options.config, tokenizer, form)
    return Inputs(manifest, weights, adapter, tokenizer, form, questions, heldout)


def find_questions(config: GrpoRunConfig, tokenizer: Tokenizer, form: ReasoningFormat) -> tuple[Questions, Questions]:
    """The questions to train on and those held out, all of them short enough and gradable.

    Raises:
        ValueError: There are none, too long ones, or ones that nobody can grade; what
            `coldforge.data.questions.open_questions` raises.
    """
    asked = config.questions
    found = open_questions(asked.sources, split=asked.split, seed=asked.seed, on_bad=asked.on_bad)
    limit = config.rollout.max_prompt_tokens
    long, ungraded = unfit(found, tokenizer, form, limit)
    if long and asked.on_long == "refuse":
        first = found[long[0]]
        raise ValueError(
            f"{len(long)} of {len(found)} questions have more than rollout.max-prompt-tokens = {limit} tokens with "
            f"their instruction, the first of them from {first.source}: {first.text[:80]!r}. Raise the limit, or pass "
            "--questions.on-long drop"
        )
    if ungraded and asked.on_bad == "refuse":
        first = found[ungraded[0]]
        raise ValueError(
            f"{len(ungraded)} of {len(found)} questions have answers of which nobody can tell whether they are right, "
            f"the first of them from {first.source}, of kind {first.kind}: {first.text[:80]!r}. Leave them out, or "
            "pass --questions.on-bad drop"
        )
    if long or ungraded:
        found = found.select(np.setdiff1d(np.arange(len(found)), [*long, *ungraded]))
        if not len(found):
            raise ValueError(
                f"no question is left: {len(long)} are longer than rollout.max-prompt-tokens = {limit} tokens, and "
                f"{len(ungraded)} have answers that cannot be compared"
            )
    train, heldout = split_questions(found, asked.heldout)
    if len(heldout) < config.gate.min_prompts:
        raise ValueError(
            f"the gate asks at least gate.min-prompts = {config.gate.min_prompts} held-out questions, and "
            f"questions.heldout is {asked.heldout}: raise it, or lower the minimum"
        )
    return train, heldout


def unfit(
    questions: Sequence[Question], tokenizer: Tokenizer, form: ReasoningFormat, limit: int
) -> tuple[list[int], list[int]]:
    """Which questions have prompts of more than `limit` tokens, and which have answers that cannot be compared."""
    long: list[int] = []
    ungraded: list[int] = []
    for lot in batched(range(len(questions)), PIECE):
        asked = [questions[i] for i in lot]
        long += [i for i, ids in zip(lot, encode(asked, tokenizer, form), strict=True) if len(ids) > limit]
        ungraded += [i for i, one in zip(lot, asked, strict=True) if "scorer" not in one.meta and one.kind in UNGRADED]
    return long, ungraded


def encode(questions: Sequence[Question], tokenizer: Tokenizer, form: ReasoningFormat) -> list[np.ndarray]:
    """Prompts as the cold start was trained on them: instruction and question in the user's turn."""
    return [
        np.array(tokenizer.encode_chat([{"role": "user", "content": form.ask(question.text)}]), np.int32)
        for question in questions
    ]


def question_at(inputs: Inputs, config: GrpoRunConfig, position: int) -> Question:
    """The question at a place of the endless order."""
    return inputs.questions[order(len(inputs.questions), config.questions.seed, position)]


def _weights(options: Options, manifest: "training.Manifest") -> Path | None:
    """The base that the adapter belongs to; for a run that trained all of the model, that model."""
    if manifest.adapter is None:
        place = manifest.directory / "model"
        if not place.is_dir():
            raise FileNotFoundError(f"{manifest.directory} holds neither an adapter nor a model; has the run finished?")
        return place
    if options.weights is None and options.config.model.size == "tiny":
        return None
    return find_weights(options.weights, options.config.model.size)


def _own_tokenizer(manifest: "training.Manifest") -> Path | None:
    """The tokenizer beside the adapter, or beside the model."""
    place = manifest.adapter_path or manifest.directory / "model"
    return place / "tokenizer.model" if (place / "tokenizer.model").is_file() else None
