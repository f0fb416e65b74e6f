"""An audit as one HTML page: a table of the sources, then each one's lengths, answers, reasons and samples.

The page needs nothing besides itself: styles and histograms stand in it, and there is no script. It is made for screens
from a phone's width up, light or dark. What rows say is escaped, so that it shows as it is.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape

from coldforge.data.audit import LENGTH_LIMITS, Audit, SourceAudit

_STYLE = """
:root{color-scheme:light dark;--ink:#222;--paper:#fff;--faint:#666;--line:#ddd;--block:#f4f4f4;--bar:#4477aa;
--over:#cc6677}
@media(prefers-color-scheme:dark){:root{--ink:#ddd;--paper:#181818;--faint:#999;--line:#3a3a3a;--block:#242424;
--bar:#6699cc}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:1.5rem auto;padding:0 1rem;color:var(--ink);
background:var(--paper)}
h1{font-size:1.6rem;margin:.5rem 0}h2{font-size:1.25rem;margin:2.2rem 0 .5rem;border-bottom:2px solid var(--line);
overflow-wrap:anywhere}h3{font-size:1rem;margin:1.2rem 0 .3rem}p{margin:.3rem 0;color:var(--faint);font-size:.9em}
table{border-collapse:collapse}td,th{padding:.2rem .6rem;text-align:right;border-bottom:1px solid var(--line);
white-space:nowrap;font-variant-numeric:tabular-nums}td:first-child,th:first-child{text-align:left;padding-left:0}
.facts td:last-child{text-align:left;white-space:normal;overflow-wrap:anywhere}.scroll{overflow-x:auto}
.histogram{margin:.5rem 0 1rem}
.histogram svg{display:block;width:100%;height:130px;border-bottom:1px solid var(--faint)}
rect{fill:var(--bar)}rect.over{fill:var(--over)}.ticks{position:relative;height:1.4em;font-size:.8em;color:var(--faint)}
.ticks span{position:absolute;transform:translateX(-50%)}.ticks span:first-child{transform:none}
.ticks span:last-child{transform:translateX(-100%)}
summary{display:grid;grid-template-columns:11rem 4rem 3.5rem 1fr;gap:0 .5rem;align-items:center;cursor:pointer;
padding:.2rem 0;border-bottom:1px solid var(--line);font-variant-numeric:tabular-nums}
summary b{font-weight:500;overflow-wrap:anywhere}summary b::before{content:"▸ ";color:var(--faint)}
details[open]>summary b::before{content:"▾ "}summary span{text-align:right}
summary i{height:.7rem;background:var(--over)}.sample{margin:.5rem 0 .8rem 1rem}
.sample pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--block);padding:.5rem .7rem;margin:.2rem 0;
font-size:12.5px;max-height:22rem;overflow-y:auto}
"""
_HEIGHT = 100
_STEPS = 6  # bars for each doubling of the length


def audit_page(
    audit: Audit,
    title: str = "Data audit",
    *,
    max_tokens: int | None = None,
    facts: Mapping[str, str] | None = None,
    tables: Mapping[str, Sequence[Sequence[str]]] | None = None,
) -> str:
    """Returns the page, to be written as UTF-8.

    Args:
        audit: What to show.
        title: The page's.
        max_tokens: Longer rows were dropped, and show in another colour.
        facts: What else to say at the top, by name.
        tables: What else to show after the sources, by title; a table's first row is its head.
    """
    sections = "".join(_section(name, account, max_tokens) for name, account in audit.sources.items())
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(text)}</td></tr>" for name, text in (facts or {}).items())
    more = "".join(
        f'<h2>{escape(name)}</h2><div class="scroll">{_table(table)}</div>\n' for name, table in (tables or {}).items()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>\n"
        f'<table class="facts">{rows}</table>{_overview(audit)}{more}{sections}</body></html>\n'
    )


def _overview(audit: Audit) -> str:
    limits = [f"≤ {limit // 1024}k" for limit in LENGTH_LIMITS]
    rows = [["source", "rows", "kept", "dropped", "p50", "p90", "p99", *limits]]
    for name, account in audit.sources.items():
        lengths = [_number(account.percentile(percent)) for percent in (50, 90, 99)]
        shares = [_share(account.share_up_to(limit)) for limit in LENGTH_LIMITS]
        counts = [account.rows, account.kept, account.dropped.total()]
        rows.append([name, *map(_number, counts), *lengths, *shares])
    note = "Percentiles and shares: of tokens, prompt and template included, of all rows that came to be tokenized."
    return f'<h2>Sources</h2><div class="scroll">{_table(rows)}</div><p>{note}</p>\n'


def _section(name: str, account: SourceAudit, max_tokens: int | None) -> str:
    parts = [f"<h2>{escape(name)}</h2>"]
    if account.lengths:
        over = sum(count for length, count in account.lengths.items() if max_tokens and length > max_tokens)
        note = f"; {over:,} of more than {max_tokens:,} were dropped" if over else ""
        parts.append(f"<h3>Tokens</h3><p>{account.lengths.total():,} rows that were tokenized{note}</p>")
        parts.append(_histogram(account.lengths, max_tokens))
    if account.kinds:
        rows = [[kind, _number(count), _share(count / account.kept)] for kind, count in account.kinds.most_common()]
        parts.append(f"<h3>Answers</h3>{_table([['kind', 'rows', 'share'], *rows])}")
    if account.dropped:
        parts.append(
            f"<h3>Dropped</h3><p>{account.dropped.total():,} of {account.rows:,} rows; a reason opens to samples</p>"
        )
    most = max(account.dropped.values(), default=0)
    for reason, count in account.dropped.most_common():
        counts = f"<span>{count:,}</span><span>{_share(count / account.rows)}</span>"
        summary = f'<b>{escape(reason)}</b>{counts}<i style="width:{count / most:.1%}"></i>'
        parts.append(f"<details><summary>{summary}</summary>{_samples(account, reason)}</details>")
    return "\n".join(parts) + "\n"


def _samples(account: SourceAudit, reason: str) -> str:
    return "".join(
        f'<div class="sample">row {sample.index:,}: {escape(sample.detail)}'
        + (f"<pre>{escape(sample.text)}</pre></div>" if sample.text else "</div>")
        for sample in sorted(account.samples.get(reason, []), key=lambda sample: sample.index)
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Makes a table whose first row is its head."""
    tags = ["th"] + ["td"] * (len(rows) - 1)
    lines = ["".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) for tag, row in zip(tags, rows, strict=True)]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _number(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _histogram(lengths: Counter[int], max_tokens: int | None) -> str:
    """Draws a bar for each sixth of a doubling, as lengths differ by factors; the ticks are powers of two."""
    bars: Counter[tuple[int, bool]] = Counter()
    for length, count in lengths.items():
        bars[_bar(length), max_tokens is not None and length > max_tokens] += count
    first = min(bar for bar, _ in bars) // _STEPS * _STEPS
    last = max(bar for bar, _ in bars) // _STEPS * _STEPS + _STEPS
    heights: Counter[int] = Counter()
    for (bar, _), count in bars.items():
        heights[bar] += count
    shapes, highest = [], max(heights.values())
    bottoms: Counter[int] = Counter()
    for (bar, over), count in sorted(bars.items()):
        height = max(0.7, count / highest * _HEIGHT)
        low, high = math.ceil(2 ** (bar / _STEPS)), math.ceil(2 ** ((bar + 1) / _STEPS)) - 1
        tip = f"{low:,} to {high:,} tokens: {heights[bar]:,} rows"
        shapes.append(
            f'<rect class="{"over" if over else "kept"}" x="{bar - first + 0.05:.2f}" width="0.9" '
            f'y="{_HEIGHT - bottoms[bar] - height:.1f}" height="{height:.1f}"><title>{tip}</title></rect>'
        )
        bottoms[bar] += math.ceil(height)
    number = last - first
    ticks = "".join(
        f'<span style="left:{(bar - first) / number:.2%}">{_power(bar // _STEPS)}</span>'
        for bar in range(first, last + 1, _STEPS)
    )
    return (
        f'<div class="histogram"><svg viewBox="0 0 {number} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="Rows by tokens; the highest bar has {highest:,} rows">{"".join(shapes)}</svg>'
        f'<div class="ticks">{ticks}</div></div>'
    )


def _bar(length: int) -> int:
    return math.floor(math.log2(max(1, length)) * _STEPS + 1e-9)


def _power(exponent: int) -> str:
    """`_power(9)` is "512", `_power(12)` is "4k"."""
    return f"{2**exponent}" if exponent < 10 else f"{2 ** (exponent - 10)}k"
