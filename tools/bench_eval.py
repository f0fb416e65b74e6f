"""How long 100,000 stored samples take: read, graded again, counted, reported. No model is asked.

    python tools/bench_eval.py                       # 5,000 questions × 20 samples, a number each
    python tools/bench_eval.py --questions 500 --samples 8 --kind expression

Replies are some 1,000 characters of words in the reasoning form, half of them right; wrong ones of a question agree in
part, as models' do. Plain numbers need no process; expressions are compared by computer algebra in two, some 60
different pairs a second. Prints JSON: seconds of `evaluate` (which writes all of it, with a generator that costs
nothing), `regrade` (which reads, grades, counts and writes the report), `open_evaluation`, `write_report` and
`compare_all` with `write_comparison`, and the peak of memory.
"""

import argparse
import json
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from coldforge.data.records import Question, question_id
from coldforge.eval.comparison import compare_all, write_comparison
from coldforge.eval.prompts import STYLES
from coldforge.eval.records import Ask, Reply, Sampling
from coldforge.eval.regrade import regrade
from coldforge.eval.report import write_report
from coldforge.eval.results import open_evaluation
from coldforge.eval.run import evaluate
from coldforge.eval.task import Task

TEXT = "so then the sum of both is what we want and carry one which gives wait let us check again step by step"
CATEGORIES = ("algebra", "counting", "geometry", "number theory", "precalculus")


def make_task(count: int, samples: int, kind: str) -> Task:
    """Questions whose answers are all different."""
    questions = []
    for i in range(count):
        text = f"What is {i} + {2 * i + 1}, and why?"
        answer = str(3 * i + 1) if kind == "number" else rf"\frac{{\sqrt{{{i + 2}}}}}{{{i % 7 + 2}}}"
        meta = {"category": CATEGORIES[i % len(CATEGORIES)]}
        questions.append(Question(question_id("bench", text), text, answer, kind, "bench", meta))
    style = STYLES["reasoning"]
    return Task(
        name="bench", version="1", questions=tuple(questions), prompt=style, verifier=style.verifier(questions),
        samples=samples,
    )  # fmt: skip


def model(task: Task, skill: float) -> Callable[[Sequence[Ask]], Iterator[tuple[int, list[Reply]]]]:
    """Right with a chance of `skill`."""
    words = TEXT.split()
    gold = {question.id: str(question.answer) for question in task.questions}

    def generate(asks: Sequence[Ask]) -> Iterator[tuple[int, list[Reply]]]:
        for place, ask in enumerate(asks):
            draw = random.Random(ask.seed)
            text = " ".join(draw.choices(words, k=240))
            right = gold[ask.question]
            answers = [right if draw.random() < skill else f"{right} + {draw.randrange(1, 6)}" for _ in range(ask.n)]
            yield (
                place,
                [
                    Reply(f"<reasoning>{text[i:]}</reasoning><answer>{each}</answer>", draw.randrange(100, 400), True)
                    for i, each in enumerate(answers)
                ],
            )

    return generate


def main() -> None:
    """Measures, and prints one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=5_000)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--kind", choices=("number", "expression"), default="number")
    options = parser.parse_args()
    task = make_task(options.questions, options.samples, options.kind)
    seconds: dict[str, float] = {}

    def timed(name: str, function: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        found = function()
        seconds[name] = round(time.perf_counter() - began, 1)
        return found

    with tempfile.TemporaryDirectory() as folder:
        one, two = Path(folder, "a"), Path(folder, "b")
        quiet: dict[str, Any] = {"say": lambda _: None, "report": False, "sampling": Sampling(max_new_tokens=400)}
        timed("evaluate", lambda: evaluate([task], model(task, 0.5), one, model={"name": "a"}, **quiet))
        timed("regrade", lambda: regrade(one, [task]))
        opened = timed("open_evaluation", lambda: open_evaluation(one))
        timed("write_report", lambda: write_report(one))
        evaluate([task], model(task, 0.52), two, model={"name": "b"}, **quiet)
        other = open_evaluation(two)
        timed("compare", lambda: write_comparison(compare_all([opened, other]), Path(folder, "c")))
        size = (one / "samples.jsonl").stat().st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({
        "samples": options.questions * options.samples, "kind": options.kind, "samples.jsonl MB": round(size / 1e6),
        "seconds": seconds, "peak GiB": round(peak, 2),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
