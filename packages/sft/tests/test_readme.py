"""The examples in the README run."""

import re
from pathlib import Path


def test_examples(capsys):
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    gate, loop = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    exec(compile(gate, "README.md", "exec"), {})
    passed, why = capsys.readouterr().out.splitlines()
    assert passed == "False 100.0 % (96–100) -59.0 (-68 to -48)"
    assert "59.0 % before, 0.0 % after; not by chance" in why
    exec(compile(loop, "README.md", "exec"), {"__name__": "readme"})
    reason, reasoning, answer = capsys.readouterr().out.split()
    assert reason == "done"
    assert float(reasoning) < 0.5
    assert float(answer) < 0.5
