"""What the checkpoints of a run came to: their evaluations, each held against the one before and against the base."""

import dataclasses
import itertools
from collections.abc import Collection, Sequence
from pathlib import Path

from coldforge.apps.pipeline.stages import CHECKPOINTS, evaluation_folder
from coldforge.eval import Comparison, Evaluation, TaskResult, compare_evaluations, open_evaluation
from coldforge.eval.settings import RESULTS


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """One evaluated checkpoint.

    Attributes:
        label: Its name in tables.
        evaluation: Its samples and figures.
        before: Held against the checkpoint before it; None for the first.
        base: Held against the first; None for the first.
    """

    label: str
    evaluation: Evaluation
    before: Comparison | None
    base: Comparison | None

    @property
    def result(self) -> TaskResult:
        """What it came to on the one task that it is given."""
        return self.evaluation.results.tasks[task_of(self.evaluation)]


def checkpoints_of(run: str | Path, among: Collection[str] | None = None) -> list[Checkpoint]:
    """The checkpoints whose evaluations are finished, in the order of the stages.

    Args:
        run: The pipeline's directory.
        among: Names of evaluations ("evaluation/base"): only those, where others may be left from other settings.

    Raises:
        ValueError: An evaluation is damaged, or two were asked different questions.
    """
    found: list[Checkpoint] = []
    for label in CHECKPOINTS:
        name = evaluation_folder(label)
        folder = Path(run) / name
        if (among is not None and name not in among) or not (folder / RESULTS).exists():
            continue
        evaluation = open_evaluation(folder)
        task = task_of(evaluation)
        before = compare_evaluations(found[-1].evaluation, evaluation, task) if found else None
        base = compare_evaluations(found[0].evaluation, evaluation, task) if found else None
        found.append(Checkpoint(label, evaluation, before, base))
    return found


def task_of(evaluation: Evaluation) -> str:
    """The one task that a checkpoint is given."""
    (name,) = evaluation.results.tasks
    return name


def differences(found: Sequence[Checkpoint]) -> list[tuple[str, Comparison]]:
    """What a run has to tell: each stage against the one before, and the last against the base."""
    steps = [(f"{each.label} − {last.label}", each.before) for last, each in itertools.pairwise(found)]
    pairs = [(name, pair) for name, pair in steps if pair is not None]
    if len(found) > 2 and found[-1].base is not None:
        pairs.append((f"{found[-1].label} − {found[0].label}", found[-1].base))
    return pairs
