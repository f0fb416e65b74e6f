"""The first stage: rows for the cold start, questions to train on, questions that are held out.

    data/rows/            a data set, as coldforge-prepare writes it
    data/questions.jsonl  what reinforcement learning and rejection sampling ask
    data/heldout.jsonl    what every checkpoint is evaluated on
    data/overlap.json     what was left out so that no question is on two sides

In this order: rows; held-out questions, less those that the rows hold; questions, less those that are held out. Each
file is written whole, so that a run that is killed goes on with the next. JAX is imported when something is written.

Two families of coldforge-nano, whose splits do not overlap to begin with, have names of their own: `nano:COUNT`, that
of the embedded model, and `sums:COUNT?min_terms=2&max_terms=3&…`, sums with options of reasoning-gym's chain_sum, all
worked out.
"""

import json
import re
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from coldforge.apps.pipeline.config import DataOptions
from coldforge.data import Dataset, Tokenizer
from coldforge.data.duplicates import exact_key
from coldforge.data.prepare import prepare
from coldforge.data.questions import Question, open_questions

FAMILY = re.compile(r"(?P<name>nano|sums):(?P<count>[^?]*)(\?(?P<sums>.*))?")
type Part = Literal["cold-start", "rl", "heldout"]


class Places(NamedTuple):
    """Where the stage leaves what."""

    rows: Path
    questions: Path
    heldout: Path
    overlap: Path

    @classmethod
    def under(cls, folder: Path) -> "Places":
        """In the stage's directory."""
        return cls(folder / "rows", folder / "questions.jsonl", folder / "heldout.jsonl", folder / "overlap.json")


def make_data(options: DataOptions, tokenizer: Tokenizer, tokenizer_name: str, folder: Path, seed: int) -> Places:
    """Makes all of it, or what is missing.

    Raises:
        ValueError: A source holds nothing usable; nothing is left of a set when what is on the other side is taken out.
        FileNotFoundError, ModuleNotFoundError: A source is not there; an extra is missing.
    """
    places = Places.under(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sources = [_source(spec, "cold-start", folder, seed) for spec in options.rows]
    dataset = prepare(
        sources, places.rows, tokenizer=tokenizer, tokenizer_name=tokenizer_name, options=options.prepare,
        processes=options.processes,
    ).dataset  # fmt: skip
    if not places.heldout.exists():
        split_questions(options, dataset, places, folder, seed)
    return places


def split_questions(options: DataOptions, dataset: Dataset, places: Places, folder: Path, seed: int) -> None:
    """Writes the questions of both sides, no question in both."""
    learnt = {exact_key(record.question) for split in (dataset.train, dataset.heldout) for record in split}
    heldout, in_rows = _without(
        _read(options.heldout, "heldout", options.heldout_split, options, folder, seed + 1), learnt
    )
    if not heldout:
        raise ValueError(
            f"all {in_rows} held-out questions of {', '.join(options.heldout)} are among the cold start's rows; name "
            "others (--data.heldout), or fewer rows"
        )
    asked = {exact_key(question.text) for question in heldout}
    questions, in_heldout = _without(_read(options.questions, "rl", options.split, options, folder, seed), asked)
    if not questions:
        raise ValueError(
            f"all {in_heldout} questions of {', '.join(options.questions)} are held out; name others (--data.questions)"
        )
    counts = {
        "rows": len(dataset.train) + len(dataset.heldout), "heldout": len(heldout), "questions": len(questions),
        "heldout questions left out, among the rows or twice": in_rows,
        "questions left out, held out or twice": in_heldout,
    }  # fmt: skip
    _write(places.questions, map(_row, questions))
    _write(places.overlap, [counts])
    _write(places.heldout, map(_row, heldout))  # the last: where it is, all are there


def _source(spec: str, part: Part, folder: Path, seed: int) -> str:
    """A source as the other programs take it: rows of coldforge-nano are written to a file first.

    Raises:
        ValueError: It names rows of coldforge-nano that there are none of.
    """
    family = FAMILY.fullmatch(spec)
    if family is None:
        return spec
    from coldforge import nano

    sums = dict(urllib.parse.parse_qsl(family["sums"] or "", strict_parsing=bool(family["sums"])))
    wanted = "nano:COUNT, or sums:COUNT?min_terms=2&max_terms=3&min_digits=1&max_digits=2"
    values = [family["count"], *sums.values()]
    if not all(value.isdecimal() and int(value) for value in values) or (family["name"] == "nano") != (not sums):
        raise ValueError(f"{spec!r} is no rows of coldforge-nano; wanted {wanted}")
    chosen = {name: int(value) for name, value in sums.items()} or None
    path, count = folder / f"{re.sub(r'[^a-z0-9]+', '-', spec)}-{part}.jsonl", int(family["count"])
    if not path.exists():
        if part == "cold-start":
            nano.write_cold_start(path, count, seed=seed, quick=0.0 if sums else nano.QUICK, sums=chosen)
        else:
            nano.write_questions(path, count, split=part, seed=seed, sums=chosen)
    return str(path)


def _read(
    specs: Sequence[str], part: Part, split: str, options: DataOptions, folder: Path, seed: int
) -> Iterator[Question]:
    sources = [_source(spec, part, folder, seed) for spec in specs]
    for question in open_questions(sources, split=split, seed=seed, on_bad=options.on_bad):
        if question.answer is None:
            raise ValueError(
                f"{question.source} has questions without an answer, which only its own scorer can judge: "
                f"{question.text[:80]!r}. Wanted sources whose answers can be compared"
            )
        yield question


def _without(questions: Iterable[Question], taken: set[bytes]) -> tuple[list[Question], int]:
    """The questions whose text is not taken, each once; and how many were left out."""
    kept: list[Question] = []
    seen, left_out = set(taken), 0
    for question in questions:
        key = exact_key(question.text)
        if key in seen:
            left_out += 1
        else:
            seen.add(key)
            kept.append(question)
    return kept, left_out


def _row(question: Question) -> dict[str, Any]:
    choices = question.meta.get("choices")
    row = {"question": question.text, "answer": question.answer, "kind": question.kind, "source": question.source}
    return row | ({"choices": choices} if choices else {})


def _write(path: Path, rows: Iterable[Any]) -> None:
    from coldforge.training.files import replace_file  # with JAX, which the command line does not wait for

    with replace_file(path) as file:
        file.writelines(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
