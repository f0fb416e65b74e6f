"""A model on these devices, as an evaluation asks it."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from coldforge import modeling
from coldforge.apps.evaluate.local import Local, Work, cut, find_local, load_local, until
from coldforge.apps.evaluate.main import main
from coldforge.apps.evaluate.options import LocalOptions
from coldforge.apps.evaluate.reading import read_form
from coldforge.data import ReasoningFormat, Tokenizer
from coldforge.eval import Ask, Sampling, find_samples, open_task, read_results
from coldforge.eval.settings import agree, settings_of
from coldforge.rollout import SamplingParams, generate
from coldforge.stages.model import model_config
from coldforge.stages.options import ModelConfig
from coldforge.training import RunError

pytestmark = pytest.mark.whole

SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=24)


def opened(weights: Path, **options: object) -> Local:
    chosen = LocalOptions(model=weights, slots=8, **options)  # type: ignore[arg-type]
    return load_local(find_local(chosen), chosen, None)


@pytest.fixture(scope="module")
def local(weights: Path, run: Path) -> Local:
    return opened(weights, adapter=run)


def asks(n: int = 3, first: int = 0, stop: tuple[str, ...] = ()) -> list[Ask]:
    return [
        Ask("a", "1", ({"role": "user", "content": "Say 1 2 3."},), first, n, 5, SAMPLING, stop),
        Ask("b", "2", "Question: 4", first, n, 6, SAMPLING, stop),
    ]


def test_replies_are_samples_of_the_adapted_model(local: Local, adapted: modeling.Gemma3, tokenizer: Tokenizer) -> None:
    found = dict(local.generate(asks()))
    params = SamplingParams(max_new_tokens=24, seed=6, stop_ids=tokenizer.stop_ids)
    [samples] = generate(adapted, [np.array(tokenizer.encode("Question: 4", add_bos=True))], params, n=3)
    for reply, sample in zip(found[1], samples, strict=True):
        assert reply.tokens == len(sample.tokens)
        assert reply.ended == (sample.finish_reason == "stop")
        ids = sample.tokens[: len(sample.tokens) - reply.ended]
        assert reply.text == tokenizer.decode(ids, skip_special=False)
    assert local.identity["stage"] == "sft"


def test_a_sample_depends_on_its_question_and_number_alone(local: Local) -> None:
    whole = dict(local.generate(asks()))
    assert dict(local.generate(asks(n=1, first=2))) == {place: replies[2:] for place, replies in whole.items()}
    assert dict(local.generate(asks()[::-1])) == {0: whole[1], 1: whole[0]}


def test_texts_that_end_a_reply_are_not_part_of_it(local: Local) -> None:
    whole = dict(local.generate(asks(n=6)))
    letters = [reply.text[3] for replies in whole.values() for reply in replies if len(reply.text) > 6]
    stop = max(set(letters), key=letters.count)
    found = dict(local.generate(asks(n=6, stop=(stop, "never said"))))
    ended = 0
    for place, replies in found.items():
        for reply, before in zip(replies, whole[place], strict=True):
            assert reply.text == before.text.partition(stop)[0]
            assert reply.ended == (before.ended or stop in before.text)
            ended += stop in before.text
    assert ended > 0


def test_until_keeps_as_many_tokens_as_say_it(tokenizer: Tokenizer) -> None:
    ids = np.array(tokenizer.encode("It is 12. Question: 3"))
    tell = until(tokenizer, ("Question:", "nothing"))
    assert tell is not None
    count = tell(ids)
    assert count is not None
    assert "Question:" in tokenizer.decode(ids[:count])
    assert "Question:" not in tokenizer.decode(ids[: count - 1])
    assert tell(ids[: count - 1]) is None
    assert until(tokenizer, ()) is None


def test_cut() -> None:
    assert cut("4\n\nQuestion: 5", ("Q", "\n\n")) == "4"
    assert cut("4", ("Q",)) == "4"


def test_what_does_not_fit_the_context_is_cut_off_or_refused(local: Local) -> None:
    context = local.model.config.max_seq_len
    long = Sampling.greedy(max_new_tokens=10 * context)
    [(_, [reply])] = local.generate([Ask("a", "1", "x " * (context // 2 - 75), 0, 1, 0, long)])
    assert reply.tokens <= context
    with pytest.raises(ValueError, match=r"a prompt has \d+ tokens, and the model's context is 1024.*It begins"):
        list(local.generate([Ask("a", "1", "x " * context, 0, 1, 0, long)]))


def test_a_reply_is_as_long_as_its_own_prompt_lets_it_be(local: Local) -> None:
    """Whatever is asked beside it: another question, or none after an evaluation was ended."""
    context = local.model.config.max_seq_len
    params = SamplingParams(temperature=1.0)
    some = local.found.tokenizer.encode("Say 1 2 3. ", add_bos=True)
    short, long = ((some * context)[:size] for size in (context - 230, context - 130))
    works = [Work(0, short, 10 * context, n=3, seed=5), Work(1, long, 10 * context, n=3, seed=6)]
    beside = dict(local.sample(params, works))
    for work in works:
        assert dict(local.sample(params, [work])) == {work.id: beside[work.id]}
    assert max(reply.tokens for reply in beside[0]) > 130  # more than the longer prompt leaves
    filled = Work(2, (some * context)[: context - 20], 20, n=3, seed=7)  # lm-eval's prompts are cut to this
    assert max(reply.tokens for reply in dict(local.sample(params, [filled, works[1]]))[2]) == 20


def test_the_mesh_changes_nothing(weights: Path, run: Path, local: Local) -> None:
    if jax.device_count() < 8:
        pytest.skip("one device")
    mesh = modeling.make_mesh(data=4, tensor=2)
    options = LocalOptions(model=weights, adapter=run, slots=8)
    spread = load_local(find_local(options), options, mesh)
    assert dict(spread.generate(asks())) == dict(local.generate(asks()))
    assert spread.identity == local.identity


def test_the_program_evaluates_a_run(
    weights: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On all eight devices, both tasks in one sampler; asked once more, it only reads."""
    for name, count in (("numbers", 6), ("more", 3)):
        rows = [{"question": f"Say {i} {name}", "answer": str(i)} for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--model", str(weights), "--adapter", str(run)]
    words += ["--tasks", str(tmp_path / "numbers.jsonl"), str(tmp_path / "more.jsonl")]
    words += ["--samples", "2", "--max-new-tokens", "16", "--device.slots", "16", "--out", str(tmp_path / "out")]
    for _ in range(2):
        with pytest.raises(SystemExit) as left:
            main(words)
        assert left.value.code == 0
        captured = capsys.readouterr()
        assert "numbers, 6 questions: avg@2" in captured.out
        assert "<start_of_turn>user\nThink, then answer." in captured.err  # the run's own form, as the model reads it
    found = list(find_samples(tmp_path / "out"))
    assert len(found) == 18
    assert read_results(tmp_path / "out").model["stage"] == "sft"

    def load(*_: object) -> None:
        raise AssertionError("the model is loaded before other settings are refused")

    monkeypatch.setattr("coldforge.apps.evaluate.local.load_local", load)
    with pytest.raises(SystemExit) as left:
        main([*words, "--temperature", "0.9"])
    assert left.value.code == 2
    assert "sampling.temperature is 0.6 there and 0.9 here" in capsys.readouterr().err


def test_an_int8_sampler_is_another_model(base: modeling.Gemma3, weights: Path, tmp_path: Path) -> None:
    """An evaluation that was begun before the two were named goes on as it was begun, and no other way."""

    def identity(**options: Any) -> dict[str, Any]:
        chosen = LocalOptions(model=weights, **options)
        return {"name": "mine", **Local(base, find_local(chosen), chosen, None, "f").identity}

    assert "kv" not in identity()
    int8 = identity(kv="int8", weights="int8")
    assert (int8["kv"], int8["weights"]) == ("int8", "int8")
    (tmp_path / "rows.jsonl").write_text('{"question": "Say 1", "answer": "1"}')
    tasks = [open_task(str(tmp_path / "rows.jsonl"))]
    (tmp_path / "out").mkdir()
    agree(tmp_path / "out", settings_of(tasks, identity(), SAMPLING), {})
    agree(tmp_path / "out", settings_of(tasks, identity(), SAMPLING), {})
    with pytest.raises(ValueError, match=r"model\.weights is 'nothing' there and 'int8' here"):
        agree(tmp_path / "out", settings_of(tasks, identity(weights="int8"), SAMPLING), {})


# --- what is found


def test_without_a_run_the_form_is_the_projects_own(weights: Path, tokenizer: Tokenizer) -> None:
    found = find_local(LocalOptions(model=weights))
    assert (found.adapter, found.manifest, found.form) == (None, None, ReasoningFormat())
    assert found.tokenizer.fingerprint == tokenizer.fingerprint


def test_a_form_is_a_runs_or_a_data_sets(run: Path, tmp_path: Path) -> None:
    assert read_form(run).template == "Think, then answer."
    with pytest.raises(FileNotFoundError, match="holds no data set"):
        read_form(tmp_path)


def test_an_adapter_may_be_no_runs(weights: Path, run: Path) -> None:
    found = find_local(LocalOptions(model=weights, adapter=run / "adapter"))
    assert found.adapter == run / "adapter"
    assert found.manifest is None


def test_what_is_not_there_or_does_not_fit_is_named(
    weights: Path, run: Path, other_tokenizer: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is nothing at .*gone"):
        find_local(LocalOptions(model=tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match=r"there is no directory .*gone; --adapter takes a run"):
        find_local(LocalOptions(model=weights, adapter=tmp_path / "gone"))
    with pytest.raises(ValueError, match="was trained with another tokenizer"):
        find_local(LocalOptions(model=weights, adapter=run, tokenizer=other_tokenizer))
    other = modeling.init_model(model_config(ModelConfig(size="tiny"), tokenizer.vocab_size), seed=9)
    modeling.save_hf(other, tmp_path / "others")
    tokenizer.save(tmp_path / "others" / "tokenizer.model")
    with pytest.raises(RunError, match="base"):
        opened(tmp_path / "others", adapter=run)
