"""All that can be set: one frozen dataclass per part, put together as `RejectConfig`; a preset fills it in.

`Options` is the whole command line. A directory belongs to one policy, its questions and a way of sampling; what does
not decide the samples (`MAY_DIFFER`: mesh, memory, limits of checks) may change when it goes on, and what is kept of
them (`keep`, `chat`) as long as the data set is not written. Nothing here imports JAX.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from coldforge.data.rejection import Selection
from coldforge.stages.options import Distributed, MeshConfig, ModelConfig, QuestionOptions, SamplerOptions, Shown

# Fields that decide neither samples (up to rounding) nor what is kept of them; some of the model's are for training.
MAY_DIFFER = (
    "mesh.*", "model.train", "model.remat", "model.layers", "sampling.slots", "sampling.memory_gib",
    "sampling.prefill_chunk", "grading.*",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingOptions(SamplerOptions):
    """How is sampled."""

    samples: int = 16
    """Samples of each question, k."""
    temperature: float = 1.0
    """1: the policy as it was trained, all tokens."""
    max_prompt_tokens: int = 512
    """Of a question with its instruction and turn markers."""
    max_new_tokens: int = 1024
    """A sample is cut off after so many tokens, and then not kept."""
    prefill_chunk: int = 2048
    """Tokens of one prefill call."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradingOptions:
    """How answers are compared."""

    timeout: float = 5.0
    """Seconds of processor time that one check by computer algebra, or by a task's scorer, may take."""
    processes: int = 2
    """Processes for such checks."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """Conversations that are mixed in, so that a model that reasons still talks."""

    sources: tuple[str, ...] = ()
    """Rows {"messages": [{"role": …, "content": …}, …]}: files, or names on the hub. The last reply is learnt."""
    share: float = 0.0
    """Of all rows of the result (DeepSeek-R1: 0.25)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RejectConfig:
    """One data set by rejection sampling."""

    model: ModelConfig
    questions: QuestionOptions = QuestionOptions()
    ask: int | None = None
    """Ask so many of the questions, drawn by lot; None: all that are not held out."""
    seed: int = 0
    """Of samples, and of which questions are asked."""
    sampling: SamplingOptions = SamplingOptions()
    grading: GradingOptions = GradingOptions()
    keep: Selection = Selection()
    chat: ChatOptions = ChatOptions()
    mesh: MeshConfig = MeshConfig()

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt and sample."""
        return self.sampling.max_prompt_tokens + self.sampling.max_new_tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Rejection sampling: asks a policy many questions, and makes a data set of its right and clean answers.

    The same command on the same directory goes on where it was ended. Open audit.html there for what was not kept.
    """

    start: Annotated[Path, tyro.conf.arg(name="from", metavar="DIR")]
    """The run whose policy is asked, which coldforge-grpo (or coldforge-sft) wrote and whose gate is passed."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The data set's directory, which must not hold anything else."""
    weights: Annotated[Path | None, Shown] = None
    """The base: a Hugging Face directory, a .gguf file or a Coldforge checkpoint. Without it, the 270m's come from the
    extra."""
    tokenizer: Annotated[Path | None, Shown] = None
    """The tokenizer, where it lies neither with the run nor with the weights."""
    force: bool = False
    """Ask the policy although its gate is failed."""
    max_hours: Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="")] = None
    """Stop in time, and say how to go on."""
    distributed: Distributed = Distributed()
    config: Annotated[RejectConfig, tyro.conf.arg(name="")]
