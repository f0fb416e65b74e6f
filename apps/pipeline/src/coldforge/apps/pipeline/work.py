"""What the ledger knows of a stage, and what it decides. Without JAX."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any, Literal

Todo = Literal["done", "go on", "begin", "again", "remake"]


@dataclasses.dataclass(frozen=True)
class Work:
    """What the ledger knows of a stage.

    Attributes:
        name: As its directory is called.
        settings: What decides its result: a dataclass or mapping of what JSON holds.
        reads: Names of the stages whose results it reads.
        may_differ: Fields of `settings` that do not decide its result.
        last: Fields of `settings` that decide only what becomes, at its end, of what it has made until then.
        product: The file in its directory that says that the end is reached; removed where only `last` has changed.
    """

    name: str
    settings: Any
    reads: tuple[str, ...] = ()
    may_differ: Collection[str] = ()
    last: Collection[str] = ()
    product: str | None = None


@dataclasses.dataclass(frozen=True)
class Decision:
    """What is to be done with a stage.

    Attributes:
        todo: "done": nothing; "go on": it has begun; "begin"; "again": what it had made is of other settings;
            "remake": only its end is.
        why: Where it is done again, a line for each reason.
        asked: `--from` has asked for it: once it has begun, the same command goes on with it.
    """

    todo: Todo
    why: Sequence[str] = ()
    asked: bool = False
