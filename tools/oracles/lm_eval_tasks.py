r"""lm-evaluation-harness' own few-shot prompts and scores, of invented rows and texts.

Coldforge's tests compare with the file that this writes, so that they do not need lm-eval. To make it anew, in an
environment of its own (lm-eval 0.4.13):

    uv venv --python 3.12 /tmp/lmeval
    uv pip install --python /tmp/lmeval/bin/python lm-eval math-verify sympy 'antlr4-python3-runtime==4.11.*'
    /tmp/lmeval/bin/python tools/oracles/lm_eval_tasks.py packages/eval/tests/data/lm_eval_tasks.json

It writes `rows` (the data sets, split by split), `prompts` (the whole context of each question, as `simple_evaluate`
would make them with its default seed for shots, 1234), `stops`, and `gsm8k`: texts with the scores of both filters of
`gsm8k` and of `gsm8k_cot`. `--gsm8k FILE` (JSON Lines with `text` and `gold`) scores those texts instead.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path

import lm_eval.tasks
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

SEED = 1234  # lm_eval.evaluator.simple_evaluate's fewshot_random_seed
SUBJECTS = ("abstract_algebra", "high_school_physics")
CATEGORIES = ("biology", "computer science")


def invented() -> dict[str, dict[str, list[dict]]]:
    rng = random.Random(5)
    words = ["apples", "pears", "stamps", "coins", "books", "trees"]

    def sums(n: int) -> list[dict]:
        rows = []
        for _ in range(n):
            a, b, word = rng.randint(2, 1999), rng.randint(2, 99), rng.choice(words)
            steps = f"She has {a} + {b} = <<{a}+{b}={a + b}>>{a + b} {word}.\n#### {a + b:,}"
            rows.append({"question": f"Ann has {a} {word} and buys {b} more.  How many {word}?", "answer": steps})
        return rows

    def choices(subject: str, n: int) -> list[dict]:
        rows = []
        for number in range(n):
            options = rng.sample(range(100), 4)
            text = f" Which is number {number} of {subject}?\n({rng.randint(0, 9)}) "
            rows.append({"question": text, "subject": subject, "choices": [f"{option} m/s" for option in options],
                         "answer": rng.randrange(4)})  # fmt: skip
        return rows

    def pro(category: str, n: int, start: int) -> list[dict]:
        rows = []
        for number in range(n):
            options = [f" option {value} " for value in rng.sample(range(100), rng.randint(3, 10))]
            right = rng.randrange(len(options))
            letter = "ABCDEFGHIJ"[right]
            cot = f"A: Let's think step by step. It is {options[right]}. The answer is ({letter})."
            rows.append({"question_id": start + number, "question": f"What is {number} in {category}?",
                         "options": options, "answer": letter, "answer_index": right, "cot_content": cot,
                         "category": category, "src": "invented"})  # fmt: skip
        return rows

    maths = []
    for n in range(1, 4):
        answer = f"\\frac{{{n}}}{{{n + 1}}}"
        problem, solution = f"Simplify $\\frac{{{2 * n}}}{{{2 * n + 2}}}$.", f"So $\\boxed{{{answer}}}$."
        maths.append({"problem": problem, "solution": solution, "answer": answer, "subject": "Prealgebra",
                      "level": 1, "unique_id": f"test/{n}.json"})  # fmt: skip
    return {
        "gsm8k": {"train": sums(40), "test": sums(6)},
        "mmlu": {"dev": [row for subject in SUBJECTS for row in choices(subject, 5)],
                 "test": [row for subject in SUBJECTS for row in choices(subject, 2)]},
        "mmlu_pro": {"validation": [row for place, each in enumerate(CATEGORIES) for row in pro(each, 5, 10 * place)],
                     "test": [row for place, each in enumerate(CATEGORIES) for row in pro(each, 2, 100 + 10 * place)]},
        "math500": {"test": maths},
    }  # fmt: skip


TASKS = {
    "gsm8k": ("gsm8k", None),
    "gsm8k_cot": ("gsm8k", None),
    "minerva_math500": ("math500", None),
    **{f"mmlu_{subject}": ("mmlu", subject) for subject in SUBJECTS},
    **{f"mmlu_pro_{category.replace(' ', '_')}": ("mmlu_pro", None) for category in CATEGORIES},
}


FOLDERS = {"gsm8k": "gsm8k", "math500": "minerva_math", "mmlu": "mmlu/default", "mmlu_pro": "mmlu_pro"}
FILES = {"gsm8k_cot": "gsm8k-cot"}  # where the file is not named as the task


def opened(name: str, rows: dict, folder: Path):
    """lm-eval's task, of our rows."""
    source, subject = TASKS[name]
    files = {}
    for split, some in rows[source].items():
        files[split] = str(folder / f"{name}-{split}.jsonl")
        kept = [row for row in some if subject is None or row["subject"] == subject]
        Path(files[split]).write_text("".join(json.dumps(row) + "\n" for row in kept))
    replaced = {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": files}}
    if source == "math500":
        replaced["training_split"] = None
    path = Path(lm_eval.tasks.__file__).parent / FOLDERS[source] / f"{FILES.get(name, name)}.yaml"
    config = load_yaml(path, resolve_func=True)
    config.pop("tag", None)
    task = ConfigurableTask(config={**config, **replaced})
    if task.config.num_fewshot is None:
        task.set_config("num_fewshot", 5)
    task.set_fewshot_seed(SEED)
    return task


def texts() -> list[dict]:
    """Replies to questions whose answers are `gold`."""
    rng = random.Random(11)
    golds = ["72", "1,234", "-5", "0.5", "10", "3.50", "1000000", "18"]
    forms = [
        "It is {a}.\n#### {a}", "#### {a}", "####{a}", "#### ${a}", "#### {a}.", "#### {a} apples",
        "#### {b}\n#### {a}", "{a} is it.", "First {b}, then {a}", "So ${a}.", "The answer is {a}.",
        "The answer is ${a}.", "The answer is {a} eggs", "the answer is {a}.",
        "The answer is {b}. The answer is {a}.", "She has {a}, not {b}", "{b} + 1 = {a}", "no number", "", "   ",
        "####", "#### none", "{a}%", "-{a}", "{a}/2", "10^{a}", "x={a}x", "About {a},{b}", "1.{a}.", "{a}...",
        "Ten\n#### {a}\nQuestion: more {b}", "#### -{a}", "**{a}**", "$\\boxed{{{a}}}$", "#### {a}{b}", "#### .{a}",
        "The answer is {a},", "The answer is \\boxed{{{a}}}.", "#### 0{a}", "#### {a}.0", "...", "cost: $.",
        "A: $ {a}",
    ]  # fmt: skip
    found = []
    for form in forms:
        for gold in golds:
            other = rng.choice([each for each in golds if each != gold])
            bare = gold.replace(",", "")
            found += [{"text": form.format(a=a, b=other), "gold": gold} for a in dict.fromkeys((gold, bare, other))]
    return found


def scores(name: str, rows: dict, folder: Path, some: list[dict]) -> dict[str, str]:
    """Scores of each filter, a digit for each text."""
    shaped = {"gsm8k": {split: list(each) for split, each in rows["gsm8k"].items()}}
    shaped["gsm8k"]["test"] = [{"question": "?", "answer": f"Steps.\n#### {each['gold']}"} for each in some]
    task = opened(name, shaped, folder)
    task.set_config("num_fewshot", 0)
    task.build_all_requests(limit=None, rank=0, world_size=1)
    for instance, each in zip(task.instances, some, strict=True):
        instance.resps = [each["text"]]
    task.apply_filters()
    result = {}
    for key in task.instances[0].filtered_resps:
        marks = [task.process_results(one.doc, [one.filtered_resps[key]])["exact_match"] for one in task.instances]
        result[key] = "".join(str(int(mark)) for mark in marks)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--gsm8k", type=Path)
    options = parser.parse_args()
    rows, some = invented(), texts()
    if options.gsm8k:
        some = [json.loads(line) for line in options.gsm8k.read_text().splitlines()]
    prompts, stops = {}, {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for task_name in TASKS:
            task = opened(task_name, rows, folder)
            task.build_all_requests(limit=None, rank=0, world_size=1)
            prompts[task_name] = list(dict.fromkeys(instance.args[0] for instance in task.instances))
            stops[task_name] = (task.config.generation_kwargs or {}).get("until", [])
        graded = {task_name: scores(task_name, rows, folder, some) for task_name in ("gsm8k", "gsm8k_cot")}
    result = {"rows": rows, "prompts": prompts, "stops": stops, "texts": some, "scores": graded}
    options.out.write_text(json.dumps(result, indent=0) + "\n")


if __name__ == "__main__":
    main()
