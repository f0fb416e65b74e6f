"""The metric log: valid JSON whatever the number, curves that go on once, nothing lost by a kill, errors that name."""

import errno
import json
import math
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from coldforge.training.files import AppendFile, replace_file
from coldforge.training.metrics import METRICS, SAMPLES, SCALARS, TENSORBOARD, MetricLog, drop_lines_after, read_metrics


def lines(path):
    def no_constant(name):
        raise AssertionError(f"{name} is no JSON")

    return [json.loads(line, parse_constant=no_constant) for line in path.read_text(encoding="utf-8").splitlines()]


def tensorboard(run, tag):
    """Step and value of each point that TensorBoard shows."""
    events = EventAccumulator(str(run / TENSORBOARD), tensor_size_guidance={"scalars": 0, "text": 0})
    events.Reload()
    values = [(e.step, make_ndarray(e.tensor_proto)) for e in events.Tensors(tag)]
    return [(step, x.item() if x.ndim == 0 else x[0].decode()) for step, x in values]


def test_scalars_are_in_both_places(tmp_path):
    with MetricLog(tmp_path) as log:
        log.scalars(1, {"train/loss": jnp.float32(2.5), "train/learning_rate": 1e-4})
        log.scalars(2, {"train/loss": np.float32(0.1)})
        log.scalars(2, {"eval/loss": 3})
    curves = read_metrics(tmp_path)
    assert curves.keys() == {"train/loss", "train/learning_rate", "eval/loss"}
    np.testing.assert_array_equal(curves["train/loss"][0], [1, 2])
    np.testing.assert_array_equal(curves["train/loss"][1], np.array([2.5, np.float32(0.1)]))  # to the bit
    assert tensorboard(tmp_path, "train/loss") == [(1, 2.5), (2, pytest.approx(0.1))]
    assert tensorboard(tmp_path, "eval/loss") == [(2, 3.0)]


def test_what_is_not_finite_is_valid_json_and_seen(tmp_path):
    values = {"a/nan": math.nan, "a/up": math.inf, "a/down": -math.inf, "a/big": 1e300}
    with MetricLog(tmp_path) as log:
        log.scalars(7, values)
    [row] = lines(tmp_path / METRICS)
    assert row | values == row | {"a/nan": values["a/nan"], "a/up": math.inf, "a/down": -math.inf, "a/big": 1e300}
    assert (row["a/nan"], row["a/up"], row["a/down"], row["step"]) == ("NaN", "Infinity", "-Infinity", 7)
    curves = read_metrics(tmp_path)
    np.testing.assert_array_equal([curves[name][1][0] for name in values], list(values.values()))
    assert math.isnan(tensorboard(tmp_path, "a/nan")[0][1])


@settings(deadline=None)
@given(st.dictionaries(st.text(min_size=1).filter(lambda s: s not in ("step", "time")), st.floats(), min_size=1))
def test_any_name_and_number_comes_back(tmp_path_factory, values):
    run = tmp_path_factory.mktemp("run")
    with MetricLog(run, enabled=True) as log:
        log.scalars(1, values)
    lines(run / METRICS)
    back = {name: float(value[0]) for name, (_, value) in read_metrics(run).items()}
    np.testing.assert_equal(back, values)


def test_a_run_that_continues_drops_what_came_after_its_checkpoint(tmp_path):
    with MetricLog(tmp_path) as log:
        for step in range(1, 8):
            log.scalars(step, {"train/loss": step})
            log.text(step, "sample/0", f"old {step}")
    with MetricLog(tmp_path, step=4) as log:
        for step in range(5, 10):
            log.scalars(step, {"train/loss": 10 * step})
            log.text(step, "sample/0", f"new {step}")
    want = [1, 2, 3, 4, 50, 60, 70, 80, 90]
    assert [row["train/loss"] for row in lines(tmp_path / METRICS)] == want
    assert [row["text"].split()[0] for row in lines(tmp_path / SAMPLES)] == ["old"] * 4 + ["new"] * 5
    assert tensorboard(tmp_path, "train/loss") == list(enumerate(want, 1))
    assert [step for step, _ in tensorboard(tmp_path, "sample/0/text_summary")] == list(range(1, 10))


def test_a_run_from_the_beginning_drops_all(tmp_path):
    for value in (1.0, 2.0):
        with MetricLog(tmp_path) as log:
            log.scalars(0, {"eval/loss": value})
            log.scalars(1, {"train/loss": value})
    curves = read_metrics(tmp_path)
    assert [list(v) for _, v in curves.values()] == [[2.0], [2.0]]
    assert tensorboard(tmp_path, "eval/loss") == [(0, 2.0)]


def test_nothing_is_rewritten_if_nothing_is_to_be_dropped(tmp_path):
    with MetricLog(tmp_path) as log:
        log.scalars(1, {"train/loss": 1})
    before = (tmp_path / METRICS).stat()
    drop_lines_after(tmp_path / METRICS, 1)
    assert (tmp_path / METRICS).stat() == before


@pytest.mark.parametrize(
    "half", [b"{", b'{"step": 3, "train/lo', b'{"step": 3, "train/loss": 1.0}', '{"a": "é'.encode()[:-1]]
)
def test_half_a_line_is_dropped_at_the_next_start(tmp_path, half):
    with MetricLog(tmp_path) as log:
        log.scalars(1, {"train/loss": 1})
        log.scalars(2, {"train/loss": 2})
    with (tmp_path / METRICS).open("ab") as file:
        file.write(half)
    assert list(read_metrics(tmp_path)["train/loss"][0]) == [1, 2]  # as while it is written
    with MetricLog(tmp_path, step=2) as log:
        log.scalars(3, {"train/loss": 3})
    assert [row["step"] for row in lines(tmp_path / METRICS)] == [1, 2, 3]


@pytest.mark.parametrize("broken", [b"not json", b"[1, 2]", b'{"train/loss": 1.0}', b'{"step": "1"}', b"\xff\xfe", b""])
def test_a_broken_line_inside_is_named(tmp_path, broken, caplog):
    good = b'{"step": 1, "train/loss": 1.0}\n'
    (tmp_path / METRICS).write_bytes(good + broken + b"\n" + good.replace(b"1,", b"2,"))
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2 is not a line of metrics"):
        read_metrics(tmp_path)
    MetricLog(tmp_path, step=2).close()
    assert "metrics.jsonl:2 is broken and is dropped" in caplog.text
    assert list(read_metrics(tmp_path)["train/loss"][0]) == [1, 2]


def test_a_value_that_is_no_number_is_named(tmp_path):
    (tmp_path / METRICS).write_text('{"step": 1, "train/loss": "high"}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:1: train/loss is no number but 'high'"):
        read_metrics(tmp_path)


@pytest.mark.parametrize(("name", "value", "message"), [
    ("step", 1, "'step' is a key of every line"),
    ("train/loss", [1, 2], "train/loss must be a single number"),
    ("train/loss", np.ones(2), "train/loss must be a single number"),
    ("train/loss", None, "train/loss must be a single number"),
])  # fmt: skip
def test_what_cannot_be_logged_is_refused_whole(tmp_path, name, value, message):
    with MetricLog(tmp_path) as log, pytest.raises(ValueError, match=message):
        log.scalars(1, {"a/good": 1, name: value})
    assert (tmp_path / METRICS).read_bytes() == b""


def test_texts_come_back_and_tensorboard_does_not_take_them_for_markup(tmp_path):
    text = "<reasoning>\n# 1 + 1\n</reasoning>\n<answer>２</answer>\ud800 \x00"
    with MetricLog(tmp_path) as log:
        log.text(3, "sample/0", text)
    [row] = lines(tmp_path / SAMPLES)
    assert (row["step"], row["tag"], row["text"]) == (3, "sample/0", text)
    [(_, shown)] = tensorboard(tmp_path, "sample/0/text_summary")
    assert shown.splitlines()[:2] == ["    <reasoning>", "    # 1 + 1"]


def test_only_process_0_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    with MetricLog(tmp_path / "run") as log:
        log.scalars(1, {"train/loss": 1})
        log.text(1, "a", "b")
        log.sync()
    assert not (tmp_path / "run").exists()


@pytest.mark.whole
def test_a_killed_process_loses_no_line(tmp_path):
    code = """
        import sys
        from coldforge.training.metrics import MetricLog
        log = MetricLog(sys.argv[1], enabled=True)
        for step in range(1, 10**9):
            log.scalars(step, {"train/loss": 1 / step})
            print(step, flush=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    for _ in range(200):
        step = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().split()
    process.stdout.close()
    process.wait()
    said = max([step, *map(int, rest)])
    steps = read_metrics(tmp_path)["train/loss"][0]
    assert list(steps) in [list(range(1, n + 1)) for n in (said, said + 1)]
    assert tensorboard(tmp_path, "train/loss")[-1][0] >= said
    MetricLog(tmp_path, step=100).close()
    assert len(lines(tmp_path / METRICS)) == 100
    assert [step for step, _ in tensorboard(tmp_path, "train/loss")] == list(range(1, 101))


def test_starts_within_a_second_keep_their_event_files(tmp_path):
    for step in (None, 1, 2, 3):
        with MetricLog(tmp_path, step=step) as log:
            log.scalars((step or 0) + 1, {"train/loss": 1})
    assert [step for step, _ in tensorboard(tmp_path, "train/loss")] == [1, 2, 3, 4]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux' /dev/full")
def test_a_full_disk_is_named_with_what_to_do():
    full = AppendFile(Path("/dev/full"))
    with pytest.raises(OSError, match="No space left on device; make room, then start again") as error:
        full.append(b"line\n")
    full._file.close()
    assert error.value.errno == errno.ENOSPC
    assert error.value.filename == "/dev/full"


def test_a_record_that_does_not_fit_is_taken_back(tmp_path):
    file = AppendFile(tmp_path / "log")
    file.append(b"x" * 59 + b"\n")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            file.append(b"y" * 59 + b"\n")
        file.append(b"z" * 19 + b"\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        file.close()
    assert (tmp_path / "log").read_bytes() == b"x" * 59 + b"\n" + b"z" * 19 + b"\n"


def test_a_replacement_that_does_not_fit_is_named(tmp_path):
    def replace():
        with replace_file(tmp_path / "manifest.json") as file:
            file.write(b"x" * 1000)

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large; make room, .*manifest\.json'$"):
            replace()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_a_replacement_that_fails_leaves_the_file_alone(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def replace(content):
        with replace_file(path) as file:
            for part in content:
                file.write(part)

    def stopped():
        yield b"half"
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        replace(stopped())
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    replace([b"new"])
    assert path.read_bytes() == b"new"


def test_readme_lists_every_scalar():
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    for name, meaning in SCALARS.items():
        assert f"| `{name}` | {meaning} |" in readme, name
