"""What people see: progress, tables of 80 columns, presets and the README."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from coldforge.apps.reject.main import parse
from coldforge.apps.reject.presets import PRESETS
from coldforge.apps.reject.progress import Bar
from coldforge.apps.reject.tables import show_acceptance, show_reasons
from coldforge.data import Audit, ReasoningFormat, Refusal, Row
from coldforge.data.rejection import Acceptance, Sampled

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
ELSEWHERE = {"--data", "--run", "--extra"}  # of coldforge-sft and uv
FORM = ReasoningFormat()


def terminal(*, live: bool = False) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, width=80, force_terminal=live, color_system=None), text


def test_progress_says_what_is_known_and_how_long_it_takes() -> None:
    now = [0.0]
    console, text = terminal()
    good = Sampled(FORM.render("So.", "4"), 10, True, "right", "4")
    bar = Bar(40, [good, good._replace(verdict="wrong")], FORM, console, clock=lambda: now[0])
    with bar:
        now[0] = 10.0
        bar.sampled(8, 400)
        assert text.getvalue() == "", "half a minute has not gone by"
        bar.judged([good, good._replace(ended=False)])
        now[0] = 40.0
        bar.sampled(12, 600)
    assert text.getvalue() == "22/40 samples: right 75%, in form 50%, 25 tok/s, 0:00:36 left\n"
    console, text = terminal(live=True)
    with Bar(40, [], FORM, console) as bar:
        bar.sampled(8, 400)
        bar.judged([good])
        assert "right 100%" in bar.said()
    assert "8/40" in text.getvalue()


def test_tables_fit_into_80_columns() -> None:
    acceptance, audit = Acceptance(), Audit()
    for number in range(200):
        right = number % 17
        source = "chain_sum?min_terms=2&max_terms=3&min_digits=1" if number % 3 else "gsm8k"
        acceptance.add(source, samples=16, right=right, clean=right // 2, kept=min(4, right // 2))
    audit.drop(Row("gsm8k", 3, {"reply": "x"}), Refusal("broken-tags", "<answer> occurs 0 times;\nwanted once. " * 9))
    console, text = terminal()
    show_acceptance(acceptance, console)
    show_reasons(audit, console)
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    shown = "\n".join(lines)
    assert re.search(r"^ chain_sum\?min_te\S*… +133 +2,128 +\d+\.\d %", shown, re.MULTILINE)
    assert re.search(r"^ all +200 +3,200 ", shown, re.MULTILINE)
    buckets = re.findall(r"^ (none|to \d+ %|below all|all) .*(?:–|%) +(█+) *$", shown, re.MULTILINE)
    assert [name for name, _ in buckets] == ["none", "to 25 %", "to 50 %", "to 75 %", "below all", "all"]
    assert re.search(r"^ broken-tags +1 +100\.0 % +<answer> occurs 0 times; wanted once", shown, re.MULTILINE)


def test_presets_are_what_the_readme_says() -> None:
    table = re.search(r"## Presets\n\n(.*?)\n\n", README, flags=re.DOTALL)
    assert table is not None
    rows = {
        name: cells for name, *cells in re.findall(r"\| `([\w-]+)` \|[^|]*\| (\d+) \| ([\d,]+) \| (\d+), ", table[1])
    }
    assert rows.keys() == PRESETS.keys()
    for name, preset in PRESETS.items():
        config = preset()
        assert rows[name] == [
            str(config.sampling.samples), f"{config.sampling.max_new_tokens:,}", str(config.keep.per_question)
        ]  # fmt: skip
        assert config.sampling.temperature == 1
        assert config.longest <= config.keep.max_tokens or name == "tiny", "no whole sample is too long to be kept"
        line = re.search(rf"^\| `{name}` .*", table[1], re.MULTILINE)
        assert line is not None
        assert ("not run" in preset.__doc__) == ("not run" in line[0])


def test_the_papers_numbers() -> None:
    keep = PRESETS["r1"]().keep
    assert keep.code_blocks
    assert keep.long_paragraphs is not None
    assert keep.mixed_language is not None
    assert keep.max_tokens == 32768


def test_options_of_the_readme_exist(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        parse(["tiny", "--help"])
    known = set(re.findall(r"--[\w.-]+", capsys.readouterr().out))
    named = {option.rstrip(".") for option in re.findall(r"--[\w.-]*\w", README)} - {"--keep", "--chat"}
    assert named - known == ELSEWHERE


@pytest.mark.whole
def test_the_readmes_example(
    finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").symlink_to(finished)
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    first, second, third = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\d+ of 12 samples were right", first)
    assert re.match(r"\d+ \{'none': 0, ", second)
    assert third in ("right", "wrong", "no answer")
