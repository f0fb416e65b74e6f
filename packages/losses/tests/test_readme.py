"""The example in the README runs."""

import re
from pathlib import Path


def test_example(capsys):
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    loss, segments, norm = capsys.readouterr().out.splitlines()
    assert 5 < float(loss) < 8  # random hidden states over 512 tokens: about log 512 = 6.2
    assert len(segments.strip("[]").split()) == 2
    assert float(norm) > 0
