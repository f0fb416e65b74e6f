"""Log-probabilities of continuations against a plain forward pass of each text by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from coldforge import modeling
from coldforge.apps.evaluate import scoring
from coldforge.apps.evaluate.scoring import Scorer

pytestmark = pytest.mark.whole

RANDOM = np.random.default_rng(0)
SIZES = [(1, 1), (3, 40), (60, 5), (200, 3), (2, 2), (17, 1), (130, 70), (5, 9)] * 3
PAIRS = [(RANDOM.integers(5, 320, a).tolist(), RANDOM.integers(5, 320, b).tolist()) for a, b in SIZES]


def logits_of(model: modeling.Gemma3, ids: list[int]) -> np.ndarray:
    """All logits of one text, in float64; padded at its end, which no token before sees, to have one shape."""
    padded = jnp.array([ids + [0] * (256 - len(ids))])
    return np.asarray(model.logits(model(padded)[0]), np.float64)[: len(ids)]


def plain(model: modeling.Gemma3, context: list[int], continuation: list[int]) -> tuple[np.ndarray, bool]:
    """Scores of one text by itself."""
    logits = logits_of(model, [*context, *continuation])[len(context) - 1 : -1]
    shifted = logits - logits.max(axis=1, keepdims=True)
    logprobs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    rows = np.arange(len(continuation))
    return logprobs[rows, continuation], bool((logits.argmax(axis=1) == continuation).all())


def test_scores_are_those_of_each_text_by_itself(adapted: modeling.Gemma3) -> None:
    graph, state = nnx.split(adapted)
    model = nnx.merge(graph, state)
    pairs = list(PAIRS)
    for context in ([2, 9, 30], [2, 77]):  # a continuation that is the model's own first choice
        ids = list(context)
        for _ in range(4):
            ids.append(int(logits_of(model, ids)[-1].argmax()))
        pairs.append((context, ids[len(context) :]))
    found = dict(Scorer(adapted, None).score(pairs))
    assert sorted(found) == list(range(len(pairs)))
    for place, (context, continuation) in enumerate(pairs):
        logprobs, greedy = plain(model, context, continuation)
        np.testing.assert_allclose(found[place].logprobs, logprobs, atol=2e-5)
        assert found[place].greedy == greedy
    assert [found[place].greedy for place in range(len(PAIRS), len(pairs))] == [True, True]
    assert not all(scored.greedy for scored in found.values())


def test_texts_share_rows_and_programs_are_few(base: modeling.Gemma3) -> None:
    scorer, before = Scorer(base, None), scoring._score._cache_size()
    pairs = [(ids[:10], ids[10:]) for ids in RANDOM.integers(5, 320, (300, 20)).tolist()]
    list(scorer.score(pairs))
    assert scorer.calls == 4  # 32 rows of 64 tokens, three texts of 19 in each
    assert scorer.tokens == 300 * 19
    assert scorer.tokens > 0.69 * scorer.places  # the last call is not full
    assert scoring._score._cache_size() - before <= 2


def test_a_mesh_changes_nothing(base: modeling.Gemma3) -> None:
    if jax.device_count() < 8:
        pytest.skip("one device")
    mesh = modeling.make_mesh(data=4, tensor=2)
    graph, state = nnx.split(base)
    spread = nnx.merge(graph, jax.device_put(state, modeling.init.state_shardings(state, mesh)))
    alone, apart = dict(Scorer(base, None).score(PAIRS)), dict(Scorer(spread, mesh).score(PAIRS))
    for place, scored in alone.items():
        np.testing.assert_allclose(apart[place].logprobs, scored.logprobs, atol=2e-5)


@pytest.mark.parametrize(
    ("pair", "match"),
    [
        (([], [5]), "context of 0 and a continuation of 1"),
        (([5], []), "continuation of 0"),
        (([5], [330]), "ids 5 to 330; wanted 0 to 329"),
        (([5] * 1000, [6] * 26), r"1000 \+ 26 tokens; the model's context is 1024"),
    ],
)
def test_texts_that_cannot_be_scored_are_named(
    base: modeling.Gemma3, pair: tuple[list[int], list[int]], match: str
) -> None:
    with pytest.raises(ValueError, match=f"text 1 has.*{match}"):
        list(Scorer(base, None).score([([5], [6]), pair]))


def test_nan_is_no_score(base: modeling.Gemma3) -> None:
    graph, state = nnx.split(base)
    broken = nnx.merge(graph, jax.tree.map(lambda x: x * jnp.nan, state))
    with pytest.raises(FloatingPointError, match="text 0 are not finite"):
        list(Scorer(broken, None).score([([5], [6])]))
