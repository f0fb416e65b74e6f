"""The ten mistakes that a cold start was once ruined by (59 % of right answers became 0 %), each made on purpose.

Through the real programs, with the embedded model: each is stopped with its cause in words, or cannot be made. The
table in the README says which part does it.
"""

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coldforge import grpo, nano, training
from coldforge.apps.grpo.main import main as coldforge_grpo
from coldforge.apps.grpo.main import parse as parse_grpo
from coldforge.apps.grpo.main import run as run_grpo
from coldforge.apps.pipeline.config import DataOptions
from coldforge.apps.pipeline.data import make_data
from coldforge.apps.pipeline.main import main as coldforge
from coldforge.apps.sft import inputs
from coldforge.apps.sft.main import main as coldforge_sft
from coldforge.apps.sft.main import parse as parse_sft
from coldforge.apps.sft.main import run as run_sft
from coldforge.data import (
    AnswerKind,
    Batches,
    Dataset,
    Example,
    Part,
    ReasoningFormat,
    Record,
    Tokenizer,
    tokenize,
    write_dataset,
)
from coldforge.data.prepare import NothingLeftError, prepare
from coldforge.data.prepare import Options as PrepareOptions
from coldforge.rewards import grader

pytestmark = pytest.mark.whole
FORM = ReasoningFormat()
PROSE = "We add the numbers one after the other, carry what has to be carried, and come to the result, which is"

Program = Callable[[list[str]], None]
Change = Callable[[Record], Record]


@pytest.fixture(scope="module", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keeps what the programs compile out of the user's cache directory."""
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("jax")))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """The embedded model's."""
    return Tokenizer.load(nano.model_dir())


@pytest.fixture(scope="module")
def good(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A data set in order: 200 rows to train on, 80 held out."""
    folder = tmp_path_factory.mktemp("good")
    rows = nano.write_cold_start(folder / "rows.jsonl", 280)
    options = PrepareOptions(max_tokens=256, heldout_rows=80)
    return prepare([rows], folder / "data", tokenizer=tokenizer, options=options, processes=1).dataset


@pytest.fixture
def spoilt(good: Dataset, tokenizer: Tokenizer, tmp_path: Path) -> Callable[[Change], Path]:
    """The same data set with each row changed, written past what prepares rows."""

    def write(change: Change) -> Path:
        train, heldout = ([change(record) for record in split] for split in (good.train, good.heldout))
        return write_dataset(tmp_path / "spoilt", train, heldout, tokenizer=tokenizer, form=good.form).path

    return write


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[[Program, Sequence[str]], tuple[int, str]]:
    """Runs a program: its exit code, and all that it said, as one line."""

    def run(program: Program, words: Sequence[str]) -> tuple[int, str]:
        with pytest.raises(SystemExit) as left:
            program(list(words))
        assert isinstance(left.value.code, int)
        captured = capsys.readouterr()
        return left.value.code, " ".join((captured.out + captured.err).split())

    return run


Said = Callable[[Program, Sequence[str]], tuple[int, str]]


def sft(data: Path, run: Path, *more: str) -> list[str]:
    """A cold start's command line."""
    return ["nano", "--data", str(data), "--run", str(run), "--gate.prompts", "80", *more]


def cut(record: Record, tokens: int) -> Record:
    return dataclasses.replace(record, ids=record.ids[:tokens], parts=record.parts[:tokens])


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def conversation(question: str, reply: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]}


# What is wrong with the rows themselves: told before the weights are read, and before there is a run.

ROWS: dict[str, tuple[Change, str]] = {
    "the prompt is trained on": (
        lambda record: dataclasses.replace(record, parts=np.maximum(record.parts, np.uint8(1))),
        "in 200 of 200 train rows looked at, tokens of the prompt have a loss weight, so that the model would learn to",
    ),
    "no end of the turn": (
        lambda record: cut(record, len(record) - 1),
        "in 200 of 200 train rows looked at, no <end_of_turn> follows the reply, so that the model would never learn",
    ),
    "the end of the turn has no weight": (
        lambda record: dataclasses.replace(record, parts=np.append(record.parts[:-1], np.uint8(Part.PROMPT))),
        "the <end_of_turn> behind the reply has no loss weight",
    ),
    "rows cut at the maximum length": (
        lambda record: cut(record, max(len(record) - 15, int(np.argmax(record.parts > 0)) + 1)),
        "the reply breaks off before its end, as rows do that are cut at a maximum length",
    ),
    "ids of another tokenizer": (
        lambda record: dataclasses.replace(record, ids=np.where(record.ids > 300, record.ids - 1, record.ids)),
        "or are another tokenizer's. The first is row",
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_that_teach_something_else_are_refused(
    name: str, spoilt: Callable[[Change], Path], said: Said, tmp_path: Path
) -> None:
    change, cause = ROWS[name]
    code, message = said(coldforge_sft, sft(spoilt(change), tmp_path / "run"))
    assert code == 2
    assert cause in message
    assert re.search(r"(Mark|End|Drop|Prepare) .*(rows|instead)", message), "what to do"
    assert not (tmp_path / "run").exists()


def test_1_prose_as_answer_is_taken_apart_dropped_or_refused(
    tokenizer: Tokenizer, spoilt: Callable[[Change], Path], said: Said, tmp_path: Path
) -> None:
    """Rows with our own tags around a whole solution: the value is taken out; where there is none, they are dropped."""

    def row(answer: str, number: int) -> dict[str, Any]:
        return conversation(f"{number} + 1 =", f"<reasoning>{number} + 1</reasoning><answer>{answer}</answer>")

    boxed = write_rows(tmp_path / "boxed.jsonl", [row(f"{PROSE} \\boxed{{{n + 1}}}.", n) for n in range(9)])
    options = PrepareOptions(max_tokens=256, heldout_rows=0)
    made = prepare([boxed], tmp_path / "boxed", tokenizer=tokenizer, options=options, processes=1)
    assert [record.answer for record in made.dataset.train] == [str(n + 1) for n in range(9)]
    open_ended = write_rows(tmp_path / "prose.jsonl", [row(f"{PROSE} {n + 1}.", n) for n in range(9)])
    with pytest.raises(NothingLeftError, match=r"of 9 rows none was kept \(prose-answer 9\)"):
        prepare([open_ended], tmp_path / "prose", tokenizer=tokenizer, options=options, processes=1)

    def prose(record: Record) -> Record:
        told = dataclasses.replace(record.example, answer=f"{PROSE} {record.answer}.", kind=AnswerKind.TEXT)
        return Record.of(told, tokenize(told, tokenizer, FORM))

    code, message = said(coldforge_sft, sft(spoilt(prose), tmp_path / "run", "--batches.seq-len", "512"))
    assert code == 2
    assert f"the answers of 80 of 80 held-out prompts are prose, as '{PROSE[:40]}" in message
    assert "not a value that a grader can compare" in message


def test_2_a_grader_that_takes_the_first_digits_is_found_out(
    tokenizer: Tokenizer, said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seed's own expression, on answers with a minus and thousands, as GSM8K has them."""
    rows = [
        Example("sums", n, f"{n} - 2000 =", f"{n} less 2000.", f"{n - 2000:,}", AnswerKind.NUMBER) for n in range(100)
    ]
    records = [Record.of(one, tokenize(one, tokenizer, FORM)) for one in rows]
    data = write_dataset(tmp_path / "data", records[:20], records[20:], tokenizer=tokenizer, form=FORM).path

    def first_digits(text: str, form: Any, fallbacks: Any = ()) -> str | None:
        found = re.search(r"<answer>.*?([\d\.]{1,})", text, re.DOTALL)
        return found[1] if found else None

    with monkeypatch.context() as patched:
        patched.setattr(grader, "extract", first_digits)
        code, message = said(coldforge_sft, sft(data, tmp_path / "run"))
    assert code == 2
    assert "the grader calls 80 of 80 replies wrong that are right, the data's own: in one that ends in" in message
    assert re.search(r"'.*<answer>-1,9\d\d</answer>' it finds '1', and '-1,9\d\d' is right", message)

    monkeypatch.setattr(grader, "extract", lambda text, form, fallbacks=(): "-1,950")
    monkeypatch.setattr(grader, "equal_many", lambda pairs, *_: [grader.Compared(grader.Verdict.RIGHT) for _ in pairs])
    code, message = said(coldforge_sft, sft(data, tmp_path / "run"))
    assert code == 2
    assert "replies right that have another prompt's answer" in message


def test_3_the_gate_tells_a_model_that_goes_on_from_one_that_has_learnt_nothing(
    endless: tuple[int, Path, set[str]], said: Said, tmp_path: Path
) -> None:
    """The second line, where nothing has looked at the rows: the gate names the cause, and no stage starts from it."""
    code, run, _ = endless
    assert code == 3
    [why] = [check["why"] for check in training.read_manifest(run).gate["checks"] if check["name"] == "ended"]
    assert re.search(r"of those that do not end, most often \(\d+ times\): it goes on after </answer>", why)
    assert "where to stop was not learnt: is there an <end_of_turn> behind each reply of the data" in why
    questions = nano.write_questions(tmp_path / "questions.jsonl", 40)
    code, message = said(coldforge_grpo, rl(run, tmp_path / "rl", questions))
    assert code == 2
    assert "has failed its gate" in message
    assert "it goes on after </answer>. Where a whole reply goes on, where to stop was not learnt" in message
    assert not (tmp_path / "rl").exists()


def test_4_an_answer_weight_of_zero_is_refused(good: Dataset, said: Said, tmp_path: Path) -> None:
    """The mask as an option: prompts have no weight to set, and the end of the turn cannot be left out."""
    code, message = said(coldforge_sft, sft(good.path, tmp_path / "run", "--batches.answer-weight", "0"))
    assert code == 2
    assert "neither answers nor <end_of_turn>, which counts with them, would be learnt" in message
    batch = next(Batches(good.train, seq_len=256, rows=8, prefetch=0))
    assert not batch.loss_weights[batch.parts == Part.PROMPT].any()
    assert batch.loss_weights[batch.parts != Part.PROMPT].all()


# Options that are set and not used.


class Reads:
    """Which fields of configurations are read, by code that does more than keep them."""

    KEEPERS = (("coldforge.training.compare", "plain"), ("coldforge.data.prepare.plan", "make_plan"))

    def __init__(self, config: Any, patch: pytest.MonkeyPatch) -> None:
        self.found: set[str] = set()
        self.wanted: set[str] = set()
        self._watch(config, patch)

    def _watch(self, config: Any, patch: pytest.MonkeyPatch) -> None:
        kind = type(config)
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if dataclasses.is_dataclass(value):
                self._watch(value, patch)
            else:
                self.wanted.add(f"{kind.__name__}.{field.name}")
        patch.setattr(kind, "__getattribute__", self._getter(kind), raising=False)

    def _getter(self, kind: type) -> Callable[[Any, str], Any]:
        def get(config: Any, name: str) -> Any:
            frame = sys._getframe(1)
            if frame.f_code.co_name not in ("__eq__", "__hash__", "__repr__", "__post_init__"):
                caller: Any = frame
                while caller.f_globals["__name__"] in ("dataclasses", "copy"):  # asdict, replace: who asks them
                    caller = caller.f_back
                if (caller.f_globals["__name__"], caller.f_code.co_name) not in self.KEEPERS:
                    self.found.add(f"{type(config).__name__}.{name}")
            return object.__getattribute__(config, name)

        return get

    @property
    def unread(self) -> set[str]:
        return self.wanted - self.found


@pytest.fixture(scope="module")
def endless(
    good: Dataset, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[int, Path, set[str]]:
    """A real cold start on replies that are joined without an end, as rows are that lack <end_of_turn>.

    Its exit code, its run, and the options that nothing has read. That the rows would be refused is switched off.
    """
    folder = tmp_path_factory.mktemp("endless")

    def joined(record: Record) -> Record:
        ids, parts = record.ids[:-1], record.parts[:-1]
        reply = parts > 0
        twice = (np.concatenate([ids, ids[reply]]), np.concatenate([parts, parts[reply]]))
        return dataclasses.replace(record, ids=twice[0], parts=twice[1])

    rows = map(joined, good.train)
    data = write_dataset(folder / "data", rows, good.heldout, tokenizer=tokenizer, form=good.form).path
    more = ("--loop.epochs", "2.4", "--loop.eval-every", "0", "--loop.sample-every", "29", "--loop.sample-tokens", "8")
    options = parse_sft(sft(data, folder / "run", "--gate.prompts", "16", "--gate.min-prompts", "16", *more))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "check_rows", lambda *_: None)
        reads = Reads(options.config, patch)
        code = run_sft(options)
    return code, folder / "run", reads.unread


def test_5_every_option_of_a_cold_start_is_used_and_no_other_is_taken(
    endless: tuple[int, Path, set[str]], good: Dataset, said: Said, tmp_path: Path
) -> None:
    _, _, unread = endless
    assert unread == set()
    code, message = said(coldforge_sft, sft(good.path, tmp_path / "run", "--sft-gradient-accumulation", "4"))
    assert code == 2
    assert "Unrecognized options: --sft-gradient-accumulation" in message


def test_5_what_accumulates_is_in_the_step(good: Dataset) -> None:
    once, fourfold = (Batches(good.train, seq_len=256, rows=2, accumulation=n, prefetch=0) for n in (1, 4))
    assert next(fourfold).tokens.shape == (4, 2, 256)
    assert once.steps(1) == pytest.approx(4 * fourfold.steps(1), abs=4)


def test_5_every_option_of_the_data_is_used(tokenizer: Tokenizer, tmp_path: Path) -> None:
    options = DataOptions(
        rows=("nano:40",), questions=("nano:20",), heldout=("nano:20",), processes=1,
        prepare=PrepareOptions(max_tokens=256, heldout_rows=4),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        reads = Reads(options, patch)
        make_data(options, tokenizer, "nano", tmp_path / "data", 0)
    assert reads.unread == set()


def rl(start: Path, run: Path, questions: Path, *more: str) -> list[str]:
    """GRPO's command line: one small rollout, one update."""
    return [
        "nano", "--from", str(start), "--run", str(run), "--questions.sources", str(questions),
        "--questions.heldout", "8", "--gate.min-prompts", "8", "--rollout.questions", "4", "--rollout.group-size", "4",
        "--rollout.slots", "16", "--rollout.max-new-tokens", "24", "--loop.steps", "1", "--rewards.processes", "1",
        "--policy.beta", "0.1", *more,
    ]  # fmt: skip


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """Questions; one is too long, so that the option for such is read."""
    questions = nano.write_questions(tmp_path / "questions.jsonl", 40)
    with questions.open("a") as file:
        file.write(json.dumps({"question": "What is the sum of " + "1 + " * 200 + "1?", "answer": "201"}) + "\n")
    return questions


LANGUAGE = ("--force", "--rewards.language", "0.1", "--questions.on-long", "drop")


def test_7_the_reference_is_the_policy_that_reinforcement_learning_starts_from(
    endless: tuple[int, Path, set[str]], asked: Path, tmp_path: Path
) -> None:
    options = parse_grpo(rl(endless[1], tmp_path / "own", asked, *LANGUAGE))
    with pytest.MonkeyPatch.context() as patch:
        reads = Reads(options.config, patch)
        code = run_grpo(options)
    assert code in (0, 3), "what the gate says of 24 tokens is not the question"
    assert reads.unread == set()
    _, [first] = training.read_metrics(tmp_path / "own")["policy/kl_k3"]
    assert abs(first) < 1e-6


@pytest.mark.slow
def test_7_a_reference_that_is_another_model_ends_the_run(
    endless: tuple[int, Path, set[str]], asked: Path, said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import jax

    def from_the_base(state: Any, config: Any) -> Any:
        """What the ruined run did: the adapter of the cold start is missing from the reference."""
        return made(state, config)._replace(reference=jax.tree.map(lambda x: 0 * x, state.params))

    made = grpo.new_start
    monkeypatch.setattr(grpo, "new_start", from_the_base)
    code, message = said(coldforge_grpo, rl(endless[1], tmp_path / "other", asked, *LANGUAGE))
    assert code == 4
    assert "nats a token before any update" in message
    assert "the reference is not the policy that the run starts from, but another model, as the base" in message


def test_5_a_reference_that_would_be_refreshed_and_is_not_there_is_refused(
    endless: tuple[int, Path, set[str]], said: Said, tmp_path: Path
) -> None:
    questions = nano.write_questions(tmp_path / "questions.jsonl", 40)
    refreshed = ("--policy.beta", "0", "--algorithm.refresh-reference", "400", "--force")
    code, message = said(coldforge_grpo, rl(endless[1], tmp_path / "rl", questions, *refreshed))
    assert code == 2
    assert "refresh_reference is 400, and policy.beta is 0.0: without a KL there is no reference to refresh" in message


def test_6_what_is_too_long_is_dropped_and_counted_or_refused_and_never_cut(
    good: Dataset, tokenizer: Tokenizer, said: Said, tmp_path: Path
) -> None:
    lengths = np.concatenate([good.train.lengths, good.heldout.lengths])
    limit, rows = int(np.median(lengths)), good.path.parent / "rows.jsonl"
    options = PrepareOptions(max_tokens=limit, heldout_rows=8)
    made = prepare([rows], tmp_path / "short", tokenizer=tokenizer, options=options, processes=1)
    [account] = made.audit.sources.values()
    assert account.dropped == {"too-long": int((lengths > limit).sum())}
    assert {int(record.ids[-1]) for record in made.dataset.train} == {tokenizer.end_of_turn_id}
    code, message = said(coldforge_sft, sft(good.path, tmp_path / "run", "--batches.seq-len", str(limit)))
    assert code == 2
    assert f"examples have more than batches.seq-len = {limit} tokens. Pass --batches.seq-len" in message

    whole = [json.loads(line) for line in rows.read_text().splitlines()[:50]]
    texts = [FORM.render(row["solution"].partition("\n####")[0], row["answer"]) for row in whole]
    cut_off = [conversation(row["question"], text[:-12]) for row, text in zip(whole, texts, strict=True)]
    with pytest.raises(NothingLeftError, match=r"of 50 rows none was kept \(broken-tags 50\)"):
        prepare(
            [write_rows(tmp_path / "cut.jsonl", cut_off)], tmp_path / "cut", tokenizer=tokenizer, options=options,
            processes=1,
        )  # fmt: skip


def test_8_devices_that_would_idle_are_refused(good: Dataset, tmp_path: Path) -> None:
    """A mesh of 1 × 4 on 8 devices, as the ruined run's notebook had it; left alone, a mesh has them all."""
    script = (
        "import sys; from coldforge.apps.sft.main import main\n"
        "from coldforge.stages.devices import make_mesh; from coldforge.stages.options import MeshConfig\n"
        "print(make_mesh(MeshConfig()).size, make_mesh(MeshConfig(fsdp=4)).shape['data'], file=sys.stderr)\n"
        "main(sys.argv[1:])"
    )
    words = sft(good.path, tmp_path / "run", "--mesh.data", "1", "--mesh.fsdp", "4")
    variables = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, env=variables)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[0] == "8 2"
    assert "needs 4 devices, but there are 8; wanted sizes whose product is 8, so that none is idle" in done.stderr
    assert not (tmp_path / "run").exists()


def test_9_a_gate_on_32_prompts_is_refused_and_says_what_so_few_can_show(
    good: Dataset, said: Said, tmp_path: Path
) -> None:
    code, message = said(coldforge_sft, sft(good.path, tmp_path / "run", "--gate.prompts", "32"))
    assert code == 2
    assert "the gate asks at least gate.min-prompts = 73 prompts, and there are 32 (gate.prompts is 32)" in message
    assert "32 prompts show a share of a half to ±17 points" in message


def test_10_a_sorted_source_is_seen_as_a_whole(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Rows of three kinds, one behind the other: of a part of them, and in a part of an epoch, all three are there."""
    rows = [
        {"question": f"{n} {sign} 1 =", "solution": f"{n} {sign} 1\n#### {answer}"}
        for sign, answer in (("+", 7), ("-", 8), ("*", 9))
        for n in range(200)
    ]
    source = write_rows(tmp_path / "sorted.jsonl", rows)
    options = PrepareOptions(max_tokens=256, heldout_rows=30, limit=240)
    made = prepare([source], tmp_path / "data", tokenizer=tokenizer, options=options, processes=1).dataset
    for split in (made.train, made.heldout):
        counts = [sum(record.answer == answer for record in split) for answer in "789"]
        assert min(counts) >= 0.15 * len(split), counts
    batches = Batches(made.train, seq_len=256, rows=8, prefetch=0)
    first = {made.train[number].answer for row in batches.examples() for number in row}
    assert first == {"7", "8", "9"}, "the first step of many"


def test_the_pipeline_ends_where_its_rows_are_of_no_use(said: Said, tmp_path: Path) -> None:
    """The whole command: the audit's reasons are the last word, and no later stage has begun."""
    rows = [
        conversation(f"{n} + 1 =", f"<reasoning>{n} + 1</reasoning><answer>{PROSE} {n + 1}.</answer>")
        for n in range(40)
    ]
    source, run = write_rows(tmp_path / "prose.jsonl", rows), tmp_path / "run"
    code, message = said(coldforge, ["nano", "--run", str(run), "--data.rows", str(source)])
    assert code == 2
    assert "of 40 rows none was kept (prose-answer 40)" in message
    stages = training.read_manifest(run).figures["stages"]
    assert list(stages) == ["data"]
    assert stages["data"]["status"] == "failed"
    assert "prose-answer 40" in stages["data"]["note"]
    assert "prose-answer" in (run / "data" / "rows" / "audit.html").read_text()
