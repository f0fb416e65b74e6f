"""The README's example runs as it stands there, on a tiny checkpoint."""

import re
from pathlib import Path


def test_the_example_runs(data, tmp_path, monkeypatch, capsys):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    (tmp_path / "gemma-3-1b-pt").symlink_to(data / "tiny_kv2")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out == "(1, 8, 32) float32\n"
    assert {path.name for path in tmp_path.iterdir()} == {"gemma-3-1b-pt", "adapter", "merged"}
