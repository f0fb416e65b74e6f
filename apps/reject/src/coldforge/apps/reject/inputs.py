"""What is read, found and checked before anything expensive: policy, questions, conversations.

JAX is imported to read a run's manifest, and no device is touched.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from coldforge.apps.reject.config import Options, RejectConfig
from coldforge.data import ReasoningFormat, Tokenizer
from coldforge.data.questions import Question, Questions, order
from coldforge.data.rejection import Chat, find_chat, selection_entry
from coldforge.stages.find import Policy, find_policy, form_of
from coldforge.stages.questions import encode, find_questions


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What was found.

    Attributes:
        policy: That is asked.
        form: Of its replies.
        questions: What it is asked, in their order.
        chat: Conversations to mix in; None: none.
        selection: What decides what is kept, evaluation sets among it by their content.
    """

    policy: Policy
    form: ReasoningFormat
    questions: Questions
    chat: Chat | None
    selection: Mapping[str, Any]

    @property
    def tokenizer(self) -> Tokenizer:
        """The policy's."""
        return self.policy.tokenizer

    def prompt(self, question: Question) -> np.ndarray:
        """The user's turn and the opening of the model's: int32 `[tokens]`."""
        return encode([question], self.tokenizer, self.form)[0]


def find_inputs(options: Options) -> Inputs:
    """Finds and checks what is read.

    Raises:
        RunError, GateError: There is no run to start from, or its gate is failed.
        FileNotFoundError: Weights, tokenizer, questions or conversations are not where they should be.
        ValueError: They do not fit together, or not to the configuration.
    """
    config = options.config
    policy = find_policy(
        options.start, weights=options.weights, size=config.model.size, tokenizer=options.tokenizer, force=options.force
    )
    form = form_of(policy.manifest)
    chat = find_chat(config.chat.sources, config.chat.share, form)
    questions, _ = find_questions(
        config.questions, policy.tokenizer, form, limit=config.sampling.max_prompt_tokens,
        named="sampling.max-prompt-tokens",
    )  # fmt: skip
    return Inputs(policy, form, _drawn(questions, config), chat, selection_entry(config.keep))


def _drawn(questions: Questions, config: RejectConfig) -> Questions:
    """As many as are to be asked, by lot, in their order."""
    if config.ask is None:
        return questions
    if not 1 <= config.ask <= len(questions):
        raise ValueError(f"ask is {config.ask}; wanted 1 to {len(questions)}, as many questions as there are")
    return questions.select(sorted(order(len(questions), config.seed, place) for place in range(config.ask)))
