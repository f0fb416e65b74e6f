"""From a prompt to ids, from the model's tokens to the terminal, and on to the next turn. Imports JAX.

An answer is written as it is made: no markup in it means anything, bytes wait until they make a whole character, and of
control characters only newline and tab reach a terminal (others could move its cursor or change its title).
"""

import contextlib
import dataclasses
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import jax
from rich.console import Console

from coldforge.data import Message, StreamDecoder, Tokenizer
from coldforge.modeling import Gemma3, load, with_peft
from coldforge.rollout import SamplingParams, stream

HELP = "Ctrl-C stops an answer, /reset forgets what was said, /quit or Ctrl-D leaves."
CONTROLS = dict.fromkeys({*range(32), *range(127, 160)} - {ord("\n"), ord("\t")}, "\N{REPLACEMENT CHARACTER}")


def open_model(path: Path, tokenizer: Tokenizer, dtype: str, adapter: Path | None = None) -> Gemma3:
    """Loads the weights at `path`, as "float32", "bfloat16", or "auto": what is faster here, and an adapter on them.

    Raises:
        ValueError: The tokenizer or the adapter is of another model; or as `coldforge.modeling.load`.
        FileNotFoundError: As `coldforge.modeling.load`.
    """
    if dtype == "auto":
        # On a CPU one answer of the 270M took 131 ms of CPU time a token in float32 and 148 in bfloat16 (medians of 4
        # runs in turn on a busy machine): XLA multiplies bfloat16 well in rows of eight only, so rollout pads to these.
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    model = load(path, dtype=dtype)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size:,} tokens and the model {model.config.vocab_size:,}. "
            "Pass the model's own with --tokenizer PATH"
        )
    return model if adapter is None else with_peft(model, adapter)


@dataclasses.dataclass
class Talk:
    """A model, how it is asked, and in a chat what was said so far.

    Attributes:
        seed: For every answer; None: a new one for each.
        system: Goes in front of a chat; "" for none.
        chat: Whether prompts are turns of a chat. If not, each is a text by itself, to be continued.
        notes: Where all goes that is not an answer.
    """

    model: Gemma3
    tokenizer: Tokenizer
    params: SamplingParams
    seed: int | None
    system: str
    chat: bool
    notes: Console
    said: list[Message] = dataclasses.field(default_factory=list)

    def converse(self) -> None:
        """Answers one line after the other until the user leaves."""
        with contextlib.suppress(
            ImportError
        ):  # not everywhere; where it is, arrows edit the line and bring old ones back
            import readline  # noqa: F401
        self.notes.print(HELP, style="dim")
        while True:
            try:
                line = input("> " if sys.stdout.isatty() else "").strip()
                if line == "/quit":
                    return
                if line == "/reset":
                    self.said.clear()
                elif line:
                    self.answer(line, time.perf_counter())
            except EOFError:
                print()
                return
            except KeyboardInterrupt:  # at the prompt, or twice during an answer
                print()
            except ValueError as error:  # most likely a conversation that has outgrown the context
                print(f"{error} (/reset forgets what was said)", file=sys.stderr)

    def answer(self, prompt: str, asked: float, *, echo: bool = False) -> bool:
        """Writes an answer and remembers it.

        Args:
            prompt: What the user said.
            asked: When (`time.perf_counter`).
            echo: Whether a terminal shows the prompt in front.

        Returns:
            Whether it is complete; not if Ctrl-C stopped it.

        Raises:
            ValueError: The prompt does not fit into the model's context.
        """
        ids = self.encode(prompt)
        seed = secrets.randbits(32) if self.seed is None else self.seed
        decoder, text, token, times = StreamDecoder(self.tokenizer), "", -1, [asked]
        waiting = self.notes.status("thinking")
        with waiting, ctrl_c() as pressed:
            for token in stream(self.model, ids, dataclasses.replace(self.params, seed=seed)):
                if pressed:
                    break
                if len(times) == 1:
                    waiting.stop()
                    self.notes.print(prompt if echo else "", style="dim", end="")
                times.append(time.perf_counter())
                text += write(decoder.push(token))
        text += write(decoder.finish())
        if not text.endswith("\n"):
            write("\n")
        if self.chat and text:
            self.said += [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
        cut = not pressed and token not in self.params.stop_ids
        self.notes.print(speed(times) + (", cut off by --max-new-tokens" if cut else ""), style="dim")
        return not pressed

    def encode(self, prompt: str) -> list[int]:
        """Returns the ids of a prompt: after all that was said, or by itself."""
        if not self.chat:
            return self.tokenizer.encode(prompt, add_bos=True)
        start = [{"role": "system", "content": self.system}] if self.system else []
        return self.tokenizer.encode_chat([*start, *self.said, {"role": "user", "content": prompt}])


@contextlib.contextmanager
def ctrl_c() -> Iterator[list[int]]:
    """Gives a list that the first Ctrl-C makes true; a second one raises KeyboardInterrupt.

    An exception at any moment would be lost in one of JAX's callbacks, or leave it in the midst of compiling.
    """
    pressed: list[int] = []

    def press(number: int, _frame: FrameType | None) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def write(text: str) -> str:
    """Writes text to standard output at once, and returns it as it was."""
    sys.stdout.write(text.translate(CONTROLS) if sys.stdout.isatty() else text)
    sys.stdout.flush()
    return text


def speed(times: list[float]) -> str:
    """Says how fast an answer was: `speed([0, 2, 2.5, 3])` is "3 tokens, first after 2.0 s, then 2.0/s".

    Args:
        times: When it was asked for, and when each token came, in seconds.
    """
    count = len(times) - 1
    said = f"{count} token{'s' * (count != 1)}"
    if count > 0:
        said += f", first after {times[1] - times[0]:.1f} s"
    if count > 1:
        said += f", then {(count - 1) / (times[-1] - times[1]):.1f}/s"
    return said
