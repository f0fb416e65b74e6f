"""What a stage starts from, found before anything expensive: weights, tokenizer, the form of replies. Without JAX."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from coldforge.data import ReasoningFormat, Tokenizer, open_dataset
from coldforge.data.embedded import gemma3_270m

if TYPE_CHECKING:
    from coldforge import training

EXTRA = "270m"  # the size whose weights an extra brings


def find_weights(weights: Path | None, size: str) -> Path | None:
    """Where the base weights are: at `weights`, or in the extra; None for the tiny model's random ones.

    Args:
        weights: What --weights says.
        size: What --model.size says.

    Raises:
        FileNotFoundError: There is nothing at `weights`; or it is None, and weights of this size have to be named.
        ModuleNotFoundError: The extra with the 270M's weights is wanted and not installed.
    """
    if weights is not None:
        if not weights.exists():
            raise FileNotFoundError(f"there is nothing at {weights}; --weights takes a path on this machine")
        return weights
    if size == "tiny":
        return None
    if size != EXTRA:
        raise FileNotFoundError(
            f"a {size} needs weights: --weights PATH (a Hugging Face directory, a .gguf file or a Coldforge checkpoint)"
        )
    return gemma3_270m()


def find_tokenizer(tokenizer: Path | None, weights: Path | None) -> Tokenizer:
    """The tokenizer at `tokenizer` (what --tokenizer says), else that which lies with the weights.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged, or not one of Gemma's.
    """
    place = tokenizer or weights
    if place is None:
        raise FileNotFoundError("a model of random weights has no tokenizer: pass the data set's with --tokenizer PATH")
    try:
        return Tokenizer.load(place)
    except FileNotFoundError as error:
        if tokenizer is not None:
            raise
        raise FileNotFoundError(f"{error} With --tokenizer PATH it may lie elsewhere.") from error


def form_entry(form: ReasoningFormat) -> dict[str, Any]:
    """A form as the manifest's `dataset` entry keeps it, under "form"; `form_of` reads it."""
    return {"reasoning": list(form.reasoning), "answer": list(form.answer), "template": form.template}


def form_of(manifest: "training.Manifest") -> ReasoningFormat:
    """The form that a run's model replies in: tags and instruction, as its manifest or its data set has them.

    Raises:
        ValueError: The manifest does not hold it and names no data set that could be opened, or what it holds is no
            form.
    """
    entry, where = manifest.dataset, f"the {manifest.stage} run in {manifest.directory}"
    stored = entry.get("form")
    if stored is not None:
        try:
            return ReasoningFormat(tuple(stored["reasoning"]), tuple(stored["answer"]), stored["template"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"the form in the manifest of {where} cannot be read: {stored!r} ({error!r})") from error
    path = entry.get("path")
    if path is None:
        raise ValueError(f"{where} does not say which form its model replies in, and names no data set to ask")
    try:
        return open_dataset(path).form
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{where} is of a release that does not say which form its model replies in, and its data set cannot be "
            f"opened: {error} Bring it back to {path}"
        ) from error
