"""Batches: each example once an epoch, whole and in its place, whoever reads which part, wherever it is resumed."""

import itertools
import json
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coldforge.data import AnswerKind, Example, ReasoningFormat, Tokenizer, tokenize
from coldforge.data.batches import Batches, TokenBatch, eval_batches
from coldforge.data.dataset import Dataset, Record, write_dataset

pytestmark = pytest.mark.whole

SEQ = 12


@dataclass
class Fake:
    """Example i holds the tokens 100·i + 1, 100·i + 2 …; its prompt, reasoning and answer have the lengths given."""

    sizes: list[tuple[int, int, int]]
    name: str = "fake"
    threads: set[int] = field(default_factory=set)
    broken: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def hash(self) -> str:
        return self.name

    @property
    def lengths(self) -> np.ndarray:
        return np.array([sum(size) for size in self.sizes], np.int32)

    def __getitem__(self, index: int) -> "One":
        self.threads.add(threading.get_ident())
        if index in self.broken:
            raise ValueError(f"record {index} is damaged")
        length = sum(self.sizes[index])
        parts = np.repeat(np.arange(3, dtype=np.uint8), self.sizes[index])
        return One(np.arange(1, length + 1, dtype=np.int32) + 100 * index, parts)


@dataclass
class One:
    ids: np.ndarray
    parts: np.ndarray


sizes = st.tuples(st.integers(1, 4), st.integers(0, 4), st.integers(1, 4))
splits = st.lists(sizes, min_size=1, max_size=25).map(Fake)
shapes = st.tuples(st.integers(1, 3), st.integers(1, 3))  # accumulation, rows per process
weightings = st.sampled_from([(1.0, 1.0), (0.5, 2.0), (0.0, 1.0)])


def flat(batches: list[TokenBatch]) -> TokenBatch:
    """All rows, one after the other."""
    return TokenBatch(*(np.concatenate([x.reshape(-1, SEQ) for x in leaf]) for leaf in zip(*batches, strict=True)))


def segments(rows: TokenBatch) -> list[tuple[int, slice, int]]:
    """Row, place and example of every segment, from what a row says of itself."""
    found = []
    for row, ids in enumerate(rows.segment_ids):
        assert ids.tolist() == [*np.repeat(np.arange(1, ids.max() + 1), np.bincount(ids)[1:]), *[0] * (ids == 0).sum()]
        edges = np.flatnonzero(np.diff(ids, prepend=-1, append=-1))
        for begin, end in itertools.pairwise(edges):
            if ids[begin]:
                found.append((row, slice(int(begin), int(end)), int(rows.tokens[row, begin]) // 100))
    return found


def check_rows(rows: TokenBatch, split: Fake, weights: tuple[float, float]) -> list[int]:
    """Everything that is true of a row on its own; the examples in order."""
    assert [x.dtype for x in rows] == [np.int32, np.int32, np.int32, np.float32, np.uint8]
    padding = rows.segment_ids == 0
    assert all((x[padding] == 0).all() for x in rows)
    for row, place, index in segments(rows):
        example = split[index]
        assert rows.tokens[row, place].tolist() == example.ids.tolist()
        assert rows.positions[row, place].tolist() == list(range(len(example.ids)))
        assert rows.parts[row, place].tolist() == example.parts.tolist()
        wanted = np.array([0, *weights], np.float32)[example.parts]
        wanted[0] = 0
        assert rows.loss_weights[row, place].tolist() == wanted.tolist()
    return [index for _, _, index in segments(rows)]


def equal(one: TokenBatch, other: TokenBatch) -> bool:
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def options(shape: tuple[int, int], processes: int = 1) -> dict:
    return {"seq_len": SEQ, "accumulation": shape[0], "rows": shape[1] * processes, "prefetch": 0}


@given(splits, shapes, weightings, st.booleans(), st.integers(0, 3))
@settings(deadline=None)
def test_every_example_comes_whole_and_once_in_each_epoch(
    split: Fake, shape: tuple[int, int], weights: tuple[float, float], pack: bool, seed: int
) -> None:
    settings = options(shape) | {"pack": pack, "reasoning_weight": weights[0], "answer_weight": weights[1]}
    batches = Batches(split, seed=seed, **settings)
    needed = batches.steps(3)
    taken = [next(batches) for _ in range(needed)]
    assert all(x.shape == (*shape, SEQ) for batch in taken for x in batch)
    assert all(batch.loss_weights.sum() > 0 for batch in taken)
    came = check_rows(flat(taken), split, weights)
    for epoch in range(3):
        part = came[epoch * len(split) : (epoch + 1) * len(split)]
        assert sorted(part) == list(range(len(split)))
    # Three epochs are over with this batch, and were not before it.
    size = shape[0] * shape[1]
    assert needed * size >= sum(len(batches._stream.plan(e)) for e in range(3)) > (needed - 1) * size
    assert batches.epoch >= 3


@given(splits, shapes, st.sampled_from([2, 3, 4]), st.booleans())
@settings(deadline=None)
def test_the_slices_of_processes_make_the_whole(split: Fake, shape: tuple[int, int], count: int, pack: bool) -> None:
    settings = options(shape, count) | {"pack": pack, "seed": 1}
    whole = Batches(split, **settings)
    parts = [Batches(split, process_index=i, process_count=count, **settings) for i in range(count)]
    for _ in range(4):
        want, got = next(whole), [next(part) for part in parts]
        assert equal(TokenBatch(*(np.concatenate(leaves, axis=1) for leaves in zip(*got, strict=True))), want)
    assert all(part.get_state() == whole.get_state() for part in parts)


@given(splits, shapes, st.integers(0, 9), st.booleans())
@settings(deadline=None)
def test_resumed_anywhere_it_is_the_same_stream(split: Fake, shape: tuple[int, int], stop: int, pack: bool) -> None:
    settings = options(shape) | {"pack": pack, "seed": 2}
    first = Batches(split, **settings)
    for _ in range(stop):
        next(first)
    state = json.loads(json.dumps(first.get_state()))
    named = first.examples()
    rest = [next(first) for _ in range(6)]
    again = Batches(split, **settings)
    again.set_state(state)
    assert again.get_state() == state
    assert again.epoch == stop * shape[0] * shape[1] / len(first._stream.plan(0)) or again.epoch >= 1
    assert all(equal(next(again), batch) for batch in rest)
    assert again.get_state() == first.get_state()
    first.set_state(state)  # backwards, in the same object
    assert equal(next(first), rest[0])
    # And the batch can be named from its state.
    assert first.examples(state) == named
    assert [*itertools.chain(*named)] == check_rows(flat(rest[:1]), split, (1.0, 1.0))


@given(splits, shapes, st.booleans(), st.sampled_from([1, 2]))
@settings(deadline=None)
def test_evaluation_is_every_example_once_then_empty_rows(
    split: Fake, shape: tuple[int, int], pack: bool, count: int
) -> None:
    settings = options(shape, count) | {"pack": pack}
    batches = eval_batches(split, **settings)
    taken = list(batches)
    assert len(taken) == len(batches)
    rows = flat(taken)
    came = check_rows(rows, split, (1.0, 1.0))
    assert came == batches.examples
    assert sorted(came) == list(range(len(split)))
    if not pack:
        assert came == sorted(came)
    empty = len(rows.tokens) - len(batches.plan)
    assert 0 <= empty < batches._share.batch_rows
    assert not any(leaf[len(batches.plan) :].any() for leaf in rows)
    assert all(equal(a, b) for a, b in zip(batches, taken, strict=True))
    parts = [list(eval_batches(split, process_index=i, process_count=count, **settings)) for i in range(count)]
    together = [TokenBatch(*(np.concatenate(x, 1) for x in zip(*got, strict=True))) for got in zip(*parts, strict=True)]
    assert all(equal(a, b) for a, b in zip(together, taken, strict=True))
    few = eval_batches(split, limit=1, **settings)
    assert len(few) == 1
    assert equal(next(iter(few)), taken[0])


SPLIT = Fake([(2, 2, 2), (3, 0, 4), (1, 4, 4), (4, 4, 4), (1, 1, 1), (2, 3, 1), (1, 0, 1)])
USUAL = {"seq_len": SEQ, "rows": 2, "accumulation": 2, "seed": 0}


def test_reading_ahead_changes_nothing_and_is_done_by_other_threads() -> None:
    split = Fake(SPLIT.sizes)
    ahead, plain = Batches(split, prefetch=3, **USUAL), Batches(SPLIT, prefetch=0, **USUAL)
    for _ in range(20):
        assert equal(next(ahead), next(plain))
        assert ahead.get_state() == plain.get_state()
    assert threading.get_ident() not in split.threads
    ahead.close()
    with pytest.raises(ValueError, match="the batches are closed"):
        next(ahead)
    ahead.set_state(plain.get_state())
    assert equal(next(ahead), next(plain))
    ahead.close()


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_damaged_record_is_no_batch_to_skip(prefetch: int) -> None:
    split = Fake(SPLIT.sizes, broken={3})
    batches = Batches(split, prefetch=prefetch, **USUAL)
    state = batches.get_state()
    for _ in range(2):
        with pytest.raises(ValueError, match="record 3 is damaged"):
            next(batches)
        assert batches.get_state() == state
    split.broken = set()
    assert equal(next(batches), next(Batches(SPLIT, prefetch=0, **USUAL)))
    batches.close()


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("seed", {"seed": 1}), ("seq_len", {"seq_len": 13}), ("rows", {"rows": 4}), ("pack", {"pack": False}),
        ("accumulation", {"accumulation": 1}), ("reasoning_weight", {"reasoning_weight": 0.5}),
        ("answer_weight", {"answer_weight": 2.0}),
    ],
)  # fmt: skip
def test_a_state_of_something_else_is_refused_by_the_fields_name(field: str, change: dict) -> None:
    state = Batches(SPLIT, prefetch=0, **USUAL | change).get_state()
    ours = Batches(SPLIT, prefetch=0, **USUAL)
    next(ours)
    before = ours.get_state()
    with pytest.raises(ValueError, match=f"was saved with {field} .*, and here {field} is"):
        ours.set_state(state)
    assert ours.get_state() == before


def test_a_state_of_other_data_is_refused() -> None:
    ours = Batches(SPLIT, prefetch=0, **USUAL)
    with pytest.raises(ValueError, match="was saved with data 'other', and here data is 'fake'"):
        ours.set_state(Batches(Fake(SPLIT.sizes, "other"), prefetch=0, **USUAL).get_state())
    state = ours.get_state()
    for name, value, message in [
        ("plan", "00000000", "packs otherwise"), ("row", 99, "row 99, which is no place"), ("epoch", -1, "no place"),
        ("row", "0", "no place"), ("version", 2, "saved with version 2"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            ours.set_state(state | {name: value})
    with pytest.raises(ValueError, match="has no 'plan'"):
        ours.set_state({k: v for k, v in state.items() if k != "plan"})


class Anonymous(Fake):
    """A split without a hash of its content."""

    hash = None  # type: ignore[assignment]


def test_a_split_without_a_hash_is_known_by_its_lengths() -> None:
    one, other = (Anonymous([(1, 1, n)] * 3) for n in (2, 3))
    state = Batches(one, prefetch=0, **USUAL).get_state()
    with pytest.raises(ValueError, match=r"saved with data '[0-9a-f]{64}'"):
        Batches(other, prefetch=0, **USUAL).set_state(state)
    Batches(Anonymous([(1, 1, 2)] * 3), prefetch=0, **USUAL).set_state(state)


def test_a_curve_is_the_same_however_a_batch_is_cut_into_micro_batches() -> None:
    together = Batches(SPLIT, prefetch=0, **USUAL | {"rows": 4, "accumulation": 1})
    apart = Batches(SPLIT, prefetch=0, **USUAL | {"rows": 1, "accumulation": 4})
    for _ in range(5):
        assert equal(flat([next(together)]), flat([next(apart)]))


def test_what_it_says_of_itself() -> None:
    batches = Batches(SPLIT, prefetch=0, **USUAL)
    rows = len(batches._stream.plan(0))
    assert batches.batches_per_epoch == rows / 4
    assert batches.padding_share == 1 - SPLIT.lengths.sum() / (rows * SEQ)
    assert batches.epoch == 0
    next(batches)
    assert batches.epoch == 4 / rows
    assert (batches.steps(1), batches.steps(0.5), batches.steps(0.01)) == (-(-rows // 4), -(-rows // 8), 1)
    with pytest.raises(ValueError, match="epochs is 0"):
        batches.steps(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seq_len": 0}, "seq_len is 0; wanted at least 1"),
        ({"rows": 0}, "rows is 0"),
        ({"accumulation": 0}, "accumulation is 0"),
        ({"rows": 3, "process_count": 2}, "rows is 3 and there are 2 processes; wanted a multiple"),
        ({"process_index": 1}, "process_index is 1; wanted 0 to 0"),
        ({"process_count": 0}, "process_count is 0"),
        ({"reasoning_weight": -1.0}, "the weights are -1.0 and 1.0"),
        ({"answer_weight": float("nan")}, "the weights are 1.0 and nan"),
        ({"seed": -1}, "seed is -1"),
        ({"prefetch": -1}, "prefetch is -1"),
        ({"seq_len": 11}, "example 3 has 12 tokens, and rows have room for 11"),
    ],
)
def test_bad_options_are_refused_before_anything_starts(change: dict, message: str) -> None:
    for make in (Batches, lambda split, seed, **rest: eval_batches(split, **rest)):
        if "seed" in change and make is not Batches:
            continue
        with pytest.raises(ValueError, match=message):
            [*itertools.islice(make(SPLIT, **USUAL | {"prefetch": 0} | change), 1)]


def test_no_examples_are_refused() -> None:
    for make in (Batches, eval_batches):
        with pytest.raises(ValueError, match="there are no examples"):
            make(Fake([]), seq_len=4, rows=1)
    with pytest.raises(ValueError, match="limit is 0"):
        eval_batches(SPLIT, seq_len=SEQ, rows=1, limit=0)


@pytest.mark.parametrize(
    ("sizes", "weights", "message"),
    [
        ((3, 0, 0), (1.0, 1.0), r"example 0 has no token with a loss weight.*parts are \[0\], .*count are \[1, 2\]"),
        ((2, 2, 0), (0.0, 1.0), r"example 0 has no token with a loss weight.*count are \[2\]"),
        ((0, 0, 1), (1.0, 1.0), "example 0 has no token with a loss weight"),  # nothing predicts a text's first token
    ],
)
def test_an_example_that_teaches_nothing_is_named(
    sizes: tuple[int, int, int], weights: tuple[float, float], message: str
) -> None:
    batches = Batches(
        Fake([sizes]), seq_len=SEQ, rows=1, prefetch=0, reasoning_weight=weights[0], answer_weight=weights[1]
    )
    with pytest.raises(ValueError, match=message):
        next(batches)


def test_a_record_of_another_length_than_the_split_says_is_named() -> None:
    class Liar(Fake):
        @property
        def lengths(self) -> np.ndarray:
            return super().lengths + 1

    with pytest.raises(ValueError, match=r"example 0 has ids of shape \(3,\).*say 4 tokens"):
        next(Batches(Liar([(1, 1, 1)]), seq_len=SEQ, rows=1, prefetch=0))


@pytest.fixture
def dataset(tok: Tokenizer, tmp_path: Path) -> Dataset:
    form = ReasoningFormat()
    examples = [Example("s", i, f"{i} + 2 = ?", "Add. " * (i % 5), str(i + 2), AnswerKind.NUMBER) for i in range(1, 60)]
    records = [Record.of(example, tokenize(example, tok, form)) for example in examples if example.reasoning]
    return write_dataset(tmp_path / "dataset", records[:40], records[40:], tokenizer=tok, form=form)


def test_a_prepared_data_set_is_a_split(dataset: Dataset, tok: Tokenizer) -> None:
    batches = Batches(dataset.train, seq_len=512, rows=2, seed=0, prefetch=2)
    assert batches.get_state()["data"] == dataset.train.hash
    tokens = np.concatenate([next(batches).tokens.ravel() for _ in range(batches.steps(1))])
    assert (tokens == tok.bos_id).sum() >= 40
    batches.close()
    held_out = eval_batches(dataset.heldout, seq_len=512, rows=2)
    assert sum((batch.tokens == tok.bos_id).sum() for batch in held_out) == len(dataset.heldout)


def test_the_readmes_example_runs(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(dataset.path.parent)
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    [example] = [code for code in re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL) if "Batches(" in code]
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    assert re.match(r"\d+ steps an epoch, \d+.\d% padding\n", capsys.readouterr().out)
    assert names["batch"].tokens.shape == (4, 2, 256)
