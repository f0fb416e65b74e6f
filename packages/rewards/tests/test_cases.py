"""The table of hard cases, right and wrong: cases.tsv."""

import json
from pathlib import Path

import pytest

from coldforge.rewards import Equality, Pair, equal_many

# Verdict, right answer, answer, options, and why where it is not plain.
LINES = (Path(__file__).parent / "cases.tsv").read_text(encoding="utf-8").splitlines()
CASES = [line.split("\t") for line in LINES if not line.startswith("#")]
CASES = [case + ["{}"] * (4 - len(case)) for case in CASES]


@pytest.fixture(scope="module")
def verdicts(pool):
    """All cases with the same options are compared in one call, as a run does."""
    found = {}
    for options in {case[3] for case in CASES}:
        settings = json.loads(options)
        kind, choices = settings.pop("kind", "auto"), settings.pop("choices", ())
        rows = [case for case in CASES if case[3] == options]
        pairs = [Pair(answer, gold, kind, choices) for _, gold, answer, *_ in rows]
        for row, compared in zip(rows, equal_many(pairs, Equality(**settings), pool), strict=True):
            found[tuple(row[:4])] = compared.verdict
    return found


def test_the_table_has_enough_of_both():
    counts = [sum(case[0] == verdict for case in CASES) for verdict in ("right", "wrong")]
    assert min(counts) >= 120
    assert len({tuple(case) for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[1]} ? {case[2]} {case[3]}")
def test_verdict(case, verdicts):
    assert verdicts[tuple(case[:4])] == case[0], case[4:]
