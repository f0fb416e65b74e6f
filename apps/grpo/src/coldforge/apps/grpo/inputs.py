"""What a run reads, found and checked before anything expensive: cold start, weights, tokenizer, questions.

A failed gate, another tokenizer, an empty task, or questions longer than the sampler takes are told by name right away.
JAX is imported to read a run's manifest, and no device is touched.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from coldforge.apps.grpo.config import GrpoRunConfig, Options
from coldforge.data import ReasoningFormat, Tokenizer
from coldforge.data.questions import Question, Questions, order
from coldforge.stages.find import adapter_hash, find_policy, form_of
from coldforge.stages.questions import encode, find_questions

if TYPE_CHECKING:
    from coldforge import training


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
        return found if self.adapter is None else found | {"adapter": adapter_hash(self.adapter)}


def find_inputs(options: Options) -> Inputs:
    """Finds and checks what a run reads.

    Raises:
        RunError, GateError: There is no run to start from, or its gate is failed.
        FileNotFoundError: Weights, tokenizer or questions are not where they should be.
        ValueError: They do not fit together, or not to the configuration.
    """
    config = options.config
    policy = find_policy(
        options.start, weights=options.weights, size=config.model.size, tokenizer=options.tokenizer, force=options.force
    )
    form = form_of(policy.manifest)
    train, heldout = find_questions(
        config.questions, policy.tokenizer, form, limit=config.rollout.max_prompt_tokens,
        named="rollout.max-prompt-tokens",
    )  # fmt: skip
    if len(heldout) < config.gate.min_prompts:
        raise ValueError(
            f"the gate asks at least gate.min-prompts = {config.gate.min_prompts} held-out questions, and "
            f"questions.heldout is {config.questions.heldout}: raise it, or lower the minimum"
        )
    return Inputs(policy.manifest, policy.weights, policy.adapter, policy.tokenizer, form, train, heldout)


def question_at(inputs: Inputs, config: GrpoRunConfig, position: int) -> Question:
    """The question at a place of the endless order."""
    return inputs.questions[order(len(inputs.questions), config.questions.seed, position)]
