r"""Our model under lm-evaluation-harness against the harness's own Hugging Face backend, on the real Gemma3 270M.

    python tools/oracles/lm_eval_hf.py export DIR            # weights as a Hugging Face directory, tasks, their data
    WHAT="--tasks coldforge_choice,coldforge_prose,coldforge_sums --include_path DIR/tasks --log_samples"
    lm_eval run --model hf --model_args pretrained=DIR/hf,dtype=float32,attn_implementation=eager,add_bos_token=True \
        --batch_size 16 \
        $WHAT --output_path DIR/theirs
    coldforge-evaluate lm-eval run --model coldforge --model_args model=DIR/hf,dtype=float32 \
        $WHAT --output_path DIR/ours
    python tools/oracles/lm_eval_hf.py compare DIR           # exit code 1 unless scores agree, and 1e-3 nats a token
    python tools/oracles/lm_eval_hf.py own DIR               # the sums by coldforge.eval: the same texts and score?

The harness's backend runs in an environment of its own (lm-eval, transformers, torch CPU); the rest in ours with the
extras gemma3-270m, reasoning-gym and lm-eval. The tasks' data is made here, as no data set comes with the harness:
reasoning-gym's sums as multiple choice (`loglikelihood`) and few-shot (`generate_until`), and prose of this
repository (`loglikelihood_rolling`). `coldforge_words`, problems in words with worked examples, is for
`lm_eval_speed.py`.
"""

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TASKS = ("coldforge_choice", "coldforge_prose", "coldforge_sums")
NATS = 1e-3  # a token
WORKED = {"function": "regex", "regex_pattern": "#### (-?[0-9]+)"}
NUMBER = {"function": "regex", "regex_pattern": "(-?[0-9]+)"}


def export(directory: Path, count: int) -> None:
    from coldforge.data import Tokenizer
    from coldforge.data.embedded import gemma3_270m
    from coldforge.modeling import load, save_hf

    weights = gemma3_270m()
    save_hf(load(weights, dtype="float32"), directory / "hf")
    Tokenizer.load(weights).save(directory / "hf" / "tokenizer.model")
    (directory / "tasks").mkdir(parents=True, exist_ok=True)
    sums = make_sums(count)
    shots = "".join(f"Question: {row['question']}\nAnswer: {row['answer']}\n\n" for row in sums[-5:])
    common = {"dataset_path": "json", "test_split": "test", "metadata": {"version": 1}}
    write_task(
        directory, "coldforge_choice", sums[:-5],
        common
        | {
            "output_type": "multiple_choice", "doc_to_text": "Question: {{question}}\nAnswer:",
            "doc_to_choice": "choices", "doc_to_target": "gold", "metric_list": [{"metric": "acc"}],
        },
    )  # fmt: skip
    write_task(
        directory, "coldforge_sums", sums[:-5],
        common
        | {
            "output_type": "generate_until", "doc_to_text": shots + "Question: {{question}}\nAnswer:",
            "doc_to_target": "answer", "generation_kwargs": {"until": ["\n\n", "Question:"], "max_gen_toks": 64},
            "metric_list": [{"metric": "exact_match"}],
            "filter_list": [{"name": "number", "filter": [NUMBER, {"function": "take_first"}]}],
        },
    )  # fmt: skip
    words = make_words(count)
    shots = "".join(f"Question: {row['question']}\nAnswer: {row['worked']}\n\n" for row in words[-5:])
    write_task(
        directory, "coldforge_words", words[:-5],
        common
        | {
            "output_type": "generate_until", "doc_to_text": shots + "Question: {{question}}\nAnswer:",
            "doc_to_target": "answer", "generation_kwargs": {"until": ["\n\n", "Question:"], "max_gen_toks": 128},
            "metric_list": [{"metric": "exact_match"}],
            "filter_list": [{"name": "number", "filter": [WORKED, {"function": "take_first"}]}],
        },
    )  # fmt: skip
    write_task(
        directory, "coldforge_prose", [{"text": text} for text in prose()[:count]],
        common
        | {
            "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}",
            "metric_list": [{"metric": "bits_per_byte"}],
        },
    )  # fmt: skip


def make_sums(count: int) -> list[dict[str, Any]]:
    import reasoning_gym

    data = reasoning_gym.create_dataset(
        "chain_sum", size=count + 5, seed=3, min_terms=2, max_terms=3, min_digits=1, max_digits=2
    )
    rows, rng = [], random.Random(0)
    for item in data:
        right = int(item["answer"])
        wrong = rng.sample([n for n in range(right - 12, right + 13) if n != right], 3)
        choices = [str(n) for n in [right, *wrong]]
        rng.shuffle(choices)
        question = item["question"].rpartition("problem: ")[2] or item["question"]
        rows.append({"question": question, "answer": str(right), "choices": choices, "gold": choices.index(str(right))})
    return rows


def make_words(count: int) -> list[dict[str, Any]]:
    from coldforge.data.sources import gsm_symbolic

    rows = (row.data for row in gsm_symbolic(count + 5, seed=3))
    return [
        {
            "question": row["question"].partition(" Give the result")[0],
            "answer": row["answer"],
            "worked": row["solution"],
        }
        for row in rows
    ]


def prose() -> list[str]:
    """Paragraphs of this repository's documents."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("packages/*/README.md"))]
    parts = [part.strip() for text in texts for part in text.split("\n\n")]
    return [part for part in parts if len(part) > 300 and not part.startswith(("|", "```"))]


def write_task(directory: Path, name: str, rows: list[dict[str, Any]], config: dict[str, Any]) -> None:
    path = (directory / "tasks" / f"{name}.jsonl").resolve()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = {"task": name, "dataset_kwargs": {"data_files": {"test": str(path)}}} | config
    (directory / "tasks" / f"{name}.yaml").write_text(json.dumps(config, indent=1), encoding="utf-8")  # JSON is YAML


def compare(directory: Path) -> int:
    from coldforge.data import Tokenizer

    tokenizer = Tokenizer.load(directory / "hf")
    worst, texts, equal = 0.0, 0, 0
    for task in TASKS:
        ours, theirs = (samples(directory / side, task) for side in ("ours", "theirs"))
        if ours.keys() != theirs.keys():
            raise SystemExit(f"{task}: {len(ours)} samples against {len(theirs)}, not the same")
        for key, mine in ours.items():
            for i, (a, b) in enumerate(zip(mine["resps"], theirs[key]["resps"], strict=True)):
                if task == "coldforge_sums":
                    texts, equal = texts + 1, equal + (a[0] == b[0])
                    continue
                first, second = a[0], b[0]
                a_value, b_value = (float(x[0] if isinstance(x, list) else x) for x in (first, second))
                said = mine["doc"]["text"] if task == "coldforge_prose" else " " + mine["doc"]["choices"][i]
                worst = max(worst, abs(a_value - b_value) / len(tokenizer.encode(said)))
        mine_score, their_score = (score(directory / side, task) for side in ("ours", "theirs"))
        print(f"{task}: ours {mine_score}, Hugging Face {their_score}, {len(ours)} samples")
    print(f"largest difference {worst:.2e} nats a token; {equal} of {texts} texts are the same")
    return 0 if worst < NATS else 1


def own(directory: Path) -> int:
    """The few-shot sums through `coldforge.eval` and the sampler, without the harness."""
    from coldforge.apps.evaluate.local import find_local, load_local
    from coldforge.apps.evaluate.options import LocalOptions
    from coldforge.data.records import Question
    from coldforge.eval import ExactMatch, Extraction, PromptStyle, Sampling, Task, evaluate, find_samples
    from coldforge.eval.records import as_text

    theirs = samples(directory / "theirs", "coldforge_sums")
    ends = "Question:"
    shots = theirs[0]["arguments"]["gen_args_0"]["arg_0"].rpartition(ends)[0]
    prompt = PromptStyle(
        name="shots", ask=shots + "Question: {question}\nAnswer:", raw=True, stop=("\n\n", ends), max_new_tokens=64,
        matcher=ExactMatch(filters=(Extraction("number", NUMBER["regex_pattern"]),)), formed=False,
    )  # fmt: skip
    questions = [
        Question(f"{i:04d}", row["doc"]["question"], row["doc"]["answer"], "auto", "sums")
        for i, row in sorted(theirs.items())
    ]
    task = Task(
        name="sums", version="1", questions=questions, prompt=prompt, verifier=prompt.matcher, samples=1, chance=0.0,
        stop=prompt.stop, max_new_tokens=64,
    )  # fmt: skip
    options = LocalOptions(model=directory / "hf", dtype="float32")
    local = load_local(find_local(options), options, None)
    results = evaluate(
        [task], local.generate, directory / "own", model={"name": "270m"}, sampling=Sampling.greedy(), render=as_text,
        say=lambda text: None,
    )  # fmt: skip
    texts = {int(each.question): each.text for each, _ in find_samples(directory / "own")}
    equal = sum(texts[i] == row["resps"][0][0] for i, row in theirs.items())
    mine = results.tasks["sums"].metrics.accuracy.value
    their = score(directory / "theirs", "coldforge_sums")["exact_match,number"]
    print(f"coldforge.eval {mine:.5f}, Hugging Face {their}, {equal} of {len(theirs)} texts are the same")
    return 0 if abs(mine - their) < 1e-5 and equal == len(theirs) else 1


def samples(directory: Path, task: str) -> dict[int, Any]:
    [path] = sorted(directory.rglob(f"samples_{task}_*.jsonl"))[-1:]
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["doc_id"]: row for row in rows}


def score(directory: Path, task: str) -> dict[str, float]:
    [path] = sorted(directory.rglob("results_*.json"))[-1:]
    found = json.loads(path.read_text(encoding="utf-8"))["results"][task]
    return {name: round(value, 5) for name, value in found.items() if isinstance(value, float) and "stderr" not in name}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("export", "compare", "own"))
    parser.add_argument("directory", type=Path)
    parser.add_argument("--count", type=int, default=100, help="samples of a task")
    args = parser.parse_args()
    if args.what == "export":
        export(args.directory, args.count)
    else:
        sys.exit(compare(args.directory) if args.what == "compare" else own(args.directory))
