"""How long `generate_until` takes: our model under lm-eval against the harness's own Hugging Face backend.

    python tools/oracles/lm_eval_hf.py export DIR
    OMP_NUM_THREADS=1 taskset -c 0 python tools/oracles/lm_eval_speed.py DIR coldforge_sums hf --batch 16
    taskset -c 0 python tools/oracles/lm_eval_speed.py DIR coldforge_sums coldforge --runs 2

Each in its own environment (see `lm_eval_hf.py`), one core for each, one after the other. Loading is not counted,
compiling is, in the first of `--runs`. Prints a line of JSON: seconds and seconds of processor time (which other jobs
on the core do not change) of each run, characters made, and a hash of all texts.
"""

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.tasks import TaskManager


def make_model(options: argparse.Namespace) -> Any:
    weights = str(options.directory / "hf")
    if options.backend == "hf":
        from lm_eval.models.huggingface import HFLM

        return HFLM(pretrained=weights, dtype="float32", add_bos_token=True, batch_size=options.batch, device="cpu")
    from coldforge.apps.evaluate.harness import ColdforgeLM

    return ColdforgeLM(model=weights, dtype="float32")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("task")
    parser.add_argument("backend", choices=("hf", "coldforge"))
    parser.add_argument("--batch", type=int, default=16, help="of the Hugging Face backend")
    parser.add_argument("--limit", type=int, help="samples")
    parser.add_argument("--runs", type=int, default=1)
    options = parser.parse_args()
    model = make_model(options)
    generate, seconds, processor, texts = model.generate_until, list[float](), list[float](), list[str]()

    def timed(requests: list[Any], **how: Any) -> list[str]:
        began, used = time.perf_counter(), time.process_time()
        found = generate(requests, **how)
        seconds.append(round(time.perf_counter() - began, 2))
        processor.append(round(time.process_time() - used, 2))
        texts[:] = found
        return found

    model.generate_until = timed
    manager = TaskManager(include_path=str(options.directory / "tasks"), include_defaults=False)
    for _ in range(options.runs):
        lm_eval.simple_evaluate(
            model, tasks=[options.task], task_manager=manager, limit=options.limit, bootstrap_iters=0
        )
    engine = model.local.engine if options.backend == "coldforge" else None
    print(json.dumps({
        "task": options.task, "backend": options.backend, "batch": options.batch if engine is None else None,
        "samples": len(texts), "seconds": seconds, "processor": processor, "characters": sum(map(len, texts)),
        "sha256": hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:12],
    } | ({} if engine is None else vars(engine.stats))))  # fmt: skip


if __name__ == "__main__":
    main()
