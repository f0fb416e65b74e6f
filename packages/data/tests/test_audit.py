"""An audit adds up, however it is cut into parts, and its page shows it without running anything."""

import json
import math
from collections import Counter
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coldforge.data import Audit, Example, Refusal, Row, audit_page, convert
from coldforge.data.audit import LENGTH_LIMITS, SAMPLES, SourceAudit


def counted(rows: list[tuple[dict, object]], start: int = 0, end: int | None = None) -> Audit:
    audit = Audit()
    for index, (columns, _) in enumerate(rows[start:end], start):
        row = Row("stratos", index, columns)
        found = convert(row)
        if isinstance(found, Refusal):
            audit.drop(row, found)
        elif (tokens := len(found.reasoning)) > 4096:
            audit.drop(row, Refusal("too-long", f"{tokens} tokens"), tokens)
        else:
            audit.keep(found, tokens)
    return audit


def test_every_row_is_accounted_for(stratos: list[tuple[dict, object]]) -> None:
    account = counted(stratos).sources["stratos"]
    expected = Counter(outcome for _, outcome in stratos if isinstance(outcome, str))
    assert account.rows == len(stratos)
    assert account.dropped - Counter({"too-long": account.dropped["too-long"]}) == expected
    assert account.kinds.total() == account.kept
    assert account.lengths.total() == account.kept + account.dropped["too-long"]
    assert account.dropped["too-long"] > 0
    for reason, samples in account.samples.items():
        assert len(samples) == min(SAMPLES, account.dropped[reason])
        for sample in samples:
            assert len(sample.text) <= 2400
            assert sample.text.startswith(("system: ", "messages: ", "conversations: "))
            assert reason == "too-long" or stratos[sample.index][1] == reason


@pytest.mark.parametrize("step", [1, 7, 100, 259, 300])
def test_parts_add_up_to_the_whole(stratos: list[tuple[dict, object]], step: int) -> None:
    whole, parts = counted(stratos), Audit()
    for start in range(0, len(stratos), step):
        parts.merge(counted(stratos, start=start, end=start + step))
    assert parts.sources.keys() == whole.sources.keys()
    assert parts.sources == whole.sources


def test_json_carries_it(stratos: list[tuple[dict, object]]) -> None:
    audit = counted(stratos)
    again = Audit.from_dict(json.loads(json.dumps(audit.to_dict())))
    assert again.sources == audit.sources
    assert again.to_dict() == audit.to_dict()


@given(st.lists(st.integers(0, 40_000), min_size=1), st.sampled_from([1, 50, 90, 99, 100]))
def test_lengths(lengths: list[int], percent: int) -> None:
    account = SourceAudit(lengths=Counter(lengths))
    assert account.percentile(percent) == sorted(lengths)[math.ceil(percent / 100 * len(lengths)) - 1]
    for limit in LENGTH_LIMITS:
        assert account.share_up_to(limit) == sum(length <= limit for length in lengths) / len(lengths)


def test_no_lengths_are_not_zero() -> None:
    assert (SourceAudit().percentile(50), SourceAudit().share_up_to(1024)) == (None, None)
    with pytest.raises(ValueError, match="percent is 0; wanted above 0"):
        SourceAudit().percentile(0)


@pytest.mark.parametrize("parts", [1, 2])
def test_samples_are_drawn_from_all_rows_alike(parts: int) -> None:
    drawn: Counter[int] = Counter()
    for seed in range(600):
        audits = [Audit(seed=seed) for _ in range(parts)]
        for index in range(12):
            audits[index % 4 == 0 and parts > 1].drop(Row("s", index, {}), Refusal("why", "so"))
        for other in audits[1:]:
            audits[0].merge(other)
        drawn.update(sample.index for sample in audits[0].sources["s"].samples["why"])
    with pytest.raises(ValueError, match="seeds 599 and 1"):
        audits[0].merge(Audit(seed=1))
    # 150 expected each; the standard deviation is 10.6.
    assert drawn.total() == 600 * SAMPLES
    assert all(100 < drawn[index] < 200 for index in range(12))


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.open: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attrs}
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_all_and_runs_nothing(stratos: list[tuple[dict, object]]) -> None:
    audit = counted(stratos)
    attack = "<script>alert(1)</script>"
    audit.drop(Row(attack, 0, {"text": attack}), Refusal(attack, attack))
    page = Page()
    page.feed(audit_page(audit, attack))
    assert page.open == []
    assert page.tags["script"] == 0
    assert page.text.count(attack) >= 5
    assert not page.attributes & {"src", "href", "onload"}
    account = audit.sources["stratos"]
    assert page.tags["svg"] == 1
    assert page.tags["rect"] > 5
    for reason, samples in account.samples.items():
        assert reason in page.text
        assert all(sample.detail in page.text for sample in samples)
    assert all(kind in page.text for kind in account.kinds)
    assert f"{account.percentile(90):,}" in page.text


def test_a_page_of_nothing_and_of_one_row() -> None:
    assert "Data audit" in audit_page(Audit())
    audit = Audit()
    audit.keep(Example("s", 0, "q", "r", "7", "number"), 0)
    assert "1 to 1 tokens: 1 rows" in audit_page(audit)


def test_the_page_says_what_was_too_long_and_other_facts() -> None:
    audit = Audit()
    for length, count in ((100, 6), (1024, 4), (1025, 2), (30_000, 1)):
        for index in range(count):
            row = Row("s", index, {"text": "a" * 900})
            if length > 1024:
                audit.drop(row, Refusal("too-long", f"{length} tokens"), length)
            else:
                audit.keep(Example("s", index, "q", "r", "7", "number"), length)
    page = audit_page(audit, max_tokens=1024, facts={"tokenizer": "<b>"})
    assert "3 of more than 1,024 were dropped" in page
    assert page.count('class="over"') == 2
    assert "1,024 to 1,149 tokens: 6 rows" in page
    assert "<td>tokenizer</td><td>&lt;b&gt;</td>" in page
    assert [f">{tick}<" in page for tick in ("64", "1k", "32k", "64k")] == [True, True, True, False]
    assert "[…500 characters…]" in page
