"""The embedded weights and the cache directory; the weights are a stand-in of two small parts."""

import textwrap
from pathlib import Path

import pytest

from coldforge.data import embedded

CONTENT = b"GGUF and the rest of it"
PACKAGE = """
    from pathlib import Path
    MODEL_NAME = "tiny.gguf"
    HERE = Path(__file__).parent
    def chunk_paths():
        return [HERE / "part00", HERE / "part01"]
    def assemble(path):
        with Path(path).open("wb") as file:
            for part in chunk_paths():
                file.write(part.read_bytes())
        with (HERE / "calls").open("a") as calls:
            calls.write("x")
        if Path(path).read_bytes()[:4] != b"GGUF":
            raise ValueError("sha256 did not match")
        return Path(path)
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the tests out of the user's cache directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Installs a package with weights in two parts, and returns its folder."""
    folder = tmp_path / "site" / f"weights_of_{tmp_path.name}".replace("-", "_")
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(textwrap.dedent(PACKAGE))
    (folder / "part00").write_bytes(CONTENT[:9])
    (folder / "part01").write_bytes(CONTENT[9:])
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.setattr(embedded, "EMBEDDED", folder.name)
    return folder


def calls(extra: Path) -> int:
    """How often the weights were put together."""
    return len((extra / "calls").read_text())


@pytest.mark.parametrize(
    ("variable", "wanted"),
    [("/somewhere", "/somewhere/coldforge"), ("", "/home/me/.cache/coldforge"), ("here", "/home/me/.cache/coldforge")],
)
def test_cache_follows_the_xdg_specification(variable: str, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_CACHE_HOME", variable)
    assert embedded.cache_dir() == Path(wanted)
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert embedded.cache_dir() == Path("/home/me/.cache/coldforge")


def test_embedded_weights_are_assembled_once(extra: Path) -> None:
    assert embedded.has_gemma3_270m()
    path = embedded.gemma3_270m()
    assert path == embedded.cache_dir() / "tiny.gguf"
    assert path.read_bytes() == CONTENT
    assert embedded.gemma3_270m() == path
    assert calls(extra) == 1
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("damaged", [CONTENT[:-1], b"", CONTENT + b"more"])
def test_a_file_of_the_wrong_size_is_made_again(damaged: bytes, extra: Path) -> None:
    target = embedded.cache_dir() / "tiny.gguf"
    target.parent.mkdir(parents=True)
    target.write_bytes(damaged)
    assert embedded.gemma3_270m().read_bytes() == CONTENT
    assert calls(extra) == 1


def test_damaged_parts_leave_nothing_behind(extra: Path) -> None:
    (extra / "part00").write_bytes(b"HTML")
    with pytest.raises(ValueError, match="sha256"):
        embedded.gemma3_270m()
    assert list(embedded.cache_dir().iterdir()) == []
    (extra / "part00").write_bytes(CONTENT[:9])
    assert embedded.gemma3_270m().read_bytes() == CONTENT


def test_without_the_extra_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "EMBEDDED", "no_such_package")
    assert not embedded.has_gemma3_270m()
    with pytest.raises(ModuleNotFoundError, match=r"not installed: pip install 'coldforge-data\[gemma3-270m\]'"):
        embedded.gemma3_270m()
