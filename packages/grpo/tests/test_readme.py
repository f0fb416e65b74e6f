"""The examples in the README run, and its tables leave nothing out."""

import dataclasses
import re
from pathlib import Path

from coldforge.grpo import SCALARS, GrpoConfig, rl_rules
from coldforge.grpo.watch import RULES

TEXT = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_examples(capsys):
    short, loop = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    exec(compile(short, "README.md", "exec"), {"__name__": "readme"})
    samples, position, tokens, reward = capsys.readouterr().out.split()
    assert (int(samples), float(tokens)) == (32, 160)
    assert 4 <= int(position) <= 12
    assert 0.1 < float(reward) < 0.9
    exec(compile(loop, "README.md", "exec"), {"__name__": "readme"})
    reason, reward, gap = capsys.readouterr().out.split()
    assert reason == "done"
    assert float(reward) > 0.7
    assert float(gap) < 1e-5


def test_tables():
    names = set(re.findall(r"`([\w/]+)`", TEXT))
    assert {field.name for field in dataclasses.fields(GrpoConfig)} - names == set()
    assert SCALARS.keys() - names == set()
    assert len(rl_rules()) == len(RULES) + 4
