"""Our model as lm-eval sees it. Runs where lm-eval is installed: `uv run nox -s harness`."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lm_eval")

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from coldforge import modeling
from coldforge.apps.evaluate.harness import ColdforgeLM
from coldforge.apps.evaluate.scoring import Scorer
from coldforge.data import Tokenizer


@pytest.fixture(scope="module")
def model(weights: Path, run: Path) -> ColdforgeLM:
    found = ColdforgeLM.create_from_arg_string(f"model={weights},adapter={run},slots=8", {"batch_size": 4})
    assert isinstance(found, ColdforgeLM)
    return found


def asked(*args: Any) -> Any:
    return SimpleNamespace(args=args)


def test_likelihoods_are_those_of_the_model(model: ColdforgeLM, adapted: modeling.Gemma3, tokenizer: Tokenizer) -> None:
    pairs = [("Question: 1", " 2 3"), ("", "It is 12"), ("Say 1 2. ", "It")]
    found = model.loglikelihood([asked(*pair) for pair in pairs], disable_tqdm=True)
    bos, texts = tokenizer.bos_id, [("Question: 1", "Question: 1 2 3"), ("", "It is 12"), ("Say 1 2.", "Say 1 2. It")]
    encoded = [(tokenizer.encode(context), tokenizer.encode(whole)) for context, whole in texts]
    ids = [([bos, *context], whole[len(context) :]) for context, whole in encoded]
    expected = dict(Scorer(adapted, None).score(ids))
    for place, (logprob, greedy) in enumerate(found):
        assert logprob == pytest.approx(float(expected[place].logprobs.sum()), abs=1e-5)
        assert greedy == expected[place].greedy


def test_windows_of_a_long_text_add_up(weights: Path, run: Path, model: ColdforgeLM) -> None:
    narrow = ColdforgeLM(model=weights, adapter=run, max_length=20)
    text = "It is 1. Say 2. " * 8
    [total] = narrow.loglikelihood_rolling([asked(text)], disable_tqdm=True)
    ids = model.tok_encode(text)
    parts, at = [], 0
    while at < len(ids):
        part = ids[at : at + 20]
        before = [model.prefix_token_id] if at == 0 else ids[:at]
        context = before[-(20 - len(part) + 1) :]
        parts.append((context, part))
        at += len(part)
    expected = dict(model.scorer.score(parts))
    assert total == pytest.approx(sum(float(one.logprobs.sum()) for one in expected.values()), abs=1e-3)


def test_texts_end_where_the_task_says(model: ColdforgeLM) -> None:
    free = {"until": [], "max_gen_toks": 20}
    prompts = ["Question: 1", "Say 1 2 3", "It is", "Question: 22"]
    whole = model.generate_until([asked(prompt, free) for prompt in prompts], disable_tqdm=True)
    stop = next(text[2] for text in whole if len(text) > 4)
    seen = []
    model.cache_hook = SimpleNamespace(add_partial=lambda *args: seen.append(args))  # type: ignore[assignment]
    kwargs = free | {"until": [stop]}
    requests = [asked(prompt, kwargs) for prompt in prompts] + [asked(prompts[0], free)]
    found = model.generate_until(requests, disable_tqdm=True)
    assert found == [text.split(stop)[0] for text in whole] + [whole[0]]
    assert sorted(str(key) for _, key, _ in seen) == sorted(str(request.args) for request in requests)


def test_what_is_not_known_is_named(weights: Path, model: ColdforgeLM) -> None:
    with pytest.raises(ValueError, match=r"unknown model arguments \['slot'\]; wanted some of"):
        ColdforgeLM(model=weights, slot=8)
    with pytest.raises(ValueError, match="num_beams=4, which is not known here"):
        model.generate_until([asked("x", {"until": [], "num_beams": 4})], disable_tqdm=True)
    with pytest.raises(ValueError, match="max_length is 5000; wanted 2 to 1024"):
        ColdforgeLM(model=weights, max_length=5000)
    with pytest.raises(ValueError, match="nothing is left for a prompt"):
        model.generate_until([asked("x", {"until": [], "max_gen_toks": 5000})], disable_tqdm=True)


def test_the_harness_runs_a_task(model: ColdforgeLM, tmp_path: Path) -> None:
    rows = [{"question": f"Say {i}", "choices": [str(i), "none"], "gold": 0} for i in range(12)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "local_choice", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "gold", "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    (tmp_path / "local_choice.yaml").write_text(json.dumps(task))
    found = simple_evaluate(
        model,
        tasks=["local_choice"],
        task_manager=TaskManager(include_path=str(tmp_path)),
        use_cache=str(tmp_path / "c"),
    )
    scores = model.loglikelihood([asked(row["question"], f" {c}") for row in rows for c in row["choices"]], True)  # type: ignore[arg-type]
    first = np.array([logprob for logprob, _ in scores]).reshape(-1, 2).argmax(1) == 0
    assert found["results"]["local_choice"]["acc,none"] == pytest.approx(first.mean())
    assert list(tmp_path.glob("c*"))
