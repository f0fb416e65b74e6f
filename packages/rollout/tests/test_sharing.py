"""Prompts that begin alike: the same samples as without sharing, for less work, and no work where nothing is shared."""

import dataclasses

import jax
import numpy as np
import pytest

from coldforge.modeling import init_model, make_mesh
from coldforge.rollout import Engine, EngineConfig, Request, Sample, SamplingParams, generate
from coldforge.rollout.packing import packed_prompts
from coldforge.rollout.sharing import choose_prefix, common_lengths

PARAMS = SamplingParams(max_new_tokens=12, seed=5, stop_ids=tuple(range(100, 115)))
CONFIG = EngineConfig(max_prompt_tokens=100, slots=16)
RNG = np.random.default_rng(1)


def family(prefix: int, count: int, tail: int = 20) -> list[np.ndarray]:
    """Prompts that share so many tokens and go on with 1 to `tail` of their own."""
    head = RNG.integers(2, 600, prefix)
    return [np.concatenate([head, RNG.integers(2, 600, RNG.integers(1, tail + 1))]) for _ in range(count)]


FAMILY = family(70, 20)  # far more than the window of 8


def requests(prompts: list[np.ndarray], n: int = 1) -> list[Request]:
    return [Request(i, prompt, n=n, seed=100 + i) for i, prompt in enumerate(prompts)]


@pytest.fixture(scope="module")
def sharing(model) -> Engine:
    return Engine(model, PARAMS, CONFIG)


@pytest.fixture(scope="module")
def apart(model) -> Engine:
    return Engine(model, PARAMS, dataclasses.replace(CONFIG, share=False))


def prefilled(engine: Engine, asked: list[Request]) -> tuple[dict[int, list[Sample]], int]:
    """The samples, and how many tokens the prefill calls held."""
    before = engine.stats.prefill_tokens
    return dict(engine.run(asked)), engine.stats.prefill_tokens - before


def assert_same(found: dict[int, list[Sample]], wanted: dict[int, list[Sample]], atol: float = 1e-4) -> None:
    assert found.keys() == wanted.keys()
    for i, samples in found.items():
        for one, other in zip(samples, wanted[i], strict=True):
            assert one.tokens.tolist() == other.tokens.tolist()
            assert one.finish_reason == other.finish_reason
            np.testing.assert_allclose(one.logprobs, other.logprobs, atol=atol)


@pytest.mark.whole
def test_samples_are_those_without_sharing_for_a_third_of_the_work(sharing: Engine, apart: Engine) -> None:
    found, work = prefilled(sharing, requests(FAMILY, n=2))
    wanted, all_work = prefilled(apart, requests(FAMILY, n=2))
    assert_same(found, wanted)
    assert work < all_work / 3
    compiles = sharing.compiles
    assert_same(prefilled(sharing, requests(FAMILY, n=2))[0], wanted)
    assert sharing.compiles == compiles


@pytest.mark.whole
def test_families_one_after_the_other_and_what_shares_nothing_between(sharing: Engine, apart: Engine) -> None:
    mixed = [*family(70, 12), *family(1, 9), *FAMILY[:14], *family(66, 12, tail=3)]
    found, work = prefilled(sharing, requests(mixed))
    wanted, all_work = prefilled(apart, requests(mixed))
    assert_same(found, wanted)
    assert work < 0.7 * all_work


@pytest.mark.whole
def test_a_prefix_may_be_all_of_a_prompt_but_its_last_token(sharing: Engine, apart: Engine) -> None:
    """The same prompt many times, and one that others go on from."""
    alike = [FAMILY[0]] * 12 + [np.concatenate([FAMILY[0], [7]])] * 3
    found, work = prefilled(sharing, requests(alike))
    wanted, all_work = prefilled(apart, requests(alike))
    assert_same(found, wanted)
    assert work < all_work / 3
    assert len({tuple(samples[0].tokens) for samples in found.values()}) > 8  # each its own seed


@pytest.mark.whole
def test_what_shares_nothing_costs_what_it_did(sharing: Engine, apart: Engine) -> None:
    for asked in (requests(FAMILY[:1]), requests(family(0, 16, tail=90)), requests(family(10, 16, tail=80))):
        found, work = prefilled(sharing, asked)
        wanted, all_work = prefilled(apart, asked)
        assert_same(found, wanted)
        assert work == all_work


@pytest.mark.whole
def test_requests_that_come_one_by_one_share_too(sharing: Engine, apart: Engine) -> None:
    before = sharing.stats.prefill_tokens
    found = dict(sharing.run(iter(requests(FAMILY * 2))))
    assert sharing.stats.prefill_tokens - before < sum(p.size for p in FAMILY)
    assert_same(found, dict(apart.run(requests(FAMILY * 2))))


@pytest.mark.whole
def test_int8_caches_hold_the_same_codes(model) -> None:
    """What follows a prefix sees it before it is rounded, as it does within one prompt."""
    config, greedy = dataclasses.replace(CONFIG, kv="int8"), dataclasses.replace(PARAMS, temperature=0.0)
    found, work = prefilled(Engine(model, greedy, config), requests(FAMILY))
    wanted, all_work = prefilled(Engine(model, greedy, dataclasses.replace(config, share=False)), requests(FAMILY))
    assert_same(found, wanted, atol=2e-3)  # a code may fall on the other side of a half
    assert work < all_work / 3


@pytest.mark.whole
@pytest.mark.parametrize("sizes", [{"data": 2, "fsdp": 2, "tensor": 2}, {"data": 8}])
def test_a_mesh_gives_the_same(model, apart: Engine, sizes: dict[str, int]) -> None:
    assert jax.device_count() == 8
    spread = Engine(init_model(model.config, seed=3, mesh=make_mesh(**sizes)), PARAMS, CONFIG)
    found, work = prefilled(spread, requests(FAMILY * 3))
    assert_same(found, dict(apart.run(requests(FAMILY * 3))))
    assert work < sum(p.size for p in FAMILY * 3)


@pytest.mark.whole
def test_generate_shares_too(model, apart: Engine) -> None:
    together = generate(model, FAMILY, PARAMS)
    wanted = dict(apart.run([Request(i, prompt, seed=5) for i, prompt in enumerate(FAMILY)]))
    assert_same(dict(enumerate(together)), wanted)


# --- what pays


def prompts(*sizes: int, common: int) -> list[np.ndarray]:
    """Alike in `common` tokens, of these sizes."""
    return [np.concatenate([np.arange(common), np.full(size - common, 1000 + i)]) for i, size in enumerate(sizes)]


def test_a_new_prefix_is_what_saves_most() -> None:
    many = prompts(*[120] * 10, common=100)
    chosen = choose_prefix(many, None, 64)
    assert chosen is not None
    assert chosen.tolist() == list(range(100))
    closer = [*many, *prompts(*[400] * 3, common=50)]  # the whole lot would share 50: 600 tokens, not 900
    assert np.array_equal(choose_prefix(closer, None, 400), chosen)
    assert choose_prefix(many[:5], None, 64) is None  # saves 400 tokens
    assert choose_prefix(prompts(*[250] * 10, common=100), None, 200) is None  # less than half
    assert choose_prefix(many, None, 19) is None  # what follows has 20
    assert choose_prefix(many[:1], None, 64) is None


def test_the_prefix_that_is_there_is_kept_until_another_saves_more() -> None:
    many = prompts(*[120] * 10, common=100)
    held = np.arange(90)
    assert choose_prefix(many, held, 64) is held  # 900 tokens, and a new one of 100 saves 900
    assert choose_prefix(many[:1], held, 64) is held
    better = choose_prefix(many, np.arange(60), 64)
    assert better is not None
    assert better.size == 100
    assert choose_prefix(many[:3], np.arange(1, 90), 64) is None
    assert choose_prefix(many[:3], np.concatenate([many[0], [5]]), 64) is None  # longer than the prompts


def test_common_lengths_by_example() -> None:
    rows = [np.array(x) for x in ([1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 9], [7])]
    assert common_lengths(rows) == [3, 2, 0]
    assert common_lengths([rows[0], rows[0]]) == [3]  # a token is left for each
    assert common_lengths(rows[:1]) == []


def test_packed_prompts_behind_a_prefix_by_example() -> None:
    packed = packed_prompts([np.array([1, 2, 7]), np.array([1, 2, 5, 6])], height=1, width=4, cache_rows=2, start=2)
    assert packed.tokens.tolist() == [[5, 6, 7, 0]]
    assert packed.positions.tolist() == [[2, 3, 2, -1]]
    assert packed.owner.tolist() == [[1, 1, 0, 0]]
    assert packed.last.tolist() == [[0, 2], [0, 1]]
