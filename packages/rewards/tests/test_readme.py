"""The example in the README runs, and prints what is said."""

import re
from pathlib import Path


def test_example(capsys):
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    verdicts, good, bare = capsys.readouterr().out.splitlines()
    assert verdicts == "right wrong right"
    assert good == "1.2 {'accuracy': 1.0, 'format': 1.0, 'overlong': 0.0} right"
    assert bare == "0.0 {'accuracy': 0.0, 'format': 0.0, 'overlong': 0.0} no answer"


def test_the_table_has_as_many_cases_as_the_readme_says():
    folder = Path(__file__).parents[1]
    cases = [line for line in (folder / "tests/cases.tsv").read_text(encoding="utf-8").splitlines() if line[0] != "#"]
    assert f"{len(cases)} cases, right and wrong" in (folder / "README.md").read_text(encoding="utf-8")


def test_docstrings():
    import doctest

    from coldforge.rewards import (
        algebra,
        choices,
        equality,
        extraction,
        language,
        quantities,
        replies,
        rules,
        spelling,
        units,
    )

    for module in (algebra, choices, equality, extraction, language, quantities, replies, rules, spelling, units):
        assert doctest.testmod(module).failed == 0
