"""An audit as one HTML page: a table of the sources, then each one's lengths, reasons and samples.

The page needs nothing besides itself: styles and histograms (SVG) stand in it, and there is no script. What rows say is
escaped, so that it shows as it is.
"""

from collections import Counter
from html import escape

from coldforge.data.audit import LENGTH_LIMITS, Audit, SourceAudit

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left}pre{white-space:pre-wrap;background:#f4f4f4;padding:.6rem;font-size:13px}
svg{display:block;margin:1rem 0;max-width:100%}rect{fill:#4477aa}text{font-size:11px;fill:#444}.scroll{overflow-x:auto}
"""
_WIDTH, _HEIGHT, _MARGIN = 760, 160, 18


def audit_page(audit: Audit, title: str = "Data audit") -> str:
    """Returns the page, to be written as UTF-8."""
    sections = "".join(_section(name, account) for name, account in audit.sources.items())
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>\n{_overview(audit)}{sections}</body></html>\n"
    )


def _overview(audit: Audit) -> str:
    limits = [f"≤ {limit // 1024}k" for limit in LENGTH_LIMITS]
    rows = [["source", "rows", "kept", "dropped", "p50", "p90", "p99", *limits]]
    for name, account in audit.sources.items():
        lengths = [_number(account.percentile(percent)) for percent in (50, 90, 99)]
        shares = [_share(account.share_up_to(limit)) for limit in LENGTH_LIMITS]
        counts = [account.rows, account.kept, account.dropped.total()]
        rows.append([name, *map(_number, counts), *lengths, *shares])
    note = "<p>Lengths are in tokens, of all rows that were tokenized, with prompt and template.</p>"
    return f'<div class="scroll">{_table(rows)}</div>{note}'


def _section(name: str, account: SourceAudit) -> str:
    parts = [f"<h2>{escape(name)}</h2>"]
    if account.lengths:
        parts.append(f"<h3>Tokens a row</h3>{_histogram(account.lengths)}")
    if account.kinds:
        parts.append(f"<h3>Answers</h3>{_counts('kind', account.kinds, account.kept)}")
    if account.dropped:
        parts.append(f"<h3>Dropped</h3>{_counts('reason', account.dropped, account.rows)}")
    for reason, _ in account.dropped.most_common():
        for sample in account.samples.get(reason, []):
            heading = f"{escape(reason)}, row {sample.index:,}: {escape(sample.detail)}"
            parts.append(f"<details><summary>{heading}</summary><pre>{escape(sample.text)}</pre></details>")
    return "\n".join(parts) + "\n"


def _counts(name: str, counts: Counter[str], total: int) -> str:
    return _table([[name, "rows", "share"], *([key, _number(n), _share(n / total)] for key, n in counts.most_common())])


def _table(rows: list[list[str]]) -> str:
    """Makes a table whose first row is its head."""
    tags = ["th"] + ["td"] * (len(rows) - 1)
    lines = ["".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) for tag, row in zip(tags, rows, strict=True)]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _number(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _histogram(lengths: Counter[int]) -> str:
    """Draws bars of equal width in tokens, some forty of them, from 0 to the longest row."""
    width = max(1, -(-max(lengths) // 40))
    bars: Counter[int] = Counter()
    for length, count in lengths.items():
        bars[length // width] += count
    number, highest = max(bars) + 1, max(bars.values())
    step = _WIDTH / number
    shapes = []
    for place, count in sorted(bars.items()):
        height = count / highest * (_HEIGHT - 2 * _MARGIN)
        tip = f"{place * width:,} to {(place + 1) * width - 1:,} tokens: {count:,} rows"
        shapes.append(
            f'<rect x="{place * step:.1f}" y="{_HEIGHT - _MARGIN - height:.1f}" width="{max(1.0, step - 1):.1f}" '
            f'height="{height:.1f}"><title>{tip}</title></rect>'
        )
    labels = [(0.0, "start", "0"), (_WIDTH / 2, "middle", f"{number * width // 2:,}")]
    labels.append((float(_WIDTH), "end", f"{number * width:,} tokens"))
    shapes += [f'<text x="{x:.0f}" y="{_HEIGHT - 4}" text-anchor="{end}">{text}</text>' for x, end, text in labels]
    shapes.append(f'<text x="0" y="12">highest bar: {highest:,} rows</text>')
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img">{"".join(shapes)}</svg>'
