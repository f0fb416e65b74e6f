"""The examples in the README run."""

import re
from pathlib import Path


def run(index):
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(examples) == 2
    exec(compile(examples[index], "README.md", "exec"), {})


def test_cross_entropy(capsys):
    run(0)
    loss, segments, norm = capsys.readouterr().out.splitlines()
    assert 5 < float(loss) < 8  # random hidden states over 512 tokens: about log 512 = 6.2
    assert len(segments.strip("[]").split()) == 2
    assert float(norm) > 0


def test_policies(capsys):
    run(1)
    _, kl, ratio = map(float, capsys.readouterr().out.split())
    assert abs(kl - 0.0187) < 1e-3  # exp(−0.2) − 1 + 0.2
    assert abs(ratio - 1.105) < 1e-3  # exp(0.1)
