"""`coldforge-chat`: one answer, or a conversation, streamed to the terminal from any Gemma3 weights.

In this order: parse the command line; find weights and tokenizer; check what was asked for; load; answer (`talk`).
What is wrong is found out as early as that allows, and said in one message with exit code 2. JAX is imported after the
parsing, so that `--help` takes 0.3 s, and keeps what it compiles in the user's cache directory (unless
JAX_COMPILATION_CACHE_DIR names another), since compiling is most of the wait for a first answer.

Standard output holds nothing but answers. All else (spinner, speed, remarks) goes to standard error, and but for errors
only where that is a terminal. Left out: more than one device, and keeping keys and values from turn to turn.
"""

import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from coldforge.apps.chat.weights import find_model, load_tokenizer
from coldforge.data.embedded import cache_dir

BASE_WEIGHTS = "Gemma3 270M, base weights: they continue text and cannot chat."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Talk to a Gemma3 in the terminal.

    With a prompt, or text on standard input, it answers once. Without, it begins a conversation.
    """

    # Words: of a single string that may be left out, tyro would read "None" as left out.
    prompt: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="[PROMPT]", help_behavior_hint=""), tyro.conf.Positional
    ] = ()
    """What to answer or to continue."""
    model: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """Weights: a Hugging Face directory, a .gguf file or a Coldforge checkpoint. Without it, those of the extra
    gemma3-270m."""
    adapter: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """An adapter for these weights: a directory in PEFT's format, as coldforge-sft leaves one in its run."""
    tokenizer: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """The tokenizer, where it does not lie with the weights."""
    mode: Literal["auto", "chat", "raw"] = "auto"
    """chat: in Gemma's chat template. raw: continues the text as it stands. auto: raw with the extra's weights alone,
    which are base weights; chat with all others."""
    system: str = ""
    """Instructions in front of a chat."""
    max_new_tokens: int = 256
    """An answer ends after so many tokens."""
    temperature: float = 1.0
    """0: the most likely token each time. Defaults of this and the next two are those published with Gemma3."""
    top_k: int = 64
    """Sample among the k most likely tokens; 0: among all."""
    top_p: float = 0.95
    """Sample among the most likely tokens that together have this probability; 1: among all."""
    seed: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Same seed, same answer. Without it, another one each time."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """What the weights become in memory. auto: float32 on a CPU, where it is faster; bfloat16 elsewhere. The latter
    takes half the space."""


def main(args: list[str] | None = None) -> None:
    """The program. `args`: instead of the command line's."""
    started = time.perf_counter()
    options = tyro.cli(Options, args=args, prog="coldforge-chat")
    try:
        sys.exit(run(options, started))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # whoever reads has read enough; the flush at exit would fail once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ValueError, OSError) as error:  # how every package says that it was given something wrong
        sys.exit(report(error))


def report(error: Exception) -> int:
    """Says on standard error what is wrong, and returns the exit code for it."""
    print(f"coldforge-chat: {error}", file=sys.stderr)
    return 2


def run(options: Options, started: float) -> int:
    """Prepares, answers, and returns the exit code. `started`: when the user began to wait (`time.perf_counter`)."""
    talking = not options.prompt and sys.stdin.isatty()
    prompt = " ".join(options.prompt) if options.prompt or talking else sys.stdin.read().removesuffix("\n")
    if not (prompt or talking):
        raise ValueError("the prompt is empty. Pass one, or none in a terminal for a conversation")
    weights, embedded = find_model(options.model)
    embedded = embedded and options.adapter is None
    chat = not embedded if options.mode == "auto" else options.mode == "chat"
    if options.system and not chat:
        raise ValueError("--system is for chats, and this would be a continuation. Add --mode chat, or leave it out")

    notes = Console(stderr=True, quiet=not sys.stderr.isatty(), markup=False, highlight=False, soft_wrap=True)
    if embedded:
        notes.print(BASE_WEIGHTS, style="dim")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_dir() / "jax"))
    with notes.status("loading"):
        from coldforge.apps.chat.talk import Talk, open_model
        from coldforge.rollout import SamplingParams

        tokenizer = load_tokenizer(weights, options.tokenizer)
        params = SamplingParams(
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            seed=options.seed or 0,
            stop_ids=tokenizer.stop_ids,
        )
        model = open_model(weights, tokenizer, options.dtype, options.adapter)
    talk = Talk(model, tokenizer, params, seed=options.seed, system=options.system, chat=chat, notes=notes)
    if talking:
        talk.converse()
        return 0
    return 0 if talk.answer(prompt, started, echo=not chat) else 130
