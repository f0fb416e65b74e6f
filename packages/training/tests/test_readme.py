"""The example in the README runs, and goes on where it was when it is run again."""

import re
from pathlib import Path


def test_example(capsys, tmp_path, monkeypatch):
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    for first in (0, 25):
        exec(compile(code, "README.md", "exec"), {})
        begun, ended, loss = capsys.readouterr().out.split()
        assert (int(begun), int(ended)) == (first, 50)
        assert 0 < float(loss) < 1
        Path("line/step_00000050").rename(tmp_path / f"away{first}")  # as if it had been killed before
