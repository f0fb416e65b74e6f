"""The engine against `generate`, and what it promises about slots, order, weights, meshes, budgets and errors."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from coldforge.modeling import LoraConfig, add_lora, init_model, lora_state, make_mesh
from coldforge.rollout import Engine, EngineConfig, Group, Request, Sample, SamplingParams, engine, generate

pytestmark = pytest.mark.whole

STOPS = tuple(range(100, 115))  # of 600 random tokens: samples of about 40, many of them cut off at 30
PARAMS = SamplingParams(max_new_tokens=30, seed=5, stop_ids=STOPS)
CONFIG = EngineConfig(max_prompt_tokens=64, slots=8)
SIZES = (3, 30, 11, 1, 24, 7, 40)
N = 4
PROMPTS = [np.random.default_rng(0).integers(2, 600, size) for size in SIZES]
REQUESTS = [Request(id=10 + i, prompt=prompt, n=N, seed=5) for i, prompt in enumerate(PROMPTS)]


@pytest.fixture(scope="module")
def expected(model) -> dict[int, list[Sample]]:
    return {10 + i: samples for i, samples in enumerate(generate(model, PROMPTS, PARAMS, n=N))}


@pytest.fixture(scope="module")
def small(model) -> Engine:
    """Eight slots for 28 samples."""
    return Engine(model, PARAMS, CONFIG)


def same(a: Sample, b: Sample) -> bool:
    equal = a.tokens.tolist() == b.tokens.tolist() and a.finish_reason == b.finish_reason
    return equal and np.allclose(a.logprobs, b.logprobs, atol=1e-4)


def all_same(groups, expected: dict[int, list[Sample]]) -> bool:
    found = dict(groups)
    assert found.keys() == expected.keys()
    return all(same(a, b) for i in found for a, b in zip(found[i], expected[i], strict=True))


# --- the same samples, whatever way


def test_slots_are_refilled_and_samples_are_those_of_generate(small, expected):
    groups = list(small.run(REQUESTS))
    assert all_same(groups, expected)
    reasons = {sample.finish_reason for group in groups for sample in group.samples}
    assert reasons == {"stop", "length"}
    for sample in itertools.chain.from_iterable(group.samples for group in groups):
        ended = sample.tokens[-1] in STOPS
        assert sample.finish_reason == ("stop" if ended else "length")
        assert ended or sample.tokens.size == 30
        assert not set(sample.tokens[:-1]) & set(STOPS)


def test_order_of_requests_and_a_second_run_change_and_compile_nothing(small, expected):
    assert all_same(small.run(REQUESTS), expected)
    compiles = small.compiles
    assert compiles > 0
    assert all_same(small.run(REQUESTS[::-1]), expected)
    assert small.compiles == compiles


def test_as_the_queue_runs_dry_rows_become_fewer(model, expected):
    wide = Engine(model, PARAMS, dataclasses.replace(CONFIG, slots=32))
    assert wide.sizes.buckets == (32, 24, 16, 8)
    assert all_same(wide.run(REQUESTS), expected)
    assert {32, 16} <= wide.stats.rows.keys()
    assert all_same(wide.run(REQUESTS[:2]), {i: expected[i] for i in (10, 11)})  # eight samples: eight rows
    still = Engine(model, PARAMS, dataclasses.replace(CONFIG, slots=32, shrink=False))
    assert all_same(still.run(REQUESTS), expected)
    assert still.stats.rows.keys() == {32}
    assert wide.stats.occupancy > still.stats.occupancy


def test_a_mesh_gives_the_same_samples_and_compiles_nothing_twice(model, expected):
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    spread = Engine(init_model(model.config, seed=3, mesh=mesh), PARAMS, dataclasses.replace(CONFIG, slots=16))
    assert all_same(spread.run(REQUESTS), expected)
    compiles = spread.compiles
    assert all_same(spread.run(REQUESTS), expected)
    assert spread.compiles == compiles


def test_numbers_seeds_and_limits_of_a_request(small, expected):
    prompt = PROMPTS[1]
    requests = [
        Request(1, prompt, n=2, seed=5, first=2),
        Request(2, prompt, n=2, seed=6),
        Request(3, prompt, n=2, seed=5, max_new_tokens=[1, 4]),
    ]
    found = dict(small.run(requests))
    whole = expected[11]
    assert all(same(a, b) for a, b in zip(found[1], whole[2:], strict=True))
    assert not any(same(a, b) for a, b in zip(found[2], whole, strict=False))
    assert [sample.tokens.tolist() for sample in found[3]] == [
        whole[0].tokens[:1].tolist(),
        whole[1].tokens[:4].tolist(),
    ]


def test_long_prompts_and_long_samples_share_a_context(model):
    """Prompts of up to 60 tokens and samples of up to 30 in caches of 64, where each pair of them fits."""
    tight = Engine(model, PARAMS, dataclasses.replace(CONFIG, max_prompt_tokens=60, max_tokens=64))
    assert tight.sizes.demand.length == 64
    long = np.random.default_rng(1).integers(2, 600, 60)
    requests = [Request(0, long, n=2, max_new_tokens=4), Request(1, long[:34], n=2)]
    assert all_same(tight.run(requests), dict(Engine(model, PARAMS, CONFIG).run(requests)))
    with pytest.raises(ValueError, match="request 0 has a prompt of 60 tokens and asks for max_new_tokens=5; together"):
        tight.run([Request(0, long, max_new_tokens=5)])


def test_a_request_says_itself_where_its_samples_end(small, expected):
    def until(tokens: np.ndarray) -> int | None:
        found = np.flatnonzero(tokens % 5 == 0)
        return int(found[0]) if found.size else None  # the token itself is not kept

    steps = small.stats.slot_steps
    whole = dict(small.run(REQUESTS))
    steps, between = small.stats.slot_steps - steps, small.stats.slot_steps
    requests = [dataclasses.replace(r, until=until) if r.id % 2 else r for r in REQUESTS]
    found = dict(small.run(requests))
    assert small.stats.slot_steps - between < steps  # slots were free earlier
    cut = 0
    for request in requests:
        for one, sample in zip(found[request.id], whole[request.id], strict=True):
            kept = until(sample.tokens) if request.until else None
            cut += kept is not None
            reason = sample.finish_reason if kept is None else "stop"
            wanted = Sample(sample.tokens[:kept], sample.logprobs[:kept], reason)
            assert same(one, wanted)
    assert cut > 6
    assert all_same(small.run(REQUESTS), expected)  # and those who come later notice nothing


# --- what it costs


def test_each_prompt_is_prefilled_once_and_work_is_counted(model, expected):
    counted = Engine(model, PARAMS, CONFIG)
    list(counted.run(REQUESTS))
    stats = counted.stats
    assert stats.prompt_tokens == sum(SIZES) <= stats.prefill_tokens
    assert stats.samples == N * len(SIZES)
    assert stats.tokens == sum(s.tokens.size for samples in expected.values() for s in samples)
    assert stats.slot_steps == 8 * stats.steps
    assert stats.steps < 1.3 * stats.tokens / 8
    assert stats.occupancy == stats.tokens / stats.slot_steps


def test_requests_are_taken_as_slots_become_free_and_groups_given_as_they_end(small):
    taken = []

    def source():
        for request in REQUESTS:
            taken.append(request.id)
            yield dataclasses.replace(request, max_new_tokens=3 if request.id == 13 else None)

    groups = small.run(source())
    first = next(groups)
    assert isinstance(first, Group)
    assert len(taken) < len(REQUESTS) or first.id == 13
    rest = [group.id for group in groups]
    assert sorted([first.id, *rest]) == [request.id for request in REQUESTS]


# --- weights


def test_other_adapters_compile_nothing_and_may_be_donated_afterwards(model, expected):
    tuned = add_lora(model, LoraConfig(rank=4), rngs=nnx.Rngs(0))
    swap = Engine(tuned, PARAMS, CONFIG)
    assert all_same(swap.run(REQUESTS), expected)  # a fresh adapter changes nothing
    compiles = swap.compiles
    other = jax.tree.map(lambda x: x + 0.05, lora_state(tuned))
    changed = dict(swap.run(REQUESTS, weights=other))
    assert not any(same(a, b) for i in expected for a, b in zip(changed[i], expected[i], strict=True))
    jax.tree.map(lambda x: x.delete(), other)
    assert all_same(swap.run(REQUESTS), changed)
    swap.use(lora_state(tuned))
    assert all_same(swap.run(REQUESTS), expected)
    assert swap.compiles == compiles


def test_weights_change_between_runs_not_within(model, expected):
    tuned = add_lora(model, LoraConfig(rank=4), rngs=nnx.Rngs(0))
    swap = Engine(tuned, PARAMS, CONFIG)
    groups = swap.run(REQUESTS)
    first = next(groups)
    swap.use(jax.tree.map(lambda x: x + 0.05, lora_state(tuned)))
    assert all_same([first, *groups], expected)


def test_an_adapter_of_another_model_is_refused(model):
    tuned = add_lora(model, LoraConfig(rank=4), rngs=nnx.Rngs(0))
    wrong = lora_state(add_lora(model, LoraConfig(rank=2), rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="adapter does not fit"):
        Engine(tuned, PARAMS, CONFIG).run(REQUESTS, weights=wrong)


@pytest.mark.parametrize(
    ("kv", "weights", "most"), [("int8", "model", 0.08), ("model", "int8", 0.1), ("int8", "int8", 0.15)]
)
def test_int8_is_off_by_a_little(model, kv, weights, most):
    """The gap to the model that would be trained, on the tokens that were sampled; none here without int8 (1e-4)."""
    config = dataclasses.replace(CONFIG, kv=kv, weights=weights, slots=8)
    params = SamplingParams(max_new_tokens=30, stop_ids=())
    samples = dict(Engine(model, params, config).run(REQUESTS[:2]))
    gaps = np.concatenate([
        abs(sample.logprobs - logprobs(model, request.prompt, sample.tokens))
        for request in REQUESTS[:2]
        for sample in samples[request.id]
    ])  # fmt: skip
    assert 1e-4 < gaps.max() < most
    assert gaps.mean() < most / 4


def logprobs(model, prompt: np.ndarray, new: np.ndarray) -> np.ndarray:
    """By one forward pass without a cache, in the model's own weights."""
    tokens = np.zeros(64, np.int32)
    tokens[: prompt.size + new.size] = np.concatenate([prompt, new])
    scores = jax.nn.log_softmax(_forward(*nnx.split(model), tokens[None])[0])
    return np.asarray(scores)[prompt.size - 1 + np.arange(new.size), new]


@jax.jit(static_argnums=0)
def _forward(graph, weights, tokens):
    model = nnx.merge(graph, weights)
    return model.logits(model(tokens))


def test_weights_that_give_nan_stop_the_run(model):
    tuned = add_lora(model, LoraConfig(rank=4), rngs=nnx.Rngs(0))
    broken = jax.tree.map(lambda x: x * jnp.nan, lora_state(tuned))
    with pytest.raises(FloatingPointError, match=r"request 1[0-9]: .*not finite"):
        list(Engine(tuned, PARAMS, CONFIG).run(REQUESTS, weights=broken))


# --- bad input


@pytest.fixture
def no_work(monkeypatch):
    monkeypatch.setattr(engine, "Batch", lambda *_: pytest.fail("work began"))


@pytest.mark.parametrize(
    ("requests", "match"),
    [
        ([], "there are no requests"),
        ([Request(1, [5]), Request(1, [6])], "request 1 comes twice"),
        (
            [Request(1, [5]), Request(7, [5] * 65)],
            "the prompt of request 7 has 65 tokens, more than max_prompt_tokens=64",
        ),
        ([Request(3, [])], "the prompt of request 3 must be a non-empty"),
        ([Request(3, [600])], "the prompt of request 3 has the id 600"),
        ([Request(3, [5], n=0)], "request 3 asks for n=0"),
        ([Request(3, [5], seed=-1)], "the seed of request 3"),
        ([Request(3, [5], max_new_tokens=31)], "request 3 asks for max_new_tokens=31; it must be 1 to 30"),
        ([Request(3, [5], n=2, max_new_tokens=[3])], "request 3 asks for max_new_tokens=.*or 2 such"),
    ],
)
def test_bad_requests_are_named_before_any_work(small, no_work, requests, match):
    with pytest.raises(ValueError, match=match):
        small.run(requests)


def test_an_iterator_without_requests_is_refused(small):
    with pytest.raises(ValueError, match="there are no requests"):
        list(small.run(iter([])))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"max_prompt_tokens": 250}, "exceed the model's context of 256"),
        (
            {"max_prompt_tokens": 250, "max_tokens": 260},
            "exceed the model's context of 256, and so does max_tokens=260",
        ),
        ({"max_tokens": 64}, "max_tokens=64 leaves nothing for a sample beside max_prompt_tokens=64"),
        ({"max_new_tokens": 10}, "ask for 30 new tokens, the engine is built for 10"),
        ({"slots": 0}, "slots must be positive"),
        ({"slots": None, "memory_gib": 0.0005}, "hold no slot.*raise memory_gib"),
    ],
)
def test_bad_engines_are_refused(model, change, match):
    with pytest.raises(ValueError, match=match):
        Engine(model, PARAMS, dataclasses.replace(CONFIG, **change))


@pytest.mark.parametrize("change", [{"kv": "int4"}, {"weights": "int4"}])
def test_unknown_kinds_are_refused(change):
    with pytest.raises((ValueError, TypeError), match=next(iter(change))):  # TypeError: checked annotations
        dataclasses.replace(CONFIG, **change)
