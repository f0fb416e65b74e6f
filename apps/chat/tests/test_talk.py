"""One turn after the other, with a script in place of the sampler: what it is asked, and what comes of its tokens."""

import io
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from coldforge.apps.chat import talk
from coldforge.apps.chat.talk import Talk, open_model, speed
from coldforge.data import Tokenizer
from coldforge.modeling import LoraConfig, add_lora, load, lora_state, save_peft, set_lora
from coldforge.rollout import SamplingParams

CTRL_C = 7  # any token
WORD = [104, 105]  # bytes, in the tests' vocabulary as in Gemma's


class Script:
    """In place of `stream`: yields what was said before to yield, and remembers what it was asked."""

    def __init__(self) -> None:
        """`answers`: for each prompt to come, its tokens, and exceptions to be raised in their midst.

        Before CTRL_C comes, the user presses it.
        """
        self.answers: list[list[int | type[ValueError]]] = []
        self.prompts: list[list[int]] = []
        self.seeds: list[int] = []

    def __call__(self, model: object, prompt: Sequence[int], params: SamplingParams) -> Iterator[int]:
        self.prompts.append(list(prompt))
        self.seeds.append(params.seed)
        for token in self.answers.pop(0):
            if not isinstance(token, int):
                raise token
            if token == CTRL_C:
                signal.raise_signal(signal.SIGINT)
            yield token


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    made = Script()
    monkeypatch.setattr(talk, "stream", made)
    return made


@pytest.fixture(scope="session")
def tokenizer(model: Path) -> Tokenizer:
    return Tokenizer.load(model)


@pytest.fixture
def make(tokenizer: Tokenizer) -> Callable[..., Talk]:
    def build(**changes: object) -> Talk:
        notes = Console(file=io.StringIO(), markup=False, highlight=False)
        settings: dict[str, object] = {"seed": 1, "system": "", "chat": True, "notes": notes}
        params = SamplingParams(stop_ids=tokenizer.stop_ids)
        return Talk(None, tokenizer, params, **(settings | changes))  # type: ignore[arg-type]

    return build


def answers(monkeypatch: pytest.MonkeyPatch, *lines: str | type[BaseException]) -> None:
    """Has a user type these lines and then Ctrl-D."""
    typed = iter([*lines, EOFError])

    def read(prompt: str = "") -> str:
        line = next(typed)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", read)


def test_a_chat_is_asked_with_all_that_was_said(
    make: Callable[..., Talk], script: Script, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    script.answers = [[*tokenizer.encode("a text"), tokenizer.end_of_turn_id], [tokenizer.eos_id]]
    chat = make(system="Be brief.")
    assert chat.answer("Hi", 0.0)
    assert chat.answer("And?", 0.0)
    start = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    more = [{"role": "assistant", "content": "a text"}, {"role": "user", "content": "And?"}]
    assert script.prompts == [tokenizer.encode_chat(start), tokenizer.encode_chat(start + more)]
    assert capsys.readouterr().out == "a text\n\n"


def test_a_continuation_stands_alone(make: Callable[..., Talk], script: Script, tokenizer: Tokenizer) -> None:
    script.answers = [tokenizer.encode("one"), tokenizer.encode("two")]
    raw = make(chat=False)
    raw.answer("First <end_of_turn>", 0.0)
    raw.answer(" second", 0.0)
    wanted = [tokenizer.encode(text, add_bos=True) for text in ("First <end_of_turn>", " second")]
    assert script.prompts == wanted
    assert tokenizer.end_of_turn_id not in wanted[0]


def test_text_is_written_as_soon_as_a_character_is_whole(
    make: Callable[..., Talk], script: Script, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    monkeypatch.setattr(talk, "write", lambda text: written.append(text) or text)
    smile = tokenizer.encode("🙂")
    assert len(smile) == 4, "bytes, in this vocabulary"
    script.answers = [[*smile, *smile[:2], tokenizer.end_of_turn_id]]
    make().answer("Hi", 0.0)
    assert written == ["", "", "", "🙂", "", "", "", "\N{REPLACEMENT CHARACTER}", "\n"]


def test_text_is_written_as_it_is_but_for_what_moves_a_terminal(
    make: Callable[..., Talk],
    script: Script,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = "[bold]no markup[/] :smile: \x1b]0;title\x07\ta\r\x9b2J\n"
    script.answers = [tokenizer.encode(text)] * 2
    make().answer("Hi", 0.0)
    assert capsys.readouterr().out == text
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    make().answer("Hi", 0.0)
    assert capsys.readouterr().out == re.sub("[\x1b\x07\r\x9b]", "\N{REPLACEMENT CHARACTER}", text)


def test_a_second_ctrl_c_does_not_wait_for_a_token() -> None:
    before = signal.getsignal(signal.SIGINT)
    with talk.ctrl_c() as pressed:
        assert not pressed
        signal.raise_signal(signal.SIGINT)
        assert pressed
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("said", ["", "a part"])
def test_an_interrupted_answer_is_kept_as_far_as_it_came(
    said: str, make: Callable[..., Talk], script: Script, tokenizer: Tokenizer
) -> None:
    script.answers = [[*tokenizer.encode(said), CTRL_C]]
    chat = make()
    assert not chat.answer("Hi", 0.0)
    assert [message["content"] for message in chat.said] == (["Hi", said] if said else [])


def test_the_seed_is_the_users_or_new_each_time(make: Callable[..., Talk], script: Script) -> None:
    script.answers = [WORD] * 4
    fixed, free = make(seed=7), make(seed=None)
    for one in (fixed, fixed, free, free):
        one.answer("Hi", 0.0)
    assert script.seeds[:2] == [7, 7]
    assert script.seeds[2] != script.seeds[3]


def test_notes_say_how_fast_and_whether_it_was_cut_off(
    make: Callable[..., Talk], script: Script, tokenizer: Tokenizer
) -> None:
    script.answers = [WORD, [*WORD, tokenizer.eos_id], [*WORD, CTRL_C]]
    for cut in (True, False, False):
        chat = make()
        chat.answer("Hi", 0.0)
        notes = chat.notes.file.getvalue()  # type: ignore[attr-defined]
        assert re.search(r"\d tokens?, first after [\d.]+ s", notes)
        assert ("--max-new-tokens" in notes) is cut


def test_a_continuation_can_show_what_it_continues(
    make: Callable[..., Talk], script: Script, tokenizer: Tokenizer
) -> None:
    script.answers = [tokenizer.encode(" wraps")]
    raw = make(chat=False)
    raw.answer("[i]It", 0.0, echo=True)
    assert raw.notes.file.getvalue().startswith("[i]It")  # type: ignore[attr-defined]


def test_speed_counts_tokens_behind_the_first() -> None:
    assert speed([0.0]) == "0 tokens"
    assert speed([1.0, 3.0]) == "1 token, first after 2.0 s"
    assert speed([0.0, 2.0, 2.5, 3.0]) == "3 tokens, first after 2.0 s, then 2.0/s"


def test_a_conversation_survives_empty_lines_ctrl_c_and_a_full_context(
    make: Callable[..., Talk],
    script: Script,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class FullError(ValueError):
        pass

    script.answers = [WORD, [FullError], WORD]
    answers(monkeypatch, "one", "", KeyboardInterrupt, "two", "three")
    chat = make()
    chat.converse()
    assert [message["content"] for message in chat.said[::2]] == ["one", "three"]
    assert "/reset forgets" in capsys.readouterr().err


def test_reset_forgets_and_quit_leaves(
    make: Callable[..., Talk], script: Script, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.answers = [WORD, WORD]
    answers(monkeypatch, "one", " /reset", "two", "/quit ", "never asked")
    make().converse()
    assert script.prompts == [tokenizer.encode_chat([{"role": "user", "content": text}]) for text in ("one", "two")]


def test_a_larger_vocabulary_than_the_models_is_refused(model: Path) -> None:
    class Larger:
        vocab_size = 262_144

    with pytest.raises(ValueError, match="262,144 tokens and the model 420"):
        open_model(model, Larger(), "float32")  # type: ignore[arg-type]


def test_auto_is_the_faster_type(model: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_model(model, tokenizer, "auto").dtype == "float32"
    assert open_model(model, tokenizer, "bfloat16").dtype == "bfloat16"
    monkeypatch.setattr("jax.default_backend", lambda: "tpu")
    assert open_model(model, tokenizer, "auto").dtype == "bfloat16"


@pytest.mark.whole
def test_an_adapter_is_put_on_the_weights(model: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    base = load(model)
    adapted = add_lora(base, LoraConfig(rank=2), rngs=nnx.Rngs(0))
    set_lora(adapted, jax.tree.map(lambda x: 0.3 * jax.random.normal(jax.random.key(1), x.shape), lora_state(adapted)))
    save_peft(adapted, tmp_path / "adapter")
    tokens = np.arange(4, 12)[None]
    found = open_model(model, tokenizer, "float32", tmp_path / "adapter")(tokens)
    np.testing.assert_allclose(found, adapted(tokens), atol=1e-5)
    assert np.abs(found - base(tokens)).max() > 0.01
