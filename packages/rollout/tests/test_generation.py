"""Generation against the model without a cache, and what it promises about seeds, batches, meshes and errors."""

import itertools
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from coldforge.modeling import LoraConfig, add_lora, init_model, lora_state, make_mesh, set_lora
from coldforge.rollout import Sample, SamplingParams, batcher, generate, generation, programs, stream

pytestmark = pytest.mark.whole

GREEDY = SamplingParams(max_new_tokens=20, temperature=0, stop_ids=())
RANDOM = SamplingParams(max_new_tokens=20, seed=11, stop_ids=())


def prompts_of(*sizes: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(2, 600, size) for size in sizes]


PROMPTS = prompts_of(3, 30, 11, 1, 24)  # the window is 8: most of them cross it, all generations do


def recompute(model, prompt, sample: Sample) -> np.ndarray:
    """Logits that predict each token of the sample, by one forward pass without a cache. [new, vocab]"""
    tokens = np.concatenate([prompt, sample.tokens])
    padded = np.zeros(64, np.int32)
    padded[: tokens.size] = tokens
    segments = (np.arange(64) < tokens.size).astype(np.int32)
    graph, weights = nnx.split(model)
    logits = _forward(graph, weights, jnp.asarray(padded)[None], jnp.asarray(segments)[None])
    return np.asarray(logits[0, len(prompt) - 1 : tokens.size - 1])


@jax.jit(static_argnums=0)
def _forward(graph, weights, tokens, segments):
    model = nnx.merge(graph, weights)
    return model.logits(model(tokens, segment_ids=segments))


def flat(lists: list[list]) -> list:
    return list(itertools.chain.from_iterable(lists))


def same(a: Sample, b: Sample) -> bool:
    return np.array_equal(a.tokens, b.tokens) and a.finish_reason == b.finish_reason


def test_greedy_with_cache_is_greedy_without(model):
    for prompt, [sample] in zip(PROMPTS, generate(model, PROMPTS, GREEDY), strict=True):
        assert sample.tokens.tolist() == recompute(model, prompt, sample).argmax(axis=1).tolist()
        assert sample.finish_reason == "length"


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_logprobs_are_those_of_the_model(model, temperature):
    params = SamplingParams(max_new_tokens=20, temperature=temperature, top_k=5, seed=1, stop_ids=())
    for prompt, samples in zip(PROMPTS, generate(model, PROMPTS, params, n=2), strict=True):
        for sample in samples:
            logprobs = jax.nn.log_softmax(recompute(model, prompt, sample) / temperature)
            np.testing.assert_allclose(sample.logprobs, logprobs[np.arange(20), sample.tokens], atol=1e-4)


def test_samples_depend_on_seed_and_prompt_alone(model):
    together = generate(model, PROMPTS, RANDOM, n=3)
    again = generate(model, PROMPTS[::-1], RANDOM, n=3)[::-1]
    alone = [generate(model, [prompt], RANDOM, n=2)[0] for prompt in PROMPTS[:2]]
    for i in range(len(PROMPTS)):
        assert all(same(a, b) for a, b in zip(together[i], again[i], strict=True))
    for i in range(2):
        assert all(same(a, b) for a, b in zip(alone[i], together[i], strict=False))
    assert not same(together[0][0], together[0][1])
    other = generate(model, PROMPTS[:1], SamplingParams(max_new_tokens=20, seed=12, stop_ids=()))
    assert not same(other[0][0], together[0][0])


def test_a_prompt_given_twice_gets_different_samples_the_first_as_alone(model):
    twice = generate(model, [PROMPTS[0], PROMPTS[0]], RANDOM)
    assert not same(twice[0][0], twice[1][0])
    pair = generate(model, [PROMPTS[0]], RANDOM, n=2)[0]
    assert same(twice[0][0], pair[0])
    assert same(twice[1][0], pair[1])


def test_stop_ids_end_a_sample_and_belong_to_it(model):
    free = generate(model, PROMPTS, RANDOM, n=4)
    stops = tuple({int(s.tokens[7]) for samples in free for s in samples})
    stopped = generate(model, PROMPTS, SamplingParams(max_new_tokens=20, seed=11, stop_ids=stops), n=4)
    for a, b in zip(flat(free), flat(stopped), strict=True):
        first = next(i for i, token in enumerate(a.tokens) if token in stops)
        assert b.tokens.tolist() == a.tokens[: first + 1].tolist()
        np.testing.assert_allclose(b.logprobs, a.logprobs[: first + 1], atol=1e-5)
        assert b.finish_reason == "stop"


def test_a_stop_on_the_last_token_counts_as_stop(model):
    [[free]] = generate(model, PROMPTS[:1], RANDOM)
    last = SamplingParams(max_new_tokens=20, seed=11, stop_ids=(int(free.tokens[19]),))
    if free.tokens[19] in free.tokens[:19]:
        pytest.fail("choose another seed: the last token came before")
    [[sample]] = generate(model, PROMPTS[:1], last)
    assert (sample.tokens.size, sample.finish_reason) == (20, "stop")


def test_the_loop_ends_when_all_rows_have(model):
    [[free]] = generate(model, PROMPTS[:1], GREEDY)
    params = SamplingParams(max_new_tokens=200, temperature=0, stop_ids=(int(free.tokens[2]),))
    batch = generation._start(model, PROMPTS[:1], params, 1)
    assert len(list(batch.run())) == 1
    assert batch.stats.steps == batch.stats.tokens <= 3


def test_a_prompt_is_prefilled_once_for_its_samples(model, monkeypatch):
    fed = []
    call = batcher.packed_prompts

    def packed(*args):
        found = call(*args)
        fed.append(int((found.positions >= 0).sum()))
        return found

    monkeypatch.setattr(batcher, "packed_prompts", packed)
    generate(model, PROMPTS, RANDOM, n=8)
    assert sum(fed) == sum(map(len, PROMPTS))


def test_prompts_over_several_prefill_calls(model, monkeypatch):
    """40 prompts take three calls of 16; with fewer tokens a call, more. Results must not change."""
    whole = generate(model, PROMPTS * 8, GREEDY)
    monkeypatch.setattr(generation, "PREFILL_TOKENS", 64)
    parts = generate(model, PROMPTS * 8, GREEDY)
    assert all(same(a[0], b[0]) for a, b in zip(whole, parts, strict=True))


def test_stream_gives_the_same_tokens(model):
    assert list(stream(model, PROMPTS[1], RANDOM)) == generate(model, PROMPTS[1:2], RANDOM)[0][0].tokens.tolist()
    stop = generate(model, PROMPTS[1:2], RANDOM)[0][0].tokens[4]
    ended = list(stream(model, PROMPTS[1], SamplingParams(max_new_tokens=20, seed=11, stop_ids=(int(stop),))))
    assert ended[-1] == stop
    assert len(ended) <= 5


@pytest.mark.parametrize("shape", [{"data": 8}, {"fsdp": 4, "tensor": 2}], ids=str)
def test_meshes_give_the_same_samples(model, shape):
    mesh = make_mesh(**shape)
    spread = init_model(model.config, seed=3, mesh=mesh)
    expected = generate(model, PROMPTS, GREEDY, n=2)
    for a, b in zip(flat(expected), flat(generate(spread, PROMPTS, GREEDY, n=2)), strict=True):
        assert same(a, b)
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-4)


def test_a_new_adapter_and_new_parameters_compile_nothing(model):
    adapted = add_lora(model, LoraConfig(rank=4), rngs=nnx.Rngs(0))
    plain = generate(model, PROMPTS, RANDOM, n=2)
    fresh = generate(adapted, PROMPTS, RANDOM, n=2)
    assert all(same(a, b) for a, b in zip(flat(plain), flat(fresh), strict=True))
    compiled = programs.compiled()
    set_lora(adapted, jax.tree.map(lambda x: x + 0.05, lora_state(adapted)))
    changed = generate(
        adapted, PROMPTS, SamplingParams(max_new_tokens=17, temperature=0.7, top_p=0.9, stop_ids=()), n=2
    )
    assert programs.compiled() == compiled
    assert not any(same(a, b) for a, b in zip(flat(plain), flat(changed), strict=True))


def test_bf16_rows_follow_the_model(model):
    half = init_model(model.config, seed=3, dtype=jnp.bfloat16)
    for prompt, [sample] in zip(PROMPTS, generate(half, PROMPTS, GREEDY), strict=True):
        logprobs = jax.nn.log_softmax(recompute(half, prompt, sample).astype(np.float32))
        np.testing.assert_allclose(sample.logprobs, logprobs[np.arange(20), sample.tokens], atol=0.1)


@pytest.mark.parametrize(
    ("prompts", "match"),
    [
        ([], "no prompts"),
        ([[]], "prompt 0 must be a non-empty"),
        ([[1, 2], [3, 600]], "prompt 1 has the id 600, outside the vocabulary of 600"),
        ([[1, -1]], "prompt 0 has the id -1"),
        ([[1, 2], [5] * 240], "prompt 1 has 240 tokens.*context of 256"),
        ([np.array([0.5, 1.0])], "prompt 0 must be"),
    ],
)
def test_bad_prompts_are_named_before_any_work(model, monkeypatch, prompts, match):
    monkeypatch.setattr(generation, "Batch", lambda *_: pytest.fail("work began"))
    with pytest.raises(ValueError, match=match):
        generate(model, prompts, GREEDY)


def test_n_must_be_positive(model):
    with pytest.raises(ValueError, match="n must be at least 1"):
        generate(model, PROMPTS, GREEDY, n=0)


def test_two_processes_sample_what_one_does(model, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, Path(__file__).parent / "process_of_two.py", str(port)]
    processes = [
        subprocess.Popen(
            [*command, str(rank), tmp_path],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        outputs = [process.communicate(timeout=200)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)

    params = SamplingParams(max_new_tokens=12, seed=11, stop_ids=(7,))
    prompts = [np.arange(2, 2 + size) for size in (3, 30, 11)]
    alone = [sample.tokens for samples in generate(model, prompts, params, n=2) for sample in samples]
    for rank in (0, 1):
        with np.load(tmp_path / f"{rank}.npz") as together:
            found = [together[name] for name in together.files]
        assert [one.tolist() for one in found] == [one.tolist() for one in alone]
