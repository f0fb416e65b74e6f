"""The key/value cache: whatever way a text gets into it, the model gives what it gives for the whole text at once.

The window is 8 tokens and texts are up to 40, so that rings wrap around up to four times. Chunks have few different
sizes, since each is a compilation.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coldforge.modeling import Gemma3, cache_bytes, gemma3_1b, gemma3_270m, init_cache
from coldforge.modeling.cache import EMPTY, quantize, visible, write_slots

pytestmark = pytest.mark.whole

SEQ, LENGTH, WINDOW = 40, 48, 8
ATOL = 2e-5  # sums in another order


@pytest.fixture(scope="module")
def model(make_model) -> Gemma3:
    return make_model()


@pytest.fixture(scope="module")
def whole(model, run):
    """Hidden states of two texts of SEQ tokens, without a cache."""
    return lambda tokens: np.asarray(run(model, tokens))


@pytest.fixture(scope="module")
def feed(model, run):
    """Puts chunks `(tokens, positions)` into a cache, one call each; gives all hidden states and the cache."""

    def through(cache, *chunks):
        outputs = []
        for tokens, positions in chunks:
            hidden, cache = run(model, tokens, positions, cache=cache)
            outputs.append(np.asarray(hidden))
        return np.concatenate(outputs, axis=1), cache

    return through


@pytest.fixture(scope="module")
def texts() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 64, (2, SEQ)).astype(np.int32)


def empty(config, rows=2, length=LENGTH, dtype=jnp.float32):
    return init_cache(config, rows, length, dtype=dtype)


def pieces(tokens: np.ndarray, sizes) -> list[tuple[np.ndarray, np.ndarray]]:
    """The rows cut into chunks of `sizes`, with their positions; what runs over the end is padding."""
    chunks, start = [], 0
    for size in sizes:
        index = np.arange(start, start + size)
        positions = np.where(index < tokens.shape[1], index, EMPTY)
        chunks.append((tokens[:, positions], np.tile(positions, (len(tokens), 1)).astype(np.int32)))
        start += size
    return chunks


# --- continuing rows


@pytest.mark.parametrize(
    "sizes",
    [
        [1] * SEQ,
        [20, 20],  # both longer than the window
        [40],
        [5] * 8,
        [20] + [1] * 20,
        [5, 20, 1, 1, 1, 5, 5, 1, 1],
    ],
    ids=str,
)
def test_chunks_of_any_length_give_what_the_whole_text_gives(config, feed, whole, texts, sizes):
    hidden, _ = feed(empty(config), *pieces(texts, sizes))
    np.testing.assert_allclose(hidden, whole(texts), atol=ATOL)


@settings(deadline=None, max_examples=15)
@given(st.lists(st.sampled_from([1, 1, 1, 5, 20]), min_size=8, max_size=20), st.integers(0, 2**32 - 1))
def test_random_chunks_give_what_the_whole_text_gives(config, feed, whole, sizes, seed):
    tokens = np.random.default_rng(seed).integers(0, 64, (2, SEQ)).astype(np.int32)
    hidden, _ = feed(empty(config), *pieces(tokens, sizes))
    length = min(SEQ, hidden.shape[1])
    np.testing.assert_allclose(hidden[:, :length], whole(tokens)[:, :length], atol=ATOL)


def test_greedy_continuation_is_that_of_recomputing(config, model, run, feed):
    tokens = np.random.default_rng(5).integers(0, 64, (2, SEQ)).astype(np.int32)
    chosen = tokens.copy()
    _, cache = feed(empty(config), *pieces(tokens[:, :4], [4]))
    token = tokens[:, 4:5]
    for place in range(4, SEQ - 1):
        chosen[:, place : place + 1] = token
        hidden, cache = run(model, token, np.full((2, 1), place, np.int32), cache=cache)
        token = np.asarray(model.logits(hidden)[:, -1].argmax(-1))[:, None].astype(np.int32)
    chosen[:, -1:] = token
    recomputed = np.asarray(model.logits(run(model, chosen)).argmax(-1))
    np.testing.assert_array_equal(chosen[:, 5:], recomputed[:, 4:-1])


@pytest.mark.parametrize("side", ["left", "right"])
def test_prompts_of_different_lengths_in_one_batch(config, feed, whole, texts, side):
    lengths = [3, 20]  # one shorter than the window, one longer
    tokens, positions = np.zeros((2, 20), np.int32), np.full((2, 20), EMPTY, np.int32)
    for row, n in enumerate(lengths):
        span = slice(20 - n, 20) if side == "left" else slice(0, n)
        tokens[row, span], positions[row, span] = texts[row, :n], np.arange(n)
    prompt, cache = feed(empty(config), (tokens, positions))
    steps = [(texts[[0, 1], [3 + i, 20 + i]][:, None], np.array([[3 + i], [20 + i]], np.int32)) for i in range(20)]
    decoded, _ = feed(cache, *steps)
    expected = whole(texts)
    for row, n in enumerate(lengths):
        np.testing.assert_allclose(prompt[row][positions[row] >= 0], expected[row, :n], atol=ATOL)
        np.testing.assert_allclose(decoded[row], expected[row, n : n + 20], atol=ATOL)


def test_a_finished_row_waits_while_others_go_on(config, feed, whole, texts):
    _, cache = feed(empty(config), *pieces(texts, [20]))
    padded = [(texts[:, i : i + 1], np.array([[EMPTY], [i]], np.int32)) for i in range(20, 32)]
    waiting, cache = feed(cache, *padded)
    assert np.isfinite(waiting).all()
    np.testing.assert_allclose(waiting[1], whole(texts)[1, 20:32], atol=ATOL)
    resumed = [(texts[:, [20 + i]], np.array([[20 + i], [EMPTY]], np.int32)) for i in range(10)]
    hidden, _ = feed(cache, *resumed)
    np.testing.assert_allclose(hidden[0], whole(texts)[0, 20:30], atol=ATOL)


@pytest.mark.parametrize("new", [1, 5])
def test_padding_writes_nothing(config, feed, texts, new):
    _, cache = feed(empty(config), *pieces(texts, [20]))
    _, after = feed(cache, (texts[:, :new], np.full((2, new), EMPTY, np.int32)))
    assert all(map(np.array_equal, jax.tree.leaves(cache), jax.tree.leaves(after)))


@pytest.mark.parametrize("length", [SEQ, 6])
def test_what_lies_beyond_the_length_is_dropped(config, run, model, texts, length):
    """It does not overwrite anything that a global layer holds; callers check lengths before."""
    _, cache = run(
        model, texts[:, :5], np.tile(np.arange(5, dtype=np.int32), (2, 1)), cache=empty(config, length=length)
    )
    positions = np.full((2, 1), length, np.int32)
    hidden, after = run(model, texts[:, :1], positions, cache=cache)
    assert np.isfinite(np.asarray(hidden)).all()
    np.testing.assert_array_equal(cache.keys[1], after.keys[1])
    np.testing.assert_array_equal(cache.positions["global"], after.positions["global"])


def test_a_context_shorter_than_the_window(config, run, model, whole, texts):
    cache = empty(config, length=6)
    assert [k.shape[2] for k in cache.keys] == [6, 6, 6]
    hidden, cache = run(model, texts[:, :5], np.tile(np.arange(5, dtype=np.int32), (2, 1)), cache=cache)
    last, _ = run(model, texts[:, 5:6], np.full((2, 1), 5, np.int32), cache=cache)
    np.testing.assert_allclose(np.concatenate([hidden, last], axis=1), whole(texts)[:, :6], atol=ATOL)


def test_bfloat16_decodes_as_it_recomputes(config, make_model, run, texts):
    model = make_model(dtype=jnp.bfloat16)
    cache, outputs = empty(config, dtype=jnp.bfloat16), []
    for tokens, positions in pieces(texts, [20] + [1] * 10):
        hidden, cache = run(model, tokens, positions, cache=cache)
        outputs.append(np.asarray(hidden, np.float32))
    difference = np.concatenate(outputs, axis=1) - np.asarray(run(model, texts), np.float32)[:, :30]
    assert {x.dtype for x in (*cache.keys, *cache.values)} == {jnp.dtype(jnp.bfloat16)}
    assert abs(difference).max() < 0.15  # states are about 1 in size; 8 bits, three layers
    assert abs(difference).mean() < 0.01


def test_int8_decodes_nearly_as_it_recomputes(config, run, model, texts, whole):
    cache, outputs = empty(config, dtype=jnp.int8), []
    for tokens, positions in pieces(texts, [20] + [1] * 10):
        hidden, cache = run(model, tokens, positions, cache=cache)
        outputs.append(np.asarray(hidden))
    difference = np.concatenate(outputs, axis=1) - whole(texts)[:, :30]
    assert {x.dtype for x in jax.tree.leaves((cache.keys, cache.values))} == {jnp.dtype(jnp.int8), jnp.dtype("float32")}
    assert 0 < abs(difference).max() < 0.1  # states are about 1 in size
    assert abs(difference).mean() < 0.01


def test_int8_codes_by_example():
    codes, scale = quantize(jnp.array([[0.5, -1.0], [0.0, 0.0]]))
    assert codes.tolist() == [[64, -127], [0, 0]]
    np.testing.assert_allclose(scale, [1 / 127, 0])


# --- starting rows


def pack(starts, width=24, height=2):
    """A call that starts texts, each `(row of tokens, row of the cache, text)`, with padding around them."""
    tokens = np.random.default_rng(9).integers(0, 64, (height, width)).astype(np.int32)
    positions, segment_ids, rows = np.full_like(tokens, EMPTY), np.zeros_like(tokens), np.zeros_like(tokens)
    places, ends = [], [1] * height  # one token of padding in front
    for number, (line, row, text) in enumerate(starts, start=1):
        span = slice(ends[line], ends[line] + text.size)
        tokens[line, span], positions[line, span] = text, np.arange(text.size)
        segment_ids[line, span], rows[line, span] = number, row
        places.append((line, span))
        ends[line] = span.stop + 2
    return (tokens, positions, segment_ids), rows, places


def test_packed_texts_start_in_the_rows_that_they_are_given(config, run, model, feed, whole):
    texts = np.random.default_rng(1).integers(0, 64, (4, SEQ)).astype(np.int32)
    expected = np.concatenate([whole(texts[:2]), whole(texts[2:])])
    lengths = {0: 12, 1: 5, 3: 20}  # row 2 of the cache stays empty
    starts = [(0, 0, texts[0, :12]), (1, 3, texts[3, :20]), (0, 1, texts[1, :5])]
    arrays, rows, places = pack(starts)
    hidden, cache = run(model, *arrays, cache=empty(config, rows=4), rows=rows)
    for (line, span), (_, row, text) in zip(places, starts, strict=True):
        np.testing.assert_allclose(np.asarray(hidden)[line, span], expected[row, : text.size], atol=ATOL)
    assert (np.asarray(cache.positions["global"])[2] == EMPTY).all()
    assert (np.asarray(cache.positions["local"])[2] == EMPTY).all()
    steps = []
    for i in range(15):
        at = np.array([lengths.get(row, EMPTY - i) + i for row in range(4)], np.int32)
        steps.append((texts[np.arange(4), at][:, None], at[:, None]))
    decoded, _ = feed(cache, *steps)
    for row, n in lengths.items():
        np.testing.assert_allclose(decoded[row], expected[row, n : n + 15], atol=ATOL)


@pytest.mark.parametrize("size", [3, 20])  # shorter than what the row held, and than the window; longer than it
def test_a_row_that_starts_anew_forgets_and_leaves_its_neighbours_alone(config, run, model, feed, whole, texts, size):
    _, cache = feed(empty(config), *pieces(texts[:, :30], [20, 5, 5]))  # both rings have wrapped around
    fresh = np.random.default_rng(2).integers(0, 64, (2, SEQ)).astype(np.int32)
    arrays, rows, [(line, span)] = pack([(1, 0, fresh[0, :size])])
    hidden, cache = run(model, *arrays, cache=cache, rows=rows)
    np.testing.assert_allclose(np.asarray(hidden)[line, span], whole(fresh)[0, :size], atol=ATOL)
    held = np.asarray(cache.positions["global"])[0]
    assert sorted(held[held != EMPTY]) == list(range(size))
    steps = [(np.stack([fresh[0, [size + i]], texts[1, [30 + i]]]), [[size + i], [30 + i]]) for i in range(10)]
    decoded, _ = feed(cache, *((tokens, np.array(at, np.int32)) for tokens, at in steps))
    np.testing.assert_allclose(decoded[0], whole(fresh)[0, size : size + 10], atol=ATOL)
    np.testing.assert_allclose(decoded[1], whole(texts)[1, 30:40], atol=ATOL)


@pytest.mark.parametrize(
    "size", [3, 20]
)  # of the prefix: shorter than the window; longer, so that the ring has wrapped
def test_texts_that_continue_one_prefix_are_as_if_they_were_whole(config, run, model, feed, whole, texts, size):
    alike = np.random.default_rng(3).integers(0, 64, (2, SEQ)).astype(np.int32)
    alike[1, :size] = alike[0, :size]
    expected = whole(alike)
    _, prefix = feed(empty(config, rows=1), *pieces(alike[:1, :size], [size]))
    _, cache = feed(empty(config), *pieces(texts[:, :30], [20, 5, 5]))  # what the rows hold is forgotten
    ends = {0: size + 1, 1: size + 9}
    (tokens, positions, segments), rows, places = pack([(1, row, alike[row, size:end]) for row, end in ends.items()])
    positions = np.where(positions == EMPTY, EMPTY, positions + size)
    hidden, cache = run(model, tokens, positions, segments, cache=cache, rows=rows, prefix=prefix)
    for (line, span), (row, end) in zip(places, ends.items(), strict=True):
        np.testing.assert_allclose(np.asarray(hidden)[line, span], expected[row, size:end], atol=ATOL)
        held = np.asarray(cache.positions["global"])[row]
        assert sorted(held[held != EMPTY]) == list(range(end))
    steps = [np.array([[ends[row] + i] for row in (0, 1)], np.int32) for i in range(10)]
    decoded, _ = feed(cache, *((np.take_along_axis(alike, at, axis=1), at) for at in steps))
    for row, end in ends.items():
        np.testing.assert_allclose(decoded[row], expected[row, end : end + 10], atol=ATOL)


def test_a_row_of_the_cache_to_which_no_text_goes_is_left_as_it_is(config, run, model, feed, whole, texts):
    _, prefix = feed(empty(config, rows=1), *pieces(texts[1:, :5], [5]))
    _, cache = feed(empty(config), *pieces(texts[:, :20], [20]))
    (tokens, positions, segments), rows, _ = pack([(0, 1, texts[0, :4])])
    positions = np.where(positions == EMPTY, EMPTY, positions + 5)
    _, cache = run(model, tokens, positions, segments, cache=cache, rows=rows, prefix=prefix)
    at = np.array([[20], [9]], np.int32)
    decoded, _ = feed(cache, (texts[:, 20:21], at))
    np.testing.assert_allclose(decoded[0], whole(texts)[0, 20:21], atol=ATOL)


def test_rows_can_be_copied_for_several_samples(config, feed, whole, texts):
    _, cache = feed(empty(config), *pieces(texts, [20]))
    twice = jax.tree.map(lambda x: x[np.array([1, 1])], cache)
    branches = np.concatenate([texts[[1, 1], :20], np.stack([texts[0, 20:], texts[1, 20:]])], axis=1)
    hidden, _ = feed(twice, *pieces(branches, [20] + [1] * 20)[1:])
    np.testing.assert_allclose(hidden, whole(branches)[:, 20:], atol=ATOL)


# --- size and places


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int8])
@pytest.mark.parametrize(("rows", "length"), [(3, LENGTH), (1, 6)])
def test_cache_bytes_are_the_bytes_of_its_arrays(config, rows, length, dtype):
    arrays = jax.tree.leaves(init_cache(config, rows, length, dtype=dtype))
    assert cache_bytes(config, rows, length, dtype=dtype) == sum(x.nbytes for x in arrays)


def test_local_layers_hold_a_window_and_global_ones_the_length(config):
    cache = init_cache(config, 2, LENGTH, dtype=jnp.float32)
    assert [x.shape for x in cache.keys] == [(2, 2, WINDOW, 16), (2, 2, LENGTH, 16), (2, 2, WINDOW, 16)]
    assert (cache.rows, cache.length) == (2, LENGTH)


@pytest.mark.parametrize(("preset", "times"), [(gemma3_270m, 5.6), (gemma3_1b, 6.0)])
def test_a_long_context_takes_a_sixth_of_a_full_cache(preset, times):
    config = preset()
    full = dataclasses.replace(config, layer_types=("global",) * config.num_layers)
    ratio = cache_bytes(full, 1, 32_768, dtype=jnp.bfloat16) / cache_bytes(config, 1, 32_768, dtype=jnp.bfloat16)
    assert ratio == pytest.approx(times, abs=0.05)


def test_what_a_query_sees_by_example():
    held = jnp.array([[4, 1, 2, EMPTY]])
    assert visible(jnp.array([[3]]), held, None).tolist() == [[[False, True, True, False]]]
    assert visible(jnp.array([[4]]), held, 3).tolist() == [[[True, False, True, False]]]
    assert not visible(jnp.array([[EMPTY]]), held, None).any()


def test_where_tokens_go_by_example():
    # Six new tokens after 3 others in a ring of 4: only the last four stay, and padding goes nowhere (slot 4).
    positions, rows = jnp.array([[3, 4, 5, 6, 7, 8, EMPTY]]), jnp.zeros((1, 7), jnp.int32)
    assert write_slots(positions, rows, 1, 4, ring=True).tolist() == [[4, 4, 1, 2, 3, 0, 4]]
    assert write_slots(positions, rows, 1, 16, ring=False).tolist() == [[3, 4, 5, 6, 7, 8, 16]]
    # Two texts for two rows in one line: each has its own latest position.
    positions, rows = jnp.array([[0, 1, 2, 3, 4, 0, 1]]), jnp.array([[1, 1, 1, 1, 1, 0, 0]])
    assert write_slots(positions, rows, 2, 4, ring=True).tolist() == [[4, 1, 2, 3, 0, 0, 1]]
