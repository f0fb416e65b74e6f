"""Evaluation that can be believed: benchmarks as tasks, metrics with intervals, paired comparison, reports. No JAX.

Read in this order: `records` (what is asked, what comes back); `task`, with `benchmarks`, `gym`, `prompts`, `verify`
and `ifeval` (what is asked, how, and who says what is right); `run`, with `settings`, `store` and `grading`
(`evaluate`: nothing is lost or done twice); `tally` and `results` (what came out); `metrics` and `intervals` (the
figures); `compare` and `power` (two models on the same questions); `decontaminate` (what training data holds of an
evaluation set). To look at: `report`, `comparison` and `show`, with `pages` and `plots`. `regrade` grades stored
texts again.
"""

from coldforge.eval.benchmarks import TASKS, Benchmark, Shot
from coldforge.eval.compare import Comparison, compare, holm
from coldforge.eval.comparison import Compared, compare_all, write_comparison
from coldforge.eval.decontaminate import Item, Match, Overlap, items_of, overlap
from coldforge.eval.gym import SUITES
from coldforge.eval.ifeval import IFEval
from coldforge.eval.intervals import Estimate, bootstrap, share
from coldforge.eval.metrics import accuracy, by_category, lengths, maj_at_k, pass_at_k, rate, signal
from coldforge.eval.power import Spread, detectable, needed, power
from coldforge.eval.prompts import STYLES, PromptStyle
from coldforge.eval.records import Ask, Generate, Graded, Prompt, Reply, Sampling, as_text, from_function
from coldforge.eval.regrade import regrade
from coldforge.eval.report import write_report
from coldforge.eval.results import (
    Evaluation,
    Results,
    TaskResult,
    compare_evaluations,
    open_evaluation,
    read_results,
)
from coldforge.eval.run import GenerateError, evaluate
from coldforge.eval.show import find_samples, in_words, sample_text
from coldforge.eval.store import BusyError
from coldforge.eval.tally import Metrics, Progress, Tally
from coldforge.eval.task import Task, open_task
from coldforge.eval.verify import Boxed, ExactMatch, Extraction, Marked, Verifier, wrong_golds

__all__ = [
    "STYLES",
    "SUITES",
    "TASKS",
    "Ask",
    "Benchmark",
    "Boxed",
    "BusyError",
    "Compared",
    "Comparison",
    "Estimate",
    "Evaluation",
    "ExactMatch",
    "Extraction",
    "Generate",
    "GenerateError",
    "Graded",
    "IFEval",
    "Item",
    "Marked",
    "Match",
    "Metrics",
    "Overlap",
    "Progress",
    "Prompt",
    "PromptStyle",
    "Reply",
    "Results",
    "Sampling",
    "Shot",
    "Spread",
    "Tally",
    "Task",
    "TaskResult",
    "Verifier",
    "accuracy",
    "as_text",
    "bootstrap",
    "by_category",
    "compare",
    "compare_all",
    "compare_evaluations",
    "detectable",
    "evaluate",
    "find_samples",
    "from_function",
    "holm",
    "in_words",
    "items_of",
    "lengths",
    "maj_at_k",
    "needed",
    "open_evaluation",
    "open_task",
    "overlap",
    "pass_at_k",
    "power",
    "rate",
    "read_results",
    "regrade",
    "sample_text",
    "share",
    "signal",
    "write_comparison",
    "write_report",
    "wrong_golds",
]
