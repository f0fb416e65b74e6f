"""A page needs nothing besides itself, shows what is there, and lets nothing that a model wrote become a part of it."""

import json
import re
from html.parser import HTMLParser

import pytest

from coldforge.eval.comparison import compare_all, write_comparison
from coldforge.eval.intervals import Estimate
from coldforge.eval.pages import headline
from coldforge.eval.plots import Row, differences, file_name, length_histogram, whiskers
from coldforge.eval.records import Reply, Sampling, from_function
from coldforge.eval.regrade import regrade
from coldforge.eval.report import write_report
from coldforge.eval.results import open_evaluation

pytestmark = pytest.mark.whole

EVIL = "<script>alert(1)</script></pre><img src=http://x/y.png> {{ 7 * 7 }} $\\frac$ &amp; \ud83d"


class Page(HTMLParser):
    """Tags, what they refer to, and whether they are closed in order."""

    EMPTY = ("meta", "br", "img", "link", "use", "path")

    def __init__(self, text):
        super().__init__()
        self.tags, self.targets, self.open, self.ids, self.texts = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        values = dict(attrs)
        self.targets += [values[name] for name in ("src", "href", "xlink:href") if values.get(name)]
        self.ids += [values["id"]] if "id" in values else []
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.EMPTY:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def page_of(path):
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert not set(page.tags) & {"script", "link", "iframe", "img", "object"}
    assert all(target.startswith("#") for target in page.targets)
    inside = [target[1:] for target in page.targets]
    assert set(inside) <= set(page.ids)
    assert not re.search(r"url\((?!#)|@import", text)
    assert "prefers-color-scheme:dark" in text
    assert 'name="viewport"' in text
    return page, text


def test_report_of_one_evaluation(tmp_path, run, make_task):
    tasks = [
        make_task("sums <b>", 30, samples=4, categories=("al$gebra & _x_", "<i>", "geometry")),
        make_task("b", 10, samples=1, chance=0.25),
    ]
    results = run(tmp_path, tasks=tasks, model={"name": "a <model>", "nested": {"x": 1.23456789}}, report=True)
    page, text = page_of(tmp_path / "report.html")
    for task in results.tasks.values():
        for estimate in (task.metrics.accuracy, task.metrics.truncated, *task.metrics.pass_at.values()):
            assert estimate.text in page.text
        for warning in task.warnings:
            assert warning in page.text
        assert " ".join(task.first_prompt.split()) in page.text
        assert task.content_hash in page.text
    for words in (
        "a <model>",
        "nested.x 1.23457",
        "temperature 0.6, top-p 0.95, at most 400 tokens",
        "cut off",
        "al$gebra",
    ):
        assert words in page.text
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == [
        "accuracy.png", "categories-sums_b.png", "lengths-b.png", "lengths-sums_b.png", "pass-sums_b.png",
    ]  # fmt: skip
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (tmp_path / "plots").iterdir())
    assert page.tags.count("svg") == 5
    assert "var(--ink)" in text


def test_what_a_model_wrote_stays_text(tmp_path, run, make_task):
    run(tmp_path, from_function(lambda prompts: [EVIL + "x" * 9_000] * len(prompts)), [make_task(count=3)], report=True)
    page, _ = page_of(tmp_path / "report.html")
    assert "<script>alert(1)</script></pre><img src=http://x/y.png> {{ 7 * 7 }} $\\frac$ &amp;" in page.text
    assert "characters are left out here; samples.jsonl has them" in page.text


def test_a_report_can_be_made_again(tmp_path, run):
    run(tmp_path, report=True)
    before = (tmp_path / "report.html").read_bytes()
    (tmp_path / "report.html").unlink()
    assert write_report(tmp_path).read_bytes() == before


@pytest.mark.parametrize("count", [2, 3])
def test_comparison(tmp_path, run, make_task, make_model, count):
    skills = (0.2, 0.8, 0.5)[:count]
    tasks = [make_task("sums", 40, categories=("x", "y"), samples=4), make_task("b", 12, samples=1)]
    for i, skill in enumerate(skills):
        some = [*tasks, make_task("more")] if i else tasks
        sampling = Sampling(max_new_tokens=400 + i)
        run(tmp_path / str(i), make_model(skill, seed=i), some, model={"name": f"model <{i}>"}, sampling=sampling)
    evaluations = [open_evaluation(tmp_path / str(i)) for i in range(count)]
    found = compare_all(evaluations)
    page, _ = page_of(write_comparison(found, tmp_path / "out"))
    assert found.tasks.keys() == {"sums", "b"}
    for some in found.tasks.values():
        assert len(some) == count - 1
        for each in some:
            assert each.difference_text in page.text.replace("\xa0", " ")
            assert each.a.text in page.text
            assert each.b.text in page.text
    assert found.tasks["sums"][0].shown
    assert f"p-values are corrected for {2 * (count - 1)} comparisons" in page.text
    assert "Not compared, as not all were given it: more (model <1>" in page.text
    assert "Not sampled alike: model <0>: temperature 0.6, top-p 0.95, at most 400 tokens" in page.text
    assert "With n = 40 questions you can see" in page.text
    assert page.text.count("question ") >= 8
    assert found.categories.keys() == {"sums"}
    written = json.loads((tmp_path / "out/comparison.json").read_text())
    assert [each["name"] for each in written["models"]] == [f"model <{i}>" for i in range(count)]
    assert len(written["tasks"]["sums"]) == count - 1
    names = {path.name for path in (tmp_path / "out/plots").iterdir()}
    assert {"accuracy.png", "differences-1.png", "lengths-sums.png", "pass-sums.png", "categories-sums-1.png"} <= names
    assert "sums\nmodel <0>" in found.text


def test_disagreements_show_both_sides(tmp_path, run, make_task):
    """The one model knows the even questions, the other the odd ones: each shown pair is a right and a wrong reply."""
    for name, parity in (("even", 0), ("odd", 1)):

        def model(asks, parity=parity):
            for place, _ in enumerate(asks):
                answer = 2 * place + 1 if place % 2 == parity else 1_000
                text = f"<reasoning>{('even', 'odd')[parity]} says</reasoning><answer>{answer}</answer>"
                yield place, [Reply(text, 5, True)]

        run(tmp_path / name, model, [make_task(count=8, samples=1)], model={"name": name})
    found = compare_all([open_evaluation(tmp_path / name) for name in ("even", "odd")])
    page, _ = page_of(write_comparison(found, tmp_path / "out", shown=4))
    assert (page.text.count("even says"), page.text.count("odd says")) == (4, 4)
    assert page.text.count("✓ right:") == page.text.count("✗ wrong:") == 4
    assert len(found.tasks["sums"][0].wins) == len(found.tasks["sums"][0].losses) == 4


def test_comparisons_that_cannot_be(tmp_path, run, make_task):
    run(tmp_path / "a")
    run(tmp_path / "b", tasks=[make_task("other")])
    one, other = (open_evaluation(tmp_path / name) for name in "ab")
    with pytest.raises(ValueError, match="there are 1 evaluations; wanted two or more"):
        compare_all([one])
    with pytest.raises(ValueError, match=r"no task in common: fake \(a\): sums; fake \(b\): other"):
        compare_all([one, other])
    with pytest.raises(ValueError, match="holds one of the evaluations"):
        write_comparison(compare_all([one, one]), tmp_path / "a")


def test_plots_take_what_comes():
    sure = Estimate(1.0, 0.4, 1.0, 3, 3)
    none = Estimate(float("nan"), 0.0, 1.0, 0, 0)
    rows = [Row("a" * 90, [sure, None]), Row("$x_{", [none, sure], 0.5), Row("c", [None, None])]
    plot = whiskers("a", "A title $ that is far too long for one line of text in a small drawing", rows, ["m", "n"])
    assert plot.svg.startswith("<svg ")
    assert "var(--c0)" in plot.svg
    assert "#0072b2" not in plot.svg.lower()
    assert plot.png.startswith(b"\x89PNG")
    assert length_histogram("b", "B", {"right": [], "wrong": [0, 0]}).svg
    assert length_histogram("b", "B", {"right": []}).svg
    assert differences("c", "C", [("x", 0.0, -0.0, 0.0)]).svg
    assert whiskers("a", "A", rows).svg == whiskers("a", "A", rows).svg


@pytest.mark.parametrize(
    ("prompt", "other", "found"),
    [
        ("Think.\n\nWhat is 1 + 2?", "Think.\n\nWhat is 2 + 2?", "What is 1 + 2?"),
        ("1 + 2?\nso\n\nUse a box.", "3?\n\nUse a box.", "1 + 2? so"),
        ("the same", "the same", "the same"),
        ("Q: a\nA: b\n\nQ: c\nA:", "Q: a\nA: b\n\nQ: dd\nA:", "Q: c"),
        ("x" * 200, "y", "x" * 120 + "…"),
        ("", "", ""),
    ],
)
def test_headlines_are_what_only_this_prompt_asks(prompt, other, found):
    assert headline(prompt, other) == found


def test_file_names():
    assert file_name("lengths", "gym:a/b?x=1 & ü") == "lengths-gym_a_b_x_1"


def test_a_comparison_says_where_other_software_has_graded(tmp_path, run, make_task):
    tasks = [make_task()]
    run(tmp_path / "old", tasks=tasks, software={"sympy": "1.0", "numpy": "1.0", "langdetect": "0.1"})
    run(tmp_path / "new", tasks=tasks, model={"name": "other"})
    opened = [open_evaluation(tmp_path / name) for name in ("old", "new")]
    [note] = [note for note in compare_all(opened).notes if "software" in note]
    assert note.startswith("Not graded by the same software: sympy 1.0 (fake), ")
    assert "numpy" not in note  # counts, and judges nothing
    assert "regrade" in note
    regrade(tmp_path / "old", tasks, report=False)
    opened = [open_evaluation(tmp_path / name) for name in ("old", "new")]
    assert not [note for note in compare_all(opened).notes if "software" in note]
