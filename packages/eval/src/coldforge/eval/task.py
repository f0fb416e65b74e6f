"""A task: questions, the prompt they are put in, and the verifier of replies, in one small object.

`open_task` makes one of what a person would write:

| spec | what |
|---|---|
| `gsm8k` | a benchmark of `TASKS`, from the hub |
| `gsm8k=data/test.parquet`, `mmlu=downloads/mmlu` | the same from a file, or a folder of splits, in the hub's format |
| `gym:arithmetic`, `gym:logic:50` | a suite of reasoning-gym's tasks, 20 or 50 questions of each |
| `chain_sum:200?max_terms=3` | one of reasoning-gym's tasks |
| `questions.jsonl` | any file of `question` and `answer`, as `coldforge.data.question_rows` reads them |
| `owner/name:config@revision` | the same on the hub |

Two evaluations of a task may be compared if its `content_hash` is the same: it covers texts, right answers, prompts
with their examples, what judges, and the version that is raised when code changes any of that. Left out: talk with a
model, which is `run`'s; statistics.
"""

import dataclasses
import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from coldforge.data.format import ReasoningFormat
from coldforge.data.question_gym import SPEC
from coldforge.data.records import Question
from coldforge.data.sources import is_hub_name, read_hub
from coldforge.eval.benchmarks import SOLUTION, TASKS, Benchmark, Shot, chance_of, read_any, read_questions, read_shots
from coldforge.eval.gym import COUNT, gym_questions, suite_questions
from coldforge.eval.prompts import PromptStyle, choose_shots, style_of
from coldforge.eval.records import Prompt
from coldforge.eval.rows import open_rows, read_table
from coldforge.eval.verify import Verifier, answer_key, describe_verifier
from coldforge.rewards import Fallback, MathPool, Response

SAMPLES = 4
"""Of a question, where no protocol says how many: the least that DeepSeek-R1's evaluation draws (2501.12948v2, D.1)."""

WANTED = (
    f"one of {', '.join(TASKS)} (with =PATH for local files), gym:SUITE, NAME:COUNT of reasoning-gym, a file of "
    "questions, or owner/name on the hub"
)
_SUITE = re.compile(r"gym:(\w+)(?::(\d+))?")
_HUB = re.compile(r"([^:@]+)(?::([^:@]+))?(?:@([^:@]+))?")


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is asked, how, and who says what is right.

    Attributes:
        name: Tells it from other tasks of an evaluation.
        version: Goes up when the same data would give other questions, prompts or verdicts.
        questions: With ids that differ. `meta["category"]`: the part of the task that a question belongs to, if any.
        prompt: How a question is put.
        verifier: Who judges the replies.
        samples: How many the protocol draws of each question.
        chance: The accuracy of guessing.
        stop: Texts at which a reply ends.
        max_new_tokens: Where the protocol cuts a reply off; None: it does not say.
        shots: A question's id → the examples in its prompt, for prompts that draw them.
        source: Where the questions come from, for people.
        published: How many questions the benchmark has, where that is known; fewer may have been taken.

    Raises:
        ValueError: There are no questions, two have one id, one can be judged by no one, `samples` is less than 1, or
            `chance` is no share.
    """

    name: str
    version: str
    questions: Sequence[Question]
    prompt: PromptStyle
    verifier: Verifier
    samples: int = SAMPLES
    chance: float = 0.0
    stop: tuple[str, ...] = ()
    max_new_tokens: int | None = None
    shots: Mapping[str, tuple[Shot, ...]] = field(default_factory=dict)
    source: str = ""
    published: int | None = None

    def __post_init__(self) -> None:
        if not self.questions:
            raise ValueError(f"the task {self.name} has no questions; wanted at least one.")
        if twice := [name for name, count in Counter(each.id for each in self.questions).items() if count > 1]:
            raise ValueError(f"{len(twice)} ids of the task {self.name} occur more than once, the first: {twice[0]!r}.")
        for question in self.questions:
            if question.kind in ("code", "proof") and "scorer" not in question.meta:
                raise ValueError(
                    f"the question {question.text!r:.60} of the task {self.name} wants {question.kind}, which no "
                    "verifier can judge; leave it out, or give it a scorer."
                )
        if self.samples < 1:
            raise ValueError(f"samples is {self.samples}; wanted at least 1.")
        if not 0 <= self.chance < 1:
            raise ValueError(f"chance is {self.chance}; wanted the accuracy of guessing, a share.")

    @property
    def formed(self) -> bool:
        """Whether the prompt asks for a form that a reply can have or lack."""
        return self.prompt.formed

    def ask(self, question: Question) -> Prompt:
        """Returns the whole prompt of a question: messages, or raw text with its examples."""
        return self.prompt.render(question, self.shots.get(question.id, ()))

    def response(self, question: Question, text: str, tokens: int, ended: bool) -> Response:
        """Returns a reply to a question as the verifier takes it."""
        meta = {**question.meta, "kind": question.kind}
        return Response(text, tokens, ended, question=question.text, gold=question.answer, meta=meta)

    def key(self, question: Question, answer: str) -> str:
        """Returns one spelling for answers to a question that are surely the same; see `answer_key`."""
        return answer_key(answer, kind=question.kind, choices=question.meta.get("choices", ()))

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 (hex) of version, prompts, right answers and the verifier's options; not of the name."""
        digest = hashlib.sha256()
        fixed = [self.version, describe_verifier(self.verifier), list(self.stop), self.max_new_tokens]
        digest.update(json.dumps(fixed, sort_keys=True).encode())
        for question in self.questions:
            # A reasoning-gym entry follows from the text, and may hold what JSON does not. Nobody is asked or judged by
            # a solution, which some copies of the data have and others have not.
            meta = {name: value for name, value in question.meta.items() if name not in ("entry", SOLUTION)}
            kept = [question.id, self.ask(question), question.answer, question.kind, meta]
            digest.update(json.dumps(kept, sort_keys=True, default=dict).encode())
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """Returns what a record of an evaluation says of the task, as JSON holds it."""
        categories = Counter(str(question.meta.get("category", "")) for question in self.questions)
        return {
            "name": self.name,
            "version": self.version,
            "content_hash": self.content_hash,
            "source": self.source,
            "questions": len(self.questions),
            "published": self.published,
            "categories": dict(categories) if set(categories) != {""} else {},
            "prompt": self.prompt.describe(),
            "verifier": describe_verifier(self.verifier),
            "samples": self.samples,
            "chance": self.chance,
            "stop": list(self.stop),
            "max_new_tokens": self.max_new_tokens,
        }


@dataclass(frozen=True, kw_only=True)
class _Found:
    """Questions, and what is known of them."""

    name: str
    questions: tuple[Question, ...]
    source: str
    benchmark: Benchmark | None = None
    revision: str | None = None
    path: str | Path | None = None


def open_task(
    spec: str, *, prompt: str | PromptStyle | None = None, path: str | Path | None = None,
    shots: str | Path | None = None, split: str | None = None, revision: str | None = None, limit: int | None = None,
    seed: int = 0, samples: int | None = None, form: ReasoningFormat | None = None,
    fallbacks: Sequence[Fallback] | None = None, pool: MathPool | None = None, name: str | None = None,
) -> Task:  # fmt: skip
    """Makes a task.

    Args:
        spec: What is asked; see the module.
        prompt: A style or its name; see `prompts`. None: "plain" for IFEval, "reasoning" for all others.
        path: Local files of a benchmark, in place of `=PATH` in the spec.
        shots: Local files of the split of examples, for prompts that draw them. None: the split's file in the folder
            `path`, or the hub.
        split: Another split than the benchmark's own; for other sets of the hub, "test" unless it is given.
        revision: A commit, branch or tag of the hub's data set.
        limit: Take so many questions: those whose ids have the lowest hashes, a fair sample that is the same for
            all, in their order. None: all.
        seed: Of reasoning-gym's tasks.
        samples: Another number of samples than the protocol's.
        form: Other tags or another instruction of the prompt "reasoning". IFEval's own prompt has no use for it.
        fallbacks: Where else than in the form an answer may stand; (): nowhere. None: the style's own.
        pool: For computer algebra and scorers. None: the one that all share.
        name: Another name.

    Raises:
        FileNotFoundError: There is no such file, or no such thing at all.
        ValueError: A row is not in order (file, row and column are named), two questions have one id, there is none; a
            style, suite, task or option is unknown; a form is given with another prompt than "reasoning"; a style
            needs examples that the benchmark has not.
        ModuleNotFoundError: An extra is missing; it is named.
        Others: What the hub raises without a network.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; wanted at least 1, or None for all questions.")
    found = _find(spec, path, split, revision, seed)
    ifeval = found.questions[0].kind == "instructions"
    named = prompt or ("plain" if ifeval else "reasoning")
    style = style_of(
        named, form if prompt or named == "reasoning" else None
    )  # refused only with a prompt that is named
    if fallbacks is not None:
        given = tuple(fallbacks)
        style = dataclasses.replace(style, fallbacks=given, choice_fallbacks=given, number_fallbacks=given)
    drawn = choose_shots(style, found.questions, _shots(found, style, shots))
    questions = found.questions if limit is None else _fair(found.questions, limit)
    facts = found.benchmark
    return Task(
        name=name or found.name,
        version=facts.version if facts else "1",
        questions=questions,
        prompt=style,
        verifier=style.verifier(questions, pool),
        samples=samples if samples is not None else facts.samples if facts else SAMPLES,
        chance=chance_of(questions),
        stop=style.stop,
        max_new_tokens=style.max_new_tokens or (facts.max_new_tokens if facts else None),
        shots={question.id: drawn[question.id] for question in questions} if drawn else {},
        source=found.source,
        published=facts.size if facts else None,
    )


def _find(spec: str, path: str | Path | None, split: str | None, revision: str | None, seed: int) -> _Found:
    head, equals, tail = spec.partition("=")
    if head in TASKS and (equals or head == spec):
        if equals and path is not None:
            raise ValueError(f"{spec} names a path, and so does path={str(path)!r}; wanted one of them.")
        return _benchmark(TASKS[head], tail if equals else path, split, revision)
    if path is not None:
        raise ValueError(f"path is given with {spec!r}, which is no benchmark; wanted one of {', '.join(TASKS)}.")
    if match := _SUITE.fullmatch(spec):
        questions = suite_questions(match[1], int(match[2] or COUNT), seed)
        return _Found(name=f"gym:{match[1]}", questions=questions, source=f"reasoning-gym, {spec}, seed {seed}")
    if (file := Path(spec)).is_file():
        questions = read_questions(read_table(file), read_any, file.name, str(file))
        return _Found(name=file.name.split(".")[0], questions=questions, source=spec)
    if SPEC.fullmatch(spec):
        questions = gym_questions([spec], seed)
        return _Found(name=spec.partition(":")[0], questions=questions, source=f"reasoning-gym, {spec}, seed {seed}")
    if (match := _HUB.fullmatch(spec)) and is_hub_name(match[1]) and not Path(match[1]).suffix:
        split, revision = split or "test", match[3] or revision
        rows = read_hub(match[1], config=match[2], split=split, revision=revision)
        questions = read_questions(rows, read_any, match[1], f"{spec} ({split})")
        return _Found(name=match[1].partition("/")[2], questions=questions, source=f"{spec} ({split})")
    raise FileNotFoundError(f"there is no file and no task {spec!r}; wanted {WANTED}.")


def _benchmark(facts: Benchmark, path: str | Path | None, split: str | None, revision: str | None) -> _Found:
    try:
        where, rows = open_rows(path, facts.hub, config=facts.config, split=split or facts.split, revision=revision)
    except Exception as error:
        if path is None:  # no network, or a set that its owners give only to those who ask (GPQA)
            error.add_note(f"{facts.name} was asked of the hub; local files are named by {facts.name}=PATH.")
        raise
    questions = read_questions(rows, facts.read, facts.name, where, repeats=True)
    return _Found(
        name=facts.name, questions=questions, source=where, benchmark=facts, revision=revision, path=path
    )  # fmt: skip


def _shots(found: _Found, style: PromptStyle, path: str | Path | None) -> tuple[Shot, ...]:
    if style.draw == "fixed" or not style.shots:
        if path is not None:
            raise ValueError(f"shots are given, but the prompt {style.name!r} draws none.")
        return ()
    facts = found.benchmark
    if facts is None or facts.read_shot is None:
        able = ", ".join(each.name for each in TASKS.values() if each.read_shot)
        raise ValueError(f"the prompt {style.name!r} draws examples, which {found.name} has not; wanted one of {able}.")
    where = path or (found.path if found.path and Path(found.path).is_dir() else None)
    if where is None and found.path is not None:
        raise ValueError(
            f"the prompt {style.name!r} draws examples from the split {facts.shots_split!r} of {facts.name}, and "
            f"{found.path} is a single file: name the split's file by shots=…."
        )
    rows = open_rows(
        where, facts.hub, config=facts.config, split=facts.shots_split, revision=found.revision, named=True
    )
    return read_shots(rows.rows, facts.read_shot, rows.where)


def _fair(questions: Sequence[Question], limit: int) -> tuple[Question, ...]:
    def rank(place: int) -> bytes:
        return hashlib.blake2b(questions[place].id.encode(), digest_size=8).digest()

    chosen = sorted(range(len(questions)), key=rank)[:limit]
    return tuple(questions[place] for place in sorted(chosen))
