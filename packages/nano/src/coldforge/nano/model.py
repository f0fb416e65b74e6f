"""Where the nano model lies: a Hugging Face directory within the package, checked against its checksums.

    modeling.load(model_dir())        # or transformers' AutoModelForCausalLM.from_pretrained
    Tokenizer.load(model_dir())

`SHA256SUMS` in it is as `sha256sum` writes it. Beside the weights lie the model card and `recipe.json`, which say how
they were made.
"""

import functools
import hashlib
from pathlib import Path

MODEL = Path(__file__).with_name("gemma3_nano")
SUMS = "SHA256SUMS"


class DamagedError(ValueError):
    """The model's files are not those that were shipped: which one, and what to do."""


def model_dir() -> Path:
    """The directory with config.json, model.safetensors and tokenizer.model; checked once a process.

    Raises:
        DamagedError: A file is missing, or is not the one that was shipped.
    """
    return checked(MODEL)


@functools.cache
def checked(directory: Path) -> Path:
    """A directory whose files are those that its SHA256SUMS lists; the directory itself.

    Raises:
        DamagedError: The list or a file of it is missing, or a file has another checksum.
    """
    advice = "Install coldforge-nano again"
    try:
        lines = (directory / SUMS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise DamagedError(f"{directory} has no {SUMS}, so the nano model is not whole. {advice}") from error
    for line in lines:
        wanted, _, name = line.partition("  ")
        try:
            content = (directory / name).read_bytes()
        except FileNotFoundError as error:
            raise DamagedError(f"{directory} has no {name}, which the nano model needs. {advice}") from error
        if (found := hashlib.sha256(content).hexdigest()) != wanted:
            raise DamagedError(
                f"{directory / name} has the SHA-256 {found}; wanted {wanted}, as it was shipped. {advice}"
            )
    return directory
