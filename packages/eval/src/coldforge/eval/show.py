"""Stored samples to read: found by what became of them, and as text for a terminal.

    for sample, prompt in find_samples("runs/base", kinds=["wrong", "truncated"], task="gsm8k"):
        print(sample_text(sample, prompt))

Works while an evaluation runs, too, and on one that was ended.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from coldforge.eval.records import Graded, Prompt, as_text
from coldforge.eval.store import SAMPLES, prompts_carried, read_samples
from coldforge.eval.tally import UNCHECKED

type Kind = Literal["right", "wrong", "truncated", "unparsable", "malformed", "unchecked"]

KINDS: Mapping[str, Callable[[Graded], bool]] = {
    "right": lambda sample: sample.correct,
    "wrong": lambda sample: not sample.correct,
    "truncated": lambda sample: sample.truncated,
    "unparsable": lambda sample: sample.extracted is None,
    "malformed": lambda sample: sample.well_formed is False,
    "unchecked": lambda sample: sample.verdict in UNCHECKED,
}


def find_samples(
    directory: str | Path, *, kinds: Sequence[Kind] = (), task: str | None = None, category: str | None = None,
    question: str | None = None,
) -> Iterator[tuple[Graded, Prompt]]:  # fmt: skip
    """Yields the samples to which all of this applies, each with what was asked.

    Args:
        directory: Of an evaluation.
        kinds: "right", "wrong" (whatever else is), "truncated" (cut off), "unparsable" (no answer was found),
            "malformed" (not in the form that was asked for), "unchecked" (the check took too long or failed).
        task, category, question: Only of this one; a question by its id or the beginning of it.

    Raises:
        FileNotFoundError: There are no samples.
        ValueError: A kind is unknown, or a line is no sample.
    """
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(f"there is no kind {unknown[0]!r}; there are {', '.join(KINDS)}.")
    path = Path(directory) / SAMPLES
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; wanted a directory of an evaluation.")
    return (
        (sample, prompt)
        for sample, prompt in prompts_carried(sample for _, sample in read_samples(path))
        if (task is None or sample.task == task)
        and (category is None or sample.category == category)
        and (question is None or sample.question.startswith(question))
        and all(KINDS[kind](sample) for kind in kinds)
    )


def sample_text(sample: Graded, prompt: Prompt) -> str:
    """A sample as people read it: where it is from, what was asked, what came, and what the grader says."""
    head = f"── {sample.task} {sample.question} #{sample.number}" + (f" · {sample.category}" if sample.category else "")
    return f"{head}\n{as_text(prompt)}\n── reply\n{sample.text}\n── {in_words(sample)}\n"


def in_words(sample: Graded) -> str:
    """What became of a sample: "wrong: 12, wanted 14; 312 tokens, cut off"."""
    found = (
        f"no answer, wanted {sample.gold}" if sample.extracted is None else f"{sample.extracted}, wanted {sample.gold}"
    )
    if sample.gold is None:
        found = "no answer" if sample.extracted is None else sample.extracted
    parts = [f"{sample.tokens:,} tokens"]
    parts += ["cut off"] if sample.truncated else []
    parts += ["not in form"] if sample.well_formed is False else []
    verdict = sample.verdict if sample.verdict != "no answer" else "wrong"
    return f"{verdict}: {found}; {', '.join(parts)}" + (f"; {sample.why}" if sample.why else "")
