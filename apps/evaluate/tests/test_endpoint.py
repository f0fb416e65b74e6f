"""A served model, asked over a real socket."""

import dataclasses
import importlib.util
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coldforge.apps.evaluate.endpoint import Endpoint, EndpointError
from coldforge.apps.evaluate.main import main, read_tasks
from coldforge.apps.evaluate.options import EndpointOptions, Options
from coldforge.data import ReasoningFormat
from coldforge.eval import Ask, Reply, Sampling, find_samples, read_results
from coldforge.eval.prompts import STYLES
from coldforge.eval.store import locked

pytestmark = pytest.mark.whole

_spec = importlib.util.spec_from_file_location("evaluate_server", Path(__file__).with_name("server.py"))
assert _spec is not None
assert _spec.loader is not None
server = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = server
_spec.loader.exec_module(server)

SAMPLING = Sampling(max_new_tokens=20)


def answer(body: dict[str, Any]) -> str:
    """Right for even numbers, wrong for odd ones."""
    asked = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
    number = int("".join(c for c in asked.split("number")[-1] if c.isdigit()))
    return f"<reasoning>r</reasoning><answer>{number + number % 2}</answer>"


@pytest.fixture
def served() -> Iterator[Any]:
    with server.serving(answer) as found:
        yield found


def endpoint(served: Any, **options: Any) -> Endpoint:
    return Endpoint(EndpointOptions(endpoint=served.url, model="mine", **{"retries": 0, "timeout": 30, **options}))


def asks(count: int, n: int = 1, **more: Any) -> list[Ask]:
    return [
        Ask("t", f"q{i}", ({"role": "user", "content": f"Say the number {i}"},), 0, n, i, SAMPLING, **more)
        for i in range(count)
    ]


def test_each_sample_is_a_request_and_many_run_at_once(served: Any) -> None:
    found = dict(endpoint(served, concurrency=4).generate(asks(10, n=3)))
    assert sorted(found) == list(range(10))
    assert found[4] == [Reply("<reasoning>r</reasoning><answer>4</answer>", 7, True)] * 3
    assert len(served.requests) == 30
    assert served.at_once == 4
    path, body = served.requests[0]
    assert path == "/v1/chat/completions"
    assert (body["model"], body["temperature"], body["top_p"], body["max_tokens"]) == ("mine", 0.6, 0.95, 20)
    assert len({body["seed"] for _, body in served.requests if body["messages"][0]["content"].endswith(" 9")}) == 3


def test_raw_text_is_completed_and_cut_at_stops(served: Any) -> None:
    ask = Ask("t", "q", "the number 6", 2, 1, 0, SAMPLING, ("<answer>", "B", "C", "D", "</reasoning>"))
    [(_, [reply])] = endpoint(served).generate([ask])
    assert reply == Reply("<reasoning>r", 7, True)
    path, body = served.requests[0]
    assert path == "/v1/completions"
    assert body["prompt"] == "the number 6"
    assert body["stop"] == ["<answer>", "B", "C", "D"]


def test_what_fails_for_a_moment_is_asked_again(served: Any) -> None:
    served.faults = [500, 429, "hang"]
    found = dict(endpoint(served, retries=3, timeout=3, concurrency=1).generate(asks(1)))
    assert found[0][0].text.endswith("<answer>0</answer>")
    assert len(served.requests) == 4


@pytest.mark.parametrize(
    ("fault", "match"),
    [
        (500, "answers 500 after 0 retries.*out of order"),
        (404, "answers 404"),
        ("hang", r"does not answer within 3 s, after 0 retries. Raise --served.timeout"),
        ("<html>garbage", "sent no choices, but '<html>garbage'|JSONDecodeError"),
        ({"choices": []}, "sent no choices"),
        ({"choices": [{"index": 0, "finish_reason": None, "message": {"content": None}}]}, "without text"),
        ({"choices": [{"index": 0, "finish_reason": "stop"}]}, "without text"),
        ({"choices": [{"index": 0, "finish_reason": "stop", "message": {"content": [1]}}]}, "without text"),
        (
            {"choices": [{"index": 0, "finish_reason": "tool_calls", "message": {"content": "x"}}]},
            "finish_reason 'tool_calls'; wanted one of stop, length, content_filter",
        ),
        ({"error": {"message": "no such model"}}, "no such model"),
    ],
)
def test_what_fails_for_good_is_named(served: Any, fault: Any, match: str) -> None:
    served.faults = [fault]
    with pytest.raises(EndpointError, match=f"(?s)sample 0 of question q0 of t: .*({match})"):
        list(endpoint(served, timeout=3, concurrency=1).generate(asks(1)))


@pytest.mark.parametrize(
    ("reason", "message", "reply"),
    [
        ("length", {"content": None}, ("", False)),
        ("stop", {"content": None}, ("", True)),
        ("content_filter", {"content": None}, ("", False)),
        ("content_filter", {"content": "x"}, ("x", False)),
        ("stop", {"content": "4", "reasoning_content": "2 and 2"}, ("<think>\n2 and 2\n</think>\n4", True)),
        ("stop", {"content": "4", "reasoning": "2 and 2"}, ("<think>\n2 and 2\n</think>\n4", True)),
        ("length", {"content": None, "reasoning": "2 and"}, ("<think>\n2 and\n</think>\n", False)),
    ],
)
def test_what_a_choice_says(served: Any, reason: str, message: dict[str, Any], reply: tuple[str, bool]) -> None:
    """Nothing is a reply too, where the server says why it ended: an error would end each new try at this question."""
    served.faults = [{"choices": [{"index": 0, "finish_reason": reason, "message": message}]}]
    [(_, [found])] = endpoint(served).generate(asks(1))
    assert (found.text, found.ended) == reply


def test_a_failure_does_not_wait_for_what_is_under_way(served: Any) -> None:
    served.faults = ["hang", "hang", 404]
    began = time.monotonic()
    with pytest.raises(EndpointError, match="404"):
        list(endpoint(served, timeout=20, concurrency=3).generate(asks(3)))
    assert time.monotonic() - began < 10


def test_no_server(served: Any) -> None:
    nobody = Endpoint(EndpointOptions(endpoint="http://127.0.0.1:9/v1", model="mine", retries=0, timeout=5))
    with pytest.raises(EndpointError, match="APIConnectionError"):
        list(nobody.generate(asks(1)))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"endpoint": "localhost"}, "wanted a URL"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"timeout": 0}, "timeout 0"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Endpoint(EndpointOptions(**{"endpoint": "http://localhost/v1", "model": "m", **options}))


def test_tokens_that_nobody_counted_are_words(served: Any, caplog: pytest.LogCaptureFixture) -> None:
    served.faults = [{"choices": [{"index": 0, "finish_reason": "length", "message": {"content": "a b c"}}]}] * 2
    found = dict(endpoint(served, concurrency=1).generate(asks(2)))
    assert found[0] == [Reply("a b c", 3, False)]
    assert caplog.text.count("counts no tokens") == 1


# --- the program


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "numbers.jsonl"
    rows = [{"question": f"What is the number {i}?", "answer": str(i)} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def left_with(*words: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(words))
    return int(left.value.code or 0)


def test_an_evaluation_that_failed_goes_on(
    served: Any, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Replies that came before a failure are not asked for again; the accuracy is the server's."""
    out = tmp_path / "out"
    words = [
        "--endpoint", served.url, "--model", "mine", "--tasks", str(questions), "--out", str(out), "--samples", "2",
        "--served.retries", "0", "--served.concurrency", "2", "--max-new-tokens", "50",
    ]  # fmt: skip
    served.faults = [None] * 30 + [500]
    assert left_with(*words) == 2
    assert "answers 500" in capsys.readouterr().err
    assert left_with(*words) == 0
    assert 80 < len(served.requests) < 90
    assert "accuracy" in (said := capsys.readouterr().out) or "avg@2" in said
    results = read_results(out)
    [task] = results.tasks.values()
    assert task.metrics.accuracy.value == 0.5
    assert results.model["endpoint"] == served.url
    assert (out / "report.html").is_file()
    assert len(list(find_samples(out, kinds=["wrong"]))) == 40


def test_samples_of_a_question_are_kept_one_by_one(served: Any, tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text(json.dumps({"question": "What is the number 4?", "answer": "4"}))
    words = ["--endpoint", served.url, "--model", "mine", "--tasks", str(tmp_path / "one.jsonl"), "--samples", "6"]
    words += ["--served.retries", "0", "--served.concurrency", "1", "--out", str(tmp_path / "out")]
    served.faults = [None] * 4 + [500]
    assert left_with(*words) == 2
    assert left_with(*words) == 0
    assert len(served.requests) == 4 + 1 + 2
    assert len({body["seed"] for _, body in served.requests}) == 6


def test_a_directory_in_which_another_works_is_refused(
    served: Any, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--endpoint", served.url, "--model", "mine", "--tasks", str(questions), "--out", str(tmp_path / "out")]
    with locked(tmp_path / "out"):
        assert left_with(*words) == 2
    assert "another process evaluates" in capsys.readouterr().err
    assert not served.requests


def test_evaluations_are_compared_and_read(
    served: Any, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def evaluated(name: str) -> str:
        words = ["--endpoint", served.url, "--model", name, "--tasks", str(questions), "--out", str(tmp_path / name)]
        assert left_with(*words, "--samples", "1") == 0
        return str(tmp_path / name)

    a = evaluated("a")
    served.answer = lambda body: answer(body) if "number 1" in body["messages"][-1]["content"] else "\x1b[J no idea"
    b = evaluated("b")
    capsys.readouterr()
    assert left_with("compare", a, b, "--out", str(tmp_path / "held")) == 0
    said = capsys.readouterr().out
    assert "p " in said
    assert (tmp_path / "held" / "report.html").is_file()
    assert left_with("show", b, "--only", "unparsable", "--count", "3") == 0
    said = capsys.readouterr().out
    assert said.count("no idea") == 3
    assert "\x1b" not in said
    assert left_with("regrade", b, "--tasks", str(questions)) == 0


def test_what_was_asked_in_a_form_is_graded_again_in_it(
    served: Any, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def form(path: Path) -> ReasoningFormat:
        assert path == tmp_path / "run"
        return ReasoningFormat(template="Think, then answer.")

    monkeypatch.setattr("coldforge.apps.evaluate.reading.read_form", form)
    out, given = str(tmp_path / "out"), ["--tasks", str(questions), "--form", str(tmp_path / "run")]
    assert left_with("--endpoint", served.url, "--model", "mine", "--out", out, "--samples", "1", *given) == 0
    assert left_with("regrade", out, "--tasks", str(questions)) == 2
    assert "Wanted the prompts that were used" in capsys.readouterr().err
    assert left_with("regrade", out, *given) == 0
    assert "0 have become right, and 0 no longer are" in capsys.readouterr().out


def test_questions_are_looked_for_in_training_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [f"In the year {i} a farmer sold {i + 3} of his {2 * i} brown cows; how many were left?" for i in range(9)]
    task, data = tmp_path / "task.jsonl", tmp_path / "data.jsonl"
    task.write_text("".join(json.dumps({"question": q, "answer": str(i)}) + "\n" for i, q in enumerate(asked)))
    data.write_text(json.dumps({"prompt": f"Please answer. {asked[4]} Thank you."}) + "\n")
    assert left_with("decontaminate", str(task), str(data)) == 0
    said = capsys.readouterr().out
    assert "1 of 9" in said
    assert left_with("decontaminate", str(task), str(tmp_path / "none.jsonl")) == 2


def rows_of(name: str) -> list[dict[str, Any]]:
    """Six rows of a benchmark in the hub's format, which are questions and examples alike."""
    choices = ["2", "4", "6", "8"]
    kinds: dict[str, dict[str, Any]] = {
        "gsm8k": {"answer": "It is 4.\n#### 4"},
        "mmlu": {"choices": choices, "answer": 1, "subject": "sums"},
        "mmlu_pro": {
            "options": choices, "answer": "B", "answer_index": 1, "category": "sums",
            "cot_content": "A: Let's think step by step. The answer is (B).",
        },
    }  # fmt: skip
    return [{"question": f"In room {chr(65 + i)}, say the number 4."} | kinds[name] for i in range(6)]


@pytest.mark.parametrize(
    ("prompt", "task", "splits"),
    [(name, "gsm8k", ("test", "train")) for name in STYLES if name not in ("lm-eval:mmlu", "lm-eval:mmlu_pro")]
    + [("lm-eval:mmlu", "mmlu", ("test", "dev")), ("lm-eval:mmlu_pro", "mmlu_pro", ("test", "validation"))],
)
def test_every_prompt_can_be_chosen(
    served: Any, prompt: str, task: str, splits: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in splits:
        text = "".join(json.dumps(row) + "\n" for row in rows_of(task))
        (tmp_path / f"{split}.jsonl").write_text(text)
    words = ["--endpoint", served.url, "--model", "mine", "--tasks", f"{task}={tmp_path}", "--samples", "1"]
    assert left_with(*words, "--prompt", prompt, "--out", str(tmp_path / "out")) == 0, capsys.readouterr().err
    assert len(list(find_samples(tmp_path / "out"))) == 6


def test_a_form_is_for_the_prompt_that_has_tags(tmp_path: Path) -> None:
    form = ReasoningFormat(template="Think.")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "Say the number 5.", "answer": "5"}))
    options = Options(tasks=(str(tmp_path / "rows.jsonl"),), out=tmp_path, prompt="boxed", form=tmp_path)
    with pytest.raises(ValueError, match="a form is given with the prompt 'boxed'; only 'reasoning' has tags"):
        read_tasks(options, form)
    [task] = read_tasks(dataclasses.replace(options, prompt="reasoning"), form)
    assert "Think." in task.ask(task.questions[0])[0]["content"]


def test_ifeval_is_asked_in_no_form(served: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside a task that is asked in one."""
    row = {"key": 1, "prompt": "Say the number 4.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    (tmp_path / "ifeval.jsonl").write_text(json.dumps(row))
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "Say the number 5.", "answer": "6"}))
    words = ["--tasks", f"ifeval={tmp_path / 'ifeval.jsonl'}", str(tmp_path / "rows.jsonl"), "--samples", "1"]
    out = tmp_path / "out"
    assert left_with("--endpoint", served.url, "--model", "mine", *words, "--out", str(out)) == 0, capsys.readouterr()
    asked = {body["messages"][0]["content"] for _, body in served.requests}
    assert "Say the number 4." in asked
    assert any("<answer>" in text for text in asked)
    assert all(sample.correct for sample, _ in find_samples(out))


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("--tasks", "chain_sum:5", "--endpoint", "http://localhost:9/v1"), "wants --model NAME"),
        (("--tasks", ""), "no task is named"),
        (("--tasks", "chain_sum:5", "--greedy", "--samples", "4"), "--greedy draws one sample"),
        (("--tasks", "chain_sum:5", "--model", "/nowhere/at/all"), "there is nothing at"),
    ],
)
def test_wrong_words_are_named(
    words: tuple[str, ...], match: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert left_with(*words, "--out", str(tmp_path / "out")) == 2
    assert match in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
