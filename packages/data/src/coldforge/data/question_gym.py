"""reasoning-gym's tasks as questions: made one at a time, by index, when they are asked for.

`GymQuestions` takes a task's name, a count, and options for `reasoning_gym.create_dataset`. Which items come follows
from the task, the package's version, options, count and seed:

- An item's generator is seeded there with seed + index, so that neighbouring seeds would give almost the same items. So
  `seed` is hashed; the option `seed` is handed on as it is.
- Some tasks draw from Python's global generator; it is seeded for each item, and put back.
- Six that we know of go through sets, whose order is another in each process: they are refused unless PYTHONHASHSEED
  is set, as a run that goes on, or runs on several hosts, would be asked other questions.

Left out: task `composite` (a spec cannot hold its options; name its parts), and options that are lists.
"""

import dataclasses
import difflib
import hashlib
import importlib.metadata
import json
import os
import random
import re
import typing
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from coldforge.data.extras import needs
from coldforge.data.records import Question, question_id

SPEC = re.compile(r"(\w+):(\d+)(?:\?(.*))?")
"""NAME:COUNT, NAME:COUNT?key=value&key=value."""

# Of reasoning-gym 0.1.25, found by comparing 30 items of every task under two values of PYTHONHASHSEED.
_BY_HASH_SEED = frozenset(
    (
        "intermediate_integration",
        "isomorphic_strings",
        "knight_swap",
        "polynomial_multiplication",
        "ransom_note",
        "word_ladder",
    )
)
_PROBES = 4  # items that go into the identity
_LIKE = 5


class GymQuestions:
    """Questions of a task. Reading one takes from 10 µs (sums) to 0.7 s (knight_swap).

    Attributes:
        name: The task with its options, as in the spec; it is the questions' source.
        dropped: Nothing ever is.
        identity: What decides which questions these are, with a hash of the first ones.
    """

    def __init__(self, spec: str, seed: int) -> None:
        """Makes the task and looks at its first items.

        Args:
            spec: A text that `SPEC` matches.
            seed: The same seed gives the same questions.

        Raises:
            ValueError: The task or an option is unknown, a value is out of its range, the count is 0, or the items are
                no texts. What would do is named.
            ModuleNotFoundError: reasoning-gym is not installed.
        """
        match = SPEC.fullmatch(spec)
        if match is None:
            raise ValueError(f"{spec!r} is no reasoning-gym task; wanted NAME:COUNT or NAME:COUNT?key=value&….")
        self._task, self._count, options = match[1], int(match[2]), match[3] or ""
        self.name = f"{self._task}?{options}" if options else self._task
        self.dropped: Mapping[str, int] = {}
        if self._count < 1:
            raise ValueError(f"{spec}: the count is 0; wanted how many questions to make.")
        gym = _gym(spec)
        chosen = {"seed": _spread(seed)} | _options(spec, _config(gym, spec, self._task), options)
        self._seed = chosen["seed"]
        if self._seed < 0:
            raise ValueError(f"{spec}: the seed is {self._seed}; wanted 0 or more.")
        self._items = _create(gym, spec, self._task, {"size": self._count} | chosen)
        self.identity = self._identity(spec, chosen)

    def _identity(self, spec: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
        identity: dict[str, Any] = {"task": self._task, "options": dict(options)}
        identity["version"] = importlib.metadata.version("reasoning-gym")
        if self._task in _BY_HASH_SEED:
            identity["PYTHONHASHSEED"] = _hash_seed(spec)
        digest = hashlib.sha256()
        for index in range(min(self._count, _PROBES)):
            entry = self[index].meta["entry"]
            try:
                digest.update(json.dumps(entry, sort_keys=True).encode())
            except TypeError as error:
                raise ValueError(
                    f"{spec}: item {index} is not as JSON holds it: {error}; wanted plain data."
                ) from error
        return identity | {"first": digest.hexdigest()}

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Question:
        try:
            with _seeded(f"{self._seed} {index}"):
                item = self._items[index]
        except Exception as error:
            error.add_note(f"It was raised by reasoning-gym in making item {index} of {self.name}.")
            raise
        text, answer = item["question"], item["answer"]
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{self.name}: question {index} is {text!r:.60}; wanted a task whose questions are text.")
        if answer is not None and not isinstance(answer, str):
            raise ValueError(f"{self.name}: answer {index} is {answer!r:.60}; wanted a task whose answers are text.")
        meta = {"scorer": "reasoning-gym", "task": self._task, "entry": item}
        return Question(question_id(self.name, text), text, answer, "auto", self.name, meta)


def _gym(spec: str) -> ModuleType:
    with warnings.catch_warnings():  # a package that it imports compares with `is`
        warnings.simplefilter("ignore", SyntaxWarning)
        needs("reasoning_gym", "reasoning-gym", spec)
        return needs("reasoning_gym.factory", "reasoning-gym", spec)


def _spread(seed: int) -> int:
    if seed < 0:
        raise ValueError(f"the seed is {seed}; wanted 0 or more.")
    return int.from_bytes(hashlib.blake2b(str(seed).encode(), digest_size=4).digest(), "big") >> 1


def _config(gym: ModuleType, spec: str, task: str) -> dict[str, dataclasses.Field[Any]]:
    """Returns the fields of a task's configuration."""
    if task not in gym.DATASETS:
        near = difflib.get_close_matches(task, gym.DATASETS, _LIKE) or sorted(gym.DATASETS)
        raise ValueError(f"{spec}: reasoning-gym has no task {task!r}; wanted one as {', '.join(near)}.")
    return {field.name: field for field in dataclasses.fields(gym.DATASETS[task][1])}


def _options(spec: str, known: Mapping[str, dataclasses.Field[Any]], text: str) -> dict[str, Any]:
    """Reads key=value&key=value."""
    options: dict[str, Any] = {}
    for part in text.split("&") if text else ():
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise ValueError(f"{spec}: the option {part!r} is none; wanted key=value&key=value.")
        if key == "size":
            raise ValueError(f"{spec}: how many is the number after the task's name; leave the option size out.")
        if key not in known:
            names = ", ".join(sorted(known.keys() - {"size"}))
            raise ValueError(f"{spec}: there is no option {key!r}; wanted one of {names}.")
        if key in options:
            raise ValueError(f"{spec}: the option {key!r} is given twice; wanted it once.")
        options[key] = _fitting(spec, known[key], value)
    return options


def _value(text: str) -> int | float | bool | str:
    """Reads a value as the first of bool, int, float and text that it can be."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _fitting(spec: str, field: dataclasses.Field[Any], text: str) -> int | float | bool | str:
    """Returns a value that is of the kind of the option's default; a dataclass itself takes anything."""
    value, made = _value(text), field.default_factory
    default = field.default if made is dataclasses.MISSING else made()
    wanted = type(default)
    if default is None:  # int | None
        wanted, *_ = *typing.get_args(field.type), str
    if default is dataclasses.MISSING or wanted is type(value):
        return value
    if wanted is float and type(value) is int:
        return float(value)
    if wanted is str:
        return text
    if wanted in (bool, int, float):
        raise ValueError(f"{spec}: {field.name} is {value!r}; wanted {wanted.__name__}, as {default!r}.")
    raise ValueError(f"{spec}: {field.name} is a {wanted.__name__}, which a spec cannot hold; leave it out.")


def _create(gym: ModuleType, spec: str, task: str, options: Mapping[str, Any]) -> Any:
    try:
        with _seeded(f"{options['seed']}"):
            return gym.create_dataset(task, **options)
    except (AssertionError, TypeError, ValueError) as error:  # what `validate` of a task's configuration raises
        raise ValueError(f"{spec}: reasoning-gym does not take these options: {error}.") from error


def _hash_seed(spec: str) -> str:
    value = os.environ.get("PYTHONHASHSEED", "random")
    if not value.isdecimal():
        raise ValueError(
            f"{spec}: this task's items depend on the order of Python's sets, which is another in each process; set "
            "PYTHONHASHSEED to a number (PYTHONHASHSEED=0) before the program starts, or choose another task."
        )
    return value


@contextmanager
def _seeded(seed: str) -> Iterator[None]:
    """Seeds Python's global generator, and puts it back."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
