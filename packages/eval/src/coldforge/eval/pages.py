"""What both kinds of report pages share: the templates, and what is told of samples, settings and figures in them.

A page needs nothing besides itself: styles and plots stand in it, and there is no script. What a model wrote is
escaped by the template engine.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2

from coldforge.eval.records import Graded, Sampling, as_text
from coldforge.eval.results import Evaluation
from coldforge.eval.show import in_words
from coldforge.eval.store import replacing
from coldforge.eval.tally import Tally, first_of

_HEADLINE = 120  # characters
_CLIP = 2_500  # characters shown from either end of a text


def write_page(path: Path, template: str, values: Mapping[str, Any]) -> None:
    """Renders a template into a file."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("coldforge.eval", "templates"), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    page = environment.get_template(template).render(values)
    with replacing(path) as file:
        file.write(page.encode("utf-8", "backslashreplace"))


def clipped(text: str) -> str:
    """A text without its middle, where it is long."""
    left_out = len(text) - 2 * _CLIP
    if left_out <= _CLIP // 5:
        return text
    return (
        f"{text[:_CLIP]}\n\n[… {left_out:,} characters are left out here; samples.jsonl has them …]\n\n{text[-_CLIP:]}"
    )


def shown_sample(sample: Graded) -> dict[str, Any]:
    """A sample for a page."""
    return {
        "verdict": "right" if sample.correct else "wrong",
        "words": in_words(sample),
        "text": clipped(sample.text) or "(nothing)",
        "number": sample.number,
    }


def asked(evaluation: Evaluation, tally: Tally, question: str) -> dict[str, Any]:
    """A question for a page: its prompt, and a headline of it."""
    questions = list(tally.rows)
    other = questions[0] if questions[0] != question else questions[-1]
    prompt, beside = (
        as_text(evaluation.sample(first_of(tally.rows[each]).place).prompt or "") for each in (question, other)
    )
    words, category = headline(prompt, beside), tally.categories[question]
    return {
        "question": question,
        "asked": f"{category}: {words}" if category else words,
        "prompt": clipped(prompt),
    }


def headline(prompt: str, other: str) -> str:
    """What a prompt asks that another one does not: without instruction and examples, where these are the same."""
    lines, others = prompt.splitlines(), other.splitlines()
    if prompt != other:
        while lines and others and lines[0] == others[0]:
            del lines[0], others[0]
        while lines and others and lines[-1] == others[-1]:
            del lines[-1], others[-1]
    words = " ".join(" ".join(lines).split())
    return words if len(words) <= _HEADLINE else f"{words[:_HEADLINE]}…"


def sampling_words(sampling: Sampling) -> str:
    """As "temperature 0.6, top-p 0.95, at most 32,768 tokens, seed 0"."""
    how = [f"temperature {sampling.temperature:g}", f"top-p {sampling.top_p:g}"]
    how += [f"top-k {sampling.top_k}"] if sampling.top_k else []
    how = ["greedy"] if sampling.is_greedy else how
    return ", ".join([*how, f"at most {sampling.max_new_tokens:,} tokens", f"seed {sampling.seed}"])


def time_words(stamp: str) -> str:
    """As "2026-11-29 12:00 UTC"."""
    return f"{datetime.fromisoformat(stamp).astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """A nested mapping as rows of a table: ("lora.rank", "64")."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield (
                f"{prefix}{name}",
                "–" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value),
            )
